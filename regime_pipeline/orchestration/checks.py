"""Blocking checks: what must hold of a table before anything is derived from it in the same run.

A check runs inside the step that wrote the table. Its faults are in its metadata; more than `LIMIT` are not listed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import dagster as dg

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Instrument, Universe
from regime_pipeline.orchestration.window import spell_bar
from regime_pipeline.ports import BarSource
from regime_pipeline.services.window import Window

if TYPE_CHECKING:
    from regime_pipeline.adapters.postgres.audit import PostgresAudit

LIVE_CHECK_BARS: Final = 100
"""A live run looks back so far: bars that a late correction may have touched, and cheap every minute."""
LATE_BARS: Final = 2
"""A series may lag so many bars before it counts as late."""

Faults = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Scope:
    """What a check is about: a table's rows of one timeframe in a window, and what should be in them."""

    table: str
    timeframe: Timeframe
    window: Window
    universe: Universe
    source: BarSource

    @property
    def span(self) -> tuple[str, Timeframe, int, int]:
        """Table, timeframe and bounds of the bars to look at."""
        start_s = self.window.end_s - LIVE_CHECK_BARS * self.timeframe.seconds if self.window.live else self.window.start_s
        return self.table, self.timeframe, start_s, self.window.end_s


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found. Faults of severity WARN are shown and stop nothing."""

    faults: Faults
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR


@dataclass(frozen=True, slots=True)
class Check:
    """A named rule and how to find what breaks it."""

    name: str
    description: str
    judge: "Callable[[PostgresAudit, Scope], Verdict]"

    def spec(self, asset: str) -> dg.AssetCheckSpec:
        """Declare the check on an asset."""
        return dg.AssetCheckSpec(self.name, asset=asset, description=self.description, blocking=True)

    def run(self, audit: "PostgresAudit", scope: Scope, asset: str) -> dg.AssetCheckResult:
        """Judge; a query that fails raises, since an unreadable table is not a bad one."""
        verdict = self.judge(audit, scope)
        metadata: dict[str, Any] = {"faults": len(verdict.faults)}
        if verdict.faults:
            metadata["rows"] = tabulate(verdict.faults)
        passed = not verdict.faults
        return dg.AssetCheckResult(passed=passed, check_name=self.name, asset_key=asset, severity=verdict.severity, metadata=metadata)


def tabulate(rows: Faults) -> dg.TableMetadataValue:
    """Show rows as a table in the UI; times in ISO 8601."""
    records = [dg.TableRecord({key: _cell(value) for key, value in row.items()}) for row in rows]
    columns = [dg.TableColumn(name) for name in rows[0]]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns))


def _cell(value: object) -> str | int | float | bool | None:
    if isinstance(value, datetime):
        return value.isoformat()
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _judge_freshness(audit: "PostgresAudit", scope: Scope) -> Verdict:
    wanted = expected_newest(scope, audit)
    newest = audit.load_newest(scope.table, scope.timeframe, list(wanted))
    return judge_freshness(wanted, newest, scope.timeframe, live=scope.window.live)


def judge_freshness(wanted: Mapping[str, int], newest: Mapping[str, int], timeframe: Timeframe, *, live: bool) -> Verdict:
    """Find the series whose newest bar lags what their source can give.

    It stops a live run only when every series is late: then nothing new came and there is nothing to derive. One late series
    is shown as a warning, because the others must not wait for it; so is a backfill, which may well end before now.

    Parameters
    ----------
    wanted : mapping of series to the open time of the newest bar it should have, epoch seconds
    newest : mapping of series to the open time of its newest stored bar; absent: none stored
    """
    allowed_s = LATE_BARS * timeframe.seconds
    late = [
        {"series": name, "newest": spell_bar(newest[name]) if name in newest else None, "expected": spell_bar(at_s)}
        for name, at_s in wanted.items()
        if newest.get(name, at_s - allowed_s - 1) < at_s - allowed_s
    ]
    is_dead = live and len(late) == len(wanted)
    return Verdict(late, dg.AssetCheckSeverity.ERROR if is_dead else dg.AssetCheckSeverity.WARN)


def expected_newest(scope: Scope, audit: "PostgresAudit") -> dict[str, int]:
    """Tell the newest bar each series of a table should have by now: the window's last, or where its recording ends."""
    last_s = scope.window.end_s - scope.timeframe.seconds
    if scope.table == "regime_price_data_ohlc":
        # drivers follow what they are made of: they cannot be fresher than the freshest major, nor need they be
        majors = [major.series for major in scope.universe.majors]
        have = audit.load_newest("majors_price_data_ohlc", scope.timeframe, majors).values()
        bound_s = min(last_s, max(have, default=last_s))
        ranges = {name: scope.source.dominance_range(name, scope.timeframe) for name in ("BTC.d", "USDT.d")}
        wanted = {f"regime:{driver.name}": bound_s for driver in scope.universe.drivers if driver.kind != "dominance"}
        for name, span in ranges.items():
            if span is not None:
                wanted[f"regime:{name}"] = last_s if span.last_s is None else min(last_s, span.last_s)
        return wanted
    instruments: Sequence[Instrument] = scope.universe.majors if scope.table == "majors_price_data_ohlc" else scope.universe.tokens
    ends = {instrument.series: _last_of(scope.source, instrument, scope.timeframe, last_s) for instrument in instruments}
    return {name: end_s for name, end_s in ends.items() if end_s is not None}


def _last_of(source: BarSource, instrument: Instrument, timeframe: Timeframe, last_s: int) -> int | None:
    """Tell the newest bar that any venue of an instrument can give, at most `last_s`; None when no venue has it."""
    venues = source.venues()
    spans = [source.time_range(each.venue, each.symbol, timeframe) for each in instrument.sources if each.venue in venues]
    ends = [last_s if span.last_s is None else min(last_s, span.last_s) for span in spans if span is not None]
    return max(ends, default=None)


def _copies(universe: Universe) -> dict[str, str]:
    """Drivers that are one major's bars, and that major."""
    return {f"regime:{driver.name}": universe.major(driver.components[0]).series for driver in universe.drivers if driver.kind == "major"}


def _minimums(universe: Universe) -> dict[str, int]:
    return {driver.name: driver.min_components for driver in universe.drivers if driver.kind in {"composite", "bucket"}}


def stepped_series(universe: Universe, timeframe: Timeframe) -> list[str]:
    """List the series that the engine steps on a timeframe: all drivers, and the tokens that are executed on it."""
    drivers = [f"regime:{driver.name}" for driver in universe.drivers]
    return drivers + [token.series for token in universe.tokens if timeframe in token.timeframes]


SCHEMA: Final = Check(
    "schema",
    "Columns, types, nullability and primary key are those of sql/migrations.",
    lambda audit, scope: Verdict(audit.find_schema_faults(scope.table)),
)
GRID: Final = Check(
    "grid",
    "Every bar opens on its timeframe's grid in UTC, and no time comes twice: in order of time they are strictly monotone.",
    lambda audit, scope: Verdict(audit.find_off_grid(*scope.span)),
)
GAPS: Final = Check(
    "gaps",
    "Every missing bar between two stored ones is known in bar_gaps; a hole that nobody recorded stops the run.",
    lambda audit, scope: Verdict(audit.find_unrecorded_gaps(*scope.span, _copies(scope.universe))),
)
PRICES: Final = Check(
    "prices",
    "Prices are positive and finite, high and low enclose open and close, close/open lies in [1/100, 100], volume is not negative.",
    lambda audit, scope: Verdict(audit.find_price_faults(*scope.span)),
)
FRESH: Final = Check(
    "fresh",
    "Judged by the time in the data: the newest bar is at most two bars behind what the source can give. "
    "Stops a live run only when every series is late.",
    _judge_freshness,
)
COMPONENTS: Final = Check(
    "components",
    "Every composite bar is made of at least as many components as the universe file asks for.",
    lambda audit, scope: Verdict(audit.find_thin_composites(*scope.span[1:], _minimums(scope.universe))),
)
STATES: Final = Check(
    "states",
    "Every final bar of a driver or executed token, from the 333rd of its series on, has a state.",
    lambda audit, scope: Verdict(audit.find_missing_states(*scope.span[1:], stepped_series(scope.universe, scope.timeframe))),
)
DELTAS: Final = Check(
    "deltas",
    "Every state of a driver has its row of deltas, and no row of deltas is without a state.",
    lambda audit, scope: Verdict(audit.find_missing_deltas(*scope.span[1:])),
)

CHECKS: Final[Mapping[str, Sequence[Check]]] = {
    "majors_price_data_ohlc": (SCHEMA, GRID, GAPS, PRICES, FRESH),
    "lowcap_price_data_ohlc": (SCHEMA, GRID, GAPS, PRICES, FRESH),
    "token_cap_bucket": (SCHEMA,),
    "regime_price_data_ohlc": (SCHEMA, GRID, GAPS, PRICES, COMPONENTS, FRESH),
    "uptrend_states": (SCHEMA, STATES),
    "regime_deltas": (SCHEMA, DELTAS),
}
"""By table; a failed one stops what follows in the run."""
