"""Faults: what each kind does to a client on a socket, when it happens, and that it is counted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from regime_pipeline.errors import ConfigError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.settings import load_settings
from regime_pipeline.simulation.answers import Call
from regime_pipeline.simulation.board import FaultBoard
from regime_pipeline.simulation.clock import VirtualClock
from regime_pipeline.simulation.faults import (
    BAR_KINDS,
    ROW_KINDS,
    STANDARD,
    STREAM_KINDS,
    TRANSPORT_KINDS,
    Fault,
    FaultKind,
    FaultScript,
    load_script,
)
from regime_pipeline.simulation.server import SimulatedVenue, serve
from regime_pipeline.simulation.wire import Api, wire_bars
from tests.builders import T0
from tests.markets import generated, small_universe
from tests.simulated import NOON, info, klines, simulated

HTTP = load_settings().shared / "http"
K = FaultKind
M1 = Timeframe.M1
LAST = NOON - 90  # opens at 12:00:00, the newest bar that is over
Rows = list[list[Any]]
PRICES = [1, 2, 3, 4]


def once(kind: FaultKind, **rest: Any) -> Fault:
    return Fault(kind=kind, **({"every": 1, "max_count": 1} | rest))


def test_every_kind_belongs_to_one_group() -> None:
    groups = (TRANSPORT_KINDS, ROW_KINDS, BAR_KINDS, STREAM_KINDS)
    assert sum(map(len, groups)) == len(frozenset().union(*groups)) == len(K)


def scaled(bad: Rows, good: Rows) -> bool:
    return all(float(b[at]) == 1000 * float(g[at]) for b, g in zip(bad, good, strict=True) for at in PRICES)


def one_off(bad: Rows, good: Rows) -> bool:
    ratios = [float(b[at]) / float(g[at]) for b, g in zip(bad[-2:-1], good[-2:-1], strict=True) for at in PRICES]
    return sorted(ratios)[1:3] == [1.0, 1.0] and (max(ratios) == pytest.approx(10) or min(ratios) == pytest.approx(0.1))


EXPECTED: dict[FaultKind, Callable[[Rows, Rows], bool]] = {
    K.NULL_FIELD: lambda bad, good: bad[-2].count(None) == 1 and bad[-1] == good[-1],
    K.OPEN_CANDLE: lambda bad, good: bad[-1][0] == good[-2][0] and bad[-1][1:5] == good[-1][1:5] and len(bad) == len(good) - 1,
    K.DUPLICATE: lambda bad, good: bad == [*good[:-2], good[-2], good[-2], good[-1]],
    K.MISSING: lambda bad, good: len(bad) == len(good) - 1 and bad[-1] == good[-1] and all(row in good for row in bad),
    K.OUTLIER: one_off,
    K.WRONG_UNIT: scaled,
    K.WRONG_SYMBOL: lambda bad, good: [row[0] for row in bad] == [row[0] for row in good] and float(bad[0][4]) < float(good[0][4]) / 1e4,
    K.WRONG_ORDER: lambda bad, good: bad == good[::-1],
    K.SHIFTED_GRID: lambda bad, good: (
        [(row[0] - 7000, row[6] - 7000, *row[1:5]) for row in bad] == [(row[0], row[6], *row[1:5]) for row in good]
    ),
}


@pytest.mark.parametrize("kind", sorted(ROW_KINDS))
def test_one_answer_is_wrong_and_the_next_one_right(kind: FaultKind) -> None:
    with simulated(once(kind)) as served:
        bad, good = klines(served, limit=5), klines(served, limit=5)
        assert EXPECTED[kind](bad, good), (bad, good)
        assert served.faults == {kind: 1}
        truth = served.truth.bars("binance_um", "BTCUSDT", M1, LAST - 180, LAST + 60)
        assert [float(row[4]) for row in good[:-1]] == truth.close.tolist()


def test_a_fault_waits_for_an_answer_that_it_can_spoil() -> None:
    with simulated(once(K.WRONG_ORDER, symbol="BTCUSDT", every=None, every_s=3600, spread=1)) as served:
        klines(served, limit=1)
        assert served.faults == {}
        rows = klines(served, limit=2)
        assert rows[0][0] > rows[1][0]
        assert served.faults == {K.WRONG_ORDER: 1}


def test_a_candle_of_another_coin_says_so_on_hyperliquid() -> None:
    with simulated(once(K.WRONG_SYMBOL)) as served:
        request = {"coin": "BTC", "interval": "1m", "startTime": 1000 * (LAST - 60), "endTime": 1000 * NOON}
        rows = info(served, type="candleSnapshot", req=request).json()
        assert {row["s"] for row in rows} <= {"ETH", "SOL", "BNB", "HYPE"}


@pytest.mark.parametrize(
    ("kind", "status", "says"),
    [
        (K.HTML_200, 200, "<html>"),
        (K.HTTP_403, 403, "<html>"),
        (K.HTTP_418, 418, '"code":-1003'),
        (K.HTTP_429, 429, '"code":-1003'),
        (K.HTTP_451, 451, '"code":0'),
        (K.HTTP_502, 502, "<html>"),
        (K.HTTP_503, 503, '"code":-1001'),
    ],
)
def test_a_request_is_refused(kind: FaultKind, status: int, says: str) -> None:
    with simulated(once(kind)) as served:
        answer = requests.get(f"{served.url}/binance/api/v3/time", timeout=5)
        assert (answer.status_code, says in answer.text) == (status, True)
        assert answer.headers.get("Retry-After") == {K.HTTP_418: "60", K.HTTP_429: "2"}.get(kind)
        assert answer.headers["Content-Type"].startswith("text/html" if says == "<html>" else "application/json")
        assert requests.get(f"{served.url}/binance/api/v3/time", timeout=5).json() == {"serverTime": 1000 * NOON}
        assert served.faults == {kind: 1}


@pytest.mark.realdata
@pytest.mark.skipif(not HTTP.is_dir(), reason="needs the recorded answers: REGIME_SHARED or ../shared")
@pytest.mark.parametrize(
    ("kind", "path", "name"),
    [
        (K.HTTP_403, "binance/api/v3/ping", "binance_error_403_cloudfront.html"),
        (K.HTTP_418, "binance/api/v3/ping", "binance_error_418_klines.json"),
        (K.HTTP_429, "coingecko/api/v3/ping", "coingecko_error_429.json"),
        (K.HTTP_451, "binance/api/v3/ping", "binance_error_451_restricted.json"),
        (K.HTTP_502, "binance/api/v3/ping", "nginx_error_502.html"),
        (K.HTTP_503, "binance/api/v3/ping", "binance_error_503_internal.json"),
    ],
)
def test_recorded_bodies_are_sent_where_there_are_some(kind: FaultKind, path: str, name: str) -> None:
    universe = small_universe()
    venue = SimulatedVenue(generated(universe), universe, VirtualClock(NOON, 0), FaultScript(faults=(once(kind),)), bodies=HTTP)
    with serve(venue) as served:
        assert requests.get(f"{served.url}/{path}", timeout=5).text == (HTTP / name).read_text(encoding="utf-8")


def test_a_blocked_request_says_when_to_come_back_only_if_told_to() -> None:
    for value, expected in ((None, None), (60.0, "60")):
        with simulated(once(K.HTTP_403, value=value)) as served:
            assert requests.get(f"{served.url}/binance/api/v3/time", timeout=5).headers.get("Retry-After") == expected


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (once(K.TIMEOUT), requests.exceptions.ReadTimeout),
        (once(K.TIMEOUT, value=0.05), requests.exceptions.ConnectionError),
        (once(K.RESET), requests.exceptions.ConnectionError),
        (once(K.TRUNCATED), requests.exceptions.ChunkedEncodingError),
    ],
)
def test_a_request_never_gets_its_answer(fault: Fault, error: type[Exception]) -> None:
    with simulated(fault) as served:
        url = f"{served.url}/binance/api/v3/exchangeInfo"
        with pytest.raises(error):
            requests.get(url, timeout=0.3)
        assert requests.get(url, timeout=5).json()["timezone"] == "UTC"
        assert served.faults == {fault.kind: 1}


def test_a_slow_answer_is_the_right_one() -> None:
    with simulated(once(K.LATENCY, value=0.2)) as served:
        answer = requests.get(f"{served.url}/binance/api/v3/time", timeout=5)
        assert answer.elapsed.total_seconds() >= 0.2
        assert answer.json() == {"serverTime": 1000 * NOON}


def test_a_skewed_clock_shows_in_stamps_and_not_in_bars() -> None:
    with simulated(once(K.CLOCK_SKEW, max_count=2)) as served:
        answer = requests.get(f"{served.url}/binance/api/v3/time", timeout=5)
        assert (answer.json()["serverTime"], answer.headers["Date"]) == (1000 * (NOON - 90), "Wed, 01 Jan 2025 12:00:00 GMT")
        skewed = klines(served, limit=3)
        assert skewed == klines(served, limit=3)


def test_coingecko_may_answer_nulls() -> None:
    with simulated(once(K.NULL_FIELD, venue=Api.COINGECKO)) as served:
        shares = [
            requests.get(f"{served.url}/coingecko/api/v3/global", timeout=5).json()["data"]["market_cap_percentage"] for _ in range(2)
        ]
        assert shares[0] == {"btc": None, "usdt": None}
        assert None not in shares[1].values()


def test_a_late_bar_appears_when_its_time_has_come() -> None:
    with simulated(Fault(kind=K.LATE, every=1, symbol="BTCUSDT", max_count=None), start_s=LAST) as served:
        served.venue.clock.advance(60 + 89)
        assert [row[0] // 1000 for row in klines(served, limit=2)] == [LAST - 60, LAST + 120]
        served.venue.clock.advance(1)
        assert [row[0] // 1000 for row in klines(served, limit=2)] == [LAST, LAST + 120]
        assert served.truth.gaps("binance_um", "BTCUSDT", M1, LAST, LAST + 60) == []
        assert served.faults == {K.LATE: 2}  # the bars of 12:00 and 12:01, however often they were asked for


def test_a_revised_bar_is_believable_before_and_true_after() -> None:
    with simulated(Fault(kind=K.REVISED, every=1), start_s=LAST) as served:
        served.venue.clock.advance(60)
        early = klines(served, startTime=1000 * LAST, limit=1)[0]
        served.venue.clock.advance(240)
        final = klines(served, startTime=1000 * LAST, limit=1)[0]
        truth = served.truth.bars("binance_um", "BTCUSDT", M1, LAST, LAST + 60)
        assert [float(field) for field in final[1:5]] == [truth.open[0], truth.high[0], truth.low[0], truth.close[0]]
        o, h, lo, c = (float(field) for field in early[1:5])
        assert lo <= min(o, c) <= max(o, c) <= h
        assert early[1:8] != final[1:8]
        assert float(early[7]) == pytest.approx(0.9 * truth.volume[0])


def test_a_vendor_gap_is_never_there_and_known_to_the_truth() -> None:
    with simulated(Fault(kind=K.VENDOR_GAP, every_s=300, venue=Api.USDM, symbol="BTCUSDT"), start_s=LAST) as served:
        served.venue.clock.advance(3600)
        gaps = served.truth.gaps("binance_um", "BTCUSDT", M1, LAST, LAST + 3600)
        shown = [row[0] // 1000 for row in klines(served, startTime=1000 * LAST, endTime=1000 * (LAST + 3540))]
        assert 11 <= len(gaps) <= 12
        assert sorted(shown + gaps) == list(range(LAST, LAST + 3600, 60))
        assert served.faults == {K.VENDOR_GAP: len(gaps)}
        served.venue.board.stop(LAST + 3600)
        assert served.truth.gaps("binance_um", "BTCUSDT", M1, LAST, LAST + 7200) == gaps


def due(fault: Fault, at_s: list[float], seed: int = 0) -> list[float]:
    """Times at which a fault happens to calls made at these times after the start."""
    board = FaultBoard(FaultScript(faults=(fault,)), seed, T0)
    return [s for s in at_s if board.transport_fault(Call(Api.USDM, "klines", "BTCUSDT", M1), T0 + s)]


def test_a_rule_says_when() -> None:
    minutes = [60.0 * at for at in range(240)]
    assert due(Fault(kind=K.RESET, every=3), minutes[:9]) == [120, 300, 480]
    assert due(Fault(kind=K.RESET, every=1, from_s=60, until_s=180, max_count=5), minutes) == [60, 120]
    assert due(Fault(kind=K.RESET, every=1, max_count=2), minutes) == [0, 60]
    hourly = due(Fault(kind=K.RESET, every_s=3600, spread=30), minutes)
    assert [at_s // 3600 for at_s in hourly] == [0, 1, 2, 3]
    assert len({at_s % 3600 for at_s in hourly}) > 1
    share = due(Fault(kind=K.RESET, probability=0.25), [float(at) for at in range(2000)])
    assert 430 < len(share) < 570


def test_the_seed_alone_decides() -> None:
    fault, times = Fault(kind=K.RESET, probability=0.5), [float(at) for at in range(100)]
    assert due(fault, times, seed=1) == due(fault, times, seed=1) != due(fault, times, seed=2)


@pytest.mark.parametrize(
    ("narrow", "call"),
    [
        ({"venue": Api.SPOT}, Call(Api.USDM, "klines", "BTCUSDT", M1)),
        ({"endpoint": "time"}, Call(Api.USDM, "klines", "BTCUSDT", M1)),
        ({"symbol": "ETHUSDT"}, Call(Api.USDM, "klines", "BTCUSDT", M1)),
        ({"timeframe": Timeframe.H1}, Call(Api.USDM, "klines", "BTCUSDT", M1)),
    ],
)
def test_a_fault_keeps_to_what_it_matches(narrow: dict[str, Any], call: Call) -> None:
    assert not once(K.RESET, **narrow).matches(call)
    same = {"venue": call.api, "endpoint": call.endpoint, "symbol": call.symbol, "timeframe": call.timeframe}
    assert once(K.RESET, **{key: same[key] for key in narrow}).matches(call)


def test_two_faults_due_at_once_happen_one_after_the_other() -> None:
    board = FaultBoard(FaultScript(faults=(Fault(kind=K.RESET, every_s=60, spread=1), Fault(kind=K.LATENCY, every_s=60, spread=1))), 0, T0)
    call = Call(Api.USDM, "klines", "BTCUSDT", M1)
    assert [fault.kind if (fault := board.transport_fault(call, T0)) else None for _ in range(3)] == [K.RESET, K.LATENCY, None]


def test_the_standard_script_reaches_every_kind_twenty_times_a_day() -> None:
    universe = small_universe()
    venue = SimulatedVenue(generated(universe), universe, VirtualClock(T0, 0), STANDARD)
    board, listings = venue.board, list(venue.truth.listings(Api.USDM).values())
    day = venue.truth.source.fetch_bars("binance_um", "BTCUSDT", M1, T0, T0 + 86_400)
    for minute in range(3, 1440):
        now_s, recent = T0 + 60 * minute + 7.0, day[minute - 3 : minute]
        rows = wire_bars("BTCUSDT", M1, recent)
        for listing in listings:
            call = Call(Api.USDM, "klines", listing.symbol, M1)
            if board.transport_fault(call, now_s) is None:
                board.damage(venue.truth, call, now_s)(rows)
            board.show(listing, M1, recent, now_s)
        for tick in range(4):
            board.stream_faults(Api.USDM, now_s + 15 * tick)
    assert set(board.counts) == set(K)
    assert {kind: count for kind, count in board.counts.items() if not 20 <= count <= 60} == {}


@pytest.mark.parametrize("name", ["script.toml", "script.json"])
def test_a_script_is_read_from_a_file(tmp_path: Path, name: str) -> None:
    text = {
        "script.toml": '[[faults]]\nkind = "http_429"\nvenue = "coingecko"\nevery_s = 600\nvalue = 5\n',
        "script.json": '{"faults": [{"kind": "http_429", "venue": "coingecko", "every_s": 600, "value": 5}]}',
    }
    (tmp_path / name).write_text(text[name], encoding="utf-8")
    fault = load_script(str(tmp_path / name)).faults[0]
    assert (fault.kind, fault.venue, fault.every_s, fault.amount) == (K.HTTP_429, Api.COINGECKO, 600, 5)
    assert load_script("standard") is STANDARD


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[[faults]]\nkind = "nonsense"\nevery = 1\n', "nonsense"),
        ('[[faults]]\nkind = "reset"\n', "exactly one"),
        ('[[faults]]\nkind = "reset"\nevery = 1\nvalue = 3\n', "takes no value"),
        ('[[faults]]\nkind = "reset"\nevery = 1\ncymbal = "BTC"\n', "cymbal"),
        ("faults = 3\nfaults = 4", "cannot be read"),
    ],
)
def test_a_bad_script_is_refused_by_name(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "script.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=problem):
        load_script(str(path))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_script(str(tmp_path / "none.toml"))
