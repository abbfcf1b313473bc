"""X45 to X49: the database restarts, loses an answer, is in the way, is full, or is that of last night.

A venue through real sockets and the real client library; a server of the test's own, which is killed, starved and filled.
"""

import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import count, cycle
from pathlib import Path

import psycopg
import pytest

from regime_pipeline.adapters.kill_mirror_file import MirrorFile
from regime_pipeline.adapters.latch_file import LatchFile
from regime_pipeline.adapters.postgres.connect import open_connection
from regime_pipeline.adapters.postgres.embedded import ensure_server, server_status
from regime_pipeline.adapters.postgres.migrate import apply_roles, migrate
from regime_pipeline.errors import DatabaseBusyError, DatabaseError
from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.ports import IntentOutcome
from regime_pipeline.risk.kill_switch import EVERYBODY, Level, Switch
from regime_pipeline.services.trading.cancel_round import KillProgress
from regime_pipeline.services.trading.deliver_kill import deliver_kill
from regime_pipeline.services.trading.kill_mirror import refresh_mirror
from regime_pipeline.services.trading.reconcile import reconcile_full, reconcile_orders
from regime_pipeline.services.trading.recover import recover
from regime_pipeline.services.trading.switch_kill import KillTools, kill
from tests.builders import T0
from tests.fixtures_postgres import open_home
from tests.killed import copy_database
from tests.lossy import Relay
from tests.sizes import LOST_COMMITS
from tests.wire import WireDesk, judge, open_wire

D = Decimal
S = OrderState
Cells = Callable[..., None]
GOOD_TICK_S = 30
LOOKS_S = (1, 2, 4, 8, 8)


@dataclass
class House:
    """A home with a server of its own and a migrated database in it."""

    home: Path
    url: str

    @property
    def pids(self) -> list[int]:
        """Processes of the server, the first one first."""
        data = server_status(self.home).data
        assert data is not None
        first = int((data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [first, *map(int, children)]

    def die(self) -> None:
        """Lose the power: every process of the server at once, also the one that is in the middle of our transaction."""
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @contextmanager
    def limited(self, file_bytes: int) -> Iterator[None]:
        """Let no file of the server grow beyond a size: to it that is a full disk, and it needs no right to mount one."""
        pids = self.pids
        self._limit(pids, file_bytes)
        try:
            yield
        finally:
            self._limit([*pids, *self.pids_left(pids)], resource.RLIM_INFINITY)

    def _limit(self, pids: list[int], file_bytes: int) -> None:
        """Change the limit as the user who owns the processes: even root may not, where it has no capability for it."""
        data = server_status(self.home).data
        assert data is not None
        owner = data.stat()
        child = os.fork()
        if child == 0:
            with suppress(OSError):
                os.setgid(owner.st_gid)
                os.setuid(owner.st_uid)
            for pid in pids:
                with suppress(OSError):
                    resource.prlimit(pid, resource.RLIMIT_FSIZE, (file_bytes, resource.RLIM_INFINITY))
            os._exit(0)
        os.waitpid(child, 0)

    def pids_left(self, before: list[int]) -> list[int]:
        """Those that live now, if the first one does."""
        try:
            os.kill(before[0], 0)
            return self.pids
        except (ProcessLookupError, FileNotFoundError):
            return []


@pytest.fixture(scope="module")
def built() -> Iterator[House]:
    with open_home() as home:
        address = ensure_server(home)
        with psycopg.connect(address.url("postgres"), autocommit=True) as admin:
            admin.execute("create database regime")
        with open_connection(address.url("regime")) as conn:
            migrate(conn)
            apply_roles(conn)
        yield House(home, address.url("regime"))


@pytest.fixture
def house(built: House) -> House:
    """The server, up again whatever the test before has done to it."""
    ensure_server(built.home)
    return built


def once(point: str, happens: Callable[[], object]) -> Callable[[str], None]:
    """A checkpoint at which something happens the first time it is passed."""
    left = [True]

    def at(passed: str) -> None:
        if passed == point and left:
            left.clear()
            happens()

    return at


# ---- X45 ----------------------------------------------------------------------------------------------------------------------------

UNSENT = {"idle", "before_submitting_commit"}
"""Points at which an order waits to be sent: recovery drops it, since what it was decided on is of before the outage."""


@pytest.mark.fault_row("X45")
@pytest.mark.parametrize(
    "point",
    [
        "idle",
        "before_submitting_commit",
        "before_wire",
        "mid_fills",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("before_intent_commit", "after_wire", "after_answer", "after_fills")),
    ],
)
def test_x45_a_server_that_dies_and_comes_back_costs_half_a_minute_and_no_order(house: House, point: str, cells: Cells) -> None:
    with open_wire(house.url) as desk:
        intent, whole, died_s = desk.an_intent(), desk.trading, [time.monotonic()]

        def die() -> None:
            house.die()
            died_s.append(time.monotonic())

        if point == "idle":
            desk.write(intent)
            die()
        desk.trading = replace(whole, at=once(point, die))
        with pytest.raises(DatabaseError):
            _ = (point == "idle" or desk.write(intent), desk.execute())
        n_before = desk.posts()
        assert n_before == (point not in {*UNSENT, "before_intent_commit"})  # nothing leaves without a commit that says so
        for _ in range(3):  # and nothing while it is away
            with pytest.raises(DatabaseError):
                desk.execute()
        assert desk.posts() == n_before
        ensure_server(house.home)
        desk.trading = whole
        desk.end_leases()
        recovered = recover(desk.trading)
        assert recovered.is_ready, recovered.why
        desk.write(intent)  # whoever says the same again adopts what is stored
        fresh = desk.intend(symbol="ETH/USDT", limit_price=D(2_010), qty=D("0.1"))
        desk.step(0, 1)
        assert desk.state(fresh) is S.FILLED
        assert time.monotonic() - died_s[-1] <= GOOD_TICK_S
        desk.step(*LOOKS_S)
        assert desk.state(intent.client_order_id) is (S.CANCELLED if point in UNSENT else S.FILLED)
        assert desk.posts() == (point not in UNSENT) + 1
        judge(desk)
    cells(run=1, passed=1)


@pytest.mark.fault_row("X45")
def test_x45_a_server_that_dies_while_trades_are_read_loses_none(house: House, cells: Cells) -> None:
    with open_wire(house.url) as desk:
        order_id = desk.resting()
        desk.execute()
        desk.venue.hand.fill(order_id, "0.004")
        desk.advance(60)
        whole = desk.trading
        desk.trading = replace(whole, at=once("mid_fills", house.die))
        with pytest.raises(DatabaseError):
            reconcile_orders(desk.trading)
        began_s = time.monotonic()
        ensure_server(house.home)
        desk.trading = whole
        desk.end_leases()
        assert recover(desk.trading).is_ready
        assert time.monotonic() - began_s <= GOOD_TICK_S
        desk.step(90, *LOOKS_S)
        assert desk.state(order_id) is S.CANCELLED
        judge(desk)
    cells(run=1, passed=1)


# ---- X46 ----------------------------------------------------------------------------------------------------------------------------


def run_lost_commits(url: str, n: int) -> tuple[int, int]:
    """Write and send orders through a relay that cuts one COMMIT of each; how many were cut, and how often what was done next was wrong."""
    relay, cut, wrong = Relay(url), 0, 0
    try:
        with open_wire(url) as desk:
            through = WireDesk(relay.url, desk.venue, desk.name, "through")
            for nth, is_kept in zip(cycle([1, 2, 3, 4, 5, 6]), cycle([True, True, True, False, False, False, True]), strict=False):
                if cut >= n:
                    break
                intent, posts = desk.an_intent(), desk.posts()
                relay.arm(nth, is_kept=is_kept)
                with suppress(DatabaseError):
                    through.write(intent)
                    through.execute()
                cut += relay.disarm()
                desk.end_leases()
                desk.write(intent)  # by its key: adopted where it was committed, written where it was not
                for wait_s in (0, *LOOKS_S):
                    desk.step(wait_s)
                    if desk.state(intent.client_order_id).is_terminal:
                        break
                wrong += desk.posts() - posts > 1 or desk.state(intent.client_order_id) not in {S.FILLED, S.NOT_FOUND}
            through.stores.close()
            judge(desk)
    finally:
        relay.close()
    return cut, wrong


@pytest.mark.fault_row("X46")
def test_x46_whether_a_commit_whose_answer_is_lost_has_happened_is_read(house: House, cells: Cells) -> None:
    cut, wrong = run_lost_commits(house.url, LOST_COMMITS)
    assert wrong == 0
    cells(run=cut, passed=cut - wrong)


# ---- X47 ----------------------------------------------------------------------------------------------------------------------------


def be_impatient(desk: WireDesk) -> None:
    """Let the executor's connection wait a tenth of a second for a lock, not a minute."""
    with desk.stores.open() as work:
        work.conn.execute("set lock_timeout = '100ms'")


def in_the_way(house: House, order_id: str, seconds: float) -> threading.Thread:
    """Hold an order's row for a while."""
    held = threading.Event()

    def hold() -> None:
        with psycopg.connect(house.url) as conn:
            conn.execute("select from orders where client_order_id = %s for update", (order_id,))
            held.set()
            time.sleep(seconds)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    return thread


@pytest.mark.fault_row("X47")
@pytest.mark.parametrize(("seconds", "gives_up"), [(0.25, False), (4.0, True)])
def test_x47_a_lock_that_is_waited_for_too_long_is_tried_five_times(house: House, seconds: float, cells: Cells, *, gives_up: bool) -> None:
    give_ups = 0
    with open_wire(house.url) as desk:
        order_id = desk.intend()
        be_impatient(desk)
        desk.trading = replace(desk.trading, sleep=time.sleep)
        other = in_the_way(house, order_id, seconds)
        try:
            desk.execute()
        except DatabaseBusyError:
            give_ups += 1
            assert desk.posts() == 0  # the transaction that says it leaves has not committed
        other.join()
        desk.stores.close()
        desk.end_leases()
        desk.step(0, 1, 2)
        assert desk.state(order_id) is S.FILLED
        assert desk.posts() == 1
        judge(desk)
    assert give_ups == gives_up
    cells(run=1, passed=1)


@pytest.mark.fault_row("X47")
def test_x47_of_two_that_lock_each_other_ours_is_run_again_as_a_whole(house: House, cells: Cells) -> None:
    """Another session holds the order and then wants the lease, which our transaction holds while it waits for the order."""
    with open_wire(house.url) as desk:
        order_id = desk.intend()
        desk.trading = replace(desk.trading, sleep=time.sleep)
        whole, deadlocks = desk.trading, deadlocks_of(house)
        lease = f"dispatch:{desk.account}"
        held, done = threading.Event(), threading.Event()

        def cross() -> None:
            with psycopg.connect(house.url) as conn:
                conn.execute("set deadlock_timeout = '20s'")
                conn.execute("select from orders where client_order_id = %s for update", (order_id,))
                held.set()
                until_s = time.monotonic() + 10
                while time.monotonic() < until_s and not waiting(house, order_id):
                    time.sleep(0.01)
                conn.execute("select from leases where name = %s for update", (lease,))
            done.set()

        other = threading.Thread(target=cross)
        other.start()
        assert held.wait(10)
        desk.execute()
        other.join(30)
        assert done.is_set()
        desk.trading = whole
        desk.step(1, 2)
        assert desk.state(order_id) is S.FILLED
        assert desk.posts() == 1
        assert deadlocks_of(house) > deadlocks
        judge(desk)
    cells(run=1, passed=1)


def waiting(house: House, _order_id: str) -> bool:
    """Tell whether somebody waits for a lock."""
    with psycopg.connect(house.url) as conn:
        row = conn.execute("select count(*) from pg_locks where not granted").fetchone()
    return bool(row and row[0])


def deadlocks_of(house: House) -> int:
    """How many deadlocks the server has counted."""
    with psycopg.connect(house.url, autocommit=True) as conn:
        conn.execute("select pg_stat_clear_snapshot()")
        row = conn.execute("select deadlocks from pg_stat_database where datname = 'regime'").fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.fault_row("X47")
def test_x47_with_every_connection_taken_the_executor_has_its_own(house: House, cells: Cells) -> None:
    """Who has a connection keeps it; who has none is told so and sends nothing."""
    with open_wire(house.url) as desk:
        mine, theirs = desk.intend(), WireDesk(house.url, desk.venue, desk.name, "late")
        taken: list[psycopg.Connection] = []
        desk.execute()
        theirs.stores.close()
        with suppress(psycopg.OperationalError):
            while True:
                taken.append(psycopg.connect(house.url))
        try:
            desk.clock.advance(2)
            with pytest.raises(DatabaseError):
                theirs.execute()
            desk.execute()
            desk.advance(2)
            desk.execute()
        finally:
            for conn in taken:
                conn.close()
        assert desk.state(mine) is S.FILLED
        judge(desk)
    cells(run=2, passed=2)


# ---- X48 ----------------------------------------------------------------------------------------------------------------------------

SMALL = 64 * 1024


def hard_stop(desk: WireDesk) -> Switch:
    return Switch(EVERYBODY, Level.HARD_STOP, "manual", "ann", "the disk is full", int(desk.clock.now_s()))


def check_kill(desk: WireDesk, resting: list[str], mirror: MirrorFile) -> None:
    """With the disk full nothing is sent; `regime kill` stops creates by the file and empties the venue by the mirror."""
    brokers = {desk.account: lambda: nullcontext(desk.broker)}
    tools = KillTools(desk.trading.latch, mirror, None, (desk.account,), brokers, monotonic=desk.clock.now_s, sleep=desk.clock.advance)
    report = kill(tools, hard_stop(desk))
    assert desk.trading.latch.read()
    assert report.is_latched
    assert report.venues[0].is_done
    with suppress(DatabaseError):
        deliver_kill(desk.trading, KillProgress(), mirror=mirror)  # the executor goes on by file and mirror
    at_venue = {order["client_id"]: order["status"] for order in desk.venue.truth()["orders"]}
    assert {at_venue[each] for each in resting} == {"CANCELED"}


@pytest.mark.fault_row("X48")
@pytest.mark.parametrize("what", ["data", "wal"])
def test_x48_with_the_disk_full_nothing_is_sent_and_a_kill_cancels(what: str, tmp_path: Path, cells: Cells) -> None:
    with open_home() as home:
        address = ensure_server(home)
        with psycopg.connect(address.url("postgres"), autocommit=True) as admin:
            admin.execute("create database regime")
        with open_connection(address.url("regime")) as conn:
            migrate(conn)
            apply_roles(conn)
        own = House(home, address.url("regime"))
        with open_wire(own.url) as desk:
            desk.trading = replace(desk.trading, latch=LatchFile(tmp_path / "state" / "kill.latch"))
            mirror = MirrorFile(tmp_path / "state" / "mirror.json")
            resting = [desk.resting(), desk.resting(symbol="ETH/USDT", limit_price=D(1_900), qty=D("0.1"))]
            desk.execute()
            assert {desk.state(each) for each in resting} == {S.OPEN}
            refresh_mirror(desk.trading, mirror)
            waiting_id = desk.intend(symbol="SOL/USDT", limit_price=D(90), qty=D("0.1"))
            file_bytes = fill_pages(own, waiting_id) if what == "data" else SMALL
            posts, began_s = desk.posts(), time.monotonic()
            with own.limited(file_bytes):
                for _ in range(3):
                    with pytest.raises(DatabaseError):
                        desk.execute()
                    desk.advance(1)
                assert desk.posts() == posts
                check_kill(desk, resting, mirror)
                assert desk.posts() == posts
            come_back(own)
            forget_padding(own)
            blocked_s = time.monotonic() - began_s
            desk.stores.close()
            desk.end_leases()
            for _ in range(12):
                desk.step(5)
            assert {desk.state(each) for each in resting} == {S.CANCELLED}
            assert desk.state(waiting_id) is S.CANCELLED  # never sent
            assert desk.posts() == posts
            judge(desk)
    print(f"{what} full for {blocked_s:.1f} s")
    cells(run=1, passed=1)


def fill_pages(own: House, order_id: str) -> int:
    """Let the journal of steps end with a full page and the log begin a new segment; the size beyond which no file may grow then.

    The next step of any order needs a new page, as it does on a full disk; a log segment has its space already.
    """
    with psycopg.connect(own.url, autocommit=True) as conn:
        conn.execute("set session_replication_role = replica")
        add = (
            "insert into order_transitions (client_order_id, order_seq, from_state, to_state, evidence, actor, lease_token, row_hash)"
            " select %s, 1000 + n, 'INTENT', 'SUBMITTING', jsonb_build_object('pad', repeat('x', 200)), 'pad', 1, repeat('0', 64)"
            " from generate_series(%s::int, %s::int) as numbers (n)"
        )
        size = "select pg_relation_size('order_transitions')"
        conn.execute(add, (order_id, 1, 8000))
        begins, n, last = [], 8000, conn.execute(size).fetchone()
        while len(begins) < 2:
            n += 1
            conn.execute(add, (order_id, n, n))
            now = conn.execute(size).fetchone()
            if now != last:
                begins.append(n)
                last = now
        conn.execute(add, (order_id, n + 1, n + begins[1] - begins[0] - 1))
        conn.execute("checkpoint")
        conn.execute("select pg_switch_wal()")
        row = conn.execute(size).fetchone()
        assert row is not None
        return int(row[0])


def forget_padding(own: House) -> None:
    """Take the padding out again."""
    with psycopg.connect(own.url, autocommit=True) as conn:
        conn.execute("set session_replication_role = replica")
        conn.execute("delete from order_transitions where actor = 'pad'")


def come_back(own: House) -> None:
    """Bring the server back as whoever has made room does: kill what is left of it, and start it again."""
    with suppress(Exception):
        own.die()
    until_s = time.monotonic() + 30
    while time.monotonic() < until_s:
        try:
            ensure_server(own.home)
            psycopg.connect(own.url).close()
            return
        except (psycopg.OperationalError, DatabaseError):
            time.sleep(0.2)
    raise AssertionError("the server did not come back")


# ---- X49 ----------------------------------------------------------------------------------------------------------------------------

_COPIES = count(1)


@pytest.mark.fault_row("X49")
def test_x49_a_restore_from_last_night_learns_what_the_venue_did_since(house: House, cells: Cells) -> None:
    """Orders sent after the backup are ours by their keys, their trades are booked, and nothing is bought before that is done."""
    with open_wire(house.url) as desk:
        closes = (T0 + 12 * 3600 - 3600 * n for n in count())  # of the strategy's hours: that is what keys are tried with
        eth = {"symbol": "ETH/USDT", "limit_price": D(1_900), "qty": D("0.1")}
        before = [desk.intend(bar_close_s=next(closes)), desk.resting(bar_close_s=next(closes), **eth)]
        desk.step(0, 1)
        assert [desk.state(each) for each in before] == [S.FILLED, S.OPEN]
        desk.stores.close()
        with psycopg.connect(ensure_server(house.home).url("postgres"), autocommit=True) as admin:
            admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'regime'")
        restored_url = copy_database(house.home, "regime", f"backup_{next(_COPIES)}")
        desk.venue.hand.fill(before[1], "0.04")
        since = []
        for write in (desk.intend, desk.intend, desk.resting):
            since.append(write(bar_close_s=next(closes)))
            desk.step(0, 1)
        assert [desk.state(each) for each in since] == [S.FILLED, S.FILLED, S.OPEN]
        posts = desk.posts()
        restored = WireDesk(restored_url, desk.venue, desk.name, "restored")
        restored._numbers = count(500)
        restored.end_leases()
        recovered = recover(restored.trading)
        assert restored.posts() == posts
        assert {str(switch.scope.symbol) for switch in restored.switches()} >= {"BTC/USDT"}
        early = restored.write(restored.an_intent(bar_close_s=next(closes)))[0]
        restored.execute()
        assert restored.posts() == posts  # nothing is bought before the books agree
        for _ in range(8):
            restored.step(30)
            reconcile_full(restored.trading)
        restored.step(90, *LOOKS_S)
        for _ in range(3):
            reconcile_full(restored.trading)
            restored.step(20)
        assert restored.switches() == []
        assert early.outcome is IntentOutcome.BLOCKED or restored.state(early.intent.client_order_id) is S.CANCELLED
        late = restored.intend(bar_close_s=next(closes))
        restored.step(0, 1)
        assert (restored.state(late), restored.posts()) == (S.FILLED, posts + 1)
        states = {each: restored.state(each) for each in [*before, *since]}
        assert [states[each] for each in since[:2]] == [S.FILLED, S.FILLED]
        assert {states[each] for each in (before[1], since[2])} == {S.CANCELLED}
        unexplained = [run for run in restored.select(
            "select status from reconciliation_runs where account = %s and kind = 'full' order by run_id desc limit 1", restored.account
        ) if run[0] != "ok"]  # fmt: skip
        assert unexplained == []
        assert recovered.is_ready
        judge(restored)
        restored.stores.close()
    cells(run=len(before) + len(since), passed=len(states))
