"""Until when a decision may start, be sent and rest, and when a cancel or a poll is due.

Instants of the order path are whole milliseconds since the epoch, UTC, because venues stamp requests so; bar closes stay in seconds.
"""

from typing import Final

from regime_pipeline.risk.limits import RiskSettings
from regime_pipeline.risk.purpose import Purpose

SWEEP_EVERY_MS: Final = 15_000
SWEEP_GRACE_MS: Final = 30_000  # no live order is older than its time to live plus this
OUTSIDE_TICK_MS: Final = 60_000  # life of an order born outside a tick: a resized stop, a flatten
CANCEL_WAITS_MS: Final = (1_000, 2_000, 4_000, 8_000, 15_000, 30_000)
CANCEL_INCIDENT_MS: Final = 60_000
IOC_POLL_MS: Final = 1_000
LIMIT_POLL_MS: Final = 2_000
POLL_FOR_MS: Final = 15_000


def compute_start_by_ms(bar_close_s: int, bar_s: int, limits: RiskSettings) -> int:
    """Latest start of a run for a bar: a quarter of the bar after its close, within the configured clamp."""
    return 1000 * bar_close_s + min(max(250 * bar_s, 1000 * limits.start_by_min_s), 1000 * limits.start_by_max_s)


def compute_decide_by_ms(bar_close_s: int, bar_s: int, limits: RiskSettings) -> int:
    """Latest send of an order for a bar; what is still INTENT then is never sent."""
    return compute_start_by_ms(bar_close_s, bar_s, limits) + min(1000 * limits.decide_by_extra_s, 250 * bar_s)


def compute_rest_until_ms(sent_at_ms: int, purpose: Purpose, *, is_target: bool, limits: RiskSettings) -> int | None:
    """End of an order's time at the venue; None for stops and targets, which rest until they are filled or cancelled."""
    if purpose is Purpose.STOP or is_target:
        return None
    return sent_at_ms + 1000 * (limits.entry_ttl_s if purpose is Purpose.ENTRY else limits.exit_ttl_s)


def is_sweep_due(rest_until_ms: int | None, now_ms: int) -> bool:
    """Tell whether a live order, partly filled or not, is past its time and becomes CANCEL_REQUESTED."""
    return rest_until_ms is not None and now_ms >= rest_until_ms


def next_cancel_ms(last_asked_ms: int, n_asked: int) -> int:
    """When an unconfirmed cancel is asked again: after 1, 2, 4, 8, 15, then each 30 s.

    Parameters
    ----------
    last_asked_ms : int
        When it was asked last.
    n_asked : int
        How often it has been asked, 1 or more.
    """
    return last_asked_ms + CANCEL_WAITS_MS[min(n_asked, len(CANCEL_WAITS_MS)) - 1]


def is_cancel_stuck(first_asked_ms: int, now_ms: int) -> bool:
    """Tell whether a cancel has gone unconfirmed for so long that a person must know."""
    return now_ms - first_asked_ms >= CANCEL_INCIDENT_MS


def next_poll_ms(sent_at_ms: int, last_read_ms: int, *, is_resting: bool) -> int | None:
    """When an order is read next: a limit order each 2 s, market and IOC each 1 s for 15 s, then the regular pass (None)."""
    due_ms = last_read_ms + (LIMIT_POLL_MS if is_resting else IOC_POLL_MS)
    return due_ms if is_resting or due_ms - sent_at_ms <= POLL_FOR_MS else None
