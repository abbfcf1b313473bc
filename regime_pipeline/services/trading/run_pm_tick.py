"""One tick of the portfolio manager: the newest closed bar of a strategy, decided once, journaled, ordered (specification 10)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from regime_pipeline.errors import BadInputError, LeaseLostError
from regime_pipeline.execution.bounds import compute_start_by_ms
from regime_pipeline.execution.keys import write_plain
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.portfolio.decide import TickDecision, decide
from regime_pipeline.portfolio.episodes import Episodes
from regime_pipeline.portfolio.money import ONE, to_decimal
from regime_pipeline.portfolio.plan import Outcome
from regime_pipeline.portfolio.position import Position
from regime_pipeline.portfolio.reasons import ReasonCode
from regime_pipeline.ports import DecisionRow, Lease, LineRow, TickRun, Work
from regime_pipeline.regime.drivers import CHANNEL_TIMEFRAMES, DRIVERS
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.gate_view import SeriesHealth
from regime_pipeline.services.trading.act_on_turn import act_on_turn
from regime_pipeline.services.trading.again import run_again
from regime_pipeline.services.trading.build_gate_view import Series, read_series_health
from regime_pipeline.services.trading.close_trades import Candidate, close_trades
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.cycle import ExecutionSummary
from regime_pipeline.services.trading.describe_tick import TickTexts, compute_config_hash, describe_tick, read_code_version
from regime_pipeline.services.trading.execute_pending import execute_pending
from regime_pipeline.services.trading.find_new_bars import BarDue, find_new_bars, judge_bar
from regime_pipeline.services.trading.gate_orders import Placing, VenueSide, ask_venue
from regime_pipeline.services.trading.judge_protections import judge_protections
from regime_pipeline.services.trading.load_tick import TickSnapshot, TickTerms, load_tick, strategy_of
from regime_pipeline.services.trading.mark_equity import mark_equity
from regime_pipeline.services.trading.place_orders import LineResult, place_orders
from regime_pipeline.services.trading.read_account import VenueState, probe_venue, read_account
from regime_pipeline.services.trading.tick_market import StoredMarket

LEASE_S: Final = 115
"""A tick that dies while it holds its lease blocks its strategy for this and the second before a takeover: two minutes at most. One that
lives longer has lost it, and writes nothing; Dagster ends its run at 120 seconds."""
ACCOUNT_WAIT_S: Final = 10
ACCOUNT_POLL_S: Final = 0.05
DEFAULT_TERMS: Final = TickTerms()


@dataclass(frozen=True, slots=True)
class TickSummary:
    """What a tick came to.

    Parameters
    ----------
    outcome : str
        `decided`, `adopted` (another run had decided), `LEASE_HELD`, `SKIPPED_LATE`, or `no_bar` (nothing new, or its regime is awaited).
    bar_close_s, decision_id : int or None, UUID or None
        None where there is none.
    counts : mapping of str to int
        Positions, and how many acted, were skipped, held or refused.
    execution : ExecutionSummary or None
        Of the turn of the executor that followed; None where it is another process's affair.
    """

    outcome: str
    strategy: str
    bar_close_s: int | None = None
    decision_id: UUID | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    execution: ExecutionSummary | None = None
    took_ms: int = 0

    @property
    def detail(self) -> dict[str, Any]:
        """Plain JSON values for the heartbeat."""
        found: dict[str, Any] = dict(self.counts)
        if self.decision_id is not None:
            found["decision_id"] = str(self.decision_id)
        if self.execution is not None:
            found["sent"] = self.execution.sent
        return found


def run_pm_tick(
    trading: Trading,
    universe: Universe,
    timeframe: Timeframe,
    bar_close_s: int | None = None,
    terms: TickTerms = DEFAULT_TERMS,
) -> TickSummary:
    """Decide the newest closed bar of a strategy, once, and in paper mode send what it orders.

    However often, late or at the same time it is called: a bar is decided once, and an order is written once.

    Parameters
    ----------
    bar_close_s : int or None
        Close of the bar to decide; None, as the job calls it: the newest one that the tables have, with its regime.

    Raises
    ------
    LeaseLostError
        When somebody took over in the middle; nothing was written.
    """
    began_s, began_at = trading.monotonic(), datetime.fromtimestamp(trading.clock.now_ms() / 1000, UTC)
    summary = _run(trading, universe, timeframe, bar_close_s, terms)
    took_ms = round(1000 * (trading.monotonic() - began_s))
    with trading.stores.open() as work:
        run = TickRun(trading.terms.account, summary.strategy, summary.bar_close_s, summary.outcome, began_at, took_ms, summary.detail)
        work.journal.write_run(run)
    return TickSummary(
        summary.outcome, summary.strategy, summary.bar_close_s, summary.decision_id, summary.counts, summary.execution, took_ms
    )


def _run(trading: Trading, universe: Universe, timeframe: Timeframe, bar_close_s: int | None, terms: TickTerms) -> TickSummary:
    account, strategy = trading.terms.account, strategy_of(trading.terms.book_id, timeframe)
    outcome, close_s = find_due(trading, universe, timeframe, bar_close_s)
    if close_s is None or outcome is not None:
        return TickSummary(outcome or "no_bar", strategy, close_s)
    with _hold_lease(trading, f"pm:{account}:{strategy}") as lease:
        if lease is None:
            return TickSummary(ReasonCode.LEASE_HELD.value, strategy, close_s)
        with trading.stores.open() as work:
            decided = work.journal.find_decision(account, strategy, close_s)
        if decided is not None:
            return TickSummary("adopted", strategy, close_s, decided, execution=execute_and_act(trading))
        execute_and_act(trading)  # what is over its time goes first: it must not stand in the way of what is decided now
        with trading.stores.open() as work:
            work.freeze()
            market = StoredMarket(work, universe, trading.terms.book_id, timeframe, trading.broker.traits.venue)
            snapshot = load_tick(work, trading, market, timeframe, close_s, terms)
            tariffs = market.tariffs()
        tick = Tick(trading, universe, snapshot, decide(snapshot.inputs), tariffs, lease)
        decision_id, counts = tick.commit()
        return TickSummary("decided" if counts else "adopted", strategy, close_s, decision_id, counts, execute_and_act(trading))


def find_due(trading: Trading, universe: Universe, timeframe: Timeframe, bar_close_s: int | None = None) -> tuple[str | None, int | None]:
    """Find the bar to decide: why there is nothing to do (None: there is), and its close."""
    now_s = trading.clock.now_s()
    if bar_close_s is not None:
        late = 1000 * now_s > compute_start_by_ms(bar_close_s, timeframe.seconds, trading.limits)
        return (ReasonCode.SKIPPED_LATE.value if late else None), bar_close_s
    with trading.stores.open() as work:
        work.portfolio.promote(trading.terms.book_id, timeframe)
        found = [bar for bar in find_new_bars(work, universe, trading.terms.book_id) if bar.timeframe is timeframe]
    if not found:
        return "no_bar", None
    due = judge_bar(found[0], now_s, trading.limits)
    outcome = {BarDue.WAIT: "no_bar", BarDue.LATE: ReasonCode.SKIPPED_LATE.value, BarDue.NOW: None}[due]
    return outcome, found[0].close_s


@contextmanager
def _hold_lease(trading: Trading, name: str) -> Iterator[Lease | None]:
    with trading.stores.open() as work:
        lease = work.orders.acquire_lease(name, trading.terms.holder, LEASE_S)
    try:
        yield lease
    finally:
        if lease is not None:
            with trading.stores.open() as work:
                work.orders.release_lease(lease)


@contextmanager
def open_account_work(trading: Trading, account: str) -> Iterator[Work]:
    """Begin a transaction that has its account for itself; two strategies whose bars close together take turns.

    Raises
    ------
    LeaseLostError
        When another transaction has the account for too long.
    """
    until_s = trading.monotonic() + ACCOUNT_WAIT_S
    while True:
        with trading.stores.open() as work:
            if work.orders.try_lock_account(account):
                yield work
                return
        if trading.monotonic() > until_s:
            raise LeaseLostError(f"account {account} was locked by another transaction for {ACCOUNT_WAIT_S} s; nothing is written")
        trading.sleep(ACCOUNT_POLL_S)


def execute_and_act(trading: Trading) -> ExecutionSummary | None:
    """Send what is pending where this process may: on paper. Elsewhere the executor does, which has the keys."""
    if trading.terms.mode is not Mode.PAPER:
        return None
    summary = execute_pending(trading)
    act_on_turn(trading, summary)
    return summary


def driver_series(timeframes: Sequence[Timeframe]) -> list[Series]:
    """Series of the required drivers on the regime timeframes in use."""
    return [
        (driver.series, timeframe) for driver in DRIVERS if driver.required for timeframe in CHANNEL_TIMEFRAMES if timeframe in timeframes
    ]


def fill_unused(health: Mapping[Series, SeriesHealth], timeframes: Sequence[Timeframe]) -> dict[Series, SeriesHealth]:
    """Say of regime timeframes that are not in use that nothing is wrong with them: nothing is decided on them."""
    unused = [key for key in driver_series(CHANNEL_TIMEFRAMES) if key[1] not in timeframes]
    return {**health, **{key: SeriesHealth(f"{key[0]} {key[1]} (not in use)", 0, 1, ONE, ONE) for key in unused}}


@dataclass(slots=True)
class Tick:
    """A tick that has been decided and is to be written.

    Parameters
    ----------
    lease : Lease or None
        Checked in the transaction that writes; None in a replay, which nobody else can disturb.
    """

    trading: Trading
    universe: Universe
    snapshot: TickSnapshot
    decision: TickDecision
    tariffs: Mapping[str, Any]
    lease: Lease | None

    def commit(self) -> tuple[UUID, dict[str, int]]:
        """Write everything in one transaction; returns the decision and what its lines came to, nothing where another run was first.

        Raises
        ------
        LeaseLostError
            When the lease is not ours any more.
        """
        venue, state = self._ask_venue()
        decision_id, counts = run_again(self.trading, lambda: self._write_all(venue, state))
        self.trading.at("after_intent")
        return decision_id, counts

    def _write_all(self, venue: VenueSide, state: VenueState | None) -> tuple[UUID, dict[str, int]]:
        """Make tx1: nothing outside the database is done in it."""
        inputs = self.snapshot.inputs
        with open_account_work(self.trading, inputs.account) as work:
            decision_id, counts = self.write(work, venue, state)
            # last, so that its row is locked for a moment only: whoever else wants the lease must hear at once that it is held
            if self.lease is not None and not work.orders.renew_lease(self.lease):
                raise LeaseLostError(f"tick of {inputs.strategy} at {inputs.bar_close_s}: the lease was taken over; nothing is written")
        return decision_id, counts

    def write(self, work: Work, venue: VenueSide, state: VenueState | None) -> tuple[UUID, dict[str, int]]:
        """Write everything in a transaction that has the account for itself; returns as `commit` does."""
        inputs = self.snapshot.inputs
        texts = describe_tick(inputs, self.decision)
        if not work.journal.write_decision(self._decision_row(texts)):
            found = work.journal.find_decision(inputs.account, inputs.strategy, inputs.bar_close_s)
            return found or texts.decision_id, {}
        results = self._place(work, texts.decision_id, venue, state)
        work.journal.write_lines(texts.decision_id, self._line_rows(texts, results))
        self._save_progress(work, self._close_trades(work))
        return texts.decision_id, self._count(results)

    @property
    def is_acting(self) -> bool:
        """Whether a position is to be traded, or would be if it were large enough."""
        return any(line.plan.outcome is not Outcome.HOLD for line in self.decision.lines)

    def _ask_venue(self) -> tuple[VenueSide, VenueState | None]:
        """Ask what the gate must know of the venue, outside every transaction that locks; nothing when nothing is to be ordered."""
        if not self.is_acting:
            return VenueSide(), None
        with self.trading.stores.open() as work:
            state = probe_venue(self.trading, work)
        return ask_venue(self.trading, self.decision), state

    def _place(self, work: Work, decision_id: UUID, venue: VenueSide, state: VenueState | None) -> dict[str, LineResult]:
        trading, snapshot = self.trading, self.snapshot
        inputs, now_ms = snapshot.inputs, trading.clock.now_ms()
        if not self.is_acting:
            return {line.symbol: LineResult(line.plan.outcome, line.plan.codes) for line in self.decision.lines}
        with suppress(BadInputError), work.savepoint():  # without a price of what is held the protections themselves stop entries
            mark_equity(work, inputs.account, inputs.bar_close_s, trading.broker.traits.quote)
        health = read_series_health(work, self._required_series(), now_ms // 1000, trading.protections)
        trips = judge_protections(work, trading, now_ms // 1000, drivers=fill_unused(health, inputs.timeframes))
        account = read_account(work, trading, now_ms, trips=trips, venue=state, marks=snapshot.marks, clusters=snapshot.clusters)
        placing = Placing(work, trading, self.universe, snapshot, account, venue, health, self.tariffs)
        return place_orders(placing, self.decision.lines, decision_id)

    def _required_series(self) -> list[Series]:
        inputs = self.snapshot.inputs
        acting = [line for line in self.decision.lines if line.plan.outcome is Outcome.ACT]
        wanted = [(self.snapshot.rows[line.plan.position_id].series, inputs.timeframe) for line in acting]
        return [*wanted, *driver_series(inputs.timeframes)]

    def _decision_row(self, texts: TickTexts) -> DecisionRow:
        inputs = self.snapshot.inputs
        return DecisionRow(
            decision_id=texts.decision_id,
            account=inputs.account,
            strategy=inputs.strategy,
            bar_close_s=inputs.bar_close_s,
            inputs_hash=texts.inputs_hash,
            inputs=texts.inputs,
            levers=texts.levers,
            plan=texts.summary,
            plan_hash=texts.plan_hash,
            config_hash=compute_config_hash(self.trading, timeframes=[each.value for each in inputs.timeframes]),
            code_version=read_code_version(),
            lease_token=0 if self.lease is None else self.lease.token,
            codes=tuple(code.value for code, _ in inputs.entries_off),
            decided_at_s=self.trading.clock.now_s(),
        )

    def _line_rows(self, texts: TickTexts, results: Mapping[str, LineResult]) -> list[LineRow]:
        rows = []
        for line, inputs, plan in zip(self.decision.lines, texts.line_inputs, texts.line_plans, strict=True):
            found = results[line.symbol]
            rows.append(
                LineRow(
                    symbol=line.symbol,
                    position_id=line.plan.position_id,
                    outcome=found.outcome,
                    rule=line.plan.rule,
                    a_value=line.plan.a_value,
                    e_value=line.plan.e_value,
                    bucket=line.bucket,
                    codes=found.codes,
                    inputs=inputs,
                    plan=plan,
                    gate=None if found.gate is None else write_plain(found.gate),
                    client_order_id=found.client_order_id,
                )
            )
        return rows

    def _close_trades(self, work: Work) -> dict[int, Position]:
        """Close the trades that are over; returns their positions as they are then, by number."""
        inputs = self.snapshot.inputs
        candidates = [
            Candidate(
                line.position, self.snapshot.rows[line.plan.position_id].series, line.symbol, line.plan.state, to_decimal(line.plan.price)
            )
            for line in self.decision.lines
            if line.position.trade is not None and line.plan.state is not None and line.plan.price is not None
        ]
        now_ms = self.trading.clock.now_ms()
        closed = close_trades(work, inputs.account, inputs.strategy, inputs.timeframe, candidates, now_ms)
        return {number: each.position for number, each in closed.items()}

    def _save_progress(self, work: Work, closed: Mapping[int, Position]) -> None:
        """Keep episodes and blocks that the bar has changed; what is not written is caught up with from the engine's events."""
        inputs = self.snapshot.inputs
        stepped: dict[int, tuple[int, Episodes]] = {}
        blocks = {}
        for line in self.decision.lines:
            row = self.snapshot.rows[line.plan.position_id]
            position = closed.get(row.position_id, line.position)
            if position.episodes != row.episodes:
                stepped[row.position_id] = (inputs.bar_ts_s, position.episodes)
            if position.block != row.block:
                blocks[row.contract, row.chain] = position.block
        work.portfolio.save_episodes(stepped)
        work.portfolio.save_blocks(inputs.book_id, inputs.timeframe, blocks)

    def _count(self, results: Mapping[str, LineResult]) -> dict[str, int]:
        found: Sequence[LineResult] = list(results.values())
        return {
            "positions": len(found),
            "orders": sum(each.client_order_id is not None for each in found),
            "refused": sum(each.is_refused for each in found),
            "skipped": sum(each.outcome is Outcome.SKIP for each in found),
            "held": sum(each.outcome is Outcome.HOLD for each in found),
        }
