"""On paper nobody need run an executor: whoever looks next does what is due. With keys at stake only the executor itself may.

Leases see to it that an executor which comes back, or a second one who stands in, does no harm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from regime_pipeline.ports import PassKind, ReconRun, TradingBeat, Work
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.kill_switch import Switch, Trigger
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.guard_stops import guard_stops
from regime_pipeline.services.trading.open_account import open_account
from regime_pipeline.services.trading.reconcile import ORDERS_EVERY_S, reconcile_full, reconcile_orders
from regime_pipeline.services.trading.recover import recover
from regime_pipeline.services.trading.run_pm_tick import execute_and_act

FRESH_S: Final = 60
"""An executor beats every 15 seconds; one that has not for a minute is not there."""
FULL_AFTER_S: Final = 200
"""Entries need a full pass of at most 300 seconds; whoever looks every few seconds is in time with this."""
MARKETS_AFTER_S: Final = 86_400
"""Recovery reads the markets; on paper they change with the price only."""


@dataclass(frozen=True, slots=True)
class StandIn:
    """What was done for the executor that is not there: a recovery, orders moved and sent, stops raised, passes made."""

    recovered: bool
    sent: int
    steps: int
    stops: int
    passes: tuple[str, ...]

    @property
    def did_something(self) -> bool:
        """Tell whether anything was due but a look."""
        return self.recovered or bool(self.sent or self.steps or self.stops)


def stand_in(trading: Trading) -> StandIn | None:
    """Do what the executor of a paper account would do now; None where it does so itself, or where the account is no paper one."""
    account, now_ms = trading.terms.account, trading.clock.now_ms()
    with trading.stores.open() as work:
        if not is_needed(trading.terms.mode, work.recon.load_beats(), account, now_ms):
            return None
        must_recover = needs_recovery(load_newest(work, account, PassKind.STARTUP), work.safety.load_switches(account), now_ms)
    open_account(trading)
    if must_recover:
        recover(trading)
    done = execute_and_act(trading)
    stops = guard_stops(trading)
    if stops.raised:
        execute_and_act(trading)
    sent, steps = (done.sent, sum(done.steps.values())) if done is not None else (0, 0)
    return StandIn(must_recover, sent, steps, len(stops.raised), tuple(_compare(trading, now_ms)))


def is_needed(mode: Mode, beats: Sequence[TradingBeat], account: str, now_ms: int) -> bool:
    """Tell whether somebody has to stand in: on paper, while no executor of the account has beaten lately."""
    newest_ms = max((beat.at_ms for beat in beats if beat.account == account and beat.process == "executor"), default=0)
    return mode is Mode.PAPER and now_ms - newest_ms > 1000 * FRESH_S


def needs_recovery(newest: ReconRun | None, switches: Sequence[Switch], now_ms: int) -> bool:
    """Tell whether an account must be recovered before anything: never was, broke off in the middle, or was a day ago."""
    if newest is None or now_ms - newest.ended_ms > 1000 * MARKETS_AFTER_S:
        return True
    return any(switch.source == Trigger.RECOVERY for switch in switches)


def load_newest(work: Work, account: str, *kinds: PassKind) -> ReconRun | None:
    """Load the newest pass of some kinds."""
    found = [run for kind in kinds for run in work.recon.load_runs(account, kind, 1)]
    return max(found, key=lambda run: run.ended_ms, default=None)


def _compare(trading: Trading, now_ms: int) -> list[str]:
    """Make the passes that are due, the longer one instead of the shorter."""
    account = trading.terms.account
    with trading.stores.open() as work:
        full = load_newest(work, account, PassKind.FULL, PassKind.STARTUP)
        orders = load_newest(work, account, PassKind.ORDERS)
    if full is None or now_ms - full.ended_ms > 1000 * FULL_AFTER_S:
        return [f"full: {reconcile_full(trading).run.status}"]
    newest_ms = max(full.ended_ms, orders.ended_ms if orders is not None else 0)
    return [f"orders: {reconcile_orders(trading).run.status}"] if now_ms - newest_ms > 1000 * ORDERS_EVERY_S else []
