"""Protections: frozen verdicts over what happened, each failing closed for entries, none asked about an exit.

A trip is a row with a trigger id: the same trigger counts once, a restart changes nothing, and only time or a person takes it back.
Instants are epoch seconds, UTC; losses are positive fractions, so a profit never trips a loss rule.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from enum import IntEnum
from statistics import stdev
from typing import Final

from regime_pipeline.errors import KillSwitchActiveError
from regime_pipeline.portfolio.money import QUOTIENT, ZERO
from regime_pipeline.portfolio.reasons import ReasonCode
from regime_pipeline.risk.kill_switch import EVERYBODY, Scope
from regime_pipeline.risk.limits import ProtectionSettings, RiskSettings
from regime_pipeline.risk.purpose import Side

DAY_S: Final = 86_400
PEAK_WINDOW_S: Final = 7 * DAY_S
KILL_WINDOW_S: Final = 30 * DAY_S
FOREVER_S: Final = 253_402_300_799  # the last second of year 9999: until a person


class Effect(IntEnum):
    """What a verdict allows, equal to the kill levels 0 to 3; the worst wins."""

    ALLOW = 0
    ENTRIES_OFF = 1
    REDUCE_ONLY = 2
    HALT = 3


@dataclass(frozen=True, slots=True)
class Trip:
    """A verdict that something is off: its effect, for whom, why, until when, and the id under which it counts once."""

    name: str
    effect: Effect
    scope: Scope
    code: ReasonCode
    until_s: int
    trigger_id: str
    evidence: str = ""
    side: Side | None = None  # entries of this side only
    released_by: str = ""

    def covers(self, account: str, strategy: str, symbol: str, side: Side) -> bool:
        """Tell whether an entry is under it."""
        return self.scope.covers(account, strategy, symbol) and self.side in {None, side}


@dataclass(frozen=True, slots=True)
class Close:
    """A position that was closed: when, and what it earned in quote, negative for a loss."""

    closed_at_s: int
    pnl_quote: Decimal


@dataclass(frozen=True, slots=True)
class EquityPoint:
    """Marked equity at an instant, unrealised results and funding included."""

    at_s: int
    equity_quote: Decimal


@dataclass(frozen=True, slots=True)
class Flow:
    """Money that came (positive) or went from outside; it is no result."""

    at_s: int
    amount_quote: Decimal


def judge_stoploss_guard(symbol: str, closes: Sequence[Close], bar_s: int, now_s: int, settings: ProtectionSettings) -> Trip | None:
    """Stop a symbol's entries after its last closes, all within the look-back of the newest, lost money; a win breaks the run."""
    window_s = max(settings.guard_bars * bar_s, settings.guard_min_s)
    last = sorted(closes, key=lambda close: close.closed_at_s)[-settings.guard_losses :]
    if len(last) < settings.guard_losses or any(close.pnl_quote >= 0 for close in last):
        return None
    newest_s = last[-1].closed_at_s
    until_s = newest_s + window_s
    if last[0].closed_at_s < newest_s - window_s or until_s <= now_s:
        return None
    losses = ", ".join(str(close.pnl_quote) for close in last)
    return Trip(
        "stoploss_guard", Effect.ENTRIES_OFF, Scope(symbol=symbol), ReasonCode.PROT_STOPLOSS, until_s, f"{symbol}:{newest_s}", losses
    )


def strip_flows(points: Iterable[EquityPoint], flows: Sequence[Flow], since_s: int) -> list[EquityPoint]:
    """Equity without the flows since the window began: E*, so that a deposit is no gain and a withdrawal no loss."""
    return [
        EquityPoint(
            point.at_s,
            point.equity_quote - sum((flow.amount_quote for flow in flows if since_s < flow.at_s <= point.at_s), ZERO),
        )
        for point in points
        if point.at_s >= since_s
    ]


def compute_drawdown_frac(points: Sequence[EquityPoint], flows: Sequence[Flow], since_s: int) -> Decimal:
    """Loss of the newest E* from the peak of the window, 0 at the peak.

    Raises
    ------
    ValueError
        Without a point in the window, or with a peak that is not above 0: a protection that cannot be worked out fails closed.
    """
    with localcontext(QUOTIENT):
        stripped = strip_flows(sorted(points, key=lambda point: point.at_s), flows, since_s)
        if not stripped or (peak := max(point.equity_quote for point in stripped)) <= 0:
            raise ValueError(f"no equity above 0 was known since {since_s}; reconcile, then mark the positions")
        return (peak - stripped[-1].equity_quote) / peak


def judge_drawdown(
    points: Sequence[EquityPoint], flows: Sequence[Flow], now_s: int, limits: RiskSettings, settings: ProtectionSettings
) -> list[Trip]:
    """Stop entries at a loss from the 7-day peak, and everything at a larger one from the 30-day peak."""
    trips = []
    week = compute_drawdown_frac(points, flows, now_s - PEAK_WINDOW_S)
    if week >= limits.drawdown_entries_frac:
        trips.append(
            Trip(
                "max_drawdown",
                Effect.ENTRIES_OFF,
                EVERYBODY,
                ReasonCode.PROT_DRAWDOWN,
                now_s + settings.drawdown_hold_s,
                f"drawdown:{now_s // settings.drawdown_hold_s}",
                f"{week:.6f} of the 7-day peak",
            )
        )
    month = compute_drawdown_frac(points, flows, now_s - KILL_WINDOW_S)
    if month >= limits.drawdown_kill_frac:
        trips.append(
            Trip(
                "drawdown_kill",
                Effect.HALT,
                EVERYBODY,
                ReasonCode.PROT_DRAWDOWN,
                FOREVER_S,
                f"drawdown_kill:{now_s // DAY_S}",
                f"{month:.6f} of the 30-day peak",
            )
        )
    return trips


def judge_closing_loss(close: Close, equity_quote: Decimal, now_s: int, settings: ProtectionSettings) -> Trip | None:
    """Stop entries for a while after one closing loss that is large against equity."""
    if not equity_quote > 0:
        raise ValueError(f"equity was {equity_quote}, must be above 0; mark the positions")
    until_s = close.closed_at_s + settings.cooldown_loss_s
    if until_s <= now_s or -close.pnl_quote < settings.cooldown_loss_frac * equity_quote:
        return None
    return Trip(
        "cooldown", Effect.ENTRIES_OFF, EVERYBODY, ReasonCode.PROT_COOLDOWN, until_s, f"loss:{close.closed_at_s}", str(close.pnl_quote)
    )


def judge_recent_entry(
    account: str, strategy: str, symbol: str, side: Side, entered_at_s: int, now_s: int, settings: ProtectionSettings
) -> Trip | None:
    """Pause strategy, symbol and side for a moment after an entry."""
    until_s = entered_at_s + settings.cooldown_entry_s
    if until_s <= now_s:
        return None
    scope = Scope(account, strategy, symbol)
    trigger = f"entry:{scope.text}:{side}:{entered_at_s}"
    return Trip("cooldown", Effect.ENTRIES_OFF, scope, ReasonCode.PROT_COOLDOWN, until_s, trigger, side=side)


@dataclass(frozen=True, slots=True)
class Window:
    """A time without entries, from `start_s` up to but not including `end_s`: configured, maintenance, or around funding."""

    name: str
    start_s: int
    end_s: int
    scope: Scope = EVERYBODY


def plan_funding_windows(symbol: str, funding_times_s: Iterable[int], settings: ProtectionSettings) -> list[Window]:
    """Windows around a perpetual's funding."""
    margin_s = settings.funding_margin_s
    return [Window("funding", ts_s - margin_s, ts_s + margin_s, Scope(symbol=symbol)) for ts_s in funding_times_s]


def plan_daily_window(name: str, start_of_day_s: int, length_s: int, now_s: int, scope: Scope = EVERYBODY) -> list[Window]:
    """A window that recurs each UTC day: the one that began today and the one that began yesterday, which may reach over midnight."""
    midnight_s = now_s - now_s % DAY_S
    starts_s = (midnight_s - DAY_S + start_of_day_s, midnight_s + start_of_day_s)
    return [Window(name, start_s, start_s + length_s, scope) for start_s in starts_s]


def judge_windows(windows: Iterable[Window], now_s: int) -> list[Trip]:
    """Stop entries inside every window that is open."""
    return [
        Trip(
            "time_window",
            Effect.ENTRIES_OFF,
            window.scope,
            ReasonCode.PROT_WINDOW,
            window.end_s,
            f"{window.name}:{window.scope.text}:{window.start_s}",
        )
        for window in windows
        if window.start_s <= now_s < window.end_s
    ]


def compute_volatility(returns: Sequence[float], settings: ProtectionSettings) -> float:
    """Sample standard deviation of the newest returns of bars; NaN where fewer than the minimum are known."""
    known = list(returns)[-settings.volatility_returns :]
    return stdev(known) if len(known) >= settings.volatility_min_returns else float("nan")


def judge_volatility(volatility: float, median_30d: float, bar_s: int, bar_close_s: int, settings: ProtectionSettings) -> Trip | None:
    """Stop entries when volatility reaches a multiple of its 30-day median for that bar length; NaN on either side trips too."""
    limit = float(settings.volatility_ratio)
    if median_30d > 0 and volatility / median_30d < limit:
        return None
    hold_s = max(settings.volatility_hold_bars * bar_s, settings.volatility_min_hold_s)
    evidence = f"volatility {volatility} against a median of {median_30d}, limit {limit} times"
    trigger = f"volatility:{bar_s}:{bar_close_s}"
    return Trip("volatility_halt", Effect.ENTRIES_OFF, EVERYBODY, ReasonCode.PROT_VOLATILITY, bar_close_s + hold_s, trigger, evidence)


def judge_daily_loss(start_quote: Decimal, now_quote: Decimal, now_s: int, limits: RiskSettings) -> Trip | None:
    """Stop entries until midnight at the soft limit, and leave only reducing, until released, at the hard one.

    Parameters
    ----------
    start_quote, now_quote : Decimal
        E* at 00:00 UTC and now.
    """
    loss = _loss_frac(start_quote, now_quote)
    day = now_s // DAY_S
    evidence = f"{loss:.6f} of E* at 00:00 UTC, {start_quote}"
    if loss >= limits.daily_loss_hard_frac:
        return Trip("daily_loss", Effect.REDUCE_ONLY, EVERYBODY, ReasonCode.PROT_DAILY_LOSS, FOREVER_S, f"daily_hard:{day}", evidence)
    if loss >= limits.daily_loss_soft_frac:
        until_s = (day + 1) * DAY_S
        return Trip("daily_loss", Effect.ENTRIES_OFF, EVERYBODY, ReasonCode.PROT_DAILY_LOSS, until_s, f"daily_soft:{day}", evidence)
    return None


def judge_weekly_loss(start_quote: Decimal, now_quote: Decimal, now_s: int, limits: RiskSettings) -> Trip | None:
    """Leave only reducing, until released, at a loss of E* over rolling 7 days."""
    loss = _loss_frac(start_quote, now_quote)
    if loss < limits.weekly_loss_frac:
        return None
    trigger = f"weekly:{now_s // DAY_S}"
    return Trip("weekly_loss", Effect.REDUCE_ONLY, EVERYBODY, ReasonCode.PROT_DAILY_LOSS, FOREVER_S, trigger, f"{loss:.6f} in 7 days")


def judge_trade_count(
    account: str, strategy: str, n_by_symbol: Mapping[str, int], now_s: int, limits: RiskSettings, settings: ProtectionSettings
) -> list[Trip]:
    """Stop entries until midnight when a strategy, or a symbol of it, has had its accepted entries of the UTC day."""
    day = now_s // DAY_S
    scopes = [Scope(account, strategy, symbol) for symbol, n in n_by_symbol.items() if n >= settings.max_entries_per_symbol]
    if sum(n_by_symbol.values()) >= limits.max_entries_per_day:
        scopes.append(Scope(account, strategy))
    return [
        Trip(
            "trade_count",
            Effect.ENTRIES_OFF,
            scope,
            ReasonCode.PROT_TRADE_COUNT,
            (day + 1) * DAY_S,
            f"count:{scope.text}:{day}",
        )
        for scope in scopes
    ]


def compute_max_age_s(bar_s: int, settings: ProtectionSettings) -> int:
    """Age that the end of a series' newest closed bar may have, in seconds."""
    bars = settings.stale_slow_bars if bar_s >= 3600 else settings.stale_bars
    return int(bars * bar_s) + settings.stale_grace_s


def run_protections(checks: Mapping[str, Callable[[], Sequence[Trip] | Trip | None]], now_s: int) -> list[Trip]:
    """Ask every protection; one that raises is a trip of its own, so that what cannot be worked out stops entries.

    Parameters
    ----------
    checks : mapping of str to callable
        Protections with their facts bound.
    now_s : int
        A failed one stops entries of everybody until it is asked again.
    """
    trips: list[Trip] = []
    for name, check in checks.items():
        try:
            found = check()
        except Exception as error:  # noqa: BLE001 - whatever breaks a protection must close the gate, not the process
            found = Trip(name, Effect.ENTRIES_OFF, EVERYBODY, ReasonCode.PROT_ERROR, now_s + 1, f"{name}:error:{now_s}", repr(error))
        trips.extend([found] if isinstance(found, Trip) else found or [])
    return trips


def merge_trips(stored: Iterable[Trip], found: Iterable[Trip]) -> list[Trip]:
    """Rows after an evaluation: each trigger id once, as it was first recorded; nothing found ever removes or shortens one."""
    merged: dict[tuple[str, Scope, str], Trip] = {}
    for trip in (*stored, *found):
        merged.setdefault((trip.name, trip.scope, trip.trigger_id), trip)
    return list(merged.values())


def release_trip(trip: Trip, actor: str, reason: str, now_s: int) -> Trip:
    """End a trip before its time, as a named person may; its row stays, so the same trigger does not trip again.

    Raises
    ------
    KillSwitchActiveError
        Without a name or a reason.
    """
    if not (actor.strip() and reason.strip()):
        msg = f"release of {trip.name} was by {actor!r} for {reason!r}; it stays until {trip.until_s}, name a person and a reason"
        raise KillSwitchActiveError(msg)
    return replace(trip, until_s=min(trip.until_s, now_s), released_by=actor, evidence=f"{trip.evidence}; released: {reason}")


def has_cleared(was_clean: Sequence[bool]) -> bool:
    """Tell whether a source that stopped entries may lift its own stop: its two newest evaluations, oldest first, were clean."""
    return list(was_clean[-2:]) == [True, True]


def active_trips(trips: Iterable[Trip], now_s: int) -> list[Trip]:
    """Trips whose time has not passed, worst first."""
    return sorted((trip for trip in trips if now_s < trip.until_s), key=lambda trip: (-trip.effect, trip.until_s))


def worst_effect(trips: Iterable[Trip], now_s: int) -> Effect:
    """Worst effect of those active."""
    return max((trip.effect for trip in active_trips(trips, now_s)), default=Effect.ALLOW)


def _loss_frac(start_quote: Decimal, now_quote: Decimal) -> Decimal:
    if not (start_quote > 0 and now_quote.is_finite()):
        raise ValueError(f"E* was {start_quote} at the start and is {now_quote}; reconcile, then mark the positions")
    return QUOTIENT.divide(QUOTIENT.subtract(start_quote, now_quote), start_quote)
