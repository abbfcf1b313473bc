"""Rows X01 to X09: real processes killed at every named point of the order path, at real sockets, on a real database.

The matrix crosses every point with every kind of answer, both market types and both sides. CI plays a seeded share of it; all of it is
`REGIME_TEST_KILL_CELLS=1000 pytest tests/faults/test_kill_cells.py`.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.fixtures_postgres import open_home
from tests.killed import kill_postmaster
from tests.killing import Seat, Stage, decide, execute, judge, recover_and_finish, run, spawn, stage
from tests.sizes import KILL_CELLS

KILLED = -signal.SIGKILL
ANSWERS: dict[str, dict[str, Any]] = {
    "rests": {},
    "hangs, taken": {"accept": "before", "delay_ms": 60_000},
    "hangs, not taken": {"accept": "never", "delay_ms": 60_000},
    "504, taken": {"accept": "before", "status": 504, "body": ""},
    "504, not taken": {"accept": "never", "status": 504, "body": ""},
    "page with 200, taken": {"accept": "before", "status": 200, "body": "<html></html>"},
    "reset, taken": {"accept": "before", "cut": "reset"},
    "truncated, taken": {"accept": "before", "cut": "truncate"},
    "429": {"accept": "never", "status": 429, "body": '{"code": -1003, "msg": "Too many requests."}'},
}
POINTS = ("before_submitting_commit", "before_wire", "after_wire", "after_answer", "after_step", "before_fill", "mid_fills", "after_fills",
          "before_cancel_wire", "after_cancel_wire", "random")  # fmt: skip
SLOW_ANSWERS = frozenset({"hangs, taken", "hangs, not taken"})


@dataclass(frozen=True)
class Cell:
    """One death: where, under which answer, on which market and side, and how much of the order trades at once."""

    market_type: str
    leg: str
    point: str
    answer: str
    trades: str  # nothing, part or all

    @property
    def is_reachable(self) -> bool:
        """Tell whether the point is passed at all under this answer."""
        if self.point in {"before_fill", "mid_fills", "after_fills"}:
            return self.trades != "nothing" and "not taken" not in self.answer and self.answer != "429"
        if self.point in {"before_cancel_wire", "after_cancel_wire"}:
            return self.trades != "all" and "not taken" not in self.answer and self.answer != "429"
        # a process that waits for an answer is not at the point behind it
        return not (self.answer in SLOW_ANSWERS and self.point in {"after_answer", "after_wire"} and self.trades == "all")


def all_cells() -> list[Cell]:
    return [
        cell
        for parts in product(("spot", "linear"), ("entry", "exit"), POINTS, ANSWERS, ("nothing", "part", "all"))
        if (cell := Cell(*parts)).is_reachable
    ]


def draw_cells(n: int) -> list[Cell]:
    """A seeded share in which every point, answer and side comes as often as it can."""
    rng = random.Random(11)
    cells = all_cells()
    rng.shuffle(cells)
    by_point: dict[str, list[Cell]] = {point: [cell for cell in cells if cell.point == point] for point in POINTS}
    drawn: list[Cell] = []
    while len(drawn) < n and any(by_point.values()):
        drawn += [by_point[point].pop() for point in POINTS if by_point[point]]
    return drawn[:n]


PRICES = {"entry": {"nothing": "39000", "part": "40500", "all": "40500"}, "exit": {"nothing": "41000", "part": "39500", "all": "39500"}}


def play(theatre: Stage, cell: Cell) -> bool:
    """Play one cell to its end and judge it; says whether a process really died."""
    venue, seat = theatre.venue, theatre.seat()
    if cell.leg == "exit":
        assert run(decide, seat, "", "entry", "0.020", PRICES["entry"]["all"]) == 0
        assert run(execute, seat, "") == 0  # not a start: that cancels what was to be entered
        assert venue.truth()["trades"]
        venue.clock.advance(3600)
    venue.change(liquidity=Decimal("0.004") if cell.trades == "part" else None)
    assert run(decide, seat, "", cell.leg, "0.010", PRICES[cell.leg][cell.trades]) == 0
    if ANSWERS[cell.answer]:
        venue.script_create(**ANSWERS[cell.answer])
    after_s = random.Random(str(cell)).random() * 0.25
    code = spawn_and_kill(seat, after_s) if cell.point == "random" else run(execute, seat, cell.point)
    venue.change(liquidity=None)
    theatre.end_leases()
    assert run(recover_and_finish, seat) == 0
    judge(theatre, seat)
    return code == KILLED


def spawn_and_kill(seat: Seat, after_s: float) -> int:
    """Kill an executor at whatever it is doing."""
    process = spawn(execute, seat, "")
    time.sleep(after_s)
    process.kill()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


@pytest.fixture(scope="module")
def theatres(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Stage]]:
    folder = tmp_path_factory.mktemp("latches")
    with stage("spot", module_database, folder) as spot, stage("linear", module_database, folder) as linear:
        yield {"spot": spot, "linear": linear}


@pytest.mark.slow
@pytest.mark.timeout(120 + 5 * KILL_CELLS)
@pytest.mark.fault_row("X03", "X04", "X05", "X06")
def test_an_executor_killed_at_any_point_leaves_one_order_and_every_fill(theatres: dict[str, Stage], cells: Callable[..., None]) -> None:
    drawn = draw_cells(KILL_CELLS)
    deaths: Counter[str] = Counter()
    for cell in drawn:
        try:
            deaths[cell.point] += play(theatres[cell.market_type], cell)
        except AssertionError as error:
            raise AssertionError(f"{cell}: {error}") from error
    print(f"{len(drawn)} cells, {sum(deaths.values())} deaths {dict(deaths)}: 0 doubled, 0 lost")
    assert sum(deaths.values()) >= 0.9 * len(drawn)
    cells(run=len(drawn), passed=len(drawn))


@pytest.fixture
def theatre(theatres: dict[str, Stage]) -> Stage:
    return theatres["spot"]


def states_of(seat: Seat) -> list[str]:
    with psycopg.connect(seat.database) as conn:
        rows = conn.execute("select state from orders where account = %s order by created_at", (seat.account,)).fetchall()
    return [state for (state,) in rows]


@pytest.mark.fault_row("X01")
def test_x01_what_had_not_committed_never_was(theatre: Stage) -> None:
    seat = theatre.seat()
    assert run(decide, seat, "before_intent_commit", "entry", "0.010", "39000") == KILLED
    assert states_of(seat) == []
    assert run(decide, seat, "", "entry", "0.010", "39000") == 0  # the next tick decides
    assert run(recover_and_finish, seat) == 0
    judge(theatre, seat)
    assert len(states_of(seat)) == 1


@pytest.mark.fault_row("X02")
def test_x02_an_intent_whose_time_has_passed_is_never_sent(theatre: Stage) -> None:
    seat = theatre.seat()
    before = len(theatre.venue.truth()["received"])
    assert run(decide, seat, "after_intent", "entry", "0.010", "39000") == KILLED
    assert states_of(seat) == ["INTENT"]
    theatre.venue.clock.advance(241)
    assert run(recover_and_finish, seat) == 0
    judge(theatre, seat)
    with psycopg.connect(seat.database) as conn:
        codes = conn.execute(
            "select to_state, code from order_transitions join orders using (client_order_id) where account = %s", (seat.account,)
        ).fetchall()
    assert codes == [("CANCELLED", "NEVER_SENT")]
    assert len(theatre.venue.truth()["received"]) == before


@pytest.mark.fault_row("X03")
def test_x03_what_was_not_sent_is_not_found_after_the_bound_and_never_before(theatre: Stage) -> None:
    seat = theatre.seat()
    assert run(decide, seat, "", "entry", "0.010", "39000") == 0
    assert run(execute, seat, "before_wire") == KILLED
    assert states_of(seat) == ["SUBMITTING"]
    theatre.end_leases()
    assert run(recover_and_finish, seat) == 0
    judge(theatre, seat)
    with psycopg.connect(seat.database) as conn:
        early = conn.execute(
            "select min(l.started_at - o.request_expires_at) from orders o join order_looks l using (client_order_id)"
            " where o.account = %s and l.started_at = (select max(started_at) from order_looks where client_order_id = o.client_order_id)",
            (seat.account,),
        ).fetchall()
    assert states_of(seat) == ["NOT_FOUND"]
    assert early[0][0].total_seconds() > 6  # one second for clocks, five for what the venue may hide


@pytest.mark.fault_row("X04")
@pytest.mark.parametrize("point", ["after_wire", "after_answer", "after_step"])
def test_x04_what_was_sent_is_adopted(theatre: Stage, point: str) -> None:
    seat = theatre.seat()
    assert run(decide, seat, "", "entry", "0.010", "40500") == 0
    assert run(execute, seat, point) == KILLED
    theatre.end_leases()
    assert run(recover_and_finish, seat) == 0
    judge(theatre, seat)
    assert states_of(seat) == ["FILLED"]


@pytest.mark.slow
@pytest.mark.fault_row("X05")
def test_x05_every_statement_of_the_booking_may_be_the_last(theatre: Stage, cells: Callable[..., None]) -> None:
    """`mid_fills` is passed before each statement of a booking: the n-th death is at the n-th statement."""
    deaths = 0
    for nth in range(1, 40):
        seat = theatre.seat()
        assert run(decide, seat, "", "entry", "0.010", "40500") == 0
        code = run(execute, seat, "mid_fills", nth)
        theatre.end_leases()
        assert run(recover_and_finish, seat) == 0
        judge(theatre, seat)
        assert states_of(seat) == ["FILLED"]
        if code != KILLED:
            break
        deaths += 1
    assert deaths >= 2
    cells(run=deaths, passed=deaths)


@pytest.mark.fault_row("X06")
def test_x06_a_cancel_under_way_stays_exposure(theatre: Stage) -> None:
    seat = theatre.seat()
    assert run(decide, seat, "", "entry", "0.010", "39000") == 0
    assert run(execute, seat, "after_cancel_wire") == KILLED
    assert states_of(seat) == ["CANCEL_REQUESTED"]  # its entry blocks the symbol until a read has shown its end
    theatre.end_leases()
    assert run(recover_and_finish, seat) == 0
    judge(theatre, seat)
    assert states_of(seat) == ["CANCELLED"]


@pytest.mark.slow
@pytest.mark.fault_row("X07")
@pytest.mark.parametrize("step", range(1, 13))
def test_x07_a_recovery_killed_twice_completes_the_third_time(theatre: Stage, step: int) -> None:
    seat = theatre.seat()
    assert run(decide, seat, "", "entry", "0.010", "40500") == 0
    assert run(execute, seat, "after_wire") == KILLED
    for _ in range(2):
        theatre.end_leases()
        assert run(recover_and_finish, seat, "recovery_step", step) == KILLED
    theatre.end_leases()
    assert run(recover_and_finish, seat) == 0
    judge(theatre, seat)
    assert states_of(seat) == ["FILLED"]


@pytest.mark.fault_row("X08")
def test_x08_a_process_frozen_before_the_wire_sends_nothing_when_it_wakes(theatre: Stage) -> None:
    seat = theatre.seat()
    assert run(decide, seat, "", "entry", "0.010", "40500") == 0
    frozen = spawn(execute, seat, "stop:before_wire")
    deadline = time.monotonic() + 20
    while states_of(seat) != ["SUBMITTING"] or _state_of_process(frozen.pid) != "T":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    theatre.venue.clock.advance(60)
    theatre.end_leases()
    assert run(recover_and_finish, seat) == 0
    os.kill(frozen.pid, signal.SIGCONT)  # type: ignore[arg-type]
    frozen.join(60)
    judge(theatre, seat)
    assert states_of(seat) == ["NOT_FOUND"]
    taken = [client_id for client_id in theatre.venue.truth()["accepted"] if client_id in _ids_of(seat)]
    assert taken == []


@pytest.mark.slow
@pytest.mark.fault_row("X09")
@pytest.mark.parametrize("point", ["before_wire", "after_wire", "after_answer", "mid_fills"])
def test_x09_when_the_database_dies_too_what_was_committed_is_there(point: str, tmp_path: Path) -> None:
    from regime_pipeline.adapters.postgres.connect import open_connection
    from regime_pipeline.adapters.postgres.embedded import ensure_server
    from regime_pipeline.adapters.postgres.migrate import apply_roles, migrate

    with open_home() as home:
        address = ensure_server(home)
        with psycopg.connect(address.url("postgres"), autocommit=True) as admin:
            admin.execute("create database regime")
        with open_connection(address.url("regime")) as conn:
            migrate(conn)
            apply_roles(conn)
        with stage("spot", address.url("regime"), tmp_path) as theatre:
            seat = theatre.seat()
            assert run(decide, seat, "", "entry", "0.010", "40500") == 0
            assert run(execute, seat, point) == KILLED
            kill_postmaster(home)
            ensure_server(home)
            theatre.end_leases()
            assert run(recover_and_finish, seat) == 0
            judge(theatre, seat)
            assert states_of(seat) == ["NOT_FOUND" if point == "before_wire" else "FILLED"]


def _ids_of(seat: Seat) -> set[str]:
    with psycopg.connect(seat.database) as conn:
        return {row[0] for row in conn.execute("select client_order_id from orders where account = %s", (seat.account,)).fetchall()}


def _state_of_process(pid: int | None) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
