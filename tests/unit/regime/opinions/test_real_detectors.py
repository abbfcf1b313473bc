"""Change points and volatility regimes on two years of real hours: as often as the specification has measured (9.8, 10.8)."""

import numpy as np
import pytest

from regime_pipeline.adapters.venues.recorded import RecordedMarket
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.opinions.bars import OpinionBars
from regime_pipeline.regime.opinions.changepoint import advance_changepoints, closes_by_slot, new_changepoint_state, standardise_returns
from regime_pipeline.regime.opinions.volatility import VOL_REGIMES, VolHold, VolRegime, classify_volatility, measure_volatility
from regime_pipeline.settings import load_settings

pytestmark = pytest.mark.realdata

SHARED = load_settings().shared
if not (SHARED / "market").is_dir():
    pytest.skip(f"no recorded market at {SHARED}: set REGIME_SHARED", allow_module_level=True)

SYMBOLS = {"BTC": "BTCUSDT", "ETH": "ETHUSDT", "SOL": "SOLUSDT", "BNB": "BNBUSDT"}


@pytest.fixture(scope="module")
def hours() -> dict[str, OpinionBars]:
    market = RecordedMarket(SHARED / "market")
    return {
        name: OpinionBars.take(Timeframe.H1, market.fetch_bars("binance_um", symbol, Timeframe.H1, 0, 2**40))
        for name, symbol in SYMBOLS.items()
    }


def test_volatility_regimes_have_their_measured_shares(hours: dict[str, OpinionBars]) -> None:
    for name, bars in hours.items():
        measures = measure_volatility(bars, int(bars.ts_s[0]), int(bars.ts_s[-1]))
        rows, _ = classify_volatility(name, measures, np.empty(0), VolHold())
        active = np.array([VOL_REGIMES[code] for code in rows.active])
        active = active[active != VolRegime.UNKNOWN]
        share = {regime: float(np.mean(active == regime)) for regime in VolRegime}
        changes = int((active[1:] != active[:-1]).sum()) / (active.size / 24)
        slack = 0.01 if name == "BTC" else 0.07
        assert 0.15 - slack <= share[VolRegime.NEUTRAL_LOW_VOL] <= 0.17 + slack
        assert 0.17 - slack <= share[VolRegime.NEUTRAL_HIGH_VOL] <= 0.18 + slack
        assert 0.34 - slack <= share[VolRegime.UP] <= 0.35 + slack
        assert 0.24 - slack <= share[VolRegime.DOWN] <= 0.26 + slack
        assert 0.07 - slack <= share[VolRegime.HIGH_VOL_SHOCK] <= 0.08 + slack
        assert 1.3 <= changes <= 1.6


def test_change_points_alarm_as_often_as_measured(hours: dict[str, OpinionBars]) -> None:
    for bars in hours.values():
        first_s, last_s = int(bars.ts_s[0]), int(bars.ts_s[-1])
        z, _ = standardise_returns(closes_by_slot(bars, first_s, last_s))
        ts_s = np.arange(first_s, last_s + 1, 3600, dtype=np.int64)
        rows, _ = advance_changepoints(new_changepoint_state(), ts_s, z, 3600)
        alert = np.nan_to_num(rows.cp_prob) >= 0.30
        per_month = int((alert[1:] & ~alert[:-1]).sum()) / (ts_s.size / 720)
        assert 8 <= per_month <= 16
