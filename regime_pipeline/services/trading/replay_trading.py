"""Recorded history through the very tick, gate, orders and paper broker of the live path, on a clock that jumps from bar to bar.

Nothing here decides anything. Each bar is ticked ten seconds after its close, as the first that can be: what was ordered on the bar before
has met its bar by then. A minute and a half later the time to live of what rests is over.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from regime_pipeline.errors import BadInputError, KillSwitchActiveError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.portfolio.decide import decide
from regime_pipeline.ports import Work
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.kill_switch import Scope
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.guard_stops import guard_stops
from regime_pipeline.services.trading.kill_levels import Release, clear_latch, release
from regime_pipeline.services.trading.load_tick import TickTerms, load_tick
from regime_pipeline.services.trading.mark_equity import mark_equity
from regime_pipeline.services.trading.open_account import open_account
from regime_pipeline.services.trading.reconcile import reconcile_full
from regime_pipeline.services.trading.replay_market import ReplayMarket
from regime_pipeline.services.trading.run_pm_tick import Tick, execute_and_act

DECIDE_AFTER_S: Final = 10
SWEEP_AFTER_S: Final = 105
"""After the time to live of an entry, 90 s, and the draw of its latency."""
CHUNK_BARS: Final = 500
DAY_S: Final = 86_400
ACTOR: Final = "replay"
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
    """A replay under way."""

    trading: Trading
    universe: Universe
    clock: ReplayClock
    timeframe: Timeframe
    terms: TickTerms
    releases: bool
    summary: ReplaySummary = field(default_factory=ReplaySummary)

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
        trading = self.trading
        self.clock.go_to(close_s + DECIDE_AFTER_S)
        self._execute()
        self._guard()
        reconcile_full(trading)
        self._release(close_s)
        self._mark(close_s)
        with trading.stores.open() as work:
            if work.journal.find_decision(trading.terms.account, self.strategy, close_s) is not None:
                self.summary.skipped += 1
                return
        with trading.stores.open() as work:
            work.freeze()
            market.work = work
            snapshot = load_tick(work, trading, market, self.timeframe, close_s, self.terms)
        tick = Tick(trading, self.universe, snapshot, decide(snapshot.inputs), market.tariffs(), lease=None)
        _, counts = tick.commit()
        self.summary.bars += 1
        self.summary.orders += counts["orders"]
        self.summary.refused += counts["refused"]
        self._execute()
        self.clock.go_to(close_s + SWEEP_AFTER_S)
        self._execute()

    @property
    def strategy(self) -> str:
        """Name of the strategy."""
        return f"{self.trading.terms.book_id}-{self.timeframe.value}"

    def _execute(self) -> None:
        """Take a turn of the executor, if there is anything to do."""
        with self.trading.stores.open() as work:
            is_idle = not work.orders.load_live(self.trading.terms.account)
        if not is_idle:
            execute_and_act(self.trading)

    def _guard(self) -> None:
        raised = guard_stops(self.trading).raised
        self.summary.stops += len(raised)
        if raised:
            self._execute()

    def _mark(self, close_s: int) -> None:
        with self.trading.stores.open() as work:
            try:
                with work.savepoint():
                    mark_equity(work, self.trading.terms.account, close_s, self.trading.broker.traits.quote)
            except BadInputError:
                return  # something held has no price yet: equity is unknown, and entries are off by themselves

    def _release(self, close_s: int) -> None:
        """Take back what a person would have looked at by the next day."""
        if not self.releases or close_s % DAY_S >= self.timeframe.seconds:
            return
        account = self.trading.terms.account
        with self.trading.stores.open() as work:
            asked = [each.scope for each in (*self.trading.latch.read(), *work.safety.load_switches(account)) if each.is_latched]
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
