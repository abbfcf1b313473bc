"""Fills of the paper broker: the draws, the latency, the book, the bars, resting limits and fees, each a function of its inputs.

There is no shared generator: a draw is a function of seed, order, purpose and number, so that neither loop speed nor the order of
evaluation changes a fill.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal, localcontext
from statistics import NormalDist
from typing import Final

from regime_pipeline.errors import BadInputError
from regime_pipeline.portfolio.money import BPS, EXACT, QUANTUM, QUOTIENT, ZERO, floor_to
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.purpose import Side

LATENCY_MEDIAN_MS: Final = 150
LATENCY_SIGMA: Final = 0.59591  # puts the 99th percentile at 600 ms
REJECT_BELOW: Final = 0.002
BAR_SHARE: Final = Decimal("0.10")
HALF_SPREAD_MAJOR_BPS: Final = Decimal(1)
HALF_SPREAD_OTHER_BPS: Final = Decimal(5)
FIXED_BPS: Final = Decimal(1)
IMPACT_BPS: Final = Decimal(10)
BEYOND_BOOK_BPS: Final = Decimal(10)
MAX_LEVELS: Final = 20
SLIP_DIGITS: Final = Decimal("1e-6")


@dataclass(frozen=True, slots=True)
class PaperFill:
    """A fill of the paper broker, in base and quote."""

    qty: Decimal
    price: Decimal


@dataclass(frozen=True, slots=True)
class PaperBar:
    """What a 1m bar offers: its prices and its volume in base."""

    open: Decimal
    high: Decimal
    low: Decimal
    volume: Decimal


def draw(seed: int, client_order_id: str, purpose: str, n: int) -> float:
    """Draw a number in (0, 1) that depends on nothing but its arguments."""
    digest = hashlib.sha256(f"{seed}|{client_order_id}|{purpose}|{n}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") + 0.5) / 2**64


def draw_latency_ms(seed: int, client_order_id: str, n: int) -> int:
    """Milliseconds until the n-th request of an order takes effect: lognormal, median 150, 99th percentile 600."""
    # The topmost draws round to 1.0, whose normal quantile is infinite.
    u = min(draw(seed, client_order_id, "latency", n), 1 - 2**-53)
    return round(math.exp(math.log(LATENCY_MEDIAN_MS) + LATENCY_SIGMA * NormalDist().inv_cdf(u)))


def is_rejected(seed: int, client_order_id: str) -> bool:
    """Tell whether soak mode refuses an order."""
    return draw(seed, client_order_id, "reject", 0) < REJECT_BELOW


def compute_slip_bps(qty: Decimal, volume: Decimal, *, is_major: bool) -> Decimal:
    """Slippage of a market order against a bar: half spread, a fixed part and the root of its share of the volume, 6 decimals.

    Raises
    ------
    BadInputError
        When quantity or volume is not above 0.
    """
    if not (qty > 0 and volume > 0):
        raise BadInputError(f"quantity was {qty} of a volume of {volume}, both must be above 0; wait for a bar with trades")
    half_spread = HALF_SPREAD_MAJOR_BPS if is_major else HALF_SPREAD_OTHER_BPS
    with localcontext(QUOTIENT):
        return (half_spread + FIXED_BPS + IMPACT_BPS * (qty / volume).sqrt()).quantize(SLIP_DIGITS, ROUND_HALF_EVEN)


def round_against_us(price: Decimal, tick: Decimal, side: Side) -> Decimal:
    """Price on the tick, a buy up and a sell down."""
    with localcontext(QUOTIENT):
        return (price / tick).to_integral_value(ROUND_CEILING if side is Side.BUY else ROUND_FLOOR) * tick


def fill_market_bar(side: Side, wanted: Decimal, bar: PaperBar, rules: InstrumentRules, *, is_major: bool) -> PaperFill | None:
    """Fill of a market order in one 1m bar: at most a tenth of its volume, at its open plus slippage, inside its range.

    Returns
    -------
    PaperFill or None
        None when a tenth of the volume is below one step; the rest waits for the next bar.
    """
    qty = floor_to(min(wanted, EXACT.multiply(BAR_SHARE, bar.volume)), rules.step)
    if qty == 0:
        return None
    with localcontext(QUOTIENT):
        slipped = bar.open * (1 + side.sign * compute_slip_bps(qty, bar.volume, is_major=is_major) / BPS)
        price = round_against_us(slipped, rules.tick, side)
        return PaperFill(qty, min(max(price, bar.low), bar.high))


def fill_market_bars(
    side: Side, wanted: Decimal, bars: Iterable[PaperBar], rules: InstrumentRules, *, is_major: bool
) -> tuple[PaperFill, ...]:
    """Fills of a market order over the bars that follow it, until it is filled or the bars end."""
    fills: list[PaperFill] = []
    for bar in bars:
        if wanted == 0:
            break
        fill = fill_market_bar(side, wanted, bar, rules, is_major=is_major)
        if fill is not None:
            fills.append(fill)
            wanted = EXACT.subtract(wanted, fill.qty)
    return tuple(fills)


def fill_from_book(
    side: Side, wanted: Decimal, levels: Sequence[tuple[Decimal, Decimal]], rules: InstrumentRules, *, is_ioc: bool
) -> tuple[PaperFill, ...]:
    """Fills of a marketable order against a known book, each 1 bps worse than its level.

    Parameters
    ----------
    side : Side
        Of the order.
    wanted : Decimal
        Quantity in base.
    levels : sequence of (Decimal, Decimal)
        Price and quantity of the other side, best first; the first 20 count.
    rules : InstrumentRules
        Tick and step.
    is_ioc : bool
        What is beyond the book is cancelled; otherwise it fills 10 bps behind the last level.

    Raises
    ------
    BadInputError
        When the book is empty: an unreadable book is not a market.
    """
    if not levels:
        raise BadInputError(f"book of {rules.symbol} was empty; fetch it again or fill from bars")
    fills: list[PaperFill] = []
    for price, available in levels[:MAX_LEVELS]:
        qty = floor_to(min(wanted, available), rules.step)
        if qty > 0:
            fills.append(PaperFill(qty, _worse(price, FIXED_BPS, rules.tick, side)))
            wanted = EXACT.subtract(wanted, qty)
    if wanted > 0 and not is_ioc:
        last = levels[:MAX_LEVELS][-1][0]
        fills.append(PaperFill(wanted, _worse(last, BEYOND_BOOK_BPS + FIXED_BPS, rules.tick, side)))
    return tuple(fills)


def fill_resting(side: Side, wanted: Decimal, limit: Decimal, bar: PaperBar, rules: InstrumentRules) -> PaperFill | None:
    """Fill of a resting limit in one bar: only when the bar trades through it by a tick, at most a tenth of the volume, at the limit."""
    through = bar.low <= EXACT.subtract(limit, rules.tick) if side is Side.BUY else bar.high >= EXACT.add(limit, rules.tick)
    qty = floor_to(min(wanted, EXACT.multiply(BAR_SHARE, bar.volume)), rules.step)
    return PaperFill(qty, limit) if through and qty > 0 else None


@dataclass(frozen=True, slots=True)
class FeeTariff:
    """Fees in bps of notional."""

    maker_bps: Decimal
    taker_bps: Decimal


SPOT_TARIFF: Final = FeeTariff(Decimal(10), Decimal(10))
PERP_TARIFF: Final = FeeTariff(Decimal(2), Decimal(6))


def compute_fee(
    fill: PaperFill, side: Side, base: str, quote: str, tariff: FeeTariff, *, is_maker: bool, is_spot: bool = True
) -> tuple[Decimal, str]:
    """Fee and its asset: what a spot fill receives, base on a buy and quote on a sell; quote on a perpetual.

    Rounded up at the 18th digit, the last that is stored.
    """
    bps = tariff.maker_bps if is_maker else tariff.taker_bps
    with localcontext(EXACT):
        worth, asset = (fill.qty, base) if is_spot and side is Side.BUY else (fill.qty * fill.price, quote)
    return QUOTIENT.multiply(worth, bps / BPS).quantize(QUANTUM, ROUND_CEILING, QUOTIENT).normalize(QUOTIENT), asset


def compute_shortfall_bps(
    side: Side,
    decision_mid: Decimal,
    average_price: Decimal,
    *,
    fees_bps: Decimal = ZERO,
    unfilled_frac: Decimal = ZERO,
    mid_end: Decimal | None = None,
) -> Decimal:
    """Implementation shortfall against the mid of the decision, in bps; positive when it hurt (Perold 1988).

    Raises
    ------
    BadInputError
        When a part was not filled and the mid at the end is unknown.
    """
    if unfilled_frac and mid_end is None:
        raise BadInputError(f"unfilled share was {unfilled_frac} and no mid at the end was known; fetch one to price what was missed")
    with localcontext(QUOTIENT):
        missed = unfilled_frac * side.sign * ((mid_end or decision_mid) - decision_mid)
        return (side.sign * (average_price - decision_mid) / decision_mid * BPS) + fees_bps + missed / decision_mid * BPS


def compute_markout_bps(side: Side, price: Decimal, mid_later: Decimal | None) -> Decimal | None:
    """How far the mid has moved with a fill some time later, in bps; None without a quote."""
    if mid_later is None:
        return None
    with localcontext(QUOTIENT):
        return side.sign * (mid_later - price) / price * BPS


def _worse(price: Decimal, bps: Decimal, tick: Decimal, side: Side) -> Decimal:
    with localcontext(QUOTIENT):
        return round_against_us(price * (1 + side.sign * bps / BPS), tick, side)
