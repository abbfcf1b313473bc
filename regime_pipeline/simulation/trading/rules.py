"""The knobs of a venue: how deep it is, what it charges, what it hides and what it forbids. Changed by `TradingBook.change`."""

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final, Literal

from regime_pipeline.simulation.trading.values import ZERO, Instrument, MarketType, Side

BPS: Final = Decimal(10_000)
_FEE_QUANTUM: Final = Decimal("1e-8")


@dataclass(frozen=True, slots=True)
class Rules:
    """How a venue behaves until it is told otherwise.

    Parameters
    ----------
    liquidity : Decimal, optional
        Base quantity that one match may trade; None: as much as is asked for. A create is one match, so is every new price.
    half_spread_bps : Decimal
        From the scripted price to the best bid and ask, each rounded away from it to the tick.
    depth_qty, depth_levels
        Quantity shown per level of the book, and how many levels.
    maker_bps, taker_bps : Decimal
        Commission; negative is a rebate.
    fee_asset : str
        `received` (base on a buy, quote on a sell), `base`, `quote`, or the name of a third asset; perpetuals take `quote` alone.
    third_price : Decimal
        Price in quote of the third asset.
    is_fee_shown : bool
        False: the rows of new trades lack the commission although it was charged (`Hand.show_fees` ends it).
    unique_ids : str
        `open`: a client id is free again once its order is terminal; `ever`: it never is.
    visibility_ms : int
        For how long reads do not see a new order and its trades; balances, cancels and the check for duplicates do.
    history_ms : int, optional
        Age of its last change from which a terminal order is gone from reads; its trades stay.
    is_archived : bool
        How an order past `history_ms` is refused: as archived, or as one that never was.
    mode : str
        `maintenance` refuses creates, `read_only` creates and cancels; reads go on.
    max_open_orders : int
        Per symbol.
    leverage, maintenance_frac
        Of every perpetual position.
    has_expiry : bool
        False: a venue that takes requests however old they are.
    """

    liquidity: Decimal | None = None
    half_spread_bps: Decimal = ZERO
    depth_qty: Decimal = Decimal(10)
    depth_levels: int = 20
    maker_bps: Decimal = Decimal(10)
    taker_bps: Decimal = Decimal(10)
    fee_asset: str = "received"
    third_price: Decimal = Decimal(500)
    is_fee_shown: bool = True
    unique_ids: Literal["open", "ever"] = "open"
    visibility_ms: int = 0
    history_ms: int | None = None
    is_archived: bool = True
    mode: Literal["normal", "maintenance", "read_only"] = "normal"
    max_open_orders: int = 200
    leverage: Decimal = Decimal(10)
    maintenance_frac: Decimal = Decimal("0.005")
    has_expiry: bool = True


DEFAULT_RULES: Final = {
    MarketType.SPOT: Rules(),
    MarketType.LINEAR: Rules(maker_bps=Decimal(2), taker_bps=Decimal("5.5"), fee_asset="quote", unique_ids="ever"),
}
"""Binance refuses a repeated id among open orders, Bybit for ever."""


def compute_fee(rules: Rules, instrument: Instrument, side: Side, qty: Decimal, price: Decimal, *, is_maker: bool) -> tuple[Decimal, str]:
    """Work out the commission of one trade: amount (8 decimals; negative is a rebate) and asset."""
    rate = (rules.maker_bps if is_maker else rules.taker_bps) / BPS
    asset = rules.fee_asset
    if asset == "received":
        asset = "base" if side is Side.BUY else "quote"
    if asset == "base":
        amount, asset = qty * rate, instrument.base
    elif asset == "quote":
        amount, asset = qty * price * rate, instrument.quote
    else:
        amount = qty * price * rate / rules.third_price
    return amount.quantize(_FEE_QUANTUM, ROUND_HALF_EVEN), asset
