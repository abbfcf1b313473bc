"""Keeping the mirror that a kill without a database reads."""

from collections.abc import Sequence
from typing import Final

from regime_pipeline.ports import OrderRow, Work
from regime_pipeline.ports.kill_mirror import KillMirror, MirroredAccount, MirroredOrder
from regime_pipeline.services.trading.context import Trading

MIRROR_EVERY_S: Final = 60
RECENT_S: Final = 86_400


def read_mirror(work: Work, trading: Trading, live: Sequence[OrderRow] | None = None) -> MirroredAccount:
    """Read what a kill would need: live orders, and every symbol with one, with a holding or with an order in the last 24 h.

    Parameters
    ----------
    live : sequence of OrderRow, optional
        The live orders where the caller has them; default: they are read.
    """
    terms, now_s, quote = trading.terms, trading.clock.now_s(), trading.broker.traits.quote
    holdings = work.safety.load_holdings(terms.account)
    held = {row.asset if row.is_contract else f"{row.asset}/{quote}" for row in holdings if row.asset != quote}
    symbols = held.union(work.safety.load_symbols(terms.account, now_s - RECENT_S))
    orders = tuple(
        MirroredOrder(
            row.client_order_id, row.symbol, row.intent.key.strategy, row.intent.leg, row.intent.origin == "human", row.venue_order_id
        )
        for row in (work.orders.load_live(terms.account) if live is None else live)
    )
    return MirroredAccount(terms.account, now_s, tuple(sorted(symbols)), orders)


def refresh_mirror(trading: Trading, mirror: KillMirror) -> MirroredAccount:
    """Read and keep; the executor calls it each 60 s."""
    with trading.stores.open() as work:
        account = read_mirror(work, trading)
    mirror.save(account)
    return account
