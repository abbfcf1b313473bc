"""The page: everything in it, nothing fetched, nothing of a name read as markup."""

import json
import re
from dataclasses import replace

import numpy as np

from regime_pipeline.board.report import MAX_EVENTS, Report, Sample, Track, render_report
from regime_pipeline.market.timeframe import REGIME_TIMEFRAMES, Timeframe
from regime_pipeline.ports import BoardRow
from regime_pipeline.regime.drivers import DRIVER_NAMES
from regime_pipeline.regime.levers import LeverInput, compute_levers
from regime_pipeline.services.read_board import BoardCell
from regime_pipeline.trend.record import FLAGS
from tests.builders import T0


def make_report(n: int = 3000) -> Report:
    rng = np.random.default_rng(1)
    states = np.repeat([4, 0, 1, 2, 1, 2, 3, 0], n // 8)
    flags = rng.random((len(states), len(FLAGS))) < 0.01
    ts_s = T0 + 3600 * np.arange(len(states))
    price = 100 * np.exp(rng.normal(0, 0.01, len(states)).cumsum())
    track = Track("BTC", Timeframe.H1, ts_s, price, states, flags, rng.choice([-0.3, 0.25], len(states)), np.zeros(len(states)))
    row = BoardRow("BTC", Timeframe.H1, T0, "S3", "S2", T0, 123.0, ("trim",), -0.05, 0.25, True, 700)
    cells = [
        BoardCell(driver, timeframe, row if (driver, timeframe) == ("BTC", Timeframe.H1) else None, None)
        for driver in DRIVER_NAMES
        for timeframe in REGIME_TIMEFRAMES
    ]
    levers = compute_levers(LeverInput("1h", "nano", ()))
    sample = Sample("</script><b>", "nano", Timeframe.H1, levers, ts_s, np.full(len(ts_s), 0.5), np.full(len(ts_s), 0.25))
    return Report("Generated market, seed 7", T0, T0, cells, [sample], [track], {"uptrend_states": 3000})


def data_of(page: str) -> dict[str, list[dict[str, object]]]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_every_cell_and_lever_is_on_the_page() -> None:
    page = render_report(make_report())
    assert page.count('<td class="none">no state yet</td>') == 23
    assert '<span class="state S3">S3</span> <small class="came">from S2</small> <small class="mark">immature</small>' in page
    assert "2025-01-01 00:00 &nbsp; 123" in page
    assert "degraded: no buys" in page
    assert "0.500" in page
    assert "uptrend_states 3,000" in page


def test_chart_data_keeps_every_change_of_state_and_marks_run_starts() -> None:
    report = make_report()
    track, drawn = report.tracks[0], data_of(render_report(report))["tracks"][0]
    changes = np.flatnonzero(np.diff(track.state)) + 1
    assert set(track.ts_s[changes].tolist()) <= set(drawn["t"])
    assert len(drawn["t"]) == len(drawn["s"]) == len(drawn["p"]) == len(drawn["a"]) == len(drawn["e"]) < len(track.ts_s)
    states = dict(zip(drawn["t"], drawn["s"], strict=True))
    assert all(states[ts_s] == str(state) for ts_s, state in zip(track.ts_s.tolist(), track.state.tolist(), strict=True) if ts_s in states)
    assert [len(mark["t"]) for mark in drawn["marks"]] == [
        int((track.flags[1:, k] & ~track.flags[:-1, k]).sum() + track.flags[0, k]) for k in range(len(FLAGS))
    ]


def test_a_line_breaks_where_bars_are_missing() -> None:
    report = make_report()
    track = report.tracks[0]
    ts_s = track.ts_s + np.where(np.arange(len(track.ts_s)) >= 1000, 86_400, 0)
    drawn = data_of(render_report(replace(report, tracks=[replace(track, ts_s=ts_s)])))["tracks"][0]
    assert [drawn["t"][at] for at in drawn["gaps"]] == [int(ts_s[1000])]
    assert int(ts_s[999]) in drawn["t"]


def test_events_are_the_changes_newest_first() -> None:
    report = make_report()
    changes = [(event.from_state, event.to_state) for event in report.events]
    assert changes == [("S4", "S0"), ("S0", "S1"), ("S1", "S2"), ("S2", "S1"), ("S1", "S2"), ("S2", "S3"), ("S3", "S0")]
    page = render_report(report)
    rows = re.findall(r'<span class="state (S\d)">S\d</span> → <span class="state (S\d)">', page)
    assert rows == changes[::-1]
    assert len(changes) <= MAX_EVENTS
    assert "All 7." in page


def test_the_page_fetches_nothing_and_reads_no_name_as_markup() -> None:
    page = render_report(make_report())
    assert not re.findall(
        r'<(?:script|img|iframe)[^>]*\ssrc=|<link|@import|url\(["\']?http', page.split('<script type="application/json"')[0]
    )
    assert "</script><b>" not in page
    assert "&lt;/script&gt;&lt;b&gt;" in page
    assert data_of(page)["levers"][0]["name"] == "</script><b> (nano)"
    assert len(page.encode()) < 12e6
