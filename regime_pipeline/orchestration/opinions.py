"""The second opinions as Dagster runs them: jobs of their own, so that nothing here can fail or delay a trading step.

One step per timeframe takes the slots that have no row; series are taken one by one, and an asset fails only if all of its series do.
The detectors are imported inside the steps: loading the definitions pays for none of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import sleep
from typing import Any, Final

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition  # what define_asset_job returns

from regime_pipeline.clock import now_s as read_now_s
from regime_pipeline.errors import OpinionError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.orchestration.metadata import describe_window
from regime_pipeline.orchestration.partitions import UTC_DAYS
from regime_pipeline.orchestration.policies import BAR_TAG, JOB_TAG, LANE_TAG, OPINION_LANE, QUANT_TEAM
from regime_pipeline.orchestration.resources import Market, Stores
from regime_pipeline.orchestration.schedules import build_bar_schedule, closed_bar_s
from regime_pipeline.orchestration.window import spell_bar, window_of
from regime_pipeline.ports import BarTable
from regime_pipeline.services.window import Window
from regime_pipeline.settings import load_settings

PREFIX: Final = "second_opinions"
GROUPS: Final = {"global": ("BTC", "ALT"), "majors": ("ETH", "SOL", "BNB", "HYPE")}
"""Equal to `regime.opinions.terms.GROUPS`, which would bring the compiled detectors along; a test says so."""
TIMEFRAMES: Final = (Timeframe.M1, Timeframe.M15, Timeframe.H1)
PATIENCE_S: Final = 25
"""A live minute waits so long after its close for the bars, and then does without those that are not there."""
POLL_S: Final = 0.5
PLOTTED: Final = 1
"""An hour and a refit draw the first series of each group: a picture is some 40 KB of event log for as long as the asset lives."""


@dataclass(frozen=True, slots=True)
class OpinionPace:
    """When a timeframe's job runs, how long after the close that is, and how late it may end."""

    job: str
    cron: str
    delay: timedelta
    max_runtime_s: int


OPINION_PACES: Final = {
    # priorities are below every spine job's: a machine that is behind does the trading path first
    Timeframe.M1: OpinionPace("opinions_1m", "* * * * *", timedelta(0), 90),
    Timeframe.M15: OpinionPace("opinions_15m", "2-59/15 * * * *", timedelta(minutes=2), 120),
    Timeframe.H1: OpinionPace("opinions_1h", "4 * * * *", timedelta(minutes=4), 300),
}
OFF: Final = "second opinions are off: REGIME_OPINIONS_ENABLED is false"
LANE: Final = {LANE_TAG: OPINION_LANE, "dagster/priority": "-2"}
"""Tags of all our runs."""
TEXTS: Final = {
    "hmm_models": "Hidden Markov models of {tf} bars, refitted once a day; a rejected fit leaves a row and changes nothing.",
    "hmm_posteriors": "Which state the {tf} model in force sees: bearish, ranging or bullish, filtered forward, one row per slot.",
    "changepoints": "How probable it is that the distribution of {tf} returns changed within the last ten bars.",
    "volatility_regimes": "Width of the {tf} range against its own last 90 days, and the side of the mean it closed on.",
    "regime_transitions": "Changes of the 1h label that a second bar has confirmed; each may be consumed once, and by nothing that trades.",
    "regime_snapshots": "All opinions on a series as they stood at each minute: what consumers read.",
}


@dataclass(frozen=True, slots=True)
class Inputs:
    """What every part of a step is handed."""

    stores: Stores
    market: Market
    timeframe: Timeframe
    window: Window
    now_s: int


Lines = dict[str, Any]
Part = Callable[[Inputs, tuple[str, ...]], Lines]


def opinion_key(group: str, name: str) -> dg.AssetKey:
    """Key of an asset of a group."""
    return dg.AssetKey([PREFIX, group, name])


def suffixed(name: str, timeframe: Timeframe) -> str:
    """Name of an asset; transitions exist on 1h and snapshots on minutes only."""
    return name if name in {"regime_transitions", "regime_snapshots"} else f"{name}_{timeframe}"


def build_step(timeframe: Timeframe) -> dg.AssetsDefinition:
    """Build the step that lets every detector of a timeframe take its slots, one asset per group and table."""
    parts = PARTS[timeframe]

    @dg.multi_asset(
        name=f"opinions_{timeframe}_step",
        specs=[spec_of(group, name, timeframe) for group in GROUPS for name in parts],
        partitions_def=UTC_DAYS,
        backfill_policy=dg.BackfillPolicy.single_run(),
        can_subset=True,
        op_tags={"layer": PREFIX, "timeframe": timeframe.value},
    )
    def step(context: dg.AssetExecutionContext, stores: Stores, market: Market) -> Iterator[dg.MaterializeResult[Any]]:
        if not load_settings().opinions_enabled:
            raise dg.Failure(f"{OFF}. Stop the opinions' schedules, or switch them on.")
        window = window_of(context, timeframe, read_now_s())
        inputs = Inputs(stores, market, timeframe, window, wait_for_bars(stores, market, timeframe, window))
        selected = {key.to_user_string() for key in context.selected_asset_keys}
        errors = []
        for name, part in parts.items():
            for group, series in GROUPS.items():
                key = opinion_key(group, suffixed(name, timeframe))
                if key.to_user_string() not in selected:
                    continue
                try:
                    lines = part(inputs, series)
                except OpinionError as error:  # the other detectors and the other group go on
                    errors.append(str(error))
                    continue
                yield dg.MaterializeResult(asset_key=key, metadata={**describe_window(window), **lines})
        if errors:
            raise dg.Failure("; ".join(errors))

    return step


def spec_of(group: str, name: str, timeframe: Timeframe) -> dg.AssetSpec:
    """Describe an asset. It depends on bars and other opinions; nothing of the trading path depends on it."""
    return dg.AssetSpec(
        opinion_key(group, suffixed(name, timeframe)),
        deps=_upstream(group, name, timeframe),
        group_name=PREFIX,
        owners=[QUANT_TEAM],
        kinds={"python", "postgres", *({"scikitlearn"} if name == "hmm_models" else set())},
        tags={"layer": PREFIX, "opinion_timeframe": timeframe.value, "series_group": group},
        description=f"{TEXTS[name].format(tf=timeframe)} Series: {', '.join(GROUPS[group])}.",
        code_version="so-1",
    )


def _upstream(group: str, name: str, timeframe: Timeframe) -> list[dg.AssetKey]:
    bars = Timeframe.M1 if timeframe is Timeframe.M15 else timeframe  # quarters are made by the minute's step
    if name == "regime_snapshots":
        own = [opinion_key(group, f"hmm_posteriors_{each}") for each in TIMEFRAMES]
        own += [opinion_key(group, f"changepoints_{each}") for each in TIMEFRAMES]
        return [*own, opinion_key(group, "volatility_regimes_1h"), opinion_key(group, "regime_transitions")]
    if name == "regime_transitions":
        return [opinion_key(group, "hmm_posteriors_1h")]
    own = [opinion_key(group, f"hmm_models_{timeframe}")] if name == "hmm_posteriors" else []
    return [*own, dg.AssetKey(f"majors_price_data_ohlc_{bars}"), dg.AssetKey(f"regime_price_data_ohlc_{bars}")]


def wait_for_bars(stores: Stores, market: Market, timeframe: Timeframe, window: Window) -> int:
    """Wait until a live run's bars are in or its patience is over; returns the time then."""
    until_s = window.end_s + PATIENCE_S
    while window.live and read_now_s() < until_s and not _has_arrived(stores, market, timeframe, window.end_s - timeframe.seconds):
        sleep(POLL_S)
    return read_now_s()


def _has_arrived(stores: Stores, market: Market, timeframe: Timeframe, bar_s: int) -> bool:
    majors = [major.series for major in market.universe().majors]
    with stores.open() as work:
        newest = work.bars.load_newest(BarTable.MAJORS, timeframe, majors)
        composite = work.bars.load_newest(BarTable.DRIVERS, timeframe, ["regime:ALT"])
    return len(newest) == len(majors) and all(at_s >= bar_s for at_s in (*newest.values(), composite.get("regime:ALT", 0)))


def _posteriors(inputs: Inputs, series: tuple[str, ...]) -> Lines:
    from regime_pipeline.services.advance_opinions import advance_posteriors

    window = inputs.window
    done = advance_posteriors(inputs.stores, inputs.market.universe(), inputs.timeframe, window.start_s, window.end_s, inputs.now_s, series)
    return {**_describe(done), "models": done.models, "transitions": done.transitions}


def _changepoints(inputs: Inputs, series: tuple[str, ...]) -> Lines:
    from regime_pipeline.services.advance_opinions import advance_changepoint_rows

    window = inputs.window
    return _describe(
        advance_changepoint_rows(
            inputs.stores, inputs.market.universe(), inputs.timeframe, window.start_s, window.end_s, inputs.now_s, series
        )
    )


def _volatility(inputs: Inputs, series: tuple[str, ...]) -> Lines:
    from regime_pipeline.services.advance_opinions import advance_volatility

    window = inputs.window
    return _describe(
        advance_volatility(inputs.stores, inputs.market.universe(), inputs.timeframe, window.start_s, window.end_s, inputs.now_s, series)
    )


def _transitions(inputs: Inputs, series: tuple[str, ...]) -> Lines:
    """Tell of the transitions that the posteriors of this step have confirmed; they are written with them."""
    with inputs.stores.open() as work:
        found = [each for name in series for each in work.opinions.load_transitions(name, inputs.window.start_s, inputs.window.end_s)]
    lines: Lines = {"transitions": len(found), "of_a_refit": sum(each.refit_within for each in found)}
    if found:
        newest = max(found, key=lambda each: each.confirmed_bar_s)
        lines["newest"] = f"{newest.series} {newest.from_label} to {newest.to_label} at {spell_bar(newest.confirmed_bar_s)}"
    if inputs.window.live:
        from regime_pipeline.orchestration.opinion_plots import plot_opinions

        for name in series[:PLOTTED]:
            picture = plot_opinions(inputs.stores, inputs.market.universe(), name, inputs.timeframe, inputs.window.end_s)
            lines[f"plot_{name}"] = dg.MetadataValue.md(picture)
    return lines


def _snapshots(inputs: Inputs, series: tuple[str, ...]) -> Lines:
    from regime_pipeline.services.build_snapshots import build_snapshots

    window = inputs.window
    done = build_snapshots(inputs.stores, window.start_s + 60, window.end_s, inputs.now_s, names=series)
    last = "none" if done.last_s is None else spell_bar(done.last_s)
    return {"rows_written": done.written, "last_snapshot": last, "coverage": done.coverage, "seconds": round(done.seconds, 3)}


def _describe(done: Any) -> Lines:  # noqa: ANN401 - an OpinionSummary, whose module is imported where it is used
    share = done.unknown / done.written if done.written else 0.0
    lines = {
        "rows_written": done.written,
        "unknown_share": round(share, 4),
        "last_bar": "none" if done.last_s is None else spell_bar(done.last_s),
        "seconds": round(done.seconds, 3),
    }
    return {**lines, "failed": done.failed} if done.failed else lines


PARTS: Final[dict[Timeframe, dict[str, Part]]] = {
    Timeframe.M1: {"hmm_posteriors": _posteriors, "changepoints": _changepoints, "regime_snapshots": _snapshots},
    Timeframe.M15: {"hmm_posteriors": _posteriors, "changepoints": _changepoints, "volatility_regimes": _volatility},
    Timeframe.H1: {
        "hmm_posteriors": _posteriors,
        "changepoints": _changepoints,
        "volatility_regimes": _volatility,
        "regime_transitions": _transitions,
    },
}


def build_refit(timeframe: Timeframe) -> dg.AssetsDefinition:
    """Build the step that refits the models of a timeframe: one fit per series and day of the run's partitions."""

    @dg.multi_asset(
        name=f"hmm_refit_{timeframe}_step",
        specs=[spec_of(group, "hmm_models", timeframe) for group in GROUPS],
        partitions_def=UTC_DAYS,
        backfill_policy=dg.BackfillPolicy.single_run(),
        can_subset=True,
        op_tags={"layer": PREFIX, "timeframe": timeframe.value},
    )
    def refit(context: dg.AssetExecutionContext, stores: Stores, market: Market) -> Iterator[dg.MaterializeResult[Any]]:
        from regime_pipeline.services.fit_hmm import DAY_S, FitRow, fit_models

        now_s, days = read_now_s(), context.partition_time_window
        is_live = BAR_TAG in context.run.tags
        first_s, end_s = int(days.start.timestamp()), int(days.end.timestamp())
        # a live run of a young day, before any model: everything that has closed
        ends_s = [Timeframe.M15.floor(now_s)] if context.run.tags.get(FIRST_TAG) else list(range(first_s, min(end_s, now_s + 1), DAY_S))
        selected = {key.to_user_string() for key in context.selected_asset_keys}
        for group, series in GROUPS.items():
            key = opinion_key(group, f"hmm_models_{timeframe}")
            if key.to_user_string() not in selected:
                continue
            fits: dict[str, FitRow] = {}
            for train_end_s in ends_s:
                stored_s = now_s if is_live else None
                fits |= fit_models(stores, market.universe(), timeframe, train_end_s, stored_s=stored_s, names=series).fits
            rows = ["| series | model | rows | stability | log-likelihood | s | |", "|---|---|---:|---:|---:|---:|---|"]
            rows += [
                f"| {name} | {fit.model_id} | {fit.n_rows} | {_number(fit.stability)} | {_number(fit.log_likelihood)} | {fit.seconds} "
                f"| {fit.reason or 'accepted'} |"
                for name, fit in fits.items()
            ]
            accepted = sum(fit.accepted for fit in fits.values())
            lines: Lines = {"accepted": accepted, "rejected": len(fits) - accepted, "fits": dg.MetadataValue.md("\n".join(rows))}
            for name in (each for each in series[:PLOTTED] if each in fits and fits[each].accepted):
                from regime_pipeline.orchestration.opinion_plots import plot_fit

                lines[f"plot_{name}"] = dg.MetadataValue.md(plot_fit(stores, market.universe(), name, timeframe, ends_s[-1]))
            yield dg.MaterializeResult(asset_key=key, metadata=lines)

    return refit


FIRST_TAG: Final = "regime/first_models"
"""Run tag of a refit for series that have no model at all: it trains on what there is now."""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def build_job(timeframe: Timeframe, description: str) -> UnresolvedAssetJobDefinition:
    """Build the job of a timeframe; it has no step of the trading path."""
    keys = [opinion_key(group, suffixed(name, timeframe)) for group in GROUPS for name in PARTS[timeframe]]
    selection = dg.AssetSelection.assets(*keys).without_checks()
    if timeframe is Timeframe.H1:  # every check of the opinions, once an hour
        names = [(name, each) for each in TIMEFRAMES for name in ("hmm_models", *PARTS[each])]
        everything = [opinion_key(group, suffixed(name, each)) for group in GROUPS for name, each in names]
        selection |= dg.AssetSelection.checks_for_assets(*everything)
    return dg.define_asset_job(
        OPINION_PACES[timeframe].job,
        selection=selection,
        executor_def=dg.in_process_executor,
        owners=[QUANT_TEAM],
        tags={"tier": "3", "timeframe": timeframe.value},
        description=description,
    )


def build_schedule(job: UnresolvedAssetJobDefinition, timeframe: Timeframe, description: str) -> dg.ScheduleDefinition:
    """Build the schedule that asks for the slot just closed."""

    def plan(tick: datetime) -> dg.RunRequest | dg.SkipReason:
        return plan_run(timeframe, tick) if load_settings().opinions_enabled else dg.SkipReason(OFF)

    return build_bar_schedule(job, OPINION_PACES[timeframe].cron, timeframe, "3", description, plan)


def plan_run(timeframe: Timeframe, tick: datetime) -> dg.RunRequest:
    """Ask for the slot that closed before a tick, once; the partition is the day the slot opened on."""
    pace = OPINION_PACES[timeframe]
    bar = spell_bar(closed_bar_s(timeframe, tick, pace.delay))
    tags = {**LANE, BAR_TAG: bar, JOB_TAG: pace.job, "dagster/max_runtime": str(pace.max_runtime_s)}
    return dg.RunRequest(run_key=f"opinions:{timeframe}:{bar}", partition_key=bar[:10], tags=tags)


def plan_refit(tick: datetime) -> dg.RunRequest:
    """Ask for the refit of the day of a tick, trained on all that closed before it."""
    day = f"{tick:%Y-%m-%d}"
    tags = {**LANE, BAR_TAG: spell_bar(int(tick.timestamp()) // 86_400 * 86_400), "dagster/max_runtime": "900"}
    return dg.RunRequest(run_key=f"refit:{day}", partition_key=day, tags=tags)
