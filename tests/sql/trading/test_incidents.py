"""Incidents are one row per kind and scope; silence of an executor stops entries."""

import pytest

from regime_pipeline.errors import BadInputError
from regime_pipeline.ports import Severity, TradingBeat
from regime_pipeline.services.trading.incidents import ack_incident, close_by_number, close_incident, open_incident
from regime_pipeline.services.trading.watch_executor import watch_executor
from tests.trading_desk import ACCOUNT, Desk


def test_an_incident_seen_again_is_counted_and_keeps_its_first_evidence(desk: Desk) -> None:
    with desk.stores.open() as work:
        first = open_incident(work, "ORDER_GONE", "warning", "a", {"n": 1}, "order-gone")
        again = open_incident(work, "ORDER_GONE", Severity.CRITICAL, "a", {"n": 2}, "order-gone")
        third = open_incident(work, "ORDER_GONE", Severity.WARNING, "a", {"n": 3}, "order-gone")
    assert (again.incident_id, again.repeats, again.evidence) == (first.incident_id, 1, {"n": 1})
    assert (third.repeats, third.severity) == (2, Severity.CRITICAL)  # it becomes critical and never less


def test_another_scope_is_another_incident(desk: Desk) -> None:
    with desk.stores.open() as work:
        assert open_incident(work, "K", "warning", "a", {}).incident_id != open_incident(work, "K", "warning", "b", {}).incident_id


def test_one_that_was_closed_opens_anew(desk: Desk) -> None:
    with desk.stores.open() as work:
        first = open_incident(work, "K", "warning", "a", {})
        assert close_incident(work, "K", "a", "reconciler")
        assert not close_incident(work, "K", "a", "reconciler")
        second = open_incident(work, "K", "warning", "a", {})
        everything = work.recon.load_incidents(with_closed=True)
    assert second.incident_id != first.incident_id
    assert [(each.incident_id, each.closed_by) for each in everything] == [(second.incident_id, None), (first.incident_id, "reconciler")]


def test_an_incident_of_a_step_that_is_undone_is_undone(desk: Desk) -> None:
    def see_and_fail() -> None:
        with desk.stores.open() as work:
            open_incident(work, "K", "warning", "a", {})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        see_and_fail()
    assert desk.incidents() == []


def test_the_first_person_who_knows_of_it_is_kept(desk: Desk) -> None:
    with desk.stores.open() as work:
        number = open_incident(work, "K", "critical", "a", {}).incident_id
        ack_incident(work, number, "ann")
        ack_incident(work, number, "bob")
        assert work.recon.load_incidents()[0].acked_by == "ann"
        close_by_number(work, number, "bob")
    assert desk.incidents() == []


@pytest.mark.parametrize("settle", [ack_incident, close_by_number])
def test_nobody_and_nothing_are_refused(desk: Desk, settle: type[None]) -> None:
    with desk.stores.open() as work:
        number = open_incident(work, "K", "critical", "a", {}).incident_id
        with pytest.raises(BadInputError, match="name"):
            settle(work, number, " ")
        with pytest.raises(BadInputError, match="number"):
            settle(work, number + 1, "ann")


def test_ninety_seconds_of_silence_stop_entries_until_it_beats_again(desk: Desk) -> None:
    now_s = desk.now_ms // 1000

    def beat(at_s: int) -> None:
        with desk.stores.open() as work:
            work.recon.beat(TradingBeat("executor", ACCOUNT, 1000 * at_s, 1))

    def look(at_s: int) -> tuple[int | None, list[str]]:
        with desk.stores.open() as work:
            silent_s = watch_executor(work, ACCOUNT, at_s)
            return silent_s, [f"{switch.source} L{switch.level.value}" for switch in work.safety.load_switches(ACCOUNT)]

    assert look(now_s) == (None, [])  # it never ran: somebody else's affair
    beat(now_s)
    assert look(now_s + 90) == (None, [])
    assert look(now_s + 91) == (91, ["silence L1"])
    assert look(now_s + 151) == (151, ["silence L1"])  # once
    beat(now_s + 160)
    assert look(now_s + 170) == (None, [])
    assert desk.select("select count(*) from kill_switch") == [(2,)]


def test_a_beat_that_is_older_than_the_known_one_changes_nothing(desk: Desk) -> None:
    with desk.stores.open() as work:
        work.recon.beat(TradingBeat("executor", ACCOUNT, 2000, 7, {"is_ready": True}))
        work.recon.beat(TradingBeat("executor", ACCOUNT, 1000, 6))
        assert work.recon.load_beats() == [TradingBeat("executor", ACCOUNT, 2000, 7, {"is_ready": True})]
