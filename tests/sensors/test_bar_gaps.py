import dagster as dg
import psycopg

from jobs.refill_bars import refill_bars
from regime_pipeline.definitions import build_defs
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import Gap
from sensors.bar_gaps import bar_gaps, plan_refill
from tests.builders import T0


def a_gap(minute: int = 0, attempts: int = 1, is_vendors_own: bool = False) -> Gap:
    return Gap("token:BTC:binance", T0 + 60 * minute, attempts, T0 + 600, T0 + 600, is_vendors_own)


def test_a_gap_is_asked_for_two_minutes_after_the_first_question_and_then_ever_later() -> None:
    for attempts, wait_s in ((1, 120), (2, 240), (3, 480), (20, 6 * 3600)):
        gaps = {Timeframe.M1: [a_gap(attempts=attempts)]}
        assert isinstance(plan_refill(gaps, T0 + 600 + wait_s - 1), dg.SkipReason)
        assert isinstance(plan_refill(gaps, T0 + 600 + wait_s), dg.RunRequest)


def test_the_key_names_the_cause_so_that_one_state_is_asked_for_once() -> None:
    at_s = T0 + 1200
    one = plan_refill({Timeframe.M1: [a_gap()], Timeframe.H1: []}, at_s)
    again = plan_refill({Timeframe.M1: [a_gap()]}, at_s + 60)
    more = plan_refill({Timeframe.M1: [a_gap(), a_gap(1)]}, at_s + 60)
    keys = [request.run_key for request in (one, again, more) if isinstance(request, dg.RunRequest)]
    assert keys[0] == keys[1] != keys[2]


def test_the_vendors_own_gaps_start_nothing() -> None:
    answer = plan_refill({Timeframe.M1: [a_gap(is_vendors_own=True)]}, T0 + 86_400)
    assert isinstance(answer, dg.SkipReason)
    assert "1 bars are missing" in (answer.skip_message or "")


def test_a_gap_in_the_database_starts_a_job_that_fills_it(regime_env: str) -> None:
    with psycopg.connect(regime_env) as conn:
        conn.execute(
            "insert into bar_gaps (series, timeframe, timestamp, source, reason, detected_at, last_asked_at) values"
            " ('token:BTC:binance', '1h', to_timestamp(%s), 'generated', 'missing', to_timestamp(%s), to_timestamp(%s))",
            (T0, T0, T0),
        )
    definitions = build_defs()
    with (
        dg.instance_for_test() as instance,
        dg.build_sensor_context(
            instance=instance, resources=definitions.resources, repository_def=definitions.get_repository_def()
        ) as context,
    ):
        answer = bar_gaps(context)
        assert isinstance(answer, dg.RunRequest)
        assert (answer.run_key or "").startswith("bar_gaps:1h=1/1:")
        result = refill_bars.execute_in_process(instance=instance, resources=definitions.resources)
        assert result.success
        with psycopg.connect(regime_env) as conn:
            assert conn.execute("select count(*) from bar_gaps where resolved_at is null").fetchone() == (0,)
            found = conn.execute("select count(*) from majors_price_data_ohlc where timestamp = to_timestamp(%s)", (T0,)).fetchone()
            assert found == (1,)
        assert isinstance(bar_gaps(context), dg.SkipReason)
