"""What the gate knows of an account, read once per tick: levels, arm, money, holdings, live orders, losses, reconciliation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final

from regime_pipeline.portfolio.money import QUOTIENT, ZERO, precise
from regime_pipeline.ports import Failed, HoldingRow, ReconFact, Work
from regime_pipeline.risk.arm import Mode, missing_arm_parts
from regime_pipeline.risk.gate_view import Holding, LiveOrder, OrderRequest
from regime_pipeline.risk.kill_switch import Switch
from regime_pipeline.risk.protections import DAY_S, Flow, Trip
from regime_pipeline.risk.purpose import Purpose
from regime_pipeline.services.trading.context import Trading

UNRESOLVED: Final = {"SUBMITTING", "UNKNOWN"}
MINUTE_S: Final = 60
FULL_EVERY_S: Final = 300
FIRST_ORDER_X: Final = 2
"""The first live order of a UTC day is at most so many smallest orders."""


@dataclass(frozen=True, slots=True)
class VenueState:
    """How the venue is for all symbols: whether it answers, whether creates are paused, and how far its clock is from ours."""

    is_up: bool
    is_breaker_open: bool = False
    clock_offset_ms: int | None = 0
    is_rate_budget_left: bool = True


@dataclass(frozen=True, slots=True)
class AccountView:
    """The part of a `GateView` that all orders of a tick share; field by field as there.

    `is_first_of_day` tells, in live, that nothing was sent yet today. `marks` are by symbol; a holding without one makes the equity
    unknown, which refuses entries and no exit.
    """

    now_ms: int
    mode: Mode
    account: str
    switches: tuple[Switch, ...]
    missing_arm_parts: tuple[str, ...] = ()
    arm_order_quote: Decimal | None = None
    arm_day_left_quote: Decimal | None = None
    is_first_of_day: bool = False
    venue: VenueState | None = None
    recon_age_s: int | None = None
    is_recon_clean: bool | None = None
    holdings: tuple[Holding, ...] = ()
    live_orders: tuple[LiveOrder, ...] = ()
    trips: Sequence[Trip] | None = None
    equity_quote: Decimal | None = None
    cash_quote: Decimal | None = None
    traded_today_quote: Decimal | None = None
    day_loss_frac: Decimal | None = None
    week_loss_frac: Decimal | None = None
    open_risk_frac: Decimal | None = None
    n_orders_last_min: int | None = None
    marks: Mapping[str, Decimal] = field(default_factory=dict)

    def with_order(self, order: OrderRequest, qty: Decimal) -> "AccountView":
        """Count an order that passed: the next one of the tick is judged as if it were live already."""
        live = LiveOrder(order.symbol, order.cluster, order.side, order.leg.purpose, qty, order.price)
        sent = None if self.n_orders_last_min is None else self.n_orders_last_min + 1
        most = ZERO if self.is_first_of_day else self.arm_order_quote
        return replace(self, live_orders=(*self.live_orders, live), n_orders_last_min=sent, arm_order_quote=most)


@dataclass(frozen=True, slots=True)
class Losses:
    """Loss of E* since 00:00 UTC and over rolling 7 days, as fractions of it then; negative for a profit, None when unknown."""

    day_frac: Decimal | None
    week_frac: Decimal | None


def probe_venue(trading: Trading, work: Work) -> VenueState:
    """Ask the venue for its time, which also measures the offset of its clock, and look whether it asked us to pause.

    Call it before the transaction that holds locks: this goes over the wire.
    """
    now_ms = round(trading.clock.clock().timestamp() * 1000)
    answer = trading.broker.fetch_time_ms()
    if isinstance(answer, Failed):
        return VenueState(is_up=False, clock_offset_ms=trading.clock.offset_ms)
    trading.clock.offset_ms = answer.value - now_ms
    pauses = work.orders.load_pauses(trading.broker.traits.venue).values()
    is_paused = any(pause.until_ms > trading.clock.now_ms() for pause in pauses)
    return VenueState(is_up=True, is_breaker_open=is_paused, clock_offset_ms=trading.clock.offset_ms)


def read_account(
    work: Work,
    trading: Trading,
    now_ms: int,
    *,
    trips: Sequence[Trip] | None,
    venue: VenueState | None = None,
    marks: Mapping[str, Decimal] | None = None,
    clusters: Mapping[str, str] | None = None,
) -> AccountView:
    """Read what all orders of a tick share, in the caller's snapshot.

    Parameters
    ----------
    now_ms : int
        The instant it is read for, epoch milliseconds; in a replay that of the replay.
    trips : sequence of Trip or None
        From `judge_protections` at this instant; None when it could not judge, which refuses entries.
    venue : VenueState or None
        From `probe_venue`; None is down.
    marks : mapping of str to Decimal, optional
        Newest prices by symbol; where one is missing that of the newest equity point is taken.
    clusters : mapping of str to str, optional
        Bucket by symbol; what is not in it is the cluster `unknown`.
    """
    safety, account, now_s = work.safety, trading.terms.account, now_ms // 1000
    quote, midnight_s = trading.broker.traits.quote, now_s - now_s % DAY_S
    stored = safety.load_mark(account, now_s)
    priced = {**(stored.marks if stored else {}), **(marks or {})}
    # before the holdings: a fill that commits in between is then counted in both, never in neither
    live_rows = safety.load_live(account)
    rows = safety.load_holdings(account)
    holdings = build_holdings(rows, quote, priced, clusters or {})
    cash = sum((row.qty for row in rows if not row.is_contract and row.asset == quote), ZERO)
    # a contract's unrealised result needs its entry: there the newest marked equity stands
    has_contracts = any(row.is_contract for row in rows)
    equity = (stored.equity_quote if stored else None) if has_contracts else compute_equity(cash, holdings)
    live = tuple(
        LiveOrder(
            row.symbol,
            (clusters or {}).get(row.symbol, "unknown"),
            row.side,
            row.purpose,
            max(row.qty - row.filled, ZERO),
            row.price,
            row.state in UNRESOLVED,
        )
        for row in live_rows
    )
    recon_age_s, is_recon_clean = judge_recon(safety.load_recon(account, now_s), now_s)
    losses = read_losses(work, account, quote, equity, now_s)
    traded = safety.load_turnover(account, midnight_s, now_s)
    view = AccountView(
        now_ms=now_ms,
        mode=trading.terms.mode,
        account=account,
        switches=(*trading.latch.read(), *safety.load_switches(account)),
        venue=venue,
        recon_age_s=recon_age_s,
        is_recon_clean=is_recon_clean,
        holdings=holdings,
        live_orders=live,
        trips=trips,
        equity_quote=equity,
        cash_quote=cash,
        traded_today_quote=traded,
        day_loss_frac=losses.day_frac,
        week_loss_frac=losses.week_frac,
        open_risk_frac=compute_open_risk_frac(equity, holdings, live, trading.terms.default_stop_frac),
        n_orders_last_min=safety.count_sent(account, now_s - MINUTE_S + 1, now_s),
        marks=priced,
    )
    return view if trading.terms.mode is not Mode.LIVE else _with_arm(view, work, trading, traded)


def judge_recon(passes: Sequence[ReconFact], now_s: int) -> tuple[int | None, bool | None]:
    """Age and result of reconciliation: that of orders and fills counts as long as a full one is at most two of its periods old.

    Returns
    -------
    tuple of int or None and bool or None
        Seconds since the newest pass, and whether all newest passes were clean; None where none is known, or one could not read.
    """
    full = [each for each in passes if each.is_full]
    if not full:
        return None, None
    counted = full if now_s - full[0].ended_s > 2 * FULL_EVERY_S else passes
    statuses = {each.status for each in passes}
    return now_s - max(each.ended_s for each in counted), None if "unknown" in statuses else statuses == {"ok"}


def build_holdings(
    rows: Sequence[HoldingRow], quote: str, marks: Mapping[str, Decimal], clusters: Mapping[str, str]
) -> tuple[Holding, ...]:
    """Positions by symbol over all strategies; one without a mark is marked 0, which `compute_equity` takes for unknown."""
    held: dict[str, Decimal] = {}
    for row in rows:
        if row.is_contract or row.asset != quote:
            symbol = row.asset if row.is_contract else f"{row.asset}/{quote}"
            held[symbol] = held.get(symbol, ZERO) + row.qty
    return tuple(Holding(symbol, clusters.get(symbol, "unknown"), qty, marks.get(symbol, ZERO)) for symbol, qty in held.items() if qty)


@precise
def compute_equity(cash: Decimal, holdings: Sequence[Holding]) -> Decimal | None:
    """Cash and spot holdings at their marks; None where a mark is missing."""
    if any(not holding.mark > 0 for holding in holdings):
        return None
    return cash + sum((holding.qty * holding.mark for holding in holdings), ZERO)


@precise
def compute_open_risk_frac(
    equity: Decimal | None, holdings: Sequence[Holding], live: Sequence[LiveOrder], stop_frac: Decimal
) -> Decimal | None:
    """Worst case of what is open, of equity: every holding and live entry loses the distance of the protective stop from its mark."""
    if equity is None or not equity > 0:
        return None
    held = sum((abs(holding.qty) * holding.mark for holding in holdings), ZERO)
    entering = sum((order.remaining * order.price for order in live if order.purpose is Purpose.ENTRY), ZERO)
    return stop_frac * (held + entering) / equity


def read_losses(work: Work, account: str, quote: str, equity: Decimal | None, now_s: int) -> Losses:
    """Compare equity without external flows with what it was at 00:00 UTC and 7 days ago, or when the account began."""
    birth = work.safety.load_birth(account)
    if equity is None or birth is None or birth.at_s > now_s:
        return Losses(None, None)
    starts = []
    for since_s in (now_s - now_s % DAY_S, now_s - 7 * DAY_S):
        mark = work.safety.load_mark(account, since_s)
        starts.append((birth.at_s, birth.equity_quote) if mark is None else (mark.at_s, mark.equity_quote))
    flows = work.safety.load_flows(account, quote, min(at_s for at_s, _ in starts), now_s)
    day, week = (compute_loss_frac(start, equity, [flow for flow in flows if flow.at_s > at_s]) for at_s, start in starts)
    return Losses(day, week)


def compute_loss_frac(start: Decimal, equity: Decimal, flows: Sequence[Flow]) -> Decimal | None:
    """Loss of E* since `start`, as a fraction of it; None where it began with nothing or cannot be counted."""
    if not (start.is_finite() and start > 0 and equity.is_finite()):
        return None
    now = QUOTIENT.subtract(equity, sum((flow.amount_quote for flow in flows), ZERO))
    return QUOTIENT.divide(QUOTIENT.subtract(start, now), start)


def _with_arm(view: AccountView, work: Work, trading: Trading, traded: Decimal) -> AccountView:
    terms = trading.terms
    row = work.safety.load_arm(terms.account)
    missing = missing_arm_parts(
        mode=terms.mode,
        account=terms.account,
        fingerprint=terms.key_fingerprint,
        acknowledged_account=terms.acknowledged_account,
        row=row,
        now_s=view.now_ms // 1000,
    )
    midnight_s, now_s = view.now_ms // 1000 // DAY_S * DAY_S, view.now_ms // 1000
    first_s = work.safety.load_first_sent_s(terms.account, midnight_s, now_s)
    most = None if row is None else row.max_order_quote
    if most is not None and first_s is None:
        most = min(most, FIRST_ORDER_X * trading.limits.min_order_quote)
    elif first_s is not None and not work.safety.was_compared_since(terms.account, first_s, now_s):
        most = ZERO  # the first one must have been compared with the venue before the next leaves
    return replace(
        view,
        missing_arm_parts=missing,
        arm_order_quote=most,
        is_first_of_day=first_s is None,
        arm_day_left_quote=None if row is None else max(row.max_day_quote - traded, ZERO),
    )
