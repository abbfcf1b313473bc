"""The evaluation on three weeks of real hours, from bars to the report: its counts and its bound, not its conclusions."""

from statistics import NormalDist

import pytest

from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.adapters.venues.recorded import RecordedMarket
from regime_pipeline.market.bars import Bars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.services.advance_opinions import advance_changepoint_rows, advance_posteriors, advance_volatility
from regime_pipeline.services.build_snapshots import build_snapshots
from regime_pipeline.services.evaluate_opinions import evaluate_opinions
from regime_pipeline.services.fit_hmm import fit_models
from regime_pipeline.settings import load_settings
from tests.opinion_markets import UNIVERSE, save_bars

pytestmark = [pytest.mark.realdata, pytest.mark.slow]

SHARED = load_settings().shared
if not (SHARED / "market").is_dir():
    pytest.skip(f"no recorded market at {SHARED}: set REGIME_SHARED", allow_module_level=True)

H1, DAY = Timeframe.H1, 86_400
FIRST_S = 1_756_684_800
"""2025-09-01T00:00Z."""
DAYS = 21
HOURS = 24 * DAYS
END_S = FIRST_S + DAYS * DAY
NAMES = ("BTC", "ETH")


def test_three_weeks_of_two_series_are_counted_and_bounded_as_specified(database: str) -> None:
    stores, market = PostgresStores(database), RecordedMarket(SHARED / "market")
    for name in NAMES:
        raw = market.fetch_bars("binance_um", f"{name}USDT", H1, FIRST_S - 400 * DAY, END_S + 2 * DAY)
        save_bars(stores, name, H1, Bars.complete(raw, H1))
    for day in range(0, DAYS, 2):
        fits = fit_models(stores, UNIVERSE, H1, FIRST_S + day * DAY, stored_s=None, names=NAMES).fits
        assert set(fits) == set(NAMES)
    for advance in (advance_posteriors, advance_changepoint_rows, advance_volatility):
        advance(stores, UNIVERSE, H1, FIRST_S - 2 * DAY, END_S, END_S + DAY, NAMES)
    build_snapshots(stores, FIRST_S, END_S, END_S + DAY, names=NAMES, every_s=3600)
    report = evaluate_opinions(stores, UNIVERSE, "custom", FIRST_S, END_S, is_live=False)
    found = report.evaluation
    assert report.hours == dict.fromkeys(NAMES, HOURS)
    assert report.stability["1h"].n == len(NAMES) * 10  # eleven fits of a series, the first with nothing to compare with
    unknown = {(each.series, each.opinion): round(each.unknown_share * HOURS) for each in found.rhythms}
    assert {(each.series, each.hours) for each in found.rhythms} == {(name, HOURS) for name in NAMES}
    for name in NAMES:
        assert unknown[name, "label_1m"] == unknown[name, "label_15m"] == HOURS  # of which there were no bars
        assert unknown[name, "label_1h"] < HOURS // 20
        for horizon_h in (1, 4, 24):  # every hour with a label is in one class, and the bars go on beyond the longest horizon
            classes = [row for row in found.rows if (row.series, row.opinion, row.horizon_h) == (name, "label_1h", horizon_h)]
            assert len(classes) == 3
            assert sum(row.n for row in classes) == HOURS - unknown[name, "label_1h"]
    for row in found.rows:
        assert row.n_eff == row.n / row.horizon_h
        assert row.t is None or row.n_eff >= 30
    tested = [row for row in found.rows if row.t is not None]
    assert len(tested) == found.m_tests > 20
    assert found.bound == pytest.approx(NormalDist().inv_cdf(1 - 0.025 / found.m_tests), rel=1e-12)
    assert all(row.t is not None and abs(row.t) > found.bound for row in found.rows if row.passed)
