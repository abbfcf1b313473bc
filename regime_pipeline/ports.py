"""What a use-case needs from the outside, as protocols; adapters implement them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from regime_pipeline.market.bars import Bars, RawBars
from regime_pipeline.market.buckets import BucketSpan, CapObservation
from regime_pipeline.market.candles import Candle
from regime_pipeline.market.dominance import DominanceSample
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.validity import Validity
from regime_pipeline.opinion_ports import OpinionStore, SnapshotStore

if TYPE_CHECKING:
    # the engine is compiled code: readers of the store must not pay for its import
    from regime_pipeline.trend.engine import Advance, TapeChunk


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Open times of the first and the last bar a source can give, epoch seconds; `last_s` None: up to now.

    A venue does not say since when it lists a market: with `is_exact` False nothing before its first bar is missing.
    """

    first_s: int
    last_s: int | None
    is_exact: bool = True


class BarSource(Protocol):
    """Where market data comes from: recorded, generated or live. Answers are raw: nobody has checked them yet.

    Every method may raise `SourceUnavailableError` (try again) or `SourceError` (do not): an unreadable source is not an empty one.
    """

    @property
    def name(self) -> str:
        """Name for the `source` column and for messages."""
        ...

    def venues(self) -> Collection[str]:
        """List the venues it can answer for; a symbol of another venue is passed over, in the universe's order of priority."""
        ...

    def time_range(self, venue: str, symbol: str, timeframe: Timeframe) -> TimeRange | None:
        """Tell what span it can give without fetching it; None when it has no such series (a vendor without that timeframe included)."""
        ...

    def fetch_bars(self, venue: str, symbol: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        """Fetch bars with open times in [start_s, end_s), volume in QUOTE currency; empty when the vendor says there are none."""
        ...

    def dominance_range(self, driver: str, timeframe: Timeframe) -> TimeRange | None:
        """Tell what span of ready-made dominance bars it can give; None when it has none and only samples (see `DominanceSampler`)."""
        ...

    def fetch_dominance(self, driver: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        """Fetch ready-made bars of `BTC.d` or `USDT.d` with open times in [start_s, end_s); percent as price, volume 0."""
        ...

    def fetch_market_caps(self, start_s: int, end_s: int) -> Mapping[str, Sequence[CapObservation]]:
        """Fetch the market caps that became known in [start_s, end_s), by contract, ascending."""
        ...


@runtime_checkable
class DominanceSampler(Protocol):
    """A vendor that only says what dominance is now; one request serves both drivers."""

    def fetch_samples(self) -> Mapping[str, DominanceSample]:
        """Ask once, by driver; a driver the answer does not hold is absent."""
        ...


@dataclass(frozen=True, slots=True)
class Halt:
    """A venue that refuses us: why, and until when we leave it alone (epoch seconds; None: until a person says otherwise)."""

    reason: str
    since_s: int
    until_s: int | None


class VenueLedger(Protocol):
    """What must be remembered of venues across processes and restarts; every call is a transaction of its own."""

    def load_halts(self, now_s: int) -> Mapping[str, Halt]:
        """Load the venues that are halted at `now_s`."""
        ...

    def halt(self, venue: str, halt: Halt) -> None:
        """Leave a venue alone; a halt without end is not shortened by one with an end."""
        ...

    def resume(self, venue: str) -> bool:
        """End a venue's halt; False when there was none."""
        ...

    def spend_call(self, vendor: str, now_s: int, monthly_limit: int) -> int:
        """Count one call of a calendar month (UTC) before it is made; returns how many are left.

        Raises
        ------
        BudgetExhaustedError
            When the month's calls are spent; nothing is counted then.
        """
        ...

    def load_calls(self, now_s: int) -> Mapping[str, int]:
        """Load how many calls of the present calendar month (UTC) each vendor has had."""
        ...


class Severity(StrEnum):
    """How an alert reads at three in the morning: a warning can wait for the day, critical cannot."""

    WARNING = "warning"
    CRITICAL = "critical"


class AlertKind(StrEnum):
    """What can be wrong; `services/alert_kinds.py` says what each costs, docs/runbook.md how it is cured."""

    FRESHNESS = "freshness"
    VALIDITY = "validity"
    QUARANTINE_SPIKE = "quarantine_spike"
    GAP_BACKLOG = "gap_backlog"
    VENUE_HALTED = "venue_halted"
    BUDGET = "budget"
    COLLECTOR_SILENT = "collector_silent"
    RUN_FAILURE = "run_failure"
    CHECK_FAILURE = "check_failure"
    DAEMON_SILENT = "daemon_silent"
    FLAG_SILENT = "flag_silent"
    DISK_SPACE = "disk_space"
    DAGSTER_SIZE = "dagster_size"
    NOTIFY_FAILED = "notify_failed"
    DEAD_MAN = "dead_man"
    WATCH_FAILED = "watch_failed"
    DATABASE_DOWN = "database_down"


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that is wrong now: what, with numbers, and since when by the data. One per kind and scope is open at a time."""

    kind: AlertKind
    scope: str
    severity: Severity
    summary: str
    since_s: int


@dataclass(frozen=True, slots=True)
class OpenAlert:
    """An alert as recorded; `severity` is the highest since it opened, `noticed_s` when a message about it was last posted."""

    alert_id: int
    alert: Alert
    opened_s: int
    last_seen_s: int
    noticed_s: int | None
    is_acked: bool


@dataclass(frozen=True, slots=True)
class Message:
    """What a person reads: a line, the rest, and for programs what it is about."""

    title: str
    body: str
    fields: Mapping[str, str | int | None]


class Notifier(Protocol):
    """A channel that takes messages."""

    @property
    def channel(self) -> str:
        """Name for tables and messages; holds no secret."""
        ...

    def send(self, message: Message) -> None:
        """Hand over one message.

        Raises
        ------
        NotifyError
            When the channel did not take it; names no address.
        """
        ...


class DeadMan(Protocol):
    """A watchman outside, who warns when he is not told any more that all is well."""

    def ping(self) -> None:
        """Tell that all is well; raises `NotifyError` when nobody heard."""
        ...


@dataclass(frozen=True, slots=True)
class Notice:
    """A message that waits for its channel."""

    notice_id: int
    posted_s: int
    attempts: int
    message: Message


class AlertBook(Protocol):
    """The alerts, in one transaction that nobody else writes them in."""

    def load_open(self) -> list[OpenAlert]:
        """Load the alerts that are open, oldest first."""
        ...

    def open(self, alert: Alert, now_s: int) -> int:
        """Record a new alert; returns its number."""
        ...

    def renew(self, alert_id: int, alert: Alert, now_s: int) -> None:
        """Record that it still holds, as it looks now."""
        ...

    def resolve(self, alert_id: int, now_s: int) -> None:
        """Record that it is over."""
        ...

    def post(self, alert_id: int, event: str, message: Message, channels: Sequence[str], now_s: int) -> None:
        """Put a message into each channel's box."""
        ...


class Outbox(Protocol):
    """The unsent messages of one channel; nobody else empties it meanwhile. Each call is kept at once."""

    def load_unsent(self) -> list[Notice]:
        """Load them, oldest first."""
        ...

    def mark_sent(self, notice_ids: Sequence[int], now_s: int) -> None:
        """Record that the channel took them."""
        ...

    def mark_failed(self, notice_ids: Sequence[int], error: str) -> None:
        """Record that it did not; they stay."""
        ...


@dataclass(frozen=True, slots=True)
class Backlog:
    """Messages that a channel has not taken: how many, since when, and what it last said."""

    n_notices: int
    since_s: int
    last_error: str


class AlertStore(Protocol):
    """Alerts and their messages."""

    def open_book(self) -> AbstractContextManager[AlertBook]:
        """Begin a transaction on the alerts, alone."""
        ...

    def open_outbox(self, channel: str) -> "AbstractContextManager[Outbox | None]":
        """Open a channel's box; None while another process empties it."""
        ...

    def load_backlogs(self, tried_before_s: int) -> Mapping[str, Backlog]:
        """Load the channels that have refused a message posted before then."""
        ...


@dataclass(frozen=True, slots=True)
class DriverAge:
    """How far a driver is on a timeframe: opens of its newest bar and state (None: none yet), the score of that bar (None: none)."""

    driver: str
    timeframe: Timeframe
    bar_s: int | None
    state_s: int | None
    validity: float | None


@dataclass(frozen=True, slots=True)
class Refusals:
    """Bars of a venue that went to quarantine: in the last hour, an hour on average of the day before, and the most frequent reason."""

    source: str
    last_hour: int
    usual_per_hour: float
    reason: str


@dataclass(frozen=True, slots=True)
class OpenGaps:
    """Bars of a timeframe that are missing and still asked for."""

    timeframe: Timeframe
    n_bars: int
    n_series: int
    worst_series: str
    oldest_s: int


@dataclass(frozen=True, slots=True)
class CallBudget:
    """Calls to a vendor in the current calendar month (UTC)."""

    vendor: str
    used: int


class CandleStream(Protocol):
    """One venue's 1m candles as they form."""

    @property
    def venue(self) -> str:
        """Name of the venue in the universe file."""
        ...

    @property
    def symbols(self) -> Collection[str]:
        """Symbols it listens to, as the venue spells them."""
        ...

    async def listen(self, on_candle: Callable[[Candle], None]) -> None:
        """Connect once, subscribe, and pass on every candle until the connection ends; cancelling it closes the connection.

        Raises
        ------
        SourceUnavailableError
            When the connection could not be made, or ended. Connect again, after a while.
        VenueHaltedError
            When the venue told us to stay away.
        """
        ...


@dataclass(frozen=True, slots=True)
class SilentFlag:
    """A flag of the engine that no bar of a series has had for long: how many bars, and since which bar."""

    series: str
    flag: str
    n_bars: int
    since_s: int


class HealthStore(Protocol):
    """Questions whose answers tell whether all is well; every call is a transaction of its own that only reads."""

    def load_driver_ages(self) -> Sequence[DriverAge]:
        """Load how far all drivers are on all regime timeframes."""
        ...

    def load_birth_s(self) -> int:
        """Load when this database got its first table."""
        ...

    def load_refusals(self, now_s: int) -> Sequence[Refusals]:
        """Load the venues of which bars were refused within the last hour."""
        ...

    def load_open_gaps(self, seen_before_s: int) -> Sequence[OpenGaps]:
        """Load what is missing, seen before then, and not given up."""
        ...

    def load_budgets(self, now_s: int) -> Sequence[CallBudget]:
        """Load the calls of the month."""
        ...

    def load_halts(self, now_s: int) -> Mapping[str, Halt]:
        """Load the venues that are halted at `now_s`."""
        ...

    def load_heartbeats(self, instance: str) -> "Sequence[Heartbeat]":
        """Load the heartbeats of this instance's collector; none when none ever ran."""
        ...

    def find_silent_flags(self, timeframe: Timeframe, n_bars: int) -> Sequence[SilentFlag]:
        """Find flags that the newest `n_bars` bars of a series lack; shorter series are not judged. Slow: not for every minute."""
        ...


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """Finished runs of a job: the newest failure with its error, how many there were since the last success, and when that was."""

    job: str
    failed_s: int
    run_id: str
    error: str
    failures: int
    succeeded_s: int | None


@dataclass(frozen=True, slots=True)
class FailedCheck:
    """A check of severity ERROR whose newest verdict is that it failed."""

    table: str
    check: str
    run_id: str
    failed_s: int
    n_faults: int | None


class Scheduler(Protocol):
    """What Dagster knows about its own health."""

    def load_failing_jobs(self, since_s: int) -> Sequence[JobOutcome]:
        """Load the jobs whose newest finished run failed, or that failed since then."""
        ...

    def load_failed_checks(self) -> Sequence[FailedCheck]:
        """Load the checks that have failed last."""
        ...

    def load_daemon_beats(self) -> Mapping[str, int]:
        """Load when each daemon of the instance last gave a sign; one that never did is absent."""
        ...

    def load_size_bytes(self) -> int:
        """Load the size of its database."""
        ...


class BarTable(StrEnum):
    """Where bars are kept; the value is the table's name."""

    DRIVERS = "regime_price_data_ohlc"
    MAJORS = "majors_price_data_ohlc"
    TOKENS = "lowcap_price_data_ohlc"


class Stage(StrEnum):
    """What is derived from what: bars -> rollup, bars -> driver -> trend -> delta."""

    ROLLUP = "rollup"
    DRIVER = "driver"
    TREND = "trend"
    DELTA = "delta"


@dataclass(frozen=True, slots=True, eq=False)
class BarRows:
    """Bars of one series to be saved, with what a table keeps beside them.

    Parameters
    ----------
    bars : Bars of n rows
    sources : tuple of str, and source_codes : ndarray of shape (n,)
        Row i came from `sources[source_codes[i]]`; -1 for none (composites).
    is_final : ndarray of bool, shape (n,)
    component_count : ndarray of int32, shape (n,), or None
        Composites only.
    """

    bars: Bars
    sources: tuple[str, ...]
    source_codes: NDArray[np.int64]
    is_final: NDArray[np.bool_]
    component_count: NDArray[np.int32] | None = None


@dataclass(frozen=True, slots=True)
class Saved:
    """What a save did: rows written and left alone, and per series the oldest bar that was written (epoch seconds).

    Of the rows written, `updated` were there before with other content.
    """

    written: int
    unchanged: int
    first_written_s: Mapping[str, int]
    updated: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Coverage:
    """What is stored of a series in a window: open times, whether the bar is complete, and where it came from."""

    ts_s: NDArray[np.int64]
    is_complete: NDArray[np.bool_]
    source: NDArray[np.object_]


class MarkStore(Protocol):
    """Work to do, kept with the data it follows from (table derivation_marks)."""

    def add(self, stage: Stage, timeframe: Timeframe, first_s: Mapping[str, int]) -> None:
        """Mark series for derivation from a bar on; an older mark of the same series stays."""
        ...

    def load(self, stage: Stage, timeframe: Timeframe) -> dict[str, int]:
        """Load the marks of a stage without taking or locking them."""
        ...

    def take(self, stage: Stage, timeframe: Timeframe, series: Collection[str] | None = None) -> dict[str, int]:
        """Take the marks of a stage: they are locked, and gone when the transaction commits."""
        ...


class BarStore(Protocol):
    """The price tables and what was wrong with the bars that are not in them. Reads give final bars only."""

    def save(self, table: BarTable, timeframe: Timeframe, rows: Mapping[str, BarRows]) -> Saved:
        """Upsert bars; equal content writes nothing, and a complete rollup is never replaced by a vendor's bar.

        The sources of each series are in order of priority: a bar is never replaced by that of a source behind its own.
        """
        ...

    def remove(self, table: BarTable, timeframe: Timeframe, series: str, from_s: int, keep_ts_s: NDArray[np.int64]) -> int:
        """Delete the bars of a derived series from `from_s` on that are not in `keep_ts_s`."""
        ...

    def load_after(
        self, table: BarTable, timeframe: Timeframe, after_s: Mapping[str, int | None], until_s: int | None = None
    ) -> dict[str, Bars]:
        """Load the bars of each series with `after` < ts <= `until_s`, oldest first."""
        ...

    def load_last(self, table: BarTable, timeframe: Timeframe, up_to_s: Mapping[str, int], n: int) -> dict[str, Bars]:
        """Load the newest n bars of each series with ts <= `up_to`, oldest first."""
        ...

    def load_newest(self, table: BarTable, timeframe: Timeframe, series: Collection[str]) -> dict[str, int]:
        """Load the open time of the newest bar of each series that has one."""
        ...

    def load_oldest(self, table: BarTable, timeframe: Timeframe, series: Collection[str]) -> dict[str, int]:
        """Load the open time of the oldest bar of each series that has one."""
        ...

    def load_coverage(
        self, table: BarTable, timeframe: Timeframe, series: Collection[str], start_s: int, end_s: int
    ) -> dict[str, Coverage]:
        """Load what is stored in a window, final or not."""
        ...

    def load_open_backfills(self, timeframe: Timeframe, requested_after_s: int) -> dict[str, list[tuple[int, int]]]:
        """Load the windows of backfill requests that are still open and not too old, by series."""
        ...

    def quarantine(self, series: str, timeframe: Timeframe, source: str, raw: RawBars, reasons: Sequence[str], now_s: int) -> int:
        """Keep refused bars with their reasons and when their values were first seen; returns how many were not known yet."""
        ...

    def record_gaps(
        self,
        timeframe: Timeframe,
        source: str,
        gaps_s: Mapping[str, NDArray[np.int64]],
        windows_s: Mapping[str, tuple[int, int]],
        asked_s: int | None = None,
    ) -> int:
        """Record what is missing in a window of each series, and resolve recorded gaps that are none any more; returns the missing bars.

        `asked_s` says when vendors were asked for them; None: now, or nobody is to be asked (composites).
        """
        ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An engine carry as stored, after the bar at `ts_s`."""

    ts_s: int
    state: bytes


class TrendStore(Protocol):
    """States, events, levels, checkpoints, tapes and the snapshot of each series."""

    def load_checkpoints(self, timeframe: Timeframe, engine_version: str, before_s: Mapping[str, int | None]) -> dict[str, Checkpoint]:
        """Load the newest checkpoint of each series, older than `before` where that is given."""
        ...

    def load_tapes(self, timeframe: Timeframe, wanted: Mapping[str, tuple[int, int, Sequence[int]]]) -> "dict[str, list[TapeChunk]]":
        """Load tapes: per series (S3 start, last chunk, chunks wanted with their rows); the others come with their extremes only."""
        ...

    def rewind(self, timeframe: Timeframe, after_s: Mapping[str, int | None]) -> None:
        """Forget events, level sets and checkpoints after a bar, before the series is replayed from there."""
        ...

    def save(self, timeframe: Timeframe, engine_version: str, strength_scale: float, advances: "Mapping[str, Advance]") -> Saved:
        """Upsert states (revision raised where content changed), events and level sets."""
        ...

    def drop_orphans(self, timeframe: Timeframe, after_s: Mapping[str, int | None]) -> int:
        """Delete states after a bar whose price bar is gone."""
        ...

    def save_carries(
        self, timeframe: Timeframe, engine_version: str, carries: Mapping[str, Sequence[tuple[int, int, bytes, bool]]]
    ) -> None:
        """Save checkpoints (ts, bars seen, state, is anchor); older ones that are no anchors go."""
        ...

    def save_tapes(self, timeframe: Timeframe, chunks: "Sequence[tuple[str, int, TapeChunk]]") -> None:
        """Save tape chunks (series, S3 start, chunk)."""
        ...

    def ensure_positions(self, timeframe: Timeframe, tickers: Mapping[str, str]) -> None:
        """Create the position rows of series that have none: drivers as regime_driver, tokens dormant."""
        ...

    def save_snapshots(self, timeframe: Timeframe, series: Collection[str]) -> None:
        """Project the newest state of each series into the `features` of its position row."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class StateRows:
    """What the mapper reads of n engine records: row i is of `series[series_code[i]]`; codes as in `trend.record`."""

    series: tuple[str, ...]
    series_code: NDArray[np.int64]
    ts_s: NDArray[np.int64]
    state: NDArray[np.int64]
    prev_state: NDArray[np.int64]
    flags: NDArray[np.bool_]
    immature: NDArray[np.bool_]
    engine_version: NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class BoardRow:
    """The newest state of a driver on a timeframe, with the deltas the mapper made of it; times are bar opens, epoch seconds."""

    driver: str
    timeframe: Timeframe
    ts_s: int
    state: str
    prev_state: str | None
    since_s: int
    price: float
    flags: tuple[str, ...]
    delta_a_raw: float | None
    delta_e_raw: float | None
    immature: bool
    bars_seen: int


@dataclass(frozen=True, slots=True, eq=False)
class StateHistory:
    """States of one series over n bars: price, state code, and flags by name, each of shape (n,)."""

    ts_s: NDArray[np.int64]
    price: NDArray[np.float64]
    state: NDArray[np.int64]
    flags: Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, eq=False)
class DeltaHistory:
    """Deltas of one driver on one timeframe over n bars, with what a lever judges a channel by."""

    ts_s: NDArray[np.int64]
    state: NDArray[np.int64]
    immature: NDArray[np.bool_]
    delta_a_raw: NDArray[np.float64]
    delta_e_raw: NDArray[np.float64]


class RegimeStore(Protocol):
    """Deltas and bucket memberships."""

    def load_board(self, now_s: int) -> list[BoardRow]:
        """Load the newest row of every driver and regime timeframe whose bar has ended at `now_s`."""
        ...

    def load_history(self, series: str, timeframe: Timeframe, start_s: int, end_s: int) -> StateHistory:
        """Load the states of a series with bar opens in [start, end)."""
        ...

    def load_deltas(self, driver: str, timeframe: Timeframe, start_s: int, end_s: int) -> DeltaHistory:
        """Load the deltas of a driver with bar opens in [start, end)."""
        ...

    def load_states(self, timeframe: Timeframe, first_s: Mapping[str, int]) -> StateRows:
        """Load what the mapper reads of each series from a bar on, in the order of the series, then of time."""
        ...

    def save_deltas(
        self,
        timeframe: Timeframe,
        first_s: Mapping[str, int],
        states: StateRows,
        delta_a: NDArray[np.float64],
        delta_e: NDArray[np.float64],
    ) -> Saved:
        """Upsert the deltas of driver states, delete those of bars that have no state any more, and project the newest ones."""
        ...

    def load_spans(self) -> dict[str, list[BucketSpan]]:
        """Load all memberships by token series, ascending."""
        ...

    def save_spans(self, spans: Mapping[str, Sequence[BucketSpan]]) -> int:
        """Upsert memberships; returns how many rows changed."""
        ...


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a collector says of a venue it listens to; times are epoch seconds, None: not yet, or not now (`connected_s`)."""

    venue: str
    beat_s: int
    started_s: int
    connected_s: int | None
    last_message_s: int | None
    last_flush_s: int | None
    last_bar_s: int | None
    connects: int
    bars_written: int
    problem: str | None


@dataclass(frozen=True, slots=True)
class Question:
    """The last question to a vendor: when, how many in a row had no believable answer, and why the last had none."""

    asked_s: int
    failures: int
    problem: str | None


class FeedStore(Protocol):
    """What live feeds leave behind besides bars."""

    def save_heartbeats(self, instance: str, beats: Sequence[Heartbeat]) -> None:
        """Upsert the heartbeats of a collector; rows of venues that it no longer listens to go."""
        ...

    def load_heartbeats(self) -> dict[str, list[Heartbeat]]:
        """Load the heartbeats of every collector, by instance."""
        ...

    def load_question(self, source: str) -> Question | None:
        """Load the last question for dominance to a vendor; None when there was none."""
        ...

    def save_question(self, source: str, question: Question) -> None:
        """Save the last question for dominance to a vendor."""
        ...

    def save_samples(self, source: str, samples: Mapping[str, DominanceSample]) -> int:
        """Keep answers by driver, as received; returns how many are new."""
        ...

    def load_samples(self, drivers: Collection[str], from_s: int) -> dict[str, list[DominanceSample]]:
        """Load the answers received from an instant on, by driver, in the order received."""
        ...


@dataclass(frozen=True, slots=True)
class Watermark:
    """How far a series has come: open time of the newest bar of a delivery, epoch seconds, and who gave it; None: it held none."""

    last_s: int | None
    source: str | None


class FeedFacts(NamedTuple):
    """Who gave a series' newest bar, when vendors were last asked and heard, and what is wrong with it; times are epoch seconds."""

    source: str | None
    asked_s: int | None
    answered_s: int | None
    open_gaps: int
    vendor_gaps: int
    quarantined: int
    revised: int


@dataclass(frozen=True, slots=True)
class Gap:
    """A missing bar that vendors are asked for: `attempts` answers had its neighbours and not it; times are epoch seconds."""

    series: str
    ts_s: int
    attempts: int
    detected_s: int
    last_asked_s: int
    is_vendors_own: bool


class QualityStore(Protocol):
    """What is known about the bars besides their values."""

    def load_suspects(self, series: str, timeframe: Timeframe, first_s: int, last_s: int) -> dict[str, list[tuple[RawBars, int]]]:
        """Load the refused outliers of a span that nothing has taken the place of, by venue, each with when it was first said."""
        ...

    def acquit(self, series: str, timeframe: Timeframe, venue: str, ts_s: NDArray[np.int64]) -> None:
        """Rename the reason of outliers that were confirmed after all."""
        ...

    def settle(self, timeframe: Timeframe, ts_s: Mapping[str, NDArray[np.int64]], now_s: int) -> None:
        """Resolve the gaps and the refused bars whose place a believed bar has taken."""
        ...

    def save_watermarks(self, timeframe: Timeframe, marks: Mapping[str, Watermark], now_s: int) -> None:
        """Remember how far each series has come and that it was asked for; an older bar moves nothing back."""
        ...

    def load_refused(self, timeframe: Timeframe, first_s: Mapping[str, int]) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Load the open times of refused outliers and of bars that another venue contradicted, ascending, from a time on."""
        ...

    def save_validity(self, timeframe: Timeframe, scores: Mapping[str, Validity]) -> None:
        """Replace the scores of each series from its first to its last bar given; a score of 1 is kept as no row."""
        ...

    def load_weak(
        self, timeframe: Timeframe, series: Collection[str], from_s: int
    ) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Load the bars whose score is below 1, from a time on: open times, ascending, and scores."""
        ...

    def load_scores(self, bars: Sequence[tuple[str, Timeframe, int]]) -> list[float]:
        """Load the score of each (series, timeframe, open time)."""
        ...

    def load_feeds(self, since_s: int) -> "dict[tuple[str, Timeframe], FeedFacts]":
        """Load what is known of the feed of each series and timeframe; bars refused and revised are counted from `since_s` on."""
        ...

    def load_gaps(
        self,
        timeframe: Timeframe,
        series: Collection[str] | None = None,
        span: tuple[int, int] | None = None,
        *,
        with_own: bool = True,
    ) -> list[Gap]:
        """Load the open gaps of some or all series in [start, end), by series and time; those that are the vendors' own only grow."""
        ...

    def save_attempts(
        self, series: str, timeframe: Timeframe, ts_s: NDArray[np.int64], is_vendors_own: NDArray[np.bool_], now_s: int
    ) -> None:
        """Count one more attempt for each gap, and say which are the vendors' own."""
        ...

    def open_backfill(self, series: str, timeframe: Timeframe, span: tuple[int, int], now_s: int) -> None:
        """Note that bars in [start, end) are being asked for; a request for some of them that was abandoned ends."""
        ...

    def close_backfill(self, series: str, timeframe: Timeframe, span: tuple[int, int], outcome: str, now_s: int) -> None:
        """Note how that ended: `data`, `none`, or why it failed."""
        ...


class Upkeep(Protocol):
    """Deletes what is over and old; every call is a transaction of its own."""

    def delete_old(self, table: str, before_s: int, limit: int) -> int:
        """Delete at most `limit` rows of a table that were over before an instant; returns how many."""
        ...

    def delete_tapes(self, before_s: int, limit: int) -> int:
        """Delete the tapes of at most `limit` uptrends that began before an instant and that no replay can read; returns how many."""
        ...


class Work(Protocol):
    """One transaction. What is written is there when the block is left without an error, or not at all."""

    @property
    def marks(self) -> MarkStore:
        """Work to do."""
        ...

    @property
    def bars(self) -> BarStore:
        """Price tables."""
        ...

    @property
    def trend(self) -> TrendStore:
        """Engine tables."""
        ...

    @property
    def regime(self) -> RegimeStore:
        """Mapper tables."""
        ...

    @property
    def quality(self) -> QualityStore:
        """What is known about the bars besides their values."""
        ...

    @property
    def feeds(self) -> FeedStore:
        """Heartbeats, questions and samples of live feeds."""
        ...

    @property
    def opinions(self) -> OpinionStore:
        """Second opinions by detector."""
        ...

    @property
    def snapshots(self) -> SnapshotStore:
        """Second opinions as consumers read them."""
        ...


class Stores(Protocol):
    """Opens transactions on one database."""

    def open(self) -> AbstractContextManager[Work]:
        """Begin a transaction: commits when left without an error, rolls back otherwise."""
        ...
