"""The stages of a timeframe as Dagster runs them: each is one service call per transaction, then its tables' checks.

`assets/regime.py` says which stages share a step. Inside a step a failed blocking check ends the step, so that what follows is not
derived; between steps Dagster itself sees to that. What to derive is in the marks of the database, never in Dagster.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import sleep
from typing import Any, Final

import dagster as dg

from regime_pipeline.clock import now_s as read_now_s
from regime_pipeline.market.timeframe import HORIZONS, Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.orchestration.checks import CHECKS, Scope
from regime_pipeline.orchestration.metadata import describe_rows, describe_window, plot_states, tabulate_states
from regime_pipeline.orchestration.partitions import UTC_DAYS
from regime_pipeline.orchestration.policies import DATA_TEAM, FETCH_RETRY, QUANT_TEAM, TELL_EVERY_S
from regime_pipeline.orchestration.preload import give_way
from regime_pipeline.orchestration.resources import Market, Stores
from regime_pipeline.orchestration.window import window_of
from regime_pipeline.ports import BarSource
from regime_pipeline.services.batches import find_recent
from regime_pipeline.services.window import Window

Tables = Mapping[str, Mapping[str, Any]]
Result = dg.MaterializeResult[Any] | dg.AssetCheckResult


@dataclass(frozen=True, slots=True)
class Inputs:
    """What every stage of a run is handed."""

    stores: Stores
    source: BarSource
    universe: Universe
    timeframe: Timeframe
    window: Window
    now_s: int
    dominance_every_s: int

    @property
    def until_s(self) -> int:
        """End of the newest bar there may be, epoch seconds."""
        return self.window.end_s if self.window.live else self.now_s

    @property
    def recent_s(self) -> int | None:
        """Bar from which on marks are taken without waiting for anybody; None: all."""
        return find_recent(self.timeframe, self.window)


@dataclass(frozen=True, slots=True)
class Output:
    """A table that a stage writes, as an asset."""

    table: str
    group: str
    owner: str
    description: str
    upstream: tuple[str, ...] = ()
    kinds: frozenset[str] = frozenset({"python", "postgres"})


@dataclass(frozen=True, slots=True)
class Stage:
    """One service, the tables it writes, and what it tells about each."""

    name: str
    outputs: tuple[Output, ...]
    run: Callable[[Inputs], Tables]
    is_fetch: bool = False


def asset_name(table: str, timeframe: Timeframe) -> str:
    """Name the asset of a table; the buckets have no timeframe of their own."""
    return table if table == "token_cap_bucket" else f"{table}_{timeframe}"


def asset_names(timeframe: Timeframe) -> list[str]:
    """Name the assets of a timeframe, in data order."""
    return [asset_name(output.table, timeframe) for stage in STAGES[timeframe] for output in stage.outputs]


def build_step(name: str, stages: Sequence[Stage], timeframe: Timeframe) -> dg.AssetsDefinition:
    """Build one step that runs stages of a timeframe in their order, one asset per table.

    Parameters
    ----------
    name : str
        Of the op; shown in logs.
    stages : sequence of Stage
        In data order. Assets that are not selected are not made, and their stage is left out if none of its tables is.
    """
    outputs = [output for stage in stages for output in stage.outputs]

    @dg.multi_asset(
        name=name,
        specs=[_spec(output, timeframe) for output in outputs],
        check_specs=[check.spec(asset_name(output.table, timeframe)) for output in outputs for check in CHECKS[output.table]],
        partitions_def=UTC_DAYS,
        backfill_policy=dg.BackfillPolicy.single_run(),
        can_subset=True,
        retry_policy=FETCH_RETRY if timeframe is not Timeframe.M1 and any(stage.is_fetch for stage in stages) else None,
        op_tags={"layer": "steps", "timeframe": timeframe.value},
    )
    def step(context: dg.AssetExecutionContext, stores: Stores, market: Market) -> Iterator[Result]:
        window = window_of(context, timeframe, read_now_s())
        if not window.live:
            give_way()
        now_s = wait_for_close(window, timeframe)
        source = market.source(patient=not window.live)
        inputs = Inputs(stores, source, market.universe(), timeframe, window, now_s, market.dominance_every_s())
        selected = {key.to_user_string() for key in context.selected_asset_keys}
        told = {(key.asset_key.to_user_string(), key.name) for key in context.selected_asset_check_keys}
        for result in run_stages(stages, inputs, selected, told):
            if isinstance(result, dg.MaterializeResult) and result.metadata:
                yield _keep_once(context, result)
            else:
                yield result

    return step


def run_stages(stages: Sequence[Stage], inputs: Inputs, selected: set[str], told: set[tuple[str, str]]) -> Iterator[Result]:
    """Run the selected stages in order, each table's checks behind it; a failed blocking check is the last result.

    Every check is judged. Those of `told` (asset, check) are results too: each is three events, and a minute has twenty of them.

    Raises
    ------
    Failure
        When a blocking check fails that is not told.
    """
    for stage in stages:
        names = {output.table: asset_name(output.table, inputs.timeframe) for output in stage.outputs}
        chosen = {table: name for table, name in names.items() if name in selected}
        if not chosen:
            continue
        tables = stage.run(inputs)
        verdicts = []
        for table, name in chosen.items():
            yield dg.MaterializeResult(asset_key=name, metadata={**describe_window(inputs.window), **tables.get(table, {})})
        with inputs.stores.audit() as audit:
            for table, name in chosen.items():
                scope = Scope(table, inputs.timeframe, inputs.window, inputs.universe, inputs.source)
                verdicts += [check.run(audit, scope, name) for check in CHECKS[table]]
        yield from (verdict for verdict in verdicts if _key(verdict) in told)
        failed = [verdict for verdict in verdicts if not verdict.passed and verdict.severity is dg.AssetCheckSeverity.ERROR]
        for verdict in failed:
            if _key(verdict) not in told:
                asset, check = _key(verdict)
                raise dg.Failure(f"check {check} of {asset} failed; nothing is derived from it. See its faults.", dict(verdict.metadata))
        if failed:
            return


def _key(verdict: dg.AssetCheckResult) -> tuple[str, str]:
    """Asset and name of a check that has been judged."""
    return str(verdict.asset_key and verdict.asset_key.to_user_string()), str(verdict.check_name)


def _keep_once(context: dg.AssetExecutionContext, result: dg.MaterializeResult[Any]) -> dg.MaterializeResult[Any]:
    """Tell what is long only of the last partition: a range of days gets one event for each day, all with the same metadata."""
    long = {key: value for key, value in (result.metadata or {}).items() if isinstance(value, dg.MarkdownMetadataValue)}
    if not long or not result.asset_key:
        return result
    context.add_asset_metadata(long, asset_key=result.asset_key, partition_key=context.partition_key_range.end)
    short = {key: value for key, value in (result.metadata or {}).items() if key not in long}
    return dg.MaterializeResult(asset_key=result.asset_key, metadata=short)


def wait_for_close(window: Window, timeframe: Timeframe) -> int:
    """Wait out what is left of the grace after a live window's last bar, a few seconds at most; returns the time then."""
    now_s = read_now_s()
    left_s = window.end_s + timeframe.grace_s - now_s
    if window.live and 0 < left_s <= timeframe.grace_s:
        sleep(left_s)
        return read_now_s()
    return now_s


def _spec(output: Output, timeframe: Timeframe) -> dg.AssetSpec:
    return dg.AssetSpec(
        asset_name(output.table, timeframe),
        deps=[asset_name(table, timeframe) for table in output.upstream] + _shorter(output, timeframe),
        group_name=output.group,
        owners=[output.owner],
        kinds=set(output.kinds),
        tags={"layer": output.group.partition("_")[0], "timeframe": timeframe.value, "horizon": HORIZONS[timeframe]},
        description=f"{output.description} Timeframe {timeframe} ({HORIZONS[timeframe]}).",
        code_version="1",
    )


def _shorter(output: Output, timeframe: Timeframe) -> list[str]:
    """Bars roll up from the next shorter timeframe of the regime."""
    child = {Timeframe.H1: Timeframe.M1, Timeframe.D1: Timeframe.H1}.get(timeframe)
    return [asset_name(output.table, child)] if child and output.table in {"majors_price_data_ohlc", "lowcap_price_data_ohlc"} else []


def _ingest(inputs: Inputs) -> Tables:
    from regime_pipeline.services.ingest_bars import ingest_bars
    from regime_pipeline.services.run_step import timeframes_in_use
    from regime_pipeline.services.verify_bars import VERIFIED, verify_bars

    lines: dict[str, dict[str, Any]] = {}
    revised = 0
    for timeframe, n_bars in VERIFIED.get(inputs.timeframe, ()) if inputs.window.live else ():
        revised += verify_bars(inputs.stores, inputs.source, inputs.universe, timeframe, n_bars, inputs.now_s).revised
    for timeframe in timeframes_in_use(inputs.universe, inputs.timeframe):
        summary = ingest_bars(inputs.stores, inputs.source, inputs.universe, timeframe, inputs.window, inputs.now_s)
        if timeframe is inputs.timeframe:
            majors = {major.series for major in inputs.universe.majors}
            for table, is_mine in (("majors_price_data_ohlc", True), ("lowcap_price_data_ohlc", False)):
                rows = {name: row for name, row in summary.series.items() if (name in majors) == is_mine and name.startswith("token:")}
                last_s = max((row.last_s for row in rows.values() if row.last_s is not None), default=None)
                lines[table] = {
                    **describe_rows(summary.written, summary.unchanged, last_s),
                    "series": len(rows),
                    "bars_asked_for": sum(row.rows for row in rows.values()),
                    "quarantined": summary.quarantined,
                    "gaps": summary.gaps,
                    "revised": summary.revised + revised,
                    "vendors_not_read": len(summary.failures),
                    **({"for_a_backfill": summary.backfills} if summary.backfills else {}),
                }
    return lines


def _tag(inputs: Inputs) -> Tables:
    from regime_pipeline.services.tag_buckets import tag_buckets

    with inputs.stores.open() as work:
        summary = tag_buckets(work, inputs.source, inputs.universe, inputs.window, inputs.now_s)
    return {"token_cap_bucket": {"tokens_with_a_cap": summary.tokens, "rows_written": summary.spans_written}}


def _drivers(inputs: Inputs) -> Tables:
    from regime_pipeline.services.build_drivers import build_drivers
    from regime_pipeline.services.run_step import driver_timeframes
    from regime_pipeline.services.sample_dominance import sample_in_run

    sampled = sample_in_run(
        inputs.stores, inputs.source, inputs.universe, inputs.timeframe, inputs.window, inputs.now_s, inputs.dominance_every_s
    )
    built = {
        timeframe: build_drivers(inputs.stores, inputs.universe, timeframe, inputs.until_s, recent_s=inputs.recent_s)
        for timeframe in driver_timeframes(inputs.timeframe)
    }
    summary = built[inputs.timeframe]
    last_s = max((row.last_s for row in summary.drivers.values() if row.last_s is not None), default=None)
    lines = ["| driver | rows | components | gaps |", "|---|---:|---:|---:|"]
    lines += [f"| {name} | {row.rows} | {row.components or ''} | {row.gaps} |" for name, row in summary.drivers.items()]
    drivers = {"drivers": dg.MetadataValue.md("\n".join(lines))} if summary.drivers else {}
    problem = {"dominance_problem": sampled.problem} if sampled is not None and sampled.problem else {}
    return {"regime_price_data_ohlc": {**describe_rows(summary.written, summary.unchanged, last_s), **drivers, **problem}}


def _trend(inputs: Inputs) -> Tables:
    from regime_pipeline.services.advance_trend import advance_trend
    from regime_pipeline.services.run_step import timeframes_in_use

    line: dict[str, Any] = {}
    for timeframe in timeframes_in_use(inputs.universe, inputs.timeframe):
        summary = advance_trend(inputs.stores, inputs.universe, timeframe, inputs.until_s, recent_s=inputs.recent_s)
        if timeframe is inputs.timeframe:
            last_s = max((state.last_s for state in summary.series.values() if state.last_s is not None), default=None)
            line = describe_rows(summary.written, summary.unchanged, last_s)
            line |= {"bars_stepped": summary.bars, "events": summary.events, "series_replayed": summary.replayed}
    return {"uptrend_states": line}


def _deltas(inputs: Inputs) -> Tables:
    from regime_pipeline.services.map_regime import map_regime
    from regime_pipeline.services.read_board import load_board

    timeframe, window = inputs.timeframe, inputs.window
    summary = map_regime(inputs.stores, timeframe, inputs.until_s, recent_s=inputs.recent_s)
    last_s = max((ts_s for ts_s, _, _ in summary.last.values()), default=None)
    line = describe_rows(summary.written, summary.unchanged, last_s)
    with inputs.stores.open() as work:
        line["states"] = tabulate_states(load_board(work, inputs.now_s), timeframe)
    if timeframe is not Timeframe.M1 or not window.live or window.end_s % TELL_EVERY_S == 0:
        with inputs.stores.audit() as audit:
            line["plot"] = plot_states(audit, timeframe, window)
    return {"regime_deltas": line}


INGEST: Final = Stage(
    "ingest",
    (
        Output("majors_price_data_ohlc", "raw_market", DATA_TEAM, "Closed bars of the majors that drivers are made of."),
        Output("lowcap_price_data_ohlc", "raw_market", DATA_TEAM, "Closed bars of the tradable tokens that buckets are made of."),
    ),
    _ingest,
    is_fetch=True,
)
BUCKETS: Final = Stage(
    "buckets",
    (Output("token_cap_bucket", "raw_market", DATA_TEAM, "Which market-cap bucket each token was in, as it was known at the time."),),
    _tag,
    is_fetch=True,
)
DRIVERS: Final = Stage(
    "drivers",
    (
        Output(
            "regime_price_data_ohlc",
            "core_trend",
            QUANT_TEAM,
            "Bars of the eight drivers: BTC, the composites of majors and buckets, the dominances.",
            ("majors_price_data_ohlc", "lowcap_price_data_ohlc", "token_cap_bucket"),
        ),
    ),
    _drivers,
)
TREND: Final = Stage(
    "trend",
    (
        Output(
            "uptrend_states",
            "core_trend",
            QUANT_TEAM,
            "Where each driver and executed token stands in its trend, S0 to S4, with flags and scores: one row per closed bar.",
            ("regime_price_data_ohlc", "lowcap_price_data_ohlc"),
        ),
    ),
    _trend,
)
DELTAS: Final = Stage(
    "deltas",
    (
        Output(
            "regime_deltas",
            "out_reports",
            QUANT_TEAM,
            "What each driver's state means for appetite (A) and exit eagerness (E).",
            ("uptrend_states",),
        ),
    ),
    _deltas,
)
STAGES: Final = {
    Timeframe.M1: (INGEST, DRIVERS, TREND, DELTAS),
    Timeframe.H1: (INGEST, DRIVERS, TREND, DELTAS),
    Timeframe.D1: (INGEST, BUCKETS, DRIVERS, TREND, DELTAS),
}
"""What a timeframe's job runs, in data order."""
