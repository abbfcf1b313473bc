"""The filter on real hourly bars against hmmlearn's own forward pass with the same parameters."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.opinions.bars import OpinionBars
from regime_pipeline.regime.opinions.features import CONTEXT_SLOTS, compute_features
from regime_pipeline.regime.opinions.hmm_filter import filter_posteriors
from regime_pipeline.regime.opinions.hmm_fit import fit_hmm, select_training_rows
from regime_pipeline.regime.opinions.hmm_model import ServedModel
from regime_pipeline.regime.opinions.terms import Status

FILE = Path(os.environ.get("REGIME_SHARED", "../shared")) / "market" / "ohlcv_1h_binance_um.parquet"
HOUR_S = 3600

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not FILE.is_file(), reason=f"no recorded bars in {FILE}; set REGIME_SHARED to the folder that holds market/"),
]


def read_hours(symbol: str) -> OpinionBars:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(FILE, filters=pc.field("symbol") == symbol).sort_by("ts")
    columns = (table.column(name).to_numpy() for name in ("open", "high", "low", "close", "volume"))
    return OpinionBars.take(Timeframe.H1, RawBars(table.column("ts").cast("int64").to_numpy() // 1000, *columns))


@pytest.mark.parametrize("series", ["BTC", "ETH", "SOL", "BNB", "HYPE"])
def test_posteriors_equal_the_librarys_forward_pass(series: str) -> None:
    from hmmlearn import _hmmc
    from hmmlearn.hmm import GaussianHMM

    bars = read_hours(f"{series}USDT")
    last_s = int(bars.ts_s[-1])
    fitted = fit_hmm(series, select_training_rows(bars, last_s)).model
    assert fitted is not None
    model = replace(fitted, train_end_s=last_s)
    # One run without a gap, from the first bar that has its look-back on.
    first_s = int(bars.ts_s[255])
    features = compute_features(bars, first_s - CONTEXT_SLOTS * HOUR_S, last_s)
    got = filter_posteriors(features, [ServedModel(model, first_s)], first_s, last_s)
    known = got.status == Status.OK.code
    assert np.flatnonzero(~known).tolist() == list(range(19))
    assert len(got) == (18_537 if series != "HYPE" else len(bars) - 255)

    library = GaussianHMM(3, "diag")
    library.startprob_, library.transmat_, library.means_, library.covars_ = model.start_p, model.transitions, model.means, model.variances
    z = (features.x[CONTEXT_SLOTS:] - model.feature_mean) / model.feature_std
    _, forward = _hmmc.forward_log(library.startprob_, library.transmat_, library._compute_log_likelihood(z))
    want = np.exp(forward - np.logaddexp.reduce(forward, axis=1)[:, None])
    # Ours sees 64 slots, the library all: what the window forgets is far below the tolerance.
    np.testing.assert_allclose(got.p[known], want[known], atol=1e-9, rtol=0)
    for end in np.linspace(63, len(z) - 1, 40, dtype=int).tolist():
        np.testing.assert_allclose(got.p[end], library.score_samples(z[end - 63 : end + 1])[1][-1], atol=1e-9, rtol=0)


def test_a_restored_bar_equals_the_batch_on_real_bars() -> None:
    bars = read_hours("ETHUSDT")
    last_s = int(bars.ts_s[-1])
    model = fit_hmm("ETH", select_training_rows(bars, last_s - 48 * HOUR_S)).model
    assert model is not None
    served = [ServedModel(model, last_s - 100 * HOUR_S)]
    first_s = last_s - 47 * HOUR_S
    batch = filter_posteriors(compute_features(bars, first_s - CONTEXT_SLOTS * HOUR_S, last_s), served, first_s, last_s)
    single = []
    for ts_s in range(first_s, last_s + 1, HOUR_S):
        seen = bars.ts_s <= ts_s
        until = OpinionBars(bars.timeframe, *(getattr(bars, name)[seen] for name in ("ts_s", "high", "low", "close", "volume", "built")))
        single += list(filter_posteriors(compute_features(until, ts_s - CONTEXT_SLOTS * HOUR_S, ts_s), served, ts_s, ts_s))
    assert single == list(batch)
    assert all(each.status is Status.OK for each in single)
