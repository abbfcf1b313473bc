"""Keeping the mirror that a kill without a database reads."""

from typing import Final

from regime_pipeline.ports import Work
from regime_pipeline.ports.kill_mirror import KillMirror, MirroredAccount, MirroredOrder
from regime_pipeline.services.trading.context import Trading

MIRROR_EVERY_S: Final = 60
RECENT_S: Final = 86_400


def read_mirror(work: Work, trading: Trading) -> MirroredAccount:
    """Read what a kill would need: live orders, and every symbol with one, with a holding or with an order in the last 24 h."""
    terms, now_s = trading.terms, trading.clock.now_s()
    live = work.orders.load_live(terms.account)
    recent = work.orders.load_recent(terms.account, 1000 * (now_s - RECENT_S))
    quote = trading.broker.traits.quote
    held = {
        row.asset if row.is_contract else f"{row.asset}/{quote}" for row in work.safety.load_holdings(terms.account) if row.asset != quote
    }
    orders = tuple(
        MirroredOrder(
            row.client_order_id, row.symbol, row.intent.key.strategy, row.intent.leg, row.intent.origin == "human", row.venue_order_id
        )
        for row in live
    )
    return MirroredAccount(terms.account, now_s, tuple(sorted(held | {row.symbol for row in (*live, *recent)})), orders)


def refresh_mirror(trading: Trading, mirror: KillMirror) -> MirroredAccount:
    """Read and keep; the executor calls it each 60 s."""
    with trading.stores.open() as work:
        account = read_mirror(work, trading)
    mirror.save(account)
    return account
