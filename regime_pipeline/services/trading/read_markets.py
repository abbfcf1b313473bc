"""What the venue demands of orders, read and kept: grids, minimums and fees of every instrument."""

from typing import Final

from regime_pipeline.errors import VenueReadError
from regime_pipeline.ports import Failed
from regime_pipeline.risk.arm import Mode
from regime_pipeline.services.trading.context import Trading

MARKETS_EVERY_S: Final = 600
"""Venues list and delist by the day; the paper broker lists a token with its first bar."""


def read_markets(trading: Trading) -> int:
    """Read the venue's markets and keep them; returns how many are listed.

    What it does not list any more is kept as inactive, so that nothing is entered there.

    Raises
    ------
    VenueReadError
        When they cannot be read, or a real venue lists nothing at all, which cannot be. A paper market without bars has none yet.
    """
    venue = trading.broker.traits.venue
    read = trading.broker.fetch_listings()
    if isinstance(read, Failed):
        raise VenueReadError(f"the markets of {venue} could not be read: {read.reason}; entries stay off, it is tried again")
    if not read.value and trading.terms.mode is not Mode.PAPER:
        raise VenueReadError(f"{venue} listed no market at all, which cannot be; entries stay off, it is tried again")
    with trading.stores.open() as work:
        work.recon.save_listings(venue, read.value, trading.clock.now_ms())
    return len(read.value)
