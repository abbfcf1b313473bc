"""Recorded folders: names, units, laziness and how a broken file is refused."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from regime_pipeline.adapters.venues.recorded import RecordedMarket, timeframe_of, venue_of
from regime_pipeline.errors import BadInputError, SourceError, SourceUnavailableError
from regime_pipeline.market.bars import BarReason, check_bars
from regime_pipeline.market.timeframe import Timeframe
from tests.builders import T0

H1, D1 = Timeframe.H1, Timeframe.D1
HEADER = "symbol,timeframe,ts,open,high,low,close,volume\n"
FAR_S = T0 + 10**9


def hour(at: int, symbol: str = "BTCUSDT", timeframe: str = "1h", prices: str = "100,110,90,105", volume: str = "2") -> str:
    return f"{symbol},{timeframe},2025-01-01T{at:02d}:00:00Z,{prices},{volume}\n"


def market(folder: Path, **files: str) -> RecordedMarket:
    for stem, text in files.items():
        (folder / f"{stem}.csv").write_text(text, encoding="utf-8")
    return RecordedMarket(folder)


@pytest.mark.parametrize(
    ("stem", "venue", "timeframe"),
    [
        ("ohlcv_1m_binance_um", "binance_um", "1m"),
        ("basket_1h_binance_um", "binance_um", "1h"),
        ("ohlcv_1d_hyperliquid", "hyperliquid", "1d"),
        ("my_bars", "my_bars", None),
        ("bars_1h", "bars_1h", "1h"),
    ],
)
def test_the_file_name_tells_venue_and_timeframe(stem: str, venue: str, timeframe: str | None) -> None:
    assert venue_of(stem) == venue
    assert timeframe_of(stem) == timeframe


def test_csv_bars_come_in_quote_volume_and_half_open_windows(tmp_path: Path) -> None:
    source = market(tmp_path, ohlcv_1h_binance_um=HEADER + hour(0) + hour(1) + hour(2) + hour(1, symbol="ETHUSDT"))
    found = source.fetch_bars("binance_um", "BTCUSDT", H1, T0, T0 + 7200)
    assert found.ts_s.tolist() == [T0, T0 + 3600]
    assert found.volume.tolist() == [210.0, 210.0]  # 2 coins at a close of 105
    time_range = source.time_range("binance_um", "BTCUSDT", H1)
    assert time_range is not None
    assert (time_range.first_s, time_range.last_s) == (T0, T0 + 7200)
    assert source.venues() == {"binance_um"}


def test_files_of_one_venue_are_joined(tmp_path: Path) -> None:
    source = market(tmp_path, basket_1h_binance_um=HEADER + hour(0, "AAVEUSDT"), ohlcv_1h_binance_um=HEADER + hour(0))
    assert len(source.fetch_bars("binance_um", "AAVEUSDT", H1, 0, FAR_S)) == 1
    assert len(source.fetch_bars("binance_um", "BTCUSDT", H1, 0, FAR_S)) == 1


def test_a_file_without_timeframe_in_its_name_is_a_venue_with_any_timeframe(tmp_path: Path) -> None:
    source = market(tmp_path, mine=HEADER + hour(0) + hour(0, timeframe="1d"))
    assert len(source.fetch_bars("mine", "BTCUSDT", H1, 0, FAR_S)) == 1
    assert len(source.fetch_bars("mine", "BTCUSDT", D1, 0, FAR_S)) == 1


def test_unknown_series_are_absent_and_not_an_error(tmp_path: Path) -> None:
    source = market(tmp_path, ohlcv_1h_binance_um=HEADER + hour(0))
    assert source.time_range("binance_um", "NOPE", H1) is None
    assert source.time_range("okx", "BTCUSDT", H1) is None
    assert len(source.fetch_bars("binance_um", "BTCUSDT", D1, 0, FAR_S)) == 0
    assert source.dominance_range("BTC.d", D1) is None
    assert source.fetch_market_caps(0, FAR_S) == {}


def test_bad_rows_are_handed_on_unrepaired_in_file_order(tmp_path: Path) -> None:
    rows = hour(0) + hour(2) + hour(1) + hour(3, prices="100,,90,105") + hour(4, prices="100,90,110,105") + hour(0, volume="7")
    found = market(tmp_path, ohlcv_1h_x=HEADER + rows).fetch_bars("x", "BTCUSDT", H1, 0, FAR_S)
    assert check_bars(found, H1, FAR_S).bad == {
        2: BarReason.OUT_OF_ORDER,
        3: BarReason.NON_FINITE_PRICE,
        4: BarReason.INVERTED,
        5: BarReason.DUPLICATE_TS,
    }


def test_a_missing_column_is_named_with_its_file(tmp_path: Path) -> None:
    source = market(tmp_path, ohlcv_1h_x="symbol,timeframe,ts,open,high,low,close\n")
    with pytest.raises(BadInputError, match=r"ohlcv_1h_x\.csv lacks the column volume; it has symbol"):
        source.fetch_bars("x", "BTCUSDT", H1, 0, FAR_S)


def test_what_nobody_refers_to_is_never_opened(tmp_path: Path) -> None:
    source = market(tmp_path, notes="nothing like bars\n", ohlcv_1h_x=HEADER + hour(0))
    assert len(source.fetch_bars("x", "BTCUSDT", H1, 0, FAR_S)) == 1


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (hour(0).replace("00Z", "00"), "times with a zone"),
        (hour(0).replace("2025-01-01T00:00:00Z", "1735689600"), "times with a zone"),
        (hour(0).replace("00Z", "00.5Z"), "fractions of a second"),
        (hour(0, timeframe="2h"), "timeframe was '2h'; allowed: 1m, 5m"),
        (hour(0, prices="100,high,90,105"), "does not hold numbers"),
    ],
)
def test_a_value_that_cannot_be_read_is_refused_by_name(tmp_path: Path, row: str, said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        market(tmp_path, mine=HEADER + row).fetch_bars("mine", "BTCUSDT", H1, 0, FAR_S)


def test_rows_without_symbol_are_refused_and_not_lost(tmp_path: Path) -> None:
    table = pa.table({name: pa.array([None], pa.string()) for name in HEADER.strip().split(",")})
    pq.write_table(table, tmp_path / "ohlcv_1h_x.parquet")
    with pytest.raises(BadInputError, match="rows without symbol"):
        RecordedMarket(tmp_path).fetch_bars("x", "BTCUSDT", H1, 0, FAR_S)


def test_a_missing_or_empty_folder_is_an_error_and_not_an_empty_market(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailableError, match="no such folder"):
        RecordedMarket(tmp_path / "none")
    with pytest.raises(SourceError, match=r"holds no \.parquet or \.csv"):
        RecordedMarket(tmp_path)


def test_a_damaged_file_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "ohlcv_1h_x.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(SourceError, match="not a readable parquet file"):
        RecordedMarket(tmp_path).fetch_bars("x", "BTCUSDT", H1, 0, FAR_S)


def test_dominance_percents_become_bars(tmp_path: Path) -> None:
    rows = "".join(f"BTC.D,1d,2025-01-0{day}T00:00:00Z,,,,{value},\n" for day, value in ((1, 57.0), (2, 58.5)))
    source = market(tmp_path, dominance_1d=HEADER + rows)
    found = source.fetch_dominance("BTC.d", D1, T0, T0 + 2 * D1.seconds)
    assert found.open.tolist() == [57.0, 57.0]
    assert found.close.tolist() == [57.0, 58.5]
    assert check_bars(found, D1, FAR_S).good.all()
    assert source.venues() == set()


def test_market_caps_come_by_upper_case_contract(tmp_path: Path) -> None:
    table = pa.table(
        {
            "symbol": ["aave", "aave", "zec"],
            "ts": pa.array([T0 + D1.seconds, T0, T0], pa.timestamp("s", "UTC")),
            "market_cap": [2e9, 1e9, None],
        }
    )
    pq.write_table(table, tmp_path / "coingecko_marketcap_1d.parquet")
    caps = RecordedMarket(tmp_path).fetch_market_caps(T0, T0 + 1)
    assert [seen.cap_usd for seen in caps["AAVE"]] == [1e9]
    assert np.isnan(caps["ZEC"][0].cap_usd or 0.0)


SHARED = Path(os.environ.get("REGIME_SHARED", "../shared")) / "market"


@pytest.mark.realdata
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"reference bars are not at {SHARED}; set REGIME_SHARED to the folder that holds market/")
def test_the_real_folder_reads_and_passes_the_bar_check() -> None:
    source = RecordedMarket(SHARED)
    expected = {("binance_um", "BTCUSDT", Timeframe.M1): 72_000, ("binance_um", "AAVEUSDT", H1): 8_736, ("hyperliquid", "HYPE", D1): 233}
    for (venue, symbol, timeframe), count in expected.items():
        found = source.fetch_bars(venue, symbol, timeframe, 0, FAR_S)
        assert len(found) == count
        assert check_bars(found, timeframe, FAR_S).good.all()
    for driver in ("BTC.d", "USDT.d"):
        assert check_bars(source.fetch_dominance(driver, D1, 0, FAR_S), D1, FAR_S).good.all()
    assert len(source.fetch_market_caps(0, FAR_S)["AAVE"]) == 324
