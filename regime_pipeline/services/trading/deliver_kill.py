"""Delivery of a kill level to the venue: level-triggered, repeated by the executor until two listings show nothing to cancel."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from regime_pipeline.errors import DatabaseError
from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.ports import Severity
from regime_pipeline.ports.kill_mirror import KillMirror, MirroredOrder
from regime_pipeline.risk.kill_switch import Level, Switch
from regime_pipeline.services.trading.cancel_round import QUIET_S, ROUND_EVERY_S, CancelRound, KillProgress, cancel_round
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.flatten import find_cause, flatten
from regime_pipeline.services.trading.incidents import close_incident, open_incident
from regime_pipeline.services.trading.kill_levels import adopt_latch
from regime_pipeline.services.trading.kill_mirror import read_mirror

_log = logging.getLogger(__name__)
PARTIAL: Final = "KILL_PARTIAL"
DOUBTFUL: Final = (OrderState.SUBMITTING, OrderState.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a call came to: the worst level in force for the account, what was asked, and whether all is gone."""

    level: Level
    round: CancelRound | None = None
    is_done: bool = False
    is_partial: bool = False
    has_database: bool = True


@dataclass(frozen=True, slots=True)
class _Known:
    switches: tuple[Switch, ...]
    orders: Mapping[str, MirroredOrder]
    in_doubt: Sequence[str]
    symbols: tuple[str, ...]
    has_database: bool


def deliver_kill(
    trading: Trading, progress: KillProgress | None = None, *, mirror: KillMirror | None = None, is_dedicated: bool = True
) -> Delivery:
    """Do one round for the levels in force; costs two short queries while there is none.

    Orders that the table knows are cancelled by the executor's own sweep as well, with their steps; this one asks the venue, so that
    it finds what no row knows, and goes on without a database, from latch and mirror. Once all is gone, positions are sold where
    `TradingTerms.flatten_on` names what caused the hard stop.

    Parameters
    ----------
    progress : KillProgress, optional
        Where the last call left off; keep it between calls. Without it the round stands alone.
    mirror : KillMirror, optional
        What stands in for the tables while the database is down.
    is_dedicated : bool
        Whether a hard stop cancels everything in the account, or our orders alone.
    """
    progress = progress if progress is not None else KillProgress()
    known = _load(trading, mirror)
    level = max((switch.level for switch in known.switches), default=Level.NORMAL)
    now_s = trading.monotonic()
    progress.begin((switch for switch in known.switches if switch.level >= Level.REDUCE_ONLY), now_s)
    if level < Level.REDUCE_ONLY:
        return Delivery(level, is_done=True, has_database=known.has_database)
    if progress.is_done and known.has_database and (cause := find_cause(known.switches, trading.terms.flatten_on)) is not None:
        flatten(trading, cause)
    if not progress.is_due(now_s):
        return Delivery(level, None, progress.is_done, progress.is_partial(now_s), known.has_database)
    done = cancel_round(
        trading.broker, known.switches, known.orders, in_doubt=known.in_doubt, symbols=known.symbols, is_dedicated=is_dedicated
    )
    progress.note(done, now_s)
    if known.has_database:
        _record(trading, progress, done, now_s)
    return Delivery(level, done, progress.is_done, progress.is_partial(now_s), known.has_database)


def deliver_until_done(trading: Trading, patience_s: float, *, mirror: KillMirror | None = None) -> Delivery:
    """Repeat rounds until all is gone or patience ends; for tests and for who has nothing else to do."""
    progress = KillProgress()
    until_s = trading.monotonic() + patience_s
    while True:
        delivery = deliver_kill(trading, progress, mirror=mirror)
        if delivery.is_done or trading.monotonic() >= until_s:
            return delivery
        trading.sleep(QUIET_S if delivery.round is not None and delivery.round.is_quiet else ROUND_EVERY_S)


def _load(trading: Trading, mirror: KillMirror | None) -> _Known:
    account = trading.terms.account
    latched = tuple(switch for switch in trading.latch.read() if switch.scope.account in {None, account})
    try:
        with trading.stores.open() as work:
            adopt_latch(work, latched)
            switches = (*latched, *work.safety.load_switches(account))
            if max((switch.level for switch in switches), default=Level.NORMAL) < Level.REDUCE_ONLY:
                if work.safety.has_notes(account):  # of L1, or of a level that was released meanwhile: nothing is to be cancelled
                    work.safety.close_notes(account)
                return _Known(switches, {}, (), (), has_database=True)
            live = work.orders.load_live(account)
            mirrored = read_mirror(work, trading, live)
            doubtful = [row.client_order_id for row in live if row.state in DOUBTFUL]
    except DatabaseError as error:
        _log.warning("the database did not answer; the kill goes on by latch and mirror: %s", error)
        kept = [each for each in (mirror.load() if mirror is not None else ()) if each.account == account]
        orders = {order.client_order_id: order for each in kept for order in each.orders}
        symbols = tuple(symbol for each in kept for symbol in each.symbols)
        return _Known(latched, orders, tuple(orders), symbols, has_database=False)
    return _Known(switches, {order.client_order_id: order for order in mirrored.orders}, doubtful, mirrored.symbols, has_database=True)


def _record(trading: Trading, progress: KillProgress, done: CancelRound, now_s: float) -> None:
    """Close the KILL notes once all is gone; say so when that takes too long."""
    account = trading.terms.account
    if progress.is_done:
        if not progress.was_told:
            with trading.stores.open() as work:
                work.safety.close_notes(account)
                close_incident(work, PARTIAL, account, "kill")
            progress.was_told = True
    elif progress.is_partial(now_s):
        evidence = {"asked": list(done.asked), "failure": done.failure, "seconds": round(now_s - progress.began_s)}
        with trading.stores.open() as work:
            work.safety.close_notes(account, error=done.failure or f"{len(done.asked)} orders are still open")
            open_incident(work, PARTIAL, Severity.CRITICAL, account, evidence, "kill_level")
