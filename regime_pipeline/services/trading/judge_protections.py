"""Every protection, judged on what is stored; trips become rows, and the worst of them raise the kill switch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from itertools import groupby
from typing import Final

import numpy as np

from regime_pipeline.errors import RiskGateError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.portfolio.reasons import ReasonCode
from regime_pipeline.ports import BarTable, ClosedTrade, EquityMark, Work
from regime_pipeline.regime.drivers import CHANNEL_TIMEFRAMES, DRIVERS
from regime_pipeline.risk.checks import judge_series
from regime_pipeline.risk.gate_view import SeriesHealth
from regime_pipeline.risk.kill_switch import EVERYBODY, Trigger
from regime_pipeline.risk.limits import ProtectionSettings
from regime_pipeline.risk.protections import (
    DAY_S,
    KILL_WINDOW_S,
    PEAK_WINDOW_S,
    Effect,
    EquityPoint,
    Trip,
    Window,
    active_trips,
    compute_volatility,
    judge_closing_loss,
    judge_daily_loss,
    judge_drawdown,
    judge_recent_entry,
    judge_stoploss_guard,
    judge_trade_count,
    judge_volatility,
    judge_weekly_loss,
    judge_windows,
    run_protections,
    strip_flows,
)
from regime_pipeline.risk.volatility import compute_median_volatility, spread_returns
from regime_pipeline.services.trading.build_gate_view import Series, read_series_health
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.kill_levels import raise_level

EQUITY_MAX_AGE_S: Final = 3900
"""Older marks say nothing about now: whoever judges marks first (`mark_equity`), and between ticks the executor does."""
VOLATILITY_TIMEFRAME: Final = Timeframe.H1
VOLATILITY_DRIVER: Final = "regime:BTC"
VOLATILITY_WINDOW_S: Final = 30 * DAY_S
FUNDING_EVERY_S: Final = 8 * 3600
HOLD_S: Final = 120
"""What cannot be worked out, or a bad series, stops entries for two evaluations of a minute after it was last seen."""
MINUTE_S: Final = 60
EVIDENCE_CHARS: Final = 2000
Verdict = Sequence[Trip] | Trip | None
KILLS: Final[Mapping[str, Trigger]] = {
    "daily_loss": Trigger.DAILY_LOSS,
    "weekly_loss": Trigger.WEEKLY_LOSS,
    "drawdown_kill": Trigger.DRAWDOWN_KILL,
}


@dataclass(frozen=True, slots=True)
class Judge:
    """One evaluation: the transaction, the account, the instant, and what a replay has read beforehand."""

    work: Work
    trading: Trading
    now_s: int
    windows: Sequence[Window] = ()
    drivers: Mapping[Series, SeriesHealth] | None = None

    @property
    def account(self) -> str:
        """Whose protections."""
        return self.trading.terms.account

    @property
    def settings(self) -> ProtectionSettings:
        """Their parameters."""
        return self.trading.protections

    def judge_guard(self) -> list[Trip]:
        """Stoploss guard, for every symbol with closes; the bars are those of the strategy that closed last."""
        longest_s = max(self.settings.guard_bars * DAY_S, self.settings.guard_min_s)
        closed = self.work.safety.load_closes(self.account, self.now_s - 2 * longest_s, self.now_s)
        by_symbol = groupby(sorted(closed, key=lambda each: (each.symbol, each.close.closed_at_s)), key=lambda each: each.symbol)
        trips = (self._guard_symbol(symbol, list(trades)) for symbol, trades in by_symbol)
        return [trip for trip in trips if trip is not None]

    def _guard_symbol(self, symbol: str, trades: Sequence[ClosedTrade]) -> Trip | None:
        bar_s = read_timeframe(trades[-1].strategy).seconds
        return judge_stoploss_guard(symbol, [each.close for each in trades], bar_s, self.now_s, self.settings)

    def judge_drawdown(self) -> list[Trip]:
        """Drawdown from the peaks of 7 and 30 days."""
        mark, birth = self._mark(), self._birth()
        since_s = max(self.now_s - KILL_WINDOW_S, birth.at_s)
        flows = self.work.safety.load_flows(self.account, self._quote, since_s, self.now_s)
        cuts = [self.now_s - PEAK_WINDOW_S, *(flow.at_s for flow in flows)]
        peaks = self.work.safety.load_peaks(self.account, since_s, self.now_s, cuts)
        points = [*peaks, EquityPoint(mark.at_s, mark.equity_quote)]
        return judge_drawdown(points, flows, self.now_s, self.trading.limits, self.settings)

    def judge_daily_loss(self) -> Trip | None:
        """Loss since 00:00 UTC, or since the account began today."""
        return judge_daily_loss(*self._compare(self.now_s - self.now_s % DAY_S), self.now_s, self.trading.limits)

    def judge_weekly_loss(self) -> Trip | None:
        """Loss over rolling 7 days."""
        return judge_weekly_loss(*self._compare(self.now_s - PEAK_WINDOW_S), self.now_s, self.trading.limits)

    def judge_closing_losses(self) -> list[Trip]:
        """Cooldown after a large loss."""
        closed = self.work.safety.load_closes(self.account, self.now_s - self.settings.cooldown_loss_s, self.now_s)
        losses = [each for each in closed if each.close.pnl_quote < 0]
        trips = [judge_closing_loss(each.close, self._mark().equity_quote, self.now_s, self.settings) for each in losses]
        return [trip for trip in trips if trip is not None]

    def judge_entries(self) -> list[Trip]:
        """Cooldown after entries, and their number of the UTC day."""
        midnight_s = self.now_s - self.now_s % DAY_S
        reach_s = self.now_s - self.settings.cooldown_entry_s - DAY_S
        entries = self.work.safety.load_entries(self.account, min(midnight_s, reach_s), self.now_s)
        recent = [
            judge_recent_entry(self.account, each.strategy, each.symbol, each.side, each.sent_s, self.now_s, self.settings)
            for each in entries
            if each.sent_s is not None
        ]
        counts: dict[str, dict[str, int]] = {}
        for each in entries:
            if each.bar_close_s >= midnight_s:
                of_strategy = counts.setdefault(each.strategy, {})
                of_strategy[each.symbol] = of_strategy.get(each.symbol, 0) + 1
        counted = [
            judge_trade_count(self.account, strategy, n_by_symbol, self.now_s, self.trading.limits, self.settings)
            for strategy, n_by_symbol in counts.items()
        ]
        return [trip for trip in recent if trip is not None] + [trip for trips in counted for trip in trips]

    def judge_windows(self) -> list[Trip]:
        """Configured windows, and the funding of contracts."""
        windows = list(self.windows)
        if self.trading.broker.traits.market_type == "linear":
            nearest_s = round(self.now_s / FUNDING_EVERY_S) * FUNDING_EVERY_S
            margin_s = self.settings.funding_margin_s
            windows.append(Window("funding", nearest_s - margin_s, nearest_s + margin_s))
        return judge_windows(windows, self.now_s)

    def judge_volatility(self) -> Trip | None:
        """Volatility of Bitcoin by the hour against its median of 30 days."""
        length_s, n_returns = VOLATILITY_TIMEFRAME.seconds, self.settings.volatility_returns
        newest_s = VOLATILITY_TIMEFRAME.floor(self.now_s) - length_s
        n_bars = VOLATILITY_WINDOW_S // length_s + n_returns + 1
        bars = self.work.bars.load_last(BarTable.DRIVERS, VOLATILITY_TIMEFRAME, {VOLATILITY_DRIVER: newest_s}, n_bars)
        if VOLATILITY_DRIVER not in bars:
            raise RiskGateError(f"{VOLATILITY_DRIVER} has no closed {VOLATILITY_TIMEFRAME} bar; backfill it")
        known = bars[VOLATILITY_DRIVER]
        returns = spread_returns(known.ts_s, known.close, length_s)
        newest = returns[-n_returns:]
        volatility = compute_volatility(newest[~np.isnan(newest)].tolist(), self.settings)
        median = compute_median_volatility(returns, self.settings)
        return judge_volatility(volatility, median, length_s, int(known.ts_s[-1]) + length_s, self.settings)

    def judge_data(self) -> Trip | None:
        """Quality of the required drivers; that of a position's own series is judged with its order."""
        wanted = [(driver.series, timeframe) for driver in DRIVERS if driver.required for timeframe in CHANNEL_TIMEFRAMES]
        health = read_series_health(self.work, wanted, self.now_s, self.settings) if self.drivers is None else self.drivers
        findings = [finding for key in wanted for finding in judge_series(health[key])]
        if not findings:
            return None
        minute = self.now_s // MINUTE_S
        until_s, evidence = MINUTE_S * minute + HOLD_S, "; ".join(finding.detail for finding in findings)
        return Trip("data_quality", Effect.ENTRIES_OFF, EVERYBODY, findings[0].code, until_s, f"data:{minute}", evidence)

    def find_bad_equity(self) -> str | None:
        """Say what is wrong with the newest marked equity when it is no number; None when it is one, or there is none yet."""
        mark = self.work.safety.load_mark(self.account, self.now_s)
        return None if mark is None or mark.equity_quote.is_finite() else f"equity was {mark.equity_quote} at {mark.at_s}"

    @property
    def _quote(self) -> str:
        return self.trading.broker.traits.quote

    def _mark(self) -> EquityMark:
        mark = self.work.safety.load_mark(self.account, self.now_s)
        if mark is None or self.now_s - mark.at_s > EQUITY_MAX_AGE_S:
            at = "never" if mark is None else f"{self.now_s - mark.at_s} s ago"
            raise RiskGateError(f"equity of {self.account} was last marked {at}, limit {EQUITY_MAX_AGE_S} s; mark the positions")
        return mark

    def _birth(self) -> EquityPoint:
        birth = self.work.safety.load_birth(self.account)
        if birth is None:
            raise RiskGateError(f"equity of {self.account} was never above 0; open the account, then mark the positions")
        return birth

    def _compare(self, since_s: int) -> tuple[Decimal, Decimal]:
        """E* at the begin of a window and now; the window begins at the newest mark up to then, or with the account."""
        mark, birth = self._mark(), self._birth()
        begin = self.work.safety.load_mark(self.account, max(since_s, birth.at_s))
        start = birth if begin is None else EquityPoint(begin.at_s, begin.equity_quote)
        flows = self.work.safety.load_flows(self.account, self._quote, start.at_s, self.now_s)
        (now,) = strip_flows([EquityPoint(mark.at_s, mark.equity_quote)], flows, start.at_s)
        return start.equity_quote, now.equity_quote


def judge_protections(
    work: Work,
    trading: Trading,
    now_s: int,
    *,
    windows: Sequence[Window] = (),
    drivers: Mapping[Series, SeriesHealth] | None = None,
) -> list[Trip]:
    """Judge every protection on stored facts, keep what is new, raise the kill switch where the worst of them say so.

    Parameters
    ----------
    work : Work
        The transaction; equity must have been marked in it or less than `EQUITY_MAX_AGE_S` ago.
    now_s : int
        The instant, epoch seconds; all facts are those of then or before.
    windows : sequence of Window
        Configured times without entries.
    drivers : mapping of series to SeriesHealth, optional
        Health of the required drivers where the caller has read it; default: it is read.

    Returns
    -------
    list of Trip
        All that are active for the account now, worst first. One that cannot be worked out stops entries with PROT_ERROR.
    """
    judge = Judge(work, trading, now_s, windows, drivers)
    account = judge.account
    checks: dict[str, Callable[[], Verdict]] = {
        "stoploss_guard": judge.judge_guard,
        "max_drawdown": judge.judge_drawdown,
        "daily_loss": judge.judge_daily_loss,
        "weekly_loss": judge.judge_weekly_loss,
        "cooldown": judge.judge_closing_losses,
        "trade_count": judge.judge_entries,
        "time_window": judge.judge_windows,
        "volatility_halt": judge.judge_volatility,
        "data_quality": judge.judge_data,
    }
    found = run_protections({name: partial(in_savepoint, work, check) for name, check in checks.items()}, now_s)
    work.safety.add_trips([keep_for(account, trip, now_s) for trip in found], now_s)
    active = active_trips(work.safety.load_trips(account, now_s), now_s)
    for trip in active:
        if trip.name in KILLS and trip.effect >= Effect.REDUCE_ONLY:
            raise_level(work, trading, KILLS[trip.name], f"{trip.name}: {trip.evidence}", actor="protections")
    if (bad := judge.find_bad_equity()) is not None:
        raise_level(work, trading, Trigger.EQUITY_NOT_A_NUMBER, bad, actor="protections")
    return active


def in_savepoint(work: Work, check: Callable[[], Verdict]) -> Verdict:
    """Judge one protection so that a query that fails spoils no other."""
    with work.savepoint():
        return check()


def keep_for(account: str, trip: Trip, now_s: int) -> Trip:
    """Make a trip one of this account; one that says that nothing could be judged counts once a minute and holds for two."""
    kept = replace(trip, scope=replace(trip.scope, account=account), evidence=trip.evidence[:EVIDENCE_CHARS])
    if trip.code is not ReasonCode.PROT_ERROR:
        return kept
    minute = now_s // MINUTE_S
    return replace(kept, until_s=MINUTE_S * minute + HOLD_S, trigger_id=f"{trip.name}:error:{minute}")


def read_timeframe(strategy: str) -> Timeframe:
    """Decision timeframe in the name of a strategy; 1h where it names none."""
    ending = strategy.rpartition("-")[2]
    return Timeframe(ending) if ending in set(Timeframe) else Timeframe.H1
