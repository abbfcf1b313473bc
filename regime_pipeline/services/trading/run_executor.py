"""The resident executor of one account: it recovers, then does what is due until it is told to stop.

Each duty has a period. Orders are woken by the database at the commit that makes them; that is for speed, and what is missed is found
by the clock. A database that goes away ends nothing: nothing is sent without a fresh commit, a kill goes on from latch and mirror, and
the way back leads through a recovery.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event
from typing import Final

from regime_pipeline.errors import DatabaseError, JournalIntegrityError, KillSwitchActiveError, LeaseLostError, RegimeError
from regime_pipeline.ports import OrderListener, TradingBeat
from regime_pipeline.ports.kill_mirror import KillMirror
from regime_pipeline.risk.kill_switch import Level, Trigger
from regime_pipeline.services.trading.act_on_turn import act_on_turn, watch_clock
from regime_pipeline.services.trading.cancel_round import KillProgress
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.deliver_kill import deliver_kill
from regime_pipeline.services.trading.execute_pending import execute_pending
from regime_pipeline.services.trading.guard_stops import STOPS_EVERY_S, guard_stops
from regime_pipeline.services.trading.kill_levels import raise_level
from regime_pipeline.services.trading.kill_mirror import MIRROR_EVERY_S, refresh_mirror
from regime_pipeline.services.trading.read_markets import MARKETS_EVERY_S, read_markets
from regime_pipeline.services.trading.reconcile import (
    FULL_EVERY_S,
    ORDERS_EVERY_S,
    SECOND_AFTER_S,
    ReconSummary,
    reconcile_full,
    reconcile_orders,
)
from regime_pipeline.services.trading.recover import SelfTest, recover
from regime_pipeline.services.trading.watch_executor import PROCESS
from regime_pipeline.services.trading.watch_protections import WATCH_EVERY_S, watch_protections

BEAT_EVERY_S: Final = 15
TURN_EVERY_S: Final = 1
"""Between two turns while something is due; a commit that makes something due wakes earlier."""
SWEEP_EVERY_S: Final = 15
CLOCK_EVERY_S: Final = 30
KILL_EVERY_S: Final = 1
BACKOFF_S: Final = (1, 2, 4, 8, 15)
AGAIN_S: Final = 15
"""From a recovery that failed at a step to the next."""
MAX_SECONDS: Final = 3
"""So many second readings follow each other closely; after that a difference that will not settle is looked at each minute."""
Tell = Callable[[str, Mapping[str, object]], None]


@dataclass(frozen=True, slots=True)
class Helpers:
    """What an executor is given besides the order path: how it is woken, where a kill's mirror is kept, what tests the installation."""

    listener: OrderListener
    mirror: KillMirror | None = None
    self_test: SelfTest | None = None
    tell: Tell = lambda _event, _facts: None


def run_executor(trading: Trading, stopped: Event, helpers: Helpers) -> str:
    """Run until told to stop, or until L4 ends the process; returns why it ended.

    Parameters
    ----------
    stopped : Event
        Set by whoever wants it to end; the duty under way is finished first.
    """
    executor = _Executor(trading, helpers, stopped)
    while not stopped.is_set() and not executor.ended:
        try:
            executor.take_turn()
        except DatabaseError as error:
            executor.bear_outage(error)
    return executor.finish()


@dataclass(slots=True)
class _Duty:
    """Something that is done again and again; `due_s` on the monotonic clock."""

    every_s: float
    run: Callable[[], None]
    due_s: float = 0.0


@dataclass(slots=True)
class _Executor:
    """The loop's memory and its duties, in the order they are done when several are due."""

    trading: Trading
    helpers: Helpers
    stopped: Event
    duties: dict[str, _Duty] = field(default_factory=dict)
    recover_at_s: float | None = 0.0  # None: recovered
    failures: int = 0
    last_error: str = ""
    ended: str = ""
    n_within: int = 0
    n_seconds: int = 0
    kill: KillProgress = field(default_factory=KillProgress)

    def __post_init__(self) -> None:
        """List the duties."""
        self.duties = {
            "beat": _Duty(BEAT_EVERY_S, self._beat),
            "kill": _Duty(KILL_EVERY_S, self._deliver_kill),
            "turn": _Duty(TURN_EVERY_S, self._take_orders),
            "stops": _Duty(STOPS_EVERY_S, self._guard_stops),
            "protections": _Duty(WATCH_EVERY_S, self._watch_protections),
            "clock": _Duty(CLOCK_EVERY_S, self._watch_clock),
            "orders": _Duty(ORDERS_EVERY_S, self._compare_orders),
            "full": _Duty(FULL_EVERY_S, self._compare_all),
            "mirror": _Duty(MIRROR_EVERY_S, self._refresh_mirror),
            "markets": _Duty(MARKETS_EVERY_S, self._read_markets, self.trading.monotonic() + MARKETS_EVERY_S),  # recovery reads them
        }

    def take_turn(self) -> None:
        """Recover if that is due, do every duty that is due, and wait for the next or for news."""
        if self.recover_at_s is not None and self.trading.monotonic() >= self.recover_at_s:
            self._listen(0)  # before anything is looked at: what is told from now on is not missed
            self.duties["turn"].due_s = 0.0
            self._guarded("beat", self._beat)  # a recovery may take a minute: nobody is to stand in or to page meanwhile
            self._guarded("recovery", self._recover)
        for name, duty in self.duties.items():
            if self.ended or self.stopped.is_set():
                return
            now_s = self.trading.monotonic()
            if now_s >= duty.due_s:
                duty.due_s = now_s + duty.every_s  # before it runs: a duty may set its own next time
                self._guarded(name, duty.run)
        self.failures = 0
        if not self.ended:
            self._wait()

    def bear_outage(self, error: DatabaseError) -> None:
        """Wait for the database, longer each time, while a kill goes on without it; then recover."""
        self.failures += 1
        self.recover_at_s, self.last_error = 0.0, str(error)
        self.helpers.tell("outage", {"why": str(error), "n": self.failures})
        until_s = self.trading.monotonic() + BACKOFF_S[min(self.failures, len(BACKOFF_S)) - 1]
        while not self.stopped.is_set() and self.trading.monotonic() < until_s:
            if self.trading.latch.read():
                with suppress(RegimeError):
                    deliver_kill(self.trading, self.kill, mirror=self.helpers.mirror)
            self.trading.sleep(min(KILL_EVERY_S, max(0.0, until_s - self.trading.monotonic())))

    def finish(self) -> str:
        """Say goodbye."""
        why = self.ended or "told to stop"
        with suppress(DatabaseError):
            self._beat(state="ended", why=why)
        self.helpers.tell("ended", {"why": why})
        return why

    def _guarded(self, name: str, run: Callable[[], None]) -> None:
        """Do one thing; what it is refused is told and stops no other, a lost lease asks for a recovery, a broken journal ends it all."""
        try:
            run()
        except DatabaseError:
            raise
        except LeaseLostError as error:
            self._note(name, error)
            self.recover_at_s = self.trading.monotonic()
        except KillSwitchActiveError as error:
            self._note(name, error)
            self.ended = str(error)
        except JournalIntegrityError as error:
            self._note(name, error)
            with self.trading.stores.open() as work:
                raise_level(work, self.trading, Trigger.JOURNAL_BROKEN, str(error))
            self.ended = str(error)
        except RegimeError as error:
            self._note(name, error)

    def _note(self, name: str, error: RegimeError) -> None:
        self.last_error = f"{name}: {error}"
        self.helpers.tell("failed", {"duty": name, "error": type(error).__name__, "why": str(error)})

    def _wait(self) -> None:
        due_s = min(duty.due_s for duty in self.duties.values())
        timeout_s = min(max(due_s - self.trading.monotonic(), 0.0), TURN_EVERY_S)  # no longer: SIGTERM is heard in between
        self._listen(timeout_s)

    def _listen(self, timeout_s: float) -> None:
        if self.helpers.listener.wait(timeout_s):
            self.duties["turn"].due_s = 0.0
            self.duties["kill"].due_s = 0.0

    def _recover(self) -> None:
        done = recover(self.trading, self.helpers.self_test)
        self.recover_at_s = None if done.is_ready else self.trading.monotonic() + AGAIN_S
        facts = {"took_ms": done.took_ms, "steps_ms": done.steps_ms, "failed": done.failed, "why": done.why}
        self.helpers.tell("ready" if done.is_ready else "not_ready", facts)
        if done.is_ready:  # the recovery has just compared everything
            now_s = self.trading.monotonic()
            self.duties["orders"].due_s, self.duties["full"].due_s = now_s + ORDERS_EVERY_S, now_s + FULL_EVERY_S

    def _take_orders(self) -> None:
        summary = execute_pending(self.trading)
        act_on_turn(self.trading, summary)
        if summary.has_lease and summary.next_due_ms is None:
            self.duties["turn"].due_s = self.trading.monotonic() + SWEEP_EVERY_S
        if "measure_clock" in summary.wants:
            self.duties["clock"].due_s = 0.0
        if "check_balances" in summary.wants:
            self.duties["full"].due_s = 0.0
        if summary.steps or summary.failed:
            self.helpers.tell("turn", {"steps": summary.steps, "sent": summary.sent, "failed": list(summary.failed)})

    def _guard_stops(self) -> None:
        summary = guard_stops(self.trading)
        if summary.raised:
            self.duties["turn"].due_s = 0.0
            self.helpers.tell("stop", {"raised": summary.raised})

    def _compare_orders(self) -> None:
        self._tell_pass(reconcile_orders(self.trading))

    def _compare_all(self) -> None:
        summary = reconcile_full(self.trading)
        self.n_seconds = self.n_seconds + 1 if summary.needs_second else 0
        if summary.needs_second:
            wait_s = SECOND_AFTER_S if self.n_seconds <= MAX_SECONDS else ORDERS_EVERY_S
            self.duties["full"].due_s = self.trading.monotonic() + wait_s
        self._tell_pass(summary)

    def _tell_pass(self, summary: ReconSummary) -> None:
        if not summary.is_clean or summary.raised or summary.lifted:
            found = [[each.check, each.scope, each.tier, each.action] for each in summary.run.findings]
            unknown = summary.run.detail.get("unknown", [])
            self.helpers.tell(
                "pass", {"kind": summary.run.kind.value, "status": summary.run.status.value, "found": found, "unknown": unknown}
            )

    def _watch_clock(self) -> None:
        self.n_within = watch_clock(self.trading, self.n_within)

    def _deliver_kill(self) -> None:
        delivery = deliver_kill(self.trading, self.kill, mirror=self.helpers.mirror)
        if delivery.level is Level.PROCESS_STOP:
            self.ended = "the account is at L4; find out why, then `regime release`"

    def _watch_protections(self) -> None:
        watch_protections(self.trading)

    def _refresh_mirror(self) -> None:
        if self.helpers.mirror is None:
            return
        try:
            refresh_mirror(self.trading, self.helpers.mirror)
        except OSError as error:  # a full disk: the mirror grows old, orders go on
            self.last_error = f"mirror: {error}"
            self.helpers.tell("failed", {"duty": "mirror", "error": type(error).__name__, "why": str(error)})

    def _read_markets(self) -> None:
        read_markets(self.trading)

    def _beat(self, **facts: object) -> None:
        detail = {
            "offset_ms": self.trading.clock.offset_ms,
            "is_ready": self.recover_at_s is None,
            "last_error": self.last_error[:500],
            # what a tick without keys must know of them; judged again here before anything leaves
            "key_fingerprint": self.trading.terms.key_fingerprint,
            "acknowledged_account": self.trading.terms.acknowledged_account,
            **facts,
        }
        at_ms = round(1000 * self.trading.clock.clock().timestamp())
        with self.trading.stores.open() as work:
            work.recon.beat(TradingBeat(PROCESS, self.trading.terms.account, at_ms, os.getpid(), detail))
