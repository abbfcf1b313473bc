"""Marking equity and judging protections between ticks, so that a hard loss is seen within minutes and not at the next bar."""

from contextlib import suppress
from typing import Final

from regime_pipeline.errors import BadInputError
from regime_pipeline.ports import Work
from regime_pipeline.risk.protections import Trip
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.judge_protections import judge_protections
from regime_pipeline.services.trading.mark_equity import mark_equity

WATCH_EVERY_S: Final = 60
FLAT_MARK_S: Final = 900
"""An account that holds nothing but money is worth the same all the time; a mark this old is renewed, no younger one."""


def watch_protections(trading: Trading) -> list[Trip]:
    """Mark the account where its worth may have changed, judge every protection, and return those that are active.

    Meant for each minute, by the executor; a holding without a price leaves the old mark, which stops entries once it is too old.
    """
    now_s = trading.clock.now_s()
    with trading.stores.open() as work:
        if _needs_mark(work, trading, now_s):
            with suppress(BadInputError), work.savepoint():
                mark_equity(work, trading.terms.account, now_s - now_s % WATCH_EVERY_S, trading.broker.traits.quote)
        return judge_protections(work, trading, now_s)


def _needs_mark(work: Work, trading: Trading, now_s: int) -> bool:
    account, quote = trading.terms.account, trading.broker.traits.quote
    newest = work.safety.load_mark(account, now_s)
    if newest is None or now_s - newest.at_s >= FLAT_MARK_S:
        return True
    return any(row.asset != quote for row in work.safety.load_holdings(account))
