"""What follows from a turn of the executor besides orders: kill levels that its triggers raise, and the clock."""

from typing import Final

from regime_pipeline.ports import Failed
from regime_pipeline.risk.kill_switch import Scope, Trigger
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.cycle import ExecutionSummary
from regime_pipeline.services.trading.kill_levels import lift_level, raise_level

_REASONS: Final = {
    Trigger.UNKNOWN_ORDER: "an order has been UNKNOWN for more than five minutes",
    Trigger.CANCEL_FAILURES: "a cancel was asked for eight times in a row in vain",
    Trigger.LEDGER_IMBALANCE: "a batch of the ledger did not sum to zero",
}
CLEAN_PROBES: Final = 2


def act_on_turn(trading: Trading, summary: ExecutionSummary) -> None:
    """Raise the levels that a turn asked for; whoever calls `execute_pending` calls this with what it returned."""
    if not summary.triggers:
        return
    with trading.stores.open() as work:
        for trigger in sorted(summary.triggers):
            raise_level(work, trading, trigger, _REASONS.get(trigger, trigger.value))


def measure_offset(trading: Trading) -> int | None:
    """Ask the venue for its time and correct our clock by it; None when it did not answer, and then the old correction stays."""
    before_ms = round(1000 * trading.clock.clock().timestamp())
    read = trading.broker.fetch_time_ms()
    if isinstance(read, Failed):
        return None
    after_ms = round(1000 * trading.clock.clock().timestamp())
    trading.clock.offset_ms = read.value - (before_ms + after_ms) // 2
    return trading.clock.offset_ms


def watch_clock(trading: Trading, n_within: int) -> int:
    """Measure the offset; beyond the limit entries stop, and open again after two probes within it.

    Parameters
    ----------
    n_within : int
        Probes in a row that were within the limit; the new number is returned. A probe without an answer changes nothing.
    """
    offset_ms, limit_ms = measure_offset(trading), trading.limits.clock_offset_max_ms
    if offset_ms is None:
        return n_within
    if abs(offset_ms) > limit_ms:
        with trading.stores.open() as work:
            raise_level(work, trading, Trigger.CLOCK, f"our clock is {offset_ms} ms off the venue's, limit {limit_ms}")
        return 0
    if n_within + 1 == CLEAN_PROBES:
        with trading.stores.open() as work:
            lift_level(work, trading, Trigger.CLOCK, f"two probes within {limit_ms} ms", scope=Scope(trading.terms.account))
    return n_within + 1
