"""Raising the kill switch by hand, with nothing but a file to rely on; how levels come down is in `kill_levels`.

The order is fixed: the file, which every executor reads before every create; the table, if it answers in 2 s; cancels straight at the
venue, by what the executor mirrored last; then the report.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from threading import Thread
from time import sleep as wait
from typing import Final

from regime_pipeline.clock import monotonic_s
from regime_pipeline.ports import Broker, Stores
from regime_pipeline.ports.kill_mirror import KillMirror, MirroredAccount
from regime_pipeline.risk.kill_switch import Level, Switch
from regime_pipeline.services.trading.cancel_round import PARTIAL_S, QUIET_S, ROUND_EVERY_S, KillProgress, cancel_round
from regime_pipeline.services.trading.context import Latch
from regime_pipeline.services.trading.kill_levels import Release, add_level, clear_latch, lift_level, raise_level, release, write_raise

TABLE_S: Final = 2.0
OpenBroker = Callable[[], AbstractContextManager[Broker]]


@dataclass(frozen=True, slots=True)
class VenueReport:
    """What became of an account's orders at its venue.

    Parameters
    ----------
    asked : int
        Cancels requested, repetitions included.
    is_done : bool
        Whether two listings 2 s apart showed nothing more to cancel.
    problem : str
        Why not; empty when done.
    mirror_age_s : int or None
        Age of what the executor last wrote down; None where it never did.
    """

    account: str
    asked: int
    is_done: bool
    problem: str
    mirror_age_s: int | None


@dataclass(frozen=True, slots=True)
class KillReport:
    """What a kill came to; an empty problem is a success."""

    switch: Switch
    file_problem: str
    table_problem: str
    venues: tuple[VenueReport, ...] = ()
    seconds: float = 0.0

    @property
    def is_latched(self) -> bool:
        """Tell whether at least one of file and table has it, which is what stops creates."""
        return not (self.file_problem and self.table_problem)

    @property
    def is_complete(self) -> bool:
        """Tell whether every part succeeded."""
        return not (self.file_problem or self.table_problem) and all(venue.is_done for venue in self.venues)


@dataclass(frozen=True, slots=True)
class KillTools:
    """What a kill may use; every part may fail without keeping the others from theirs.

    Parameters
    ----------
    latch, mirror : Latch, KillMirror
        The files.
    open_stores : callable or None
        Opens the database without starting a server; None: there is none to ask.
    accounts : tuple of str
        Whose executors are told of a level that is for everybody.
    brokers : mapping of str to callable
        By account: opens its venue with the kill key.
    patience_s : float
        How long cancels are repeated before the report says partial.
    """

    latch: Latch
    mirror: KillMirror
    open_stores: Callable[[], Stores] | None
    accounts: tuple[str, ...] = ()
    brokers: Mapping[str, OpenBroker] = field(default_factory=dict)
    is_dedicated: bool = True
    patience_s: float = PARTIAL_S
    monotonic: Callable[[], float] = monotonic_s
    sleep: Callable[[float], None] = wait


def kill(tools: KillTools, wanted: Switch) -> KillReport:
    """Raise a level by hand; needs neither Dagster nor the database.

    Parameters
    ----------
    wanted : Switch
        Level, scope, person and reason; its source is `manual`.

    Returns
    -------
    KillReport
        Never raises for a part that fails: what failed is in it.
    """
    began_s = tools.monotonic()
    file_problem = _write_file(tools.latch, wanted)
    table_problem = _write_table(tools, wanted)
    kept = {account.account: account for account in tools.mirror.load()}
    scoped = {name: open_ for name, open_ in tools.brokers.items() if wanted.scope.account in {None, name}}
    venues = () if wanted.level < Level.REDUCE_ONLY else tuple(_empty_venue(tools, n, o, kept.get(n), wanted) for n, o in scoped.items())
    return KillReport(wanted, file_problem, table_problem, venues, tools.monotonic() - began_s)


def _write_file(latch: Latch, wanted: Switch) -> str:
    try:
        latch.change(lambda levels: add_level(levels, wanted))
    except OSError as error:
        return f"the latch could not be written: {error}"
    return ""


def _write_table(tools: KillTools, wanted: Switch) -> str:
    """Write the level into the table in a thread of its own, so that a server that hangs costs 2 s and no more."""
    if tools.open_stores is None:
        return "the database is not running"
    open_stores, outcome = tools.open_stores, ["no answer within 2 s"]

    def write() -> None:
        try:
            with open_stores().open() as work:
                write_raise(work, wanted, tools.accounts)
        except Exception as error:  # noqa: BLE001 - whatever the database does, the cancels must go out
            outcome[0] = str(error)
        else:
            outcome[0] = ""

    thread = Thread(target=write, name="kill-table", daemon=True)
    thread.start()
    thread.join(TABLE_S)
    return outcome[0]


def _empty_venue(tools: KillTools, account: str, open_broker: OpenBroker, kept: MirroredAccount | None, wanted: Switch) -> VenueReport:
    progress = KillProgress()
    began_s = tools.monotonic()
    age_s = None if kept is None else max(wanted.at_s - kept.at_s, 0)
    orders = {order.client_order_id: order for order in kept.orders} if kept is not None else {}
    switches = _all_levels(tools.latch, wanted)
    progress.begin(switches, began_s)
    try:
        with open_broker() as broker:
            while True:
                done = cancel_round(
                    broker,
                    switches,
                    orders,
                    in_doubt=tuple(orders) if progress.n_asked == 0 else (),
                    symbols=kept.symbols if kept is not None else (),
                    is_dedicated=tools.is_dedicated,
                )
                now_s = tools.monotonic()
                progress.note(done, now_s)
                if progress.is_done:
                    return VenueReport(account, progress.n_asked, is_done=True, problem="", mirror_age_s=age_s)
                if now_s - began_s >= tools.patience_s:
                    problem = done.failure or f"{len(done.asked)} orders are still open"
                    return VenueReport(account, progress.n_asked, is_done=False, problem=problem, mirror_age_s=age_s)
                tools.sleep(QUIET_S if done.is_quiet else ROUND_EVERY_S)
    except Exception as error:  # noqa: BLE001 - whatever one venue does, the others are emptied and the report is given
        return VenueReport(account, progress.n_asked, is_done=False, problem=str(error), mirror_age_s=age_s)


def _all_levels(latch: Latch, wanted: Switch) -> Sequence[Switch]:
    return (*latch.read(), wanted)


__all__ = [
    "KillReport",
    "KillTools",
    "Release",
    "VenueReport",
    "clear_latch",
    "kill",
    "lift_level",
    "raise_level",
    "release",
]
