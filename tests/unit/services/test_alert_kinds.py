import pytest

from regime_pipeline.errors import ConfigError
from regime_pipeline.ports import AlertKind, Severity
from regime_pipeline.services.alert_kinds import KINDS, Mode, build_message, read_modes, spell_duration
from tests.alerts import NOW_S, an_alert


def test_every_kind_says_what_it_costs_and_what_to_do() -> None:
    assert set(KINDS) == set(AlertKind)
    assert all(note.cost and note.cure for note in KINDS.values())


def test_modes_are_on_unless_named() -> None:
    modes = read_modes("freshness=silent, budget=off")
    assert modes.pop(AlertKind.FRESHNESS) is Mode.SILENT
    assert modes.pop(AlertKind.BUDGET) is Mode.OFF
    assert set(modes.values()) == {Mode.ON}


@pytest.mark.parametrize("text", ["fresh=off", "freshness=loud", "freshness", "freshness=on freshness=off"])
def test_a_mode_that_cannot_be_meant_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match=r"alert_modes .*fresh"):
        read_modes(text)


def test_a_message_says_who_what_since_when_the_cost_and_the_way_out() -> None:
    message = build_message("alpha", "opened", an_alert(severity=Severity.CRITICAL, since_s=NOW_S - 5400), NOW_S, alert_id=7)
    assert message.title == "[alpha] CRITICAL freshness 1m"
    assert message.body.splitlines() == [
        "freshness of 1m is wrong",
        "since 2025-12-31 22:30 UTC, for 1 h 30 min",
        f"cost: {KINDS[AlertKind.FRESHNESS].cost}",
        f"do: {KINDS[AlertKind.FRESHNESS].cure}",
        "runbook: docs/runbook.md#freshness",
        "known already? regime alerts ack 7",
    ]
    assert message.fields["kind"] == "freshness"
    over = build_message("alpha", "resolved", an_alert(since_s=NOW_S - 60), NOW_S, alert_id=7)
    assert over.title == "[alpha] RESOLVED freshness 1m"
    assert over.body.splitlines()[1:] == ["it was so since 2025-12-31 23:59 UTC, for 1 min"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 min"), (59, "0 min"), (3599, "59 min"), (3600, "1 h 0 min"), (172_799, "47 h 59 min"), (180_000, "2 d 2 h")],
)
def test_durations_have_two_units_at_most(seconds: int, text: str) -> None:
    assert spell_duration(seconds) == text
