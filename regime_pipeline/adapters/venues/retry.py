"""How often a read is repeated, and how long one waits before."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from regime_pipeline.adapters.venues.answers import TryAgainError
from regime_pipeline.clock import monotonic_s

T = TypeVar("T")
JITTER: Final = 0.25
"""Waits grow by up to this share, so that callers who failed together do not come back together."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Waits before each repetition, seconds, and the longest Retry-After that is waited for; beyond it the caller is told at once.

    A question that took longer than `longest_s` to fail is not repeated either: a venue that says nothing would cost every minute two
    time-outs for each question instead of one.
    """

    waits_s: tuple[float, ...]
    longest_s: float


BRIEF: Final = Patience((0.3,), 1.0)
"""For a live minute, which must end before the next one and is healed by it."""
PATIENT: Final = Patience((5.0, 15.0, 60.0), 300.0)
"""For bootstrap and backfill, which nobody waits for."""


def ask_patiently(ask: Callable[[], T], patience: Patience, sleep: Callable[[float], None], draw: Callable[[], float]) -> T:
    """Ask, and ask again after failures that may be repeated.

    Parameters
    ----------
    draw : callable
        Gives uniform numbers in [0, 1) for the jitter.

    Raises
    ------
    TryAgainError
        The last one, when the repetitions are used up, or the venue took longer or asks for a longer wait than we have patience for.
    """
    for wait_s in patience.waits_s:
        began_s = monotonic_s()
        try:
            return ask()
        except TryAgainError as error:
            asked_s = error.wait_s or 0.0
            if max(asked_s, monotonic_s() - began_s) > patience.longest_s:
                raise
            sleep(max(asked_s, wait_s * (1 + JITTER * draw())))
    return ask()
