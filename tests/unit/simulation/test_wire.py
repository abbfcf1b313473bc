"""Spelling: nothing is lost on the wire, and every field is where and what the venues' recorded answers have."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.settings import load_settings
from regime_pipeline.simulation.wire import Api, binance_event, binance_row, hyperliquid_row, spell, wire_bars
from tests.builders import T0, raw_bars

HTTP = load_settings().shared / "http"
needs_http = pytest.mark.skipif(not HTTP.is_dir(), reason="needs the recorded answers: REGIME_SHARED or ../shared")
BAR = wire_bars("BTCUSDT", Timeframe.M1, raw_bars([100.0, 101.5]))[-1]


@given(st.floats(1e-12, 1e18), st.integers(1, 8))
@example(1e-7, 8)
@example(5e16, 1)
@settings(max_examples=100)
def test_a_spelled_number_is_the_same_number_again(value: float, decimals: int) -> None:
    text = spell(value, decimals)
    assert text is not None
    assert float(text) == value
    assert "e" not in text
    assert len(text.partition(".")[2]) >= decimals


def test_a_lost_value_is_null() -> None:
    assert spell(None, 8) is None


def test_base_volume_times_close_is_quote_volume_but_for_rounding() -> None:
    base, close, quote = (float(binance_row(Api.SPOT, BAR)[at]) for at in (5, 4, 7))
    assert quote == 1000.0
    assert base * close == pytest.approx(quote, rel=1e-15)


def _recorded(name: str) -> Any:
    return json.loads((HTTP / name).read_text(encoding="utf-8"))


def _shape(value: Any) -> Any:
    """Types of fields in their order; digits after the point do not matter."""
    if isinstance(value, dict):
        return {key: _shape(each) for key, each in sorted(value.items())}
    return type(value).__name__


@pytest.mark.realdata
@needs_http
def test_a_spot_kline_has_the_fields_of_a_recorded_one() -> None:
    recorded = _recorded("binance_klines_BTCUSDT_1m.json")[0]
    ours = binance_row(Api.SPOT, BAR)
    assert [type(field) for field in ours] == [type(field) for field in recorded]
    assert ours[6] - ours[0] == recorded[6] - recorded[0] == 59_999
    # A bar of our own market may need more decimals than the venue's 8; a whole price is padded like a recorded one.
    assert (spell(30000.0, 8), recorded[1].partition(".")[2]) == ("30000.00000000", "22000000")


@pytest.mark.realdata
@needs_http
@pytest.mark.parametrize(("name", "is_closed"), [("binance_ws_kline_open.json", False), ("binance_ws_kline_closed.json", True)])
def test_a_kline_event_has_the_fields_of_a_documented_one(name: str, is_closed: bool) -> None:
    recorded, ours = _recorded(name), binance_event(Api.USDM, BAR, 1000 * T0, is_closed=is_closed)
    assert (_shape(ours), ours["k"]["x"]) == (_shape(recorded), recorded["k"]["x"])
    assert _shape(ours["k"]) == _shape(recorded["k"])


@pytest.mark.realdata
@needs_http
def test_a_candle_has_the_fields_of_a_recorded_one() -> None:
    recorded = _recorded("hyperliquid_info_candleSnapshot_kPEPE_1h.json")[0]
    streamed = json.loads((HTTP / "hyperliquid_ws_candle_AAVE_1m.jsonl").read_text(encoding="utf-8").splitlines()[0])["data"]
    assert _shape(hyperliquid_row(BAR)) == _shape(recorded) == _shape(streamed)
    assert hyperliquid_row(BAR)["T"] - hyperliquid_row(BAR)["t"] == streamed["T"] - streamed["t"]
