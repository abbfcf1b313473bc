"""Delete what is over and old from our own tables. Bars, states and deltas stay for ever: they are the history."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from regime_pipeline.ports import Upkeep

DAY_S: Final = 86_400
TAPES: Final = "engine_tape"
DAYS: Final[Mapping[str, int]] = {
    # a season of what went wrong, for the question whether it has before
    "alert_notices": 90,
    "alerts": 90,
    "bar_gaps": 90,
    "bar_quarantine": 90,
    "dominance_questions": 90,
    # only open ones are ever read
    "backfill_requests": 30,
    # why a state of last year was another than it is now, and how good its bars were: one year and a month to compare with
    "bar_revisions": 400,
    "bar_validity": 400,
    "vendor_calls": 400,
    # later corrections of bars reach back two days; a week leaves room for an outage
    TAPES: 7,
}
"""Days that rows are kept after they were over, by table; what is open is never deleted."""
BATCH: Final = 5000
"""Rows (or tapes) deleted in a transaction: some tens of milliseconds, beside which a minute's run does not wait."""
LIMIT: Final = 1_000_000
"""Rows deleted of a table in one call; the rest waits for the next day."""


@dataclass(slots=True)
class PrunedTables:
    """Rows deleted by table (uptrends for `engine_tape`), and whether none is left."""

    deleted: dict[str, int] = field(default_factory=dict)
    is_done: bool = True


def prune_tables(upkeep: Upkeep, now_s: int, *, batch: int = BATCH, limit: int = LIMIT) -> PrunedTables:
    """Delete in batches, each a transaction of its own: a pruning that dies in between is repeated as it is.

    Parameters
    ----------
    now_s : int
        Epoch seconds that ages are counted from.
    batch, limit : int
        Rows deleted in one transaction, and of one table in all (whole batches).
    """
    summary = PrunedTables()
    for table, days in DAYS.items():
        before_s, deleted = now_s - days * DAY_S, 0
        while deleted < limit:
            n = upkeep.delete_tapes(before_s, batch) if table == TAPES else upkeep.delete_old(table, before_s, batch)
            deleted += n
            if n < batch:
                break
        else:
            summary.is_done = False
        summary.deleted[table] = deleted
    return summary
