"""What the engine keeps: states, events, levels, checkpoints, tapes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports.bars import Saved

if TYPE_CHECKING:
    # compiled code: whoever only opens a transaction must not pay for its import
    from regime_pipeline.trend.engine import Advance, TapeChunk


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An engine carry as stored, after the bar at `ts_s`."""

    ts_s: int
    state: bytes


class TrendStore(Protocol):
    """States, events, levels, checkpoints, tapes and the snapshot of each series."""

    def load_checkpoints(self, timeframe: Timeframe, engine_version: str, before_s: Mapping[str, int | None]) -> dict[str, Checkpoint]:
        """Load the newest checkpoint of each series, older than `before` where that is given."""
        ...

    def load_tapes(self, timeframe: Timeframe, wanted: Mapping[str, tuple[int, int, Sequence[int]]]) -> "dict[str, list[TapeChunk]]":
        """Load tapes: per series (S3 start, last chunk, chunks wanted with their rows); the others come with their extremes only."""
        ...

    def rewind(self, timeframe: Timeframe, after_s: Mapping[str, int | None]) -> None:
        """Forget events, level sets and checkpoints after a bar, before the series is replayed from there."""
        ...

    def save(self, timeframe: Timeframe, engine_version: str, strength_scale: float, advances: "Mapping[str, Advance]") -> Saved:
        """Upsert states (revision raised where content changed), events and level sets."""
        ...

    def drop_orphans(self, timeframe: Timeframe, after_s: Mapping[str, int | None]) -> int:
        """Delete states after a bar whose price bar is gone."""
        ...

    def save_carries(
        self, timeframe: Timeframe, engine_version: str, carries: Mapping[str, Sequence[tuple[int, int, bytes, bool]]]
    ) -> None:
        """Save checkpoints (ts, bars seen, state, is anchor); older ones that are no anchors go."""
        ...

    def save_tapes(self, timeframe: Timeframe, chunks: "Sequence[tuple[str, int, TapeChunk]]") -> None:
        """Save tape chunks (series, S3 start, chunk)."""
        ...

    def ensure_positions(self, timeframe: Timeframe, tickers: Mapping[str, str]) -> None:
        """Create the position rows of series that have none: drivers as regime_driver, tokens dormant."""
        ...

    def save_snapshots(self, timeframe: Timeframe, series: Collection[str]) -> None:
        """Project the newest state of each series into the `features` of its position row."""
        ...
