import json
from pathlib import Path

import dagster as dg
import pytest

from regime_pipeline.definitions import build_defs
from regime_pipeline.errors import RegimeError
from sensors.watch_health import is_slow_due, watch_health


def test_slow_questions_are_asked_first_and_then_once_an_hour() -> None:
    assert is_slow_due(None, 10_000)
    assert not is_slow_due("10000", 13_599)
    assert is_slow_due("10000", 13_600)


def test_a_tick_records_and_sends_what_is_wrong_starts_no_run_and_keeps_its_cursor(
    regime_env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "alerts.jsonl"
    monkeypatch.setenv("REGIME_ALERT_FILE", str(path))
    monkeypatch.setenv("REGIME_SOURCE", "recorded")
    monkeypatch.setenv("REGIME_INSTANCE_NAME", "alpha")

    @dg.op
    def break_down() -> None:
        raise RegimeError("the venue is on holiday")

    @dg.job(name="regime_meso")
    def failing() -> None:
        break_down()

    repository = build_defs().get_repository_def()
    with dg.instance_for_test() as instance:
        failing.execute_in_process(instance=instance, raise_on_error=False)
        with dg.build_sensor_context(instance=instance, repository_def=repository) as context:
            answer = watch_health(context)
            cursor = context.cursor
            watch_health(context)
    assert isinstance(answer, dg.SkipReason)
    assert answer.skip_message == "1 alerts hold, 1 new, 0 over; file: 1"
    assert cursor is not None
    assert context.cursor == cursor
    (line,) = path.read_text().splitlines()
    told = json.loads(line)
    assert (told["instance"], told["kind"], told["scope"]) == ("alpha", "run_failure", "regime_meso")
    assert told["summary"].endswith("the venue is on holiday")


def test_a_tick_that_can_record_nothing_fails_in_sight(regime_env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGIME_ALERT_MODES", "nonsense=on")
    with (
        dg.instance_for_test() as instance,
        dg.build_sensor_context(instance=instance, repository_def=build_defs().get_repository_def()) as context,
        pytest.raises(RegimeError, match="nonsense"),
    ):
        watch_health(context)
