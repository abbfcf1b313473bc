"""Ask again for recent bars: what a venue said of a bar at its close is not always what it says later."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from regime_pipeline.market.bars import Bars
from regime_pipeline.market.outliers import NEIGHBOURS
from regime_pipeline.market.quality import find_gaps
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import BarSource, BarTable, Stores, Work
from regime_pipeline.services.accept_bars import IngestSummary
from regime_pipeline.services.ingest_bars import ROLLUP, Feed, Question, ask_vendors, find_feeds, store_answers

VERIFIED: Final = {Timeframe.H1: ((Timeframe.M1, 180),), Timeframe.D1: ((Timeframe.H1, 72), (Timeframe.D1, 3))}
"""What the live job of a timeframe asks for again: three hours of minutes every hour, three days of hours every day."""


def verify_bars(stores: Stores, source: BarSource, universe: Universe, timeframe: Timeframe, n_bars: int, now_s: int) -> IngestSummary:
    """Ask each series' best venue again for its last bars, one request per series, and accept what differs.

    Only venues that answer for the present are asked: a file does not change its mind. Bars that are rolled up whole from shorter
    ones are left out, the shorter ones are asked for. A venue that cannot be asked costs nothing: the next look is soon.
    """
    end_s = timeframe.last_closed(now_s) + timeframe.seconds
    span = end_s - n_bars * timeframe.seconds, end_s
    questions: list[Question] = []
    with stores.open() as work:
        for table in (BarTable.MAJORS, BarTable.TOKENS):
            feeds = {name: _pick_live(source, each, timeframe) for name, each in find_feeds(universe, table, timeframe).items()}
            questions += _plan(work, table, timeframe, {name: feed for name, feed in feeds.items() if feed is not None}, span)
    if not questions:
        return IngestSummary()
    answers = ask_vendors(source, timeframe, questions, now_s, on_failure="note")
    with stores.open() as work:
        return store_answers(work, source, universe, timeframe, questions, answers, now_s)


def _pick_live(source: BarSource, feeds: Sequence[Feed], timeframe: Timeframe) -> Feed | None:
    """The best venue of a series that has this timeframe, if it is one that may still change what it says."""
    for feed in feeds:
        known = feed.range(source, timeframe)
        if known is not None:
            return None if known.is_exact else feed
    return None


def _plan(work: Work, table: BarTable, timeframe: Timeframe, feeds: dict[str, Feed], span: tuple[int, int]) -> list[Question]:
    coverage = work.bars.load_coverage(table, timeframe, list(feeds), *span)
    before = work.bars.load_last(table, timeframe, dict.fromkeys(feeds, span[0] - 1), NEIGHBOURS)
    questions = []
    for name, feed in feeds.items():
        stored = coverage[name]
        whole = stored.ts_s[(stored.source == ROLLUP) & stored.is_complete]
        wanted = find_gaps(whole, timeframe, max([span[0], *stored.ts_s[:1].tolist()]), span[1])
        if len(wanted) and len(stored.ts_s):
            bounds = int(wanted[0]), int(wanted[-1]) + timeframe.seconds
            questions.append(Question(table, name, [feed], bounds, np.asarray(wanted), before.get(name, Bars.empty())))
    return questions
