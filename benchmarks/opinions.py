"""Second opinions: fits of all models, one new bar everywhere, and hmmlearn bar by bar, on real bars."""

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.market import PERPETUALS, SHIFT_BARS, VENUE
from benchmarks.measure import Measure, time_in_turns
from regime_pipeline.adapters.venues.recorded import RecordedMarket
from regime_pipeline.market.bars import Bars, RawBars
from regime_pipeline.market.rollup import roll_up
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.opinions.bars import OpinionBars
from regime_pipeline.regime.opinions.features import CONTEXT_SLOTS, LOOKBACK_SLOTS, compute_features
from regime_pipeline.regime.opinions.hmm_filter import Opinion, filter_posteriors
from regime_pipeline.regime.opinions.hmm_fit import fit_hmm, select_training_rows
from regime_pipeline.regime.opinions.hmm_model import HmmModel, ServedModel
from regime_pipeline.regime.opinions.terms import SERIES, TIMEFRAMES

REFIT_S: Final = 60.0
BAR_S: Final = 0.050
DAY_S: Final = 86_400
YEAR_S: Final = 365 * DAY_S
WINDOWS: Final = 300
Bench = dict[tuple[str, Timeframe], OpinionBars]


def read_bars(market: RecordedMarket) -> Bench:
    """Fifty days of every series and timeframe; the two series that are not recorded so long are shifted copies."""
    found: Bench = {}
    for i, series in enumerate(SERIES):
        minutes = _shift(market.fetch_bars(VENUE, PERPETUALS[i % 4], Timeframe.M1, 0, 2**40), i // 4)
        base = Bars.complete(minutes, Timeframe.M1)
        for timeframe in TIMEFRAMES:
            bars = base if timeframe is Timeframe.M1 else roll_up(base, Timeframe.M1, timeframe)
            found[series, timeframe] = OpinionBars.take(timeframe, bars)
    return found


def _shift(raw: RawBars, turns: int) -> RawBars:
    return replace(raw[(np.arange(len(raw)) + turns * SHIFT_BARS) % len(raw)], ts_s=raw.ts_s)


def fit_all(bars: Bench) -> dict[tuple[str, Timeframe], HmmModel]:
    """Fit and label the models of all series and timeframes on full windows that end with the bars."""
    found = {}
    for (series, timeframe), each in bars.items():
        result = fit_hmm(series, select_training_rows(each, int(each.ts_s[-1]) + timeframe.seconds))
        if result.model is not None:
            found[series, timeframe] = result.model
    return found


def step_all(bars: Bench, models: dict[tuple[str, Timeframe], HmmModel]) -> list[Opinion]:
    """Say what the newest bar of every series and timeframe means, from just the bars it needs."""
    found = []
    for key, model in models.items():
        each = bars[key]
        last_s = int(each.ts_s[-1])
        served = [ServedModel(model, last_s)]
        features = compute_features(each, last_s - CONTEXT_SLOTS * each.timeframe.seconds, last_s)
        found += list(filter_posteriors(features, served, last_s, last_s))
    return found


def newest(bars: Bench) -> Bench:
    """Keep the bars that one new bar needs, as they come from the store."""
    kept = {}
    for key, each in bars.items():
        n = CONTEXT_SLOTS + LOOKBACK_SLOTS
        kept[key] = OpinionBars(
            each.timeframe, each.ts_s[-n:], each.high[-n:], each.low[-n:], each.close[-n:], each.volume[-n:], each.built[-n:]
        )
    return kept


def say_a_year(hours: dict[str, OpinionBars], models: dict[tuple[str, Timeframe], HmmModel]) -> int:
    """Posteriors of a year of hours of all series, a new model every day; the number of rows."""
    n = 0
    for series, each in hours.items():
        last_s = int(each.ts_s[-1])
        first_s = last_s - YEAR_S + Timeframe.H1.seconds
        features = compute_features(each, first_s - CONTEXT_SLOTS * Timeframe.H1.seconds, last_s)
        model = models[series, Timeframe.H1]
        served = [ServedModel(replace(model, train_end_s=day_s), day_s) for day_s in range(first_s, last_s, DAY_S)]
        n += sum(1 for _ in filter_posteriors(features, served, first_s, last_s))
    return n


def measure_opinions(shared: Path, repeats: int) -> list[Measure]:
    """Measure the promises about the hidden Markov models. Imports and compiling are done before and not counted."""
    from hmmlearn.hmm import GaussianHMM

    market = RecordedMarket(shared / "market")
    bars = read_bars(market)
    hours = {
        series: OpinionBars.take(Timeframe.H1, _shift(market.fetch_bars(VENUE, PERPETUALS[i % 4], Timeframe.H1, 0, 2**40), i // 4))
        for i, series in enumerate(SERIES)
    }
    models = fit_all(bars)
    few = newest(bars)
    step_all(few, models)
    n_rows = say_a_year(hours, models)
    spent = time_in_turns(repeats, fit=lambda: fit_all(bars), step=lambda: step_all(few, models), year=lambda: say_a_year(hours, models))

    btc, model = hours["BTC"], models["BTC", Timeframe.H1]
    last_s = int(btc.ts_s[-1])
    first_s = last_s - (WINDOWS - 1) * Timeframe.H1.seconds
    features = compute_features(btc, first_s - CONTEXT_SLOTS * Timeframe.H1.seconds, last_s)
    served = [ServedModel(replace(model, train_end_s=last_s), first_s)]
    library = GaussianHMM(3, "diag")
    library.startprob_, library.transmat_, library.means_, library.covars_ = model.start_p, model.transitions, model.means, model.variances
    z = (features.x - model.feature_mean) / model.feature_std

    def with_hmmlearn() -> None:
        for i in range(WINDOWS):
            library.score_samples(z[i : i + CONTEXT_SLOTS + 1])

    turns = time_in_turns(5 * repeats, ours=lambda: filter_posteriors(features, served, first_s, last_s), theirs=with_hmmlearn)
    return [
        Measure(
            "opinions fit",
            f"fit and label {len(models)} of {len(bars)} models, full windows, five restarts each",
            spent["fit"],
            "seconds allowed",
            REFIT_S,
            1.0,
        ),
        Measure(
            "opinions bar", f"features and posterior of one new bar, {len(models)} series", spent["step"], "seconds allowed", BAR_S, 1.0
        ),
        Measure(
            "opinions filter",
            f"posteriors of {WINDOWS} bars",
            turns["ours"],
            "hmmlearn: score_samples of each bar's window",
            turns["theirs"],
            0.1,
            {"one year of hours, 6 series, a model a day": f"{spent['year']:.2f} s for {n_rows:,} rows"},
        ),
    ]
