"""Keep the bucket memberships of tokens: market caps in, validity spans out, as they were known at the time."""

from dataclasses import dataclass

from regime_pipeline.market.buckets import BUCKETS, build_spans
from regime_pipeline.market.composite import NEVER_S, Span
from regime_pipeline.market.timeframe import REGIME_TIMEFRAMES, Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import BarSource, Stage, Work
from regime_pipeline.services.derivation import driver_series
from regime_pipeline.services.window import Window


@dataclass(frozen=True, slots=True)
class TagSummary:
    """Tokens with a market cap in the window, and membership rows that changed."""

    tokens: int
    spans_written: int


def tag_buckets(work: Work, source: BarSource, universe: Universe, window: Window, now_s: int) -> TagSummary:
    """Classify tokens by the market caps that became known in the window, and mark the composites whose members changed.

    A window that ends with the newest closed day goes on to `now_s`: a vendor that only knows the present says it after that day's end.
    """
    is_newest = window.end_s >= Timeframe.D1.last_closed(now_s) + Timeframe.D1.seconds
    caps = source.fetch_market_caps(window.start_s, max(window.end_s, now_s + 1) if is_newest else window.end_s)
    stored = work.regime.load_spans()
    changed = {}
    first_s: int | None = None
    seen = 0
    for token in universe.tokens:
        observations = caps.get(token.contract, ())
        seen += bool(observations)
        held = stored.get(token.series, [])
        current = held[-1] if held else None
        spans = build_spans(observations, universe.buckets.rule, current)
        if spans and spans != ([current] if current else []):
            changed[token.series] = spans
            begins = spans[1].valid_from_s if current and len(spans) > 1 else spans[0].valid_from_s
            first_s = begins if first_s is None else min(first_s, begins)
    written = work.regime.save_spans(changed)
    if first_s is not None:
        for timeframe in REGIME_TIMEFRAMES:
            # a composite bar opens under the membership valid at its open
            work.marks.add(Stage.DRIVER, timeframe, {driver_series(bucket): timeframe.floor(first_s) for bucket in BUCKETS})
    return TagSummary(seen, written)


def load_memberships(work: Work, universe: Universe) -> dict[str, dict[str, list[Span]]]:
    """Members of each bucket with their spans: those from market caps, before the first of them the assumed bucket of the universe."""
    stored = work.regime.load_spans()
    members: dict[str, dict[str, list[Span]]] = {bucket: {} for bucket in BUCKETS}
    for token in universe.tokens:
        spans = stored.get(token.series, [])
        if token.bucket is not None:
            until_s = spans[0].valid_from_s if spans else None
            members[token.bucket].setdefault(token.series, []).append((NEVER_S, until_s))
        for span in spans:
            members[span.bucket].setdefault(token.series, []).append((span.valid_from_s, span.valid_to_s))
    return members
