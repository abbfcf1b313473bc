"""The memory of venues, in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from regime_pipeline.errors import BudgetExhaustedError
from regime_pipeline.ports import Halt


@dataclass
class ListLedger:
    """Keeps halts and calls, and counts how often it was asked for halts."""

    halts: dict[str, Halt] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    loads: int = 0

    def load_halts(self, now_s: int) -> Mapping[str, Halt]:
        self.loads += 1
        return {venue: halt for venue, halt in self.halts.items() if halt.until_s is None or halt.until_s > now_s}

    def halt(self, venue: str, halt: Halt) -> None:
        self.halts[venue] = halt

    def resume(self, venue: str) -> bool:
        return self.halts.pop(venue, None) is not None

    def spend_call(self, vendor: str, now_s: int, monthly_limit: int) -> int:
        if self.calls.get(vendor, 0) >= monthly_limit:
            raise BudgetExhaustedError(f"{vendor} has had its {monthly_limit} calls")
        self.calls[vendor] = self.calls.get(vendor, 0) + 1
        return monthly_limit - self.calls[vendor]

    def load_calls(self, now_s: int) -> Mapping[str, int]:
        return dict(self.calls)
