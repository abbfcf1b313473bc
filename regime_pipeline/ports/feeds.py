"""What live feeds leave behind besides bars: refusals of venues, calls spent, heartbeats, questions."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from regime_pipeline.market.dominance import DominanceSample


@dataclass(frozen=True, slots=True)
class Halt:
    """A venue that refuses us: why, and until when we leave it alone (epoch seconds; None: until a person says otherwise)."""

    reason: str
    since_s: int
    until_s: int | None


class VenueLedger(Protocol):
    """What must be remembered of venues across processes and restarts; every call is a transaction of its own."""

    def load_halts(self, now_s: int) -> Mapping[str, Halt]:
        """Load the venues that are halted at `now_s`."""
        ...

    def halt(self, venue: str, halt: Halt) -> None:
        """Leave a venue alone; a halt without end is not shortened by one with an end."""
        ...

    def resume(self, venue: str) -> bool:
        """End a venue's halt; False when there was none."""
        ...

    def spend_call(self, vendor: str, now_s: int, monthly_limit: int) -> int:
        """Count one call of a calendar month (UTC) before it is made; returns how many are left.

        Raises
        ------
        BudgetExhaustedError
            When the month's calls are spent; nothing is counted then.
        """
        ...

    def load_calls(self, now_s: int) -> Mapping[str, int]:
        """Load how many calls of the present calendar month (UTC) each vendor has had."""
        ...


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a collector says of a venue it listens to; times are epoch seconds, None: not yet, or not now (`connected_s`)."""

    venue: str
    beat_s: int
    started_s: int
    connected_s: int | None
    last_message_s: int | None
    last_flush_s: int | None
    last_bar_s: int | None
    connects: int
    bars_written: int
    problem: str | None


@dataclass(frozen=True, slots=True)
class Question:
    """The last question to a vendor: when, how many in a row had no believable answer, and why the last had none."""

    asked_s: int
    failures: int
    problem: str | None


class FeedStore(Protocol):
    """What live feeds leave behind besides bars."""

    def save_heartbeats(self, instance: str, beats: Sequence[Heartbeat]) -> None:
        """Upsert the heartbeats of a collector; rows of venues that it no longer listens to go."""
        ...

    def load_heartbeats(self) -> dict[str, list[Heartbeat]]:
        """Load the heartbeats of every collector, by instance."""
        ...

    def load_question(self, source: str) -> Question | None:
        """Load the last question for dominance to a vendor; None when there was none."""
        ...

    def save_question(self, source: str, question: Question) -> None:
        """Save the last question for dominance to a vendor."""
        ...

    def save_samples(self, source: str, samples: Mapping[str, DominanceSample]) -> int:
        """Keep answers by driver, as received; returns how many are new."""
        ...

    def load_samples(self, drivers: Collection[str], from_s: int) -> dict[str, list[DominanceSample]]:
        """Load the answers received from an instant on, by driver, in the order received."""
        ...
