"""Market-cap buckets: one classifier with hysteresis, and membership as it was known at the time (spec 5.4)."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from typing import Final

BUCKETS: Final = ("nano", "small", "mid", "big")


@dataclass(frozen=True, slots=True)
class BucketRule:
    """Thresholds of the buckets and how far a cap must cross one to move.

    Parameters
    ----------
    bounds_usd : tuple of float
        Lower bounds of small, mid and big, USD; half-open, so a cap on a bound belongs above it.
    hysteresis_pct : float
        A cap moves up at (100 + this) % of its bucket's upper bound, down below (100 - this) % of the lower one.
    min_cap_usd : float
        Smaller caps are vendor errors and change nothing.
    max_age_s : int
        Older caps change nothing, seconds.
    """

    bounds_usd: tuple[float, float, float] = (10e6, 50e6, 200e6)
    hysteresis_pct: float = 10.0
    min_cap_usd: float = 10_000.0
    max_age_s: int = 86_400

    def plain(self, cap_usd: float) -> str:
        """Name the bucket of a cap by its thresholds alone."""
        return BUCKETS[bisect_right(self.bounds_usd, cap_usd)]

    def is_usable(self, cap_usd: float | None, age_s: int = 0) -> bool:
        """Tell whether a cap may change anything: finite, large enough, fresh enough."""
        return cap_usd is not None and isfinite(cap_usd) and cap_usd >= self.min_cap_usd and 0 <= age_s <= self.max_age_s

    def classify(self, current: str | None, cap_usd: float | None, age_s: int = 0) -> str | None:
        """Name the bucket after seeing a cap; a function of its arguments only.

        Parameters
        ----------
        current : str or None
            Bucket so far; None when the token was never classified.
        cap_usd : float or None
            Market cap in USD.
        age_s : int
            Seconds since the cap was true.

        Returns
        -------
        str or None
            One of nano, small, mid, big; None stays None until a usable cap is seen.
        """
        if cap_usd is None or not self.is_usable(cap_usd, age_s):
            return current
        if current is None:
            return self.plain(cap_usd)
        at = BUCKETS.index(current)
        # In percent, because 1.10 * 50e6 is a hair above 55e6 in float64 and a cap of exactly 55M must move.
        is_up = at < len(self.bounds_usd) and cap_usd * 100 >= self.bounds_usd[at] * (100 + self.hysteresis_pct)
        is_down = at > 0 and cap_usd * 100 < self.bounds_usd[at - 1] * (100 - self.hysteresis_pct)
        return self.plain(cap_usd) if is_up or is_down else current


@dataclass(frozen=True, slots=True)
class CapObservation:
    """A market cap as it became known: `known_at_s` decides validity, `as_of_s` its age; epoch seconds."""

    known_at_s: int
    as_of_s: int
    cap_usd: float | None


@dataclass(frozen=True, slots=True)
class BucketSpan:
    """A token's bucket over [valid_from_s, valid_to_s), and the cap that opened the span; `valid_to_s` None is still valid."""

    valid_from_s: int
    valid_to_s: int | None
    bucket: str
    cap_usd: float
    as_of_s: int

    def covers(self, ts_s: int) -> bool:
        """Tell whether the span is valid at an instant."""
        return self.valid_from_s <= ts_s and (self.valid_to_s is None or ts_s < self.valid_to_s)


def build_spans(observations: Iterable[CapObservation], rule: BucketRule, current: BucketSpan | None = None) -> list[BucketSpan]:
    """Turn caps in the order they became known into spans that touch and never overlap.

    Parameters
    ----------
    observations : iterable of CapObservation
        Ascending by `known_at_s`; those not after the start of `current` were already counted and are skipped.
    rule : BucketRule
        The classifier.
    current : BucketSpan, optional
        The open span stored so far.

    Returns
    -------
    list of BucketSpan
        `current` first if given (closed when a later span follows), the last one open; empty for a token never classified.
    """
    spans = [current] if current else []
    for seen in observations:
        held = spans[-1] if spans else None
        if held and seen.known_at_s <= held.valid_from_s:
            continue
        bucket = rule.classify(held.bucket if held else None, seen.cap_usd, seen.known_at_s - seen.as_of_s)
        if bucket is None or seen.cap_usd is None or (held and bucket == held.bucket):
            continue
        if held:
            spans[-1] = BucketSpan(held.valid_from_s, seen.known_at_s, held.bucket, held.cap_usd, held.as_of_s)
        spans.append(BucketSpan(seen.known_at_s, None, bucket, seen.cap_usd, seen.as_of_s))
    return spans
