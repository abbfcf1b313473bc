"""The questions behind the checks of the second opinions: each finds its own fault and nothing where all is well."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from regime_pipeline.adapters.postgres.opinion_audit import OpinionAudit
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.opinions.terms import SERIES
from regime_pipeline.services.advance_opinions import advance_changepoint_rows, advance_posteriors
from regime_pipeline.services.build_snapshots import build_snapshots
from tests.opinion_markets import END_S, UNIVERSE, fill_market, fit_all

HOUR, DAY = 3600, 86_400
NOW_S = END_S + 3 * HOUR + 130


@pytest.fixture
def filled(database: str, conn: psycopg.Connection) -> psycopg.Connection:
    """Three hours of minutes, all of them live."""
    stores = PostgresStores(database)
    fill_market(stores, 3 * HOUR)
    fit_all(stores)
    for hour_s in range(END_S, END_S + 3 * HOUR, HOUR):
        advance_posteriors(stores, UNIVERSE, Timeframe.H1, END_S, hour_s + HOUR, hour_s + HOUR + 130)
    advance_changepoint_rows(stores, UNIVERSE, Timeframe.M1, END_S, END_S + 3 * HOUR, NOW_S)
    build_snapshots(stores, END_S + 60, END_S + 3 * HOUR, NOW_S)
    return conn


def severities(faults: list[dict[str, Any]]) -> dict[str, str]:
    return {fault["series"]: fault["severity"] for fault in faults}


def test_an_empty_database_lacks_rows_and_models(conn: psycopg.Connection) -> None:
    audit = OpinionAudit(conn, SERIES, NOW_S)
    assert severities(audit.find_stale(Timeframe.M1)) == dict.fromkeys(SERIES, "ERROR")
    assert severities(audit.find_poor_models(Timeframe.H1)) == dict.fromkeys(SERIES, "ERROR")
    assert audit.find_missing_minutes(END_S, END_S + HOUR) == []  # nothing has begun


ALL_IS_WELL: list[Callable[[OpinionAudit], list[dict[str, Any]]]] = [
    lambda audit: audit.find_bad_posteriors(Timeframe.H1),
    lambda audit: audit.find_stale(Timeframe.H1),
    lambda audit: audit.find_unstable_models(Timeframe.H1),
    lambda audit: audit.find_poor_models(Timeframe.H1),
    lambda audit: audit.find_frequent_alerts(Timeframe.M1),
    lambda audit: audit.find_missing_minutes(END_S + 60, END_S + 3 * HOUR),
]


def test_where_all_is_well_nothing_is_found(filled: psycopg.Connection) -> None:
    audit = OpinionAudit(filled, SERIES, NOW_S)
    assert [ask(audit) for ask in ALL_IS_WELL] == [[]] * len(ALL_IS_WELL)
    assert len(audit.choose_live_rows(Timeframe.H1, 20)) == 18
    assert not audit.has_late_bars("token:BTC:binance", Timeframe.H1, END_S, END_S + HOUR, 1e11)
    assert audit.has_late_bars("token:BTC:binance", Timeframe.H1, END_S, END_S + HOUR, 0.0)
    assert audit.has_late_bars("regime:ALT", Timeframe.H1, END_S, END_S + HOUR, 0.0)


def test_age_turns_a_warning_into_an_error(filled: psycopg.Connection) -> None:
    closed_s = END_S + 3 * HOUR
    for now_s, severity in ((closed_s + 10_801, "WARN"), (closed_s + 43_201, "ERROR")):
        assert severities(OpinionAudit(filled, SERIES, now_s).find_stale(Timeframe.H1)) == dict.fromkeys(SERIES, severity)
    for now_s, severity in ((END_S + 2 * DAY + 1, "WARN"), (END_S + 7 * DAY + 1, "ERROR")):
        assert severities(OpinionAudit(filled, SERIES, now_s).find_poor_models(Timeframe.H1)) == dict.fromkeys(SERIES, severity)


@pytest.mark.parametrize(("kept", "severity"), [(0.70, None), (0.69, "WARN"), (0.39, "ERROR")])
def test_a_refit_that_relabels_is_told(filled: psycopg.Connection, kept: float, severity: str | None) -> None:
    filled.execute("update hmm_models set label_stability = %s where series = 'BTC' and tf = '1h'", (kept,))
    found = severities(OpinionAudit(filled, SERIES, NOW_S).find_unstable_models(Timeframe.H1))
    assert found == ({} if severity is None else {"BTC": severity})


def test_unknown_rows_and_missing_minutes_are_told_of_their_own_group_only(filled: psycopg.Connection) -> None:
    # the first of three hours lies before 01:00, when the models begin to serve
    found = OpinionAudit(filled, ("BTC", "ALT"), NOW_S).find_unknown(Timeframe.H1)
    assert {(fault["series"], fault["severity"], round(fault["share"], 2)) for fault in found} == {
        ("BTC", "WARN", 0.33),
        ("ALT", "WARN", 0.33),
    }
    missing = OpinionAudit(filled, ("ETH",), NOW_S).find_missing_minutes(END_S, END_S + 3 * HOUR + 300)
    assert {fault["series"] for fault in missing} == {"ETH"}
    assert sorted(fault["minute"].timestamp() - END_S - 3 * HOUR for fault in missing) == [60, 120, 180, 240]
