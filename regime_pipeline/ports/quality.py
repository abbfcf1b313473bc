"""What is known about the bars besides their values: gaps, refusals, scores, who gave them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.validity import Validity


@dataclass(frozen=True, slots=True)
class Watermark:
    """How far a series has come: open time of the newest bar of a delivery, epoch seconds, and who gave it; None: it held none."""

    last_s: int | None
    source: str | None


class FeedFacts(NamedTuple):
    """Who gave a series' newest bar, when vendors were last asked and heard, and what is wrong with it; times are epoch seconds."""

    source: str | None
    asked_s: int | None
    answered_s: int | None
    open_gaps: int
    vendor_gaps: int
    quarantined: int
    revised: int


@dataclass(frozen=True, slots=True)
class Gap:
    """A missing bar that vendors are asked for: `attempts` answers had its neighbours and not it; times are epoch seconds."""

    series: str
    ts_s: int
    attempts: int
    detected_s: int
    last_asked_s: int
    is_vendors_own: bool


class QualityStore(Protocol):
    """What is known about the bars besides their values."""

    def load_suspects(self, series: str, timeframe: Timeframe, first_s: int, last_s: int) -> dict[str, list[tuple[RawBars, int]]]:
        """Load the refused outliers of a span that nothing has taken the place of, by venue, each with when it was first said."""
        ...

    def acquit(self, series: str, timeframe: Timeframe, venue: str, ts_s: NDArray[np.int64]) -> None:
        """Rename the reason of outliers that were confirmed after all."""
        ...

    def settle(self, timeframe: Timeframe, ts_s: Mapping[str, NDArray[np.int64]], now_s: int) -> None:
        """Resolve the gaps and the refused bars whose place a believed bar has taken."""
        ...

    def save_watermarks(self, timeframe: Timeframe, marks: Mapping[str, Watermark], now_s: int) -> None:
        """Remember how far each series has come and that it was asked for; an older bar moves nothing back."""
        ...

    def load_refused(self, timeframe: Timeframe, first_s: Mapping[str, int]) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Load the open times of refused outliers and of bars that another venue contradicted, ascending, from a time on."""
        ...

    def save_validity(self, timeframe: Timeframe, scores: Mapping[str, Validity]) -> None:
        """Replace the scores of each series from its first to its last bar given; a score of 1 is kept as no row."""
        ...

    def load_weak(
        self, timeframe: Timeframe, series: Collection[str], from_s: int
    ) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Load the bars whose score is below 1, from a time on: open times, ascending, and scores."""
        ...

    def load_scores(self, bars: Sequence[tuple[str, Timeframe, int]]) -> list[float]:
        """Load the score of each (series, timeframe, open time)."""
        ...

    def load_feeds(self, since_s: int) -> dict[tuple[str, Timeframe], FeedFacts]:
        """Load what is known of the feed of each series and timeframe; bars refused and revised are counted from `since_s` on."""
        ...

    def load_gaps(
        self,
        timeframe: Timeframe,
        series: Collection[str] | None = None,
        span: tuple[int, int] | None = None,
        *,
        with_own: bool = True,
    ) -> list[Gap]:
        """Load the open gaps of some or all series in [start, end), by series and time; those that are the vendors' own only grow."""
        ...

    def save_attempts(
        self, series: str, timeframe: Timeframe, ts_s: NDArray[np.int64], is_vendors_own: NDArray[np.bool_], now_s: int
    ) -> None:
        """Count one more attempt for each gap, and say which are the vendors' own."""
        ...

    def open_backfill(self, series: str, timeframe: Timeframe, span: tuple[int, int], now_s: int) -> None:
        """Note that bars in [start, end) are being asked for; a request for some of them that was abandoned ends."""
        ...

    def close_backfill(self, series: str, timeframe: Timeframe, span: tuple[int, int], outcome: str, now_s: int) -> None:
        """Note how that ended: `data`, `none`, or why it failed."""
        ...
