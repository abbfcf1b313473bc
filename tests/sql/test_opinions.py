"""The second opinions on a real store: taken once, the same in any order of work, and never certain about what is not there."""

from dataclasses import replace

import numpy as np
import psycopg
import pytest

from regime_pipeline.adapters.postgres.connect import open_connection
from regime_pipeline.adapters.postgres.migrate import migrate
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.errors import OpinionError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.opinions.hmm_fit import Restart, TrainingRows, fit_hmm
from regime_pipeline.regime.opinions.hmm_model import FitResult
from regime_pipeline.regime.opinions.snapshot import RegimeSnapshot, risk_throttle
from regime_pipeline.regime.opinions.terms import SERIES, TIMEFRAMES, UNIFORM, Label, Status
from regime_pipeline.services import advance_opinions
from regime_pipeline.services.advance_opinions import advance_posteriors
from regime_pipeline.services.build_snapshots import build_snapshots
from regime_pipeline.services.fit_hmm import fit_models
from regime_pipeline.services.read_opinions import latest_snapshot
from regime_pipeline.services.recheck_opinions import is_same, recompute_posterior
from tests.opinion_markets import END_S, UNIVERSE, advance_all, fill_market, fit_all, market, plain_fit, save_bars

HOUR, DAY = 3600, 86_400
SPAN_S = 8 * HOUR
LAST_S = END_S + SPAN_S
NOW_S = LAST_S + 130
SAID = ("hmm_posteriors", "changepoints", "volatility_regimes", "regime_transitions", "regime_snapshots")


@pytest.fixture
def stores(database: str) -> PostgresStores:
    """Bars of all series, eight hours of them after the models' training."""
    stores = PostgresStores(database)
    fill_market(stores, SPAN_S)
    fit_all(stores)
    return stores


def content(database: str) -> dict[str, list[tuple[object, ...]]]:
    """All that was said, without when it was written."""
    with open_connection(database) as conn:
        found = {}
        for table in SAID:
            query = (
                "select string_agg(quote_ident(column_name), ', ' order by ordinal_position) from information_schema.columns"
                " where table_name = %s and column_name not in ('origin', 'written_at')"
            )
            columns = conn.execute(query, (table,)).fetchone()[0]  # type: ignore[index]
            found[table] = conn.execute(f"select {columns} from {table} order by {columns}".encode()).fetchall()
    return found


def test_one_batch_equals_work_in_steps_without_the_cache(database: str, stores: PostgresStores, empty_database: str) -> None:
    advance_all(stores, END_S, LAST_S, NOW_S)
    with open_connection(empty_database) as conn:
        migrate(conn)
    stepwise = PostgresStores(empty_database)
    fill_market(stepwise, SPAN_S)
    fit_all(stepwise)
    for hour_s in (END_S + 2 * HOUR, END_S + 3 * HOUR, LAST_S):
        advance_all(stepwise, END_S, hour_s, hour_s + 130)
        with open_connection(empty_database) as conn:
            conn.execute("delete from changepoint_states")
    once, in_steps = content(database), content(empty_database)
    assert {table: len(rows) for table, rows in once.items()} == {table: len(rows) for table, rows in in_steps.items()}
    assert len(once["hmm_posteriors"]) == 6 * (480 + 32 + 8)
    assert once == in_steps


def test_a_second_run_writes_nothing_and_what_was_said_cannot_be_changed(
    database: str, stores: PostgresStores, conn: psycopg.Connection
) -> None:
    advance_all(stores, END_S, LAST_S, NOW_S)
    before = content(database)
    again = advance_posteriors(stores, UNIVERSE, Timeframe.M1, END_S, LAST_S, NOW_S)
    assert again.written == 0
    assert build_snapshots(stores, END_S, LAST_S, NOW_S).written == 0
    for table in ("hmm_posteriors", "changepoints", "volatility_regimes", "regime_snapshots"):
        for statement in (f"update {table} set origin = 'live'", f"delete from {table}"):
            with pytest.raises(psycopg.errors.RestrictViolation, match="never changed"), conn.transaction():
                conn.execute(statement.encode())
    assert content(database) == before


def forget(conn: psycopg.Connection, contract: str, timeframes: tuple[str, ...], from_s: int) -> None:
    query = "delete from majors_price_data_ohlc where token_contract = %s and timeframe = any(%s) and timestamp >= to_timestamp(%s)"
    conn.execute(query, (contract, list(timeframes), from_s))


def test_a_late_bar_changes_no_row_and_a_row_can_be_computed_again(database: str, stores: PostgresStores) -> None:
    hole = market("BTC", Timeframe.H1, 8)
    with open_connection(database) as conn:
        forget(conn, "BTC", ("15m", "1h"), LAST_S - HOUR)
    advance_all(stores, END_S, LAST_S, NOW_S)
    before = content(database)
    save_bars(stores, "BTC", Timeframe.H1, hole[-1:])
    advance_all(stores, END_S, LAST_S, NOW_S)
    assert content(database) == before
    with stores.open() as work:
        told, again = recompute_posterior(work, UNIVERSE, "BTC", Timeframe.H1, LAST_S - 2 * HOUR)
        assert told.status is Status.OK
        assert is_same(told, again)
        told, again = recompute_posterior(work, UNIVERSE, "BTC", Timeframe.H1, LAST_S - HOUR)
        assert told.status is Status.MISSING_BAR
        assert not is_same(told, again)  # the bar that came late


def test_an_hour_is_made_of_its_quarters(database: str, stores: PostgresStores) -> None:
    with open_connection(database) as conn:
        forget(conn, "ETH", ("1h",), LAST_S - HOUR)
    advance_all(stores, END_S, LAST_S, NOW_S)
    with stores.open() as work:
        assert work.opinions.load_opinions("ETH", Timeframe.H1, LAST_S - HOUR, LAST_S - HOUR)[0][0].status is Status.OK


def says_something_certain(snapshot: RegimeSnapshot, timeframe: Timeframe) -> bool:
    view = {Timeframe.M1: snapshot.m1, Timeframe.M15: snapshot.m15, Timeframe.H1: snapshot.h1}[timeframe]
    return view.label is not Label.UNKNOWN or view.p != UNIFORM or view.conf != 0 or view.bias != 0


def snapshots(stores: PostgresStores, at_s: int = LAST_S) -> dict[str, RegimeSnapshot]:
    with stores.open() as work:
        return {series: latest_snapshot(work, series, at_s) for series in SERIES}


def test_with_all_there_every_timeframe_has_a_word(stores: PostgresStores) -> None:
    advance_all(stores, END_S, LAST_S, NOW_S)
    for shot in snapshots(stores).values():
        assert all(says_something_certain(shot, timeframe) for timeframe in TIMEFRAMES)
        assert shot.belief.coverage == pytest.approx(1.0)
        assert risk_throttle(shot, enabled=False) == 1.0


def test_without_models_nothing_is_certain_but_change_points_and_volatility_go_on(stores: PostgresStores, conn: psycopg.Connection) -> None:
    conn.execute("delete from hmm_models")
    conn.commit()
    advance_all(stores, END_S, LAST_S, NOW_S)
    for series, shot in snapshots(stores).items():
        assert not any(says_something_certain(shot, timeframe) for timeframe in TIMEFRAMES)
        assert {shot.m1.status, shot.m15.status, shot.h1.status} == {Status.NO_MODEL}
        assert (shot.consensus.label, shot.strategic.label, shot.belief.p) == (Label.UNKNOWN, Label.UNKNOWN, UNIFORM)
        assert shot.throttle.m_bear == 1.0
        assert shot.h1.cp_level != "unknown", series


def test_without_quarters_the_minute_alone_is_not_believed(stores: PostgresStores, conn: psycopg.Connection) -> None:
    conn.execute("delete from majors_price_data_ohlc where timeframe = '15m'")
    conn.execute("delete from regime_price_data_ohlc where timeframe = '15m'")
    conn.commit()
    advance_all(stores, END_S, LAST_S, NOW_S)
    for shot in snapshots(stores).values():
        assert not says_something_certain(shot, Timeframe.M15)
        assert (shot.m15.status, shot.m15.cp_level) == (Status.MISSING_BAR, "unknown")
        assert (shot.consensus.agreement, shot.consensus.label, shot.consensus.confidence) == ("1m_only", Label.UNKNOWN, 0.0)
        assert shot.belief.coverage == pytest.approx(0.51)


def test_without_the_last_six_hours_every_voice_falls_silent(stores: PostgresStores, conn: psycopg.Connection) -> None:
    for table in ("majors_price_data_ohlc", "regime_price_data_ohlc"):
        conn.execute(f"delete from {table} where timestamp >= to_timestamp(%s)".encode(), (LAST_S - 6 * HOUR,))
    conn.commit()
    advance_all(stores, END_S, LAST_S, NOW_S)
    for shot in snapshots(stores).values():
        assert not any(says_something_certain(shot, timeframe) for timeframe in TIMEFRAMES)
        assert {shot.m1.status, shot.m15.status, shot.h1.status} == {Status.MISSING_BAR}
        assert (shot.volatility.regime, shot.h1.cp_level, shot.belief.coverage) == ("unknown", "unknown", 0.0)
        assert shot.throttle.value == 0.8


def test_a_dead_job_makes_snapshots_stale_and_then_unknown(stores: PostgresStores) -> None:
    advance_all(stores, END_S, LAST_S, NOW_S)
    late_s = LAST_S + 4 * HOUR
    build_snapshots(stores, late_s, late_s, late_s + 10)
    for shot in snapshots(stores, late_s).values():
        assert {shot.m1.status, shot.m15.status, shot.h1.status} == {Status.STALE}
        assert not any(says_something_certain(shot, timeframe) for timeframe in TIMEFRAMES)
    assert {shot.ts_s for shot in snapshots(stores, late_s + 180).values()} == {late_s}
    for shot in snapshots(stores, late_s + 181).values():
        assert (shot.m1.age_s, shot.consensus.label, shot.throttle.value) == (None, Label.UNKNOWN, 0.8)


def test_a_failing_series_is_unknown_and_the_others_go_on(stores: PostgresStores, monkeypatch: pytest.MonkeyPatch) -> None:
    real = advance_opinions.load_opinion_bars

    def load(work: object, universe: object, series: str, *rest: object) -> object:
        if series in broken:
            raise ZeroDivisionError("a detector's own mistake")
        return real(work, universe, series, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(advance_opinions, "load_opinion_bars", load)
    broken = {"SOL"}
    done = advance_posteriors(stores, UNIVERSE, Timeframe.H1, END_S, LAST_S, NOW_S)
    assert done.failed == {"SOL": "ZeroDivisionError: a detector's own mistake"}
    with stores.open() as work:
        statuses = {
            series: {opinion.status for opinion, _ in work.opinions.load_opinions(series, Timeframe.H1, END_S, LAST_S)} for series in SERIES
        }
    assert statuses["SOL"] == {Status.ERROR}
    assert Status.OK in statuses["BTC"]
    broken = set(SERIES)
    with pytest.raises(OpinionError, match="every series failed"):
        advance_posteriors(stores, UNIVERSE, Timeframe.M15, END_S, LAST_S, NOW_S)


def unconverged(z: np.ndarray, lengths: np.ndarray, seed: int) -> Restart:
    return replace(_restart(), path=tuple(float(i) for i in range(200)))


def not_a_number(z: np.ndarray, lengths: np.ndarray, seed: int) -> Restart:
    return replace(_restart(), means=np.full((3, 4), np.nan))


def _restart() -> Restart:
    a = np.full((3, 3), 1 / 3)
    return Restart(np.arange(12.0).reshape(3, 4), np.ones((3, 4)), a, np.full(3, 1 / 3), (-3.0, -2.0, -2.0))


@pytest.mark.parametrize(("fitter", "reason"), [(unconverged, "not_converged"), (not_a_number, "non_finite")])
def test_a_rejected_refit_leaves_a_row_and_the_old_model_stays(stores: PostgresStores, fitter: object, reason: str) -> None:
    def fit(series: str, rows: TrainingRows) -> FitResult:
        return fit_hmm(series, rows, fitter)  # type: ignore[arg-type]

    with stores.open() as work:
        before = work.opinions.load_models("BTC", Timeframe.M1, LAST_S, LAST_S)
    done = fit_models(stores, UNIVERSE, Timeframe.M1, END_S + DAY, stored_s=None, fit=fit)
    assert {row.reason for row in done.fits.values()} == {reason}
    with stores.open() as work:
        after = work.opinions.load_models("BTC", Timeframe.M1, END_S + 2 * DAY, END_S + 2 * DAY)
        newest = work.opinions.load_attempts(1, newest_only=True)[0]
    assert [each.model.model_id for each in after] == [each.model.model_id for each in before]
    assert (newest.accepted, newest.reason) == (False, reason)


def test_a_day_has_one_model_and_it_reads_back_as_it_was(stores: PostgresStores, conn: psycopg.Connection) -> None:
    assert fit_models(stores, UNIVERSE, Timeframe.H1, END_S + HOUR, stored_s=None, fit=plain_fit).fits == {}
    with stores.open() as work:
        (served,) = work.opinions.load_models("ETH", Timeframe.H1, LAST_S, LAST_S)
        assert work.opinions.load_models("ETH", Timeframe.H1, END_S, END_S + HOUR - 1) == []  # serves from 01:00 on
    assert served.effective_from_s == END_S + HOUR
    stored = conn.execute("select model_id from hmm_models where series = 'ETH' and tf = '1h'").fetchone()
    assert stored == (served.model.model_id,)  # a hash over every parameter


def test_a_transition_is_used_once_in_time_and_never_when_a_refit_made_it(stores: PostgresStores, conn: psycopg.Connection) -> None:
    row = (
        "insert into regime_transitions values (%s, 'BTC', '1h', 'so-1', 'ranging', 'bullish', to_timestamp(%s), to_timestamp(%s), 2, 0.9,"
        " null, 'm', %s, to_timestamp(%s), 'live')"
    )
    conn.execute(row, ("0" * 16, END_S, END_S + HOUR, False, END_S + DAY))
    conn.execute(row, ("1" * 16, END_S + HOUR, END_S + 2 * HOUR, True, END_S + DAY))
    conn.commit()
    with stores.open() as work:
        assert work.opinions.use_transition("alert", "0" * 16, END_S + 2 * HOUR)
    with stores.open() as work:
        assert not work.opinions.use_transition("alert", "0" * 16, END_S + 2 * HOUR)
        assert work.opinions.use_transition("report", "0" * 16, END_S + 2 * HOUR)
        assert not work.opinions.use_transition("evaluation", "0" * 16, END_S + DAY)  # expired
        assert not work.opinions.use_transition("alert", "1" * 16, END_S + 2 * HOUR)


def test_months_of_minutes_are_dropped_whole_and_the_rest_stays(stores: PostgresStores, conn: psycopg.Connection) -> None:
    advance_all(stores, END_S, LAST_S, NOW_S)
    assert conn.execute("select drop_opinion_months('2025-01-31Z')").fetchall() == []
    dropped = conn.execute("select drop_opinion_months('2025-02-01Z')").fetchall()
    assert dropped == [("changepoints_1m_202501",), ("hmm_posteriors_1m_202501",)]
    assert conn.execute("select distinct tf from hmm_posteriors order by tf").fetchall() == [("15m",), ("1h",)]
    assert conn.execute("select count(*) from regime_snapshots").fetchone() == (6 * 481,)


@pytest.mark.slow
def test_a_real_fit_serves_the_next_day(database: str) -> None:
    stores = PostgresStores(database)
    fill_market(stores, SPAN_S)
    done = fit_models(stores, UNIVERSE, Timeframe.H1, END_S, stored_s=None, names=("BTC",))
    assert done.fits["BTC"].accepted
    said = advance_posteriors(stores, UNIVERSE, Timeframe.H1, END_S, LAST_S, NOW_S, ("BTC",))
    assert (said.written, said.unknown, said.models) == (8, 1, {"BTC": done.fits["BTC"].model_id})
