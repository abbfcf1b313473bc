"""The sensor that wakes the portfolio manager: what it asks for is pure, and a real database wakes it."""

import json
import threading
from time import monotonic

import dagster as dg
import psycopg
import pytest

import sensors.regime_bar as sensor_module
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.clock import now_s
from regime_pipeline.definitions import build_defs
from regime_pipeline.errors import DatabaseError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.risk.limits import RiskSettings
from regime_pipeline.services.trading.find_new_bars import BarDue, NewBar, home_timeframe, judge_bar
from regime_pipeline.settings import Settings
from sensors.regime_bar import plan_ticks, plan_wait_s, read_cursor, regime_bar
from tests.builders import T0

H1, M15 = Timeframe.H1, Timeframe.M15
NOW, LATE, WAIT = BarDue.NOW, BarDue.LATE, BarDue.WAIT


def plan(seen: dict[Timeframe, int], *bars: tuple[Timeframe, int, BarDue]) -> tuple[list[str | None], dict[Timeframe, int]]:
    found = [NewBar(timeframe, close_s, is_ready=True) for timeframe, close_s, _ in bars]
    requests, now_seen = plan_ticks(seen, found, {timeframe: due for timeframe, _, due in bars}, Settings())
    return [request.run_key for request in requests], now_seen


def test_a_lost_cursor_starts_at_the_newest_bar_and_replays_nothing() -> None:
    assert plan({}, (H1, T0, NOW)) == ([], {H1: T0})


def test_a_new_bar_asks_for_one_tick_named_after_account_strategy_and_close() -> None:
    keys, seen = plan({H1: T0}, (H1, T0 + 3600, NOW))
    assert keys == ["pm:paper-main:onchain_crypto-1h:2025-01-01T01:00:00+00:00"]
    assert plan(seen, (H1, T0 + 3600, NOW)) == ([], seen)


def test_only_the_newest_of_several_bars_is_asked_for() -> None:
    keys, _ = plan({H1: T0}, (H1, T0 + 5 * 3600, NOW))
    assert keys == ["pm:paper-main:onchain_crypto-1h:2025-01-01T05:00:00+00:00"]


def test_a_bar_whose_time_is_over_moves_the_cursor_and_starts_nothing() -> None:
    assert plan({H1: T0}, (H1, T0 + 3600, LATE)) == ([], {H1: T0 + 3600})


def test_a_bar_without_its_regime_is_waited_for() -> None:
    assert plan({H1: T0, M15: T0}, (H1, T0 + 3600, WAIT), (M15, T0 + 900, NOW)) == (
        ["pm:paper-main:onchain_crypto-15m:2025-01-01T00:15:00+00:00"],
        {H1: T0, M15: T0 + 900},
    )


def test_the_request_says_whose_turn_it_is_and_that_it_comes_before_backfills() -> None:
    (request,), _ = plan_ticks({H1: T0}, [NewBar(H1, T0 + 3600, True)], {H1: NOW}, Settings())
    assert request.tags == {
        "regime/account": "paper-main",
        "regime/strategy": "onchain_crypto-1h",
        "regime/exec_timeframe": "1h",
        "regime/bar_ts": "2025-01-01T00:00:00+00:00",
        "dagster/priority": "15",
    }


def test_a_bar_is_decided_with_its_regime_or_shortly_before_it_would_be_too_late() -> None:
    # W8: a 1h bar that closes at 19:00:00 may start until 19:05:00
    close_s, limits = T0, RiskSettings()
    ready, bare = NewBar(H1, close_s, is_ready=True), NewBar(H1, close_s, is_ready=False)
    assert [judge_bar(ready, close_s + at, limits) for at in (60, 300, 301)] == [NOW, NOW, LATE]
    assert [judge_bar(bare, close_s + at, limits) for at in (60, 279, 280, 301)] == [WAIT, WAIT, NOW, LATE]


@pytest.mark.parametrize(("timeframe", "home"), [("1m", "1m"), ("5m", "1m"), ("15m", "1m"), ("1h", "1h"), ("4h", "1h"), ("1d", "1d")])
def test_every_execution_timeframe_is_made_by_one_regime_job(timeframe: str, home: str) -> None:
    assert home_timeframe(Timeframe(timeframe)) is Timeframe(home)


@pytest.mark.parametrize(("second", "wait_s"), [(0, 45), (8, 37), (13, 32), (44, 1), (45, 45), (50, 45), (59, 45)])
def test_an_evaluation_ends_in_the_quiet_part_of_the_minute(second: int, wait_s: int) -> None:
    assert plan_wait_s(second) == wait_s
    # never while the minute's bars are written: they come in its first twenty seconds
    assert 25 <= (second + wait_s) % 60 <= 45


def test_a_cursor_is_read_as_it_was_written() -> None:
    assert read_cursor(None) == {}
    assert read_cursor(json.dumps({"1h": T0})) == {H1: T0}


def add_bar(database: str, open_s: int, *, with_deltas: bool = True) -> None:
    """A record of one token on 1h, the bar's deltas of the two required drivers, and the word of it."""
    with psycopg.connect(database) as conn:
        conn.execute(
            "insert into lowcap_positions (token_contract, token_chain, timeframe, token_ticker, status, book_id, bars_count)"
            " values ('AAVE', 'binance', '1h', 'AAVE', 'watchlist', 'onchain_crypto', 500) on conflict do nothing"
        )
        columns = conn.execute(
            "select column_name, data_type from information_schema.columns where table_name = 'uptrend_states'"
            " and is_nullable = 'NO' and column_default is null"
        ).fetchall()
        values = {"boolean": "false", "integer": "1", "double precision": "1", "timestamp with time zone": f"to_timestamp({open_s})"}
        row = {name: values.get(kind, "'S1'") for name, kind in columns} | {"series": "'token:AAVE:binance'", "timeframe": "'1h'"}
        conn.execute(f"insert into uptrend_states ({', '.join(row)}) values ({', '.join(row.values())})")  # type: ignore[arg-type]
    if not with_deltas:
        return
    with psycopg.connect(database) as conn:
        for driver in ("BTC", "ALT"):
            conn.execute(
                "insert into regime_deltas (driver, timeframe, ts, state, buy, rebuy, trim, emergency_exit, reclaimed_ema333,"
                " exit_position, delta_a_raw, delta_e_raw, immature, engine_version) values (%s, '1h', to_timestamp(%s), 'S1', false,"
                " false, false, false, false, false, 0, 0, false, 'v')",
                (driver, open_s),
            )
        conn.execute("select pg_notify('regime_bars', '1h')")


def evaluate(cursor: str | None) -> tuple[list[str | None], str | None]:
    definitions = build_defs()
    with (
        dg.instance_for_test() as instance,
        dg.build_sensor_context(
            instance=instance, cursor=cursor, resources=definitions.resources, repository_def=definitions.get_repository_def()
        ) as context,
    ):
        answer = regime_bar(context)
    assert isinstance(answer, (dg.SensorResult, dg.SkipReason))
    if isinstance(answer, dg.SkipReason):
        return [], cursor
    return [request.run_key for request in answer.run_requests or ()], answer.cursor


@pytest.fixture
def hour_s(monkeypatch: pytest.MonkeyPatch) -> int:
    """The hour under way; the sensor's clock stands two minutes into it."""
    begin_s = now_s() // 3600 * 3600
    monkeypatch.setattr(sensor_module, "now_s", lambda: begin_s + 120)
    return begin_s


def test_a_bar_written_while_it_waits_is_asked_for_at_once(regime_env: str, hour_s: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensor_module, "plan_wait_s", lambda _at_s: 90.0)
    monkeypatch.setattr(sensor_module, "POLL_S", 90.0)  # so that nothing but the word wakes it
    add_bar(regime_env, hour_s - 7200)
    keys, cursor = evaluate(None)
    assert (keys, json.loads(cursor or "")) == ([], {"1h": hour_s - 3600})
    writer = threading.Timer(1.0, add_bar, (regime_env, hour_s - 3600))
    began_s = monotonic()
    writer.start()
    keys, cursor = evaluate(cursor)
    assert monotonic() - began_s < 60  # the look that nothing wakes comes ninety seconds in
    writer.join()
    assert len(keys) == 1
    assert json.loads(cursor or "") == {"1h": hour_s}


def test_it_waits_for_the_deltas_of_the_bar_and_looks_for_itself_where_it_hears_nothing(
    regime_env: str, hour_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_bar(regime_env, hour_s - 7200)
    _, cursor = evaluate(None)

    def deaf(_self: object, _timeout_s: float) -> set[Timeframe]:
        raise DatabaseError("the wait for new bars was cut off")

    monkeypatch.setattr("regime_pipeline.adapters.postgres.bar_listener.PostgresBarListener.wait", deaf)
    monkeypatch.setattr(sensor_module, "plan_wait_s", lambda _at_s: 0.5)
    with PostgresStores(regime_env).open():
        add_bar(regime_env, hour_s - 3600, with_deltas=False)
    assert evaluate(cursor) == ([], cursor)
    monkeypatch.setattr(sensor_module, "now_s", lambda: hour_s + 290)
    keys, _ = evaluate(cursor)
    assert len(keys) == 1
