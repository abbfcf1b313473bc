"""Start-up and recovery are one path: thirteen steps that may be repeated, also when the process is killed inside one.

From the first step until the last, entries of the account are off; a step that fails leaves it so, exits and stops go on, and the
executor tries again. What takes longer than three minutes makes the account reduce-only until a person says otherwise.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from regime_pipeline.errors import (
    ClockOffsetError,
    DatabaseError,
    JournalIntegrityError,
    KillSwitchActiveError,
    LeaseLostError,
    ReconciliationError,
    RegimeError,
    VenueReadError,
)
from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import BarTable, PassKind, PassStatus, ReconRun, Severity
from regime_pipeline.risk.kill_switch import Level, Scope, Trigger, worst_level
from regime_pipeline.services.trading.act_on_turn import act_on_turn, measure_offset
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.execute_pending import execute_pending
from regime_pipeline.services.trading.guard_stops import demand_safe_stops, guard_stops
from regime_pipeline.services.trading.incidents import close_incident, open_incident
from regime_pipeline.services.trading.kill_levels import adopt_latch, lift_level, load_levels, raise_level
from regime_pipeline.services.trading.load_guarded import load_guarded
from regime_pipeline.services.trading.read_markets import read_markets
from regime_pipeline.services.trading.recon_verdict import OrderVerdict
from regime_pipeline.services.trading.reconcile import SECOND_AFTER_S, ReconSummary, ingest_fills, reconcile_full, reconcile_orders

PATIENCE_S: Final = 180
LEASE_PATIENCE_S: Final = 20
DOUBT_PATIENCE_S: Final = 30
"""So long unclear orders are waited for; what is still UNKNOWN then blocks its symbol and goes on in the background."""
READ_WAITS_S: Final = (1, 2, 4, 8)
INCIDENT: Final = "RECOVERY_FAILED"
SelfTest = Callable[[], None]
"""Raises a `RegimeError` when this installation must not trade: wrong driver, old schema, a scheduler that runs nothing."""


@dataclass(slots=True)
class Recovery:
    """How far a recovery came: milliseconds by step, the step that failed and why, and notes for people."""

    steps_ms: dict[str, int] = field(default_factory=dict)
    failed: str | None = None
    why: str = ""
    notes: dict[str, object] = field(default_factory=dict)
    took_ms: int = 0
    last_pass: ReconSummary | None = None
    ingested: OrderVerdict | None = None

    @property
    def is_ready(self) -> bool:
        """Tell whether entries may be sent again, as far as recovery is concerned."""
        return self.failed is None


Step = Callable[[Trading, Recovery], None]


def recover(trading: Trading, self_test: SelfTest | None = None) -> Recovery:
    """Bring an account from whatever state it was left in to one that is known, and allow entries again.

    Parameters
    ----------
    self_test : callable, optional
        What the composition root can check of the installation.

    Returns
    -------
    Recovery
        Also written as a pass of kind startup, with the milliseconds of each step.

    Raises
    ------
    DatabaseError
        When the database goes away: nothing can be sent without it; recover again when it is back.
    KillSwitchActiveError
        At L4: the process ends.
    """
    began_ms, began_s = trading.clock.now_ms(), trading.monotonic()
    done = Recovery()
    with trading.stores.open() as work:
        raise_level(work, trading, Trigger.RECOVERY, "recovery runs: entries wait for it")
    for name, step in _steps(self_test):
        trading.at("recovery_step")
        step_began_s = trading.monotonic()
        try:
            step(trading, done)
        except (DatabaseError, KillSwitchActiveError):
            raise
        except RegimeError as error:
            done.failed, done.why = name, str(error)
        done.steps_ms[name] = round(1000 * (trading.monotonic() - step_began_s))
        _watch_time(trading, trading.monotonic() - began_s)
        if done.failed is not None:
            break
    done.took_ms = round(1000 * (trading.monotonic() - began_s))
    _conclude(trading, done, began_ms)
    return done


def _steps(self_test: SelfTest | None) -> list[tuple[str, Step]]:
    def check_installation(trading: Trading, _done: Recovery) -> None:
        _test_database(trading)
        if self_test is not None:
            self_test()

    return [
        ("self_test", check_installation),
        ("latch_and_arm", _read_latch),
        ("lease", _take_lease),
        ("markets", _read_markets),
        ("never_sent", _run_executor),
        ("unclear_orders", _resolve),
        ("trades", _ingest_trades),
        ("open_orders", _compare_orders),
        ("time_to_live", _run_executor),
        ("stops", _check_stops),
        ("positions", _compare_positions),
        ("data", _check_data),
    ]


def _test_database(trading: Trading) -> None:
    """1: a commit is a promise, and our clock is near the venue's."""
    with trading.stores.open() as work:
        settings = work.recon.load_durability()
    weak = {name: value for name, value in settings.items() if value not in {"on", "remote_apply", "remote_write", "local"}}
    if weak:
        raise JournalIntegrityError(f"the server runs with {weak}, all must be on: a crash would forget orders; set them and restart it")
    offset_ms = _measure_clock(trading)
    if abs(offset_ms) > trading.limits.clock_offset_max_ms:
        limit = trading.limits.clock_offset_max_ms
        raise ClockOffsetError(f"our clock was {offset_ms} ms off the venue's, at most {limit} are allowed; synchronise this machine")


def _measure_clock(trading: Trading) -> int:
    for wait_s in READ_WAITS_S:
        offset_ms = measure_offset(trading)
        if offset_ms is not None:
            return offset_ms
        trading.sleep(wait_s)
    raise VenueReadError(f"the venue's clock could not be read {len(READ_WAITS_S)} times; entries stay off, it is tried again")


def _read_latch(trading: Trading, done: Recovery) -> None:
    """2: levels of table and file, each written where only the other had it; at L4 nobody starts."""
    account = trading.terms.account
    with trading.stores.open() as work:
        adopt_latch(work, trading.latch.read())
        levels = load_levels(work, trading.latch, account)
    level = worst_level(levels, account, "", "")
    done.notes["level"] = level.name
    if level is Level.PROCESS_STOP:
        raise KillSwitchActiveError(f"{account} is at L4: the executor does not start; find out why, then `regime release`")


def _take_lease(trading: Trading, _done: Recovery) -> None:
    """3: nobody else acts on the account, or his lease has run out."""
    name, until_s = f"dispatch:{trading.terms.account}", trading.monotonic() + LEASE_PATIENCE_S
    while True:
        with trading.stores.open() as work:
            lease = work.orders.acquire_lease(name, trading.terms.holder)
            if lease is not None:
                work.orders.release_lease(lease)  # each turn of the executor takes its own
                return
        if trading.monotonic() >= until_s:
            raise LeaseLostError(f"lease {name} was held by somebody else for {LEASE_PATIENCE_S} s; end the other executor of the account")
        trading.sleep(1)


def _read_markets(trading: Trading, done: Recovery) -> None:
    """4: grids, minimums and fees."""
    done.notes["markets"] = read_markets(trading)


def _run_executor(trading: Trading, _done: Recovery) -> None:
    """5 and 9: what was never sent in time never will be, and what has rested too long is cancelled."""
    act_on_turn(trading, execute_pending(trading))


def _resolve(trading: Trading, done: Recovery) -> None:
    """6: orders of which nobody knows whether they exist go through the ladder."""
    doubtful = {OrderState.SUBMITTING, OrderState.UNKNOWN, OrderState.CANCEL_REQUESTED}
    until_s = trading.monotonic() + DOUBT_PATIENCE_S
    while True:
        act_on_turn(trading, execute_pending(trading))
        with trading.stores.open() as work:
            left = [order for order in work.orders.load_live(trading.terms.account) if order.state in doubtful]
        if not left or trading.monotonic() >= until_s:
            done.notes["unclear"] = [order.client_order_id for order in left]
            return
        trading.sleep(1)


def _ingest_trades(trading: Trading, done: Recovery) -> None:
    """7: every trade since the newest one known, less an hour."""
    verdict = ingest_fills(trading)
    if verdict.unknown:
        raise VenueReadError(f"trades could not be read: {'; '.join(verdict.unknown)}; entries stay off")
    done.ingested, done.notes["fills"] = verdict, verdict.n_fills


def _compare_orders(trading: Trading, done: Recovery) -> None:
    """8: open orders by our rows and by the venue, both ways."""
    _demand_read(reconcile_orders(trading, done.ingested))


def _check_stops(trading: Trading, done: Recovery) -> None:
    """10: every position is under its stop."""
    summary = guard_stops(trading)
    done.notes["stops"] = {"looked": summary.looked, "raised": len(summary.raised), "blind": summary.blind}
    done.notes["brackets"] = {str(number): state.value for number, state in summary.states.items()}
    demand_safe_stops(trading)


def _compare_positions(trading: Trading, done: Recovery) -> None:
    """11: positions and balances; what differs is read a second time before it counts, and what agrees has confirmed itself."""
    done.last_pass = reconcile_full(trading, with_fills=False)
    if done.last_pass.needs_second:
        trading.sleep(SECOND_AFTER_S)
        done.last_pass = reconcile_full(trading)
    _demand_read(done.last_pass)


def _check_data(trading: Trading, done: Recovery) -> None:
    """12: how old the minutes of what is held are; old ones are refused by the gate and repaired by the pipeline, not here."""
    with trading.stores.open() as work:
        series = {f"token:{each.position.contract}:{each.position.chain}" for each in load_guarded(work, trading)}
        newest = work.bars.load_newest(BarTable.TOKENS, Timeframe.M1, series) if series else {}
    now_s = trading.clock.now_s()
    done.notes["bar_age_s"] = {name: now_s - newest[name] if name in newest else None for name in sorted(series)}


def _demand_read(summary: ReconSummary) -> None:
    if summary.run.status is PassStatus.UNKNOWN:
        why = "; ".join(map(str, summary.run.detail.get("unknown", ())))
        raise ReconciliationError(f"the account could not be compared with the venue: {why}; entries stay off, it is tried again")


def _watch_time(trading: Trading, elapsed_s: float) -> None:
    if elapsed_s > PATIENCE_S:
        with trading.stores.open() as work:
            reason = f"recovery took more than {PATIENCE_S} s"
            raise_level(work, trading, Trigger.RECOVERY, reason, level=Level.REDUCE_ONLY)


def _conclude(trading: Trading, done: Recovery, began_ms: int) -> None:
    """13: the journal says READY and entries are allowed, or says what failed; in one transaction."""
    account = trading.terms.account
    detail: Mapping[str, object] = {
        "steps_ms": done.steps_ms,
        "says": f"READY in {done.took_ms} ms" if done.is_ready else f"failed at {done.failed}: {done.why}",
        "client": trading.broker.traits.client,
        **done.notes,
    }
    status = PassStatus.UNKNOWN if done.last_pass is None or not done.is_ready else done.last_pass.run.status
    with trading.stores.open() as work:
        work.recon.add_run(ReconRun(account, PassKind.STARTUP, status, began_ms, trading.clock.now_ms(), detail=detail))
        if not done.is_ready:
            open_incident(work, INCIDENT, Severity.CRITICAL, account, {"step": done.failed, "why": done.why}, "recovery-failed")
            return
        close_incident(work, INCIDENT, account, "recovery")
        own = [s for s in work.safety.load_switches(account) if s.source == Trigger.RECOVERY and s.scope == Scope(account)]
        if not any(switch.is_latched for switch in own):
            lift_level(work, trading, Trigger.RECOVERY, "recovered")
