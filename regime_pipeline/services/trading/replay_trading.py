"""Recorded history through the very tick, gate, orders and paper broker of the live path, on a clock that jumps from bar to bar.

Nothing here decides anything. Each bar is ticked ten seconds after its close, as the first that can be: what was ordered on the bar before
has met its bar by then. A minute and a half later the time to live of what rests is over.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from regime_pipeline.errors import BadInputError, KillSwitchActiveError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.portfolio.decide import decide
from regime_pipeline.portfolio.money import ZERO
from regime_pipeline.portfolio.reasons import ReasonCode
from regime_pipeline.ports import Work
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.kill_switch import Scope
from regime_pipeline.risk.protections import KILL_WINDOW_S, PEAK_WINDOW_S
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.gate_orders import VenueSide
from regime_pipeline.services.trading.guard_stops import guard_stops
from regime_pipeline.services.trading.judge_protections import judge_protections
from regime_pipeline.services.trading.kill_levels import Release, clear_latch, release
from regime_pipeline.services.trading.load_tick import TickSnapshot, TickTerms, load_tick
from regime_pipeline.services.trading.open_account import open_account
from regime_pipeline.services.trading.reconcile import reconcile_full
from regime_pipeline.services.trading.replay_market import ReplayMarket
from regime_pipeline.services.trading.run_pm_tick import Tick, execute_and_act, fill_unused

DECIDE_AFTER_S: Final = 10
SWEEP_AFTER_S: Final = 105
"""After the time to live of an entry, 90 s, and the draw of its latency."""
CHUNK_BARS: Final = 500
DAY_S: Final = 86_400
ACTOR: Final = "replay"
NEAR: Final = Decimal("0.9")
"""Share of a limit from which its protection is judged on every bar."""
Progress = Callable[[int, int], None]
"""Called with the bars done and the bars there are."""


class ReplayClock:
    """A clock that stands still until it is moved; never back."""

    def __init__(self, now_s: float) -> None:
        self._now_s = now_s

    def __call__(self) -> datetime:
        """Read it as an aware UTC datetime."""
        return datetime.fromtimestamp(self._now_s, UTC)

    def go_to(self, now_s: float) -> None:
        """Move it to an instant.

        Raises
        ------
        BadInputError
            When the instant lies in its past.
        """
        if now_s < self._now_s:
            raise BadInputError(
                f"replay clock was at {self._now_s:.0f} and asked to go to {now_s:.0f}: it only goes forward. Begin another."
            )
        self._now_s = now_s

    def advance(self, seconds: float) -> None:
        """Move it by seconds."""
        self.go_to(self._now_s + seconds)


@dataclass(slots=True)
class ReplaySummary:
    """What a replay came to; `bars` were decided, of `skipped` others was decided before, and levels were taken back `releases` times."""

    bars: int = 0
    skipped: int = 0
    orders: int = 0
    refused: int = 0
    stops: int = 0
    releases: int = 0
    checksums: dict[str, str] = field(default_factory=dict)


def replay_trading(
    trading: Trading,
    universe: Universe,
    clock: ReplayClock,
    timeframe: Timeframe,
    start_s: int,
    end_s: int,
    terms: TickTerms,
    progress: Progress | None = None,
    *,
    releases: bool = True,
) -> ReplaySummary:
    """Trade a stretch of stored history on paper.

    Parameters
    ----------
    trading : Trading
        Of a paper account; its clock and that of its broker must be `clock`.
    start_s, end_s : int
        Bars that close in [start, end) are decided; what is left open then is left.
    terms : TickTerms
        With the regime timeframes that the history has: without minutes of the drivers, macro and meso only.
    releases : bool
        Whether somebody looks at a latched kill level on the next UTC day and takes it back; False: it stays, as it would.

    Raises
    ------
    BadInputError
        When the account is no paper one.
    """
    if trading.terms.mode is not Mode.PAPER:
        raise BadInputError(f"account {trading.terms.account} is {trading.terms.mode}: only a paper account can trade the past. Use one.")
    replayed = Replay(replace(trading, sleep=clock.advance), universe, clock, timeframe, terms, releases=releases)
    return replayed.run(start_s, end_s, progress)


@dataclass(slots=True)
class Replay:
    """A replay under way.

    Quiet bars, on which nothing is ordered, are most of all. They need no gate, and the newest comparison with the broker stands for them:
    it is made anew each day and before whatever is ordered.
    """

    trading: Trading
    universe: Universe
    clock: ReplayClock
    timeframe: Timeframe
    terms: TickTerms
    releases: bool
    summary: ReplaySummary = field(default_factory=ReplaySummary)
    is_busy: bool = True
    is_clean: bool = False
    is_holding: bool = True
    equity: deque[tuple[int, Decimal]] = field(default_factory=deque)

    def run(self, start_s: int, end_s: int, progress: Progress | None) -> ReplaySummary:
        """Tick every bar that closes in [start, end)."""
        length_s = self.timeframe.seconds
        closes = range(-(-start_s // length_s) * length_s, end_s, length_s)
        if not closes:
            return self.summary
        self.clock.go_to(closes[0] - length_s)
        open_account(self.trading)
        with self.trading.stores.open() as work:
            work.portfolio.promote(self.trading.terms.book_id, self.timeframe)
        for close_s, market in self._with_market(closes):
            self.step(close_s, market)
            if progress is not None:
                progress((close_s - closes[0]) // length_s + 1, len(closes))
        with self.trading.stores.open() as work:
            self.summary.checksums = compute_checksums(work, self.trading.terms.account)
        return self.summary

    def _with_market(self, closes: range) -> Iterator[tuple[int, ReplayMarket]]:
        venue = self.trading.broker.traits.venue
        for at in range(0, len(closes), CHUNK_BARS):
            part = closes[at : at + CHUNK_BARS]
            self.clock.go_to(max(part[0] - self.timeframe.seconds, self.trading.clock.now_s()))
            self.trading.broker.fetch_listings()  # what is listed by now
            with self.trading.stores.open() as work:
                market = ReplayMarket(work, self.trading.terms.book_id, self.timeframe, venue)
                market.load(self.universe, part[0], part[-1] + 1)
            for close_s in part:
                yield close_s, market

    def step(self, close_s: int, market: ReplayMarket) -> None:
        """Live through one bar close."""
        self.clock.go_to(close_s + DECIDE_AFTER_S)
        if self.is_busy:
            self._execute()
        if self.is_holding:
            self._guard()
        is_new_day = close_s % DAY_S < self.timeframe.seconds
        if is_new_day:
            self._release()
        if is_new_day or not self.is_clean:
            self.is_clean = reconcile_full(self.trading).is_clean
        counts = self._tick_quietly(close_s, market)
        if counts is None:
            # the gate wants a young pass, and what it says is part of what is decided
            self.is_clean = reconcile_full(self.trading).is_clean
            counts = self._tick(close_s, market)
        self._count(counts)
        if self.is_busy:
            self._execute()
        if self.is_busy:
            self.clock.go_to(close_s + SWEEP_AFTER_S)
            self._execute()

    def _tick_quietly(self, close_s: int, market: ReplayMarket) -> dict[str, int] | None:
        """Decide a bar and write it in one transaction; None, and nothing is written, when something is to be ordered."""
        with self.trading.stores.open() as work:
            work.hurry()
            snapshot = self._load(work, close_s, market, is_reconciled=self.is_clean)
            tick = Tick(self.trading, self.universe, snapshot, decide(snapshot.inputs), market.tariffs(), lease=None)
            if tick.is_acting:
                return None
            marked = self._mark(work, snapshot)
            if marked is not None and self._may_trip(close_s, marked):
                judge_protections(work, self.trading, self.trading.clock.now_s(), drivers=fill_unused({}, ()))
            return tick.write(work, VenueSide(), None)[1]

    def _tick(self, close_s: int, market: ReplayMarket) -> dict[str, int]:
        """Decide a bar as live: asks the venue, passes the gate."""
        with self.trading.stores.open() as work:
            snapshot = self._load(work, close_s, market, is_reconciled=False)
            marked = self._mark(work, snapshot)
        if marked is not None:
            self._may_trip(close_s, marked)
        return Tick(self.trading, self.universe, snapshot, decide(snapshot.inputs), market.tariffs(), lease=None).commit()[1]

    def _load(self, work: Work, close_s: int, market: ReplayMarket, *, is_reconciled: bool) -> TickSnapshot:
        market.work = work
        snapshot = load_tick(work, self.trading, market, self.timeframe, close_s, self.terms, is_reconciled=is_reconciled)
        self.is_holding = any(line.position.quantity for line in snapshot.inputs.lines)
        return snapshot

    def _count(self, counts: dict[str, int]) -> None:
        if not counts:
            self.summary.skipped += 1
            return
        self.summary.bars += 1
        self.summary.orders += counts["orders"]
        self.summary.refused += counts["refused"]
        self.is_busy = self.is_busy or counts["orders"] > 0

    @property
    def strategy(self) -> str:
        """Name of the strategy."""
        return f"{self.trading.terms.book_id}-{self.timeframe.value}"

    def _execute(self) -> None:
        """Take a turn of the executor."""
        execute_and_act(self.trading)
        with self.trading.stores.open() as work:
            self.is_busy = bool(work.orders.load_live(self.trading.terms.account))

    def _guard(self) -> None:
        """Look at the stops of what is held."""
        raised = guard_stops(self.trading).raised
        self.summary.stops += len(raised)
        if raised:
            self._execute()

    def _mark(self, work: Work, snapshot: TickSnapshot) -> Decimal | None:
        """Keep the marked equity of the bar's close; None where something held has no price, and then entries are off by themselves."""
        inputs, quote = snapshot.inputs, self.trading.broker.traits.quote
        if any(code is ReasonCode.EQUITY_UNKNOWN for code, _ in inputs.entries_off):
            return None
        held: dict[str, Decimal] = {}
        for row in snapshot.holdings:
            symbol = row.asset if row.is_contract or row.asset == quote else f"{row.asset}/{quote}"
            held[symbol] = held.get(symbol, ZERO) + row.qty
        cash, equity = held.pop(quote, ZERO), inputs.book.equity_usd
        holdings = {symbol: (qty, snapshot.marks[symbol]) for symbol, qty in held.items() if qty}
        work.ledger.add_equity_point(inputs.account, 1000 * inputs.bar_close_s, equity, cash, holdings)
        return equity

    def _may_trip(self, close_s: int, equity: Decimal) -> bool:
        """Tell whether equity has fallen so far that a protection could stop more than entries, and must be judged on this very bar."""
        points = self.equity
        points.append((close_s, equity))
        while points[0][0] < close_s - KILL_WINDOW_S:
            points.popleft()
        limits, day_s = self.trading.limits, close_s - close_s % DAY_S
        week = [each for at_s, each in points if at_s >= close_s - PEAK_WINDOW_S]
        today = next((each for at_s, each in points if at_s >= day_s), equity)
        fell = (
            (max(each for _, each in points), limits.drawdown_kill_frac),
            (week[0], limits.weekly_loss_frac),
            (today, limits.daily_loss_hard_frac),
        )
        return any(equity <= before * (1 - NEAR * limit) for before, limit in fell)

    def _release(self) -> None:
        """Take back what a person would have looked at by the next day."""
        if not self.releases:
            return
        account = self.trading.terms.account
        with self.trading.stores.open() as work:
            asked = [each.scope for each in (*self.trading.latch.read(), *work.safety.load_switches(account)) if each.is_latched]
        if asked:
            reconcile_full(self.trading)  # nobody takes a level back without a clean pass
        for scope in dict.fromkeys(asked):
            self._release_scope(scope)

    def _release_scope(self, scope: Scope) -> None:
        request = Release(scope, ACTOR, "the day after: looked at, and taken back")
        try:
            with self.trading.stores.open() as work:
                release(work, self.trading.latch, request, mode=Mode.PAPER, now_s=self.trading.clock.now_s())
        except KillSwitchActiveError:
            return  # not yet: tried again the next day
        clear_latch(self.trading.latch, scope)
        self.summary.releases += 1


def compute_checksums(work: Work, account: str) -> dict[str, str]:
    """Sum up decisions, orders and fills, so that two replays can be compared; write times are left out."""
    found = {}
    for name, rows in work.journal.load_traces(account).items():
        digest = hashlib.sha256()
        for row in rows:
            digest.update(f"{row}\n".encode())
        found[name] = f"{len(rows)} rows {digest.hexdigest()[:16]}"
    return found
