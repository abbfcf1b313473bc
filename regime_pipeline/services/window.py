"""The span of bars a run is about."""

from dataclasses import dataclass

from regime_pipeline.errors import BadInputError


@dataclass(frozen=True, slots=True)
class Window:
    """Bars with open times in [start_s, end_s), epoch seconds. A live window begins at each series' newest stored bar instead."""

    start_s: int
    end_s: int
    live: bool = False

    def __post_init__(self) -> None:
        """Refuse a window that ends before it starts."""
        if self.end_s < self.start_s:
            raise BadInputError(f"window was [{self.start_s}, {self.end_s}): it must not end before it starts; swap the bounds.")
