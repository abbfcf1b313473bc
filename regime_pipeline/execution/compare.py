"""Our book against the venue's: which differences count, how they are graded, and which pauses they set or lift.

Pure: readings go in, graded differences come out. What could not be read is not here at all: it is unknown, never a match.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import Decimal, localcontext
from enum import StrEnum
from typing import Final, NamedTuple

from regime_pipeline.errors import ReconciliationError
from regime_pipeline.execution.drift import Drift, Tier, judge_drift
from regime_pipeline.portfolio.money import BPS, EXACT, QUOTIENT, ZERO
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.kill_switch import Level, Trigger

CASH_WARN_FRAC: Final = Decimal("0.0005")
CASH_STOP_FRAC: Final = Decimal("0.0025")
FUNDING_WARN_QUOTE: Final = Decimal("0.01")
FUNDING_INCIDENT_FRAC: Final = Decimal("0.01")
FEE_WARN_FRAC: Final = Decimal("0.10")
FEE_INCIDENT_FRAC: Final = Decimal("0.50")
CLEAN_PASSES: Final = 2
"""So many passes in a row must find nothing before a source lifts its own pause."""


class Pair(NamedTuple):
    """A holding by the ledger and by the venue, with what its difference is graded by."""

    rules: InstrumentRules
    ledger: Decimal
    venue: Decimal
    price: Decimal


class Grade(StrEnum):
    """How a difference without tiers is taken."""

    FINE = "fine"
    WARN = "warn"
    BAD = "bad"  # an incident, or entries off


def judge_positions(pairs: Mapping[str, Pair], equity_quote: Decimal) -> dict[str, Drift]:
    """Grade the differences of all instruments of an account; those that agree to the last digit are left out.

    More than three above dust make each of them large.

    Raises
    ------
    ReconciliationError
        When equity or the price of an instrument that differs is not above 0.
    """
    differing = {symbol: pair for symbol, pair in pairs.items() if pair.ledger != pair.venue}
    alone = {symbol: _judge(pair, equity_quote, 1) for symbol, pair in differing.items()}
    n_above = sum(drift.tier is not Tier.DUST for drift in alone.values())
    return {symbol: _judge(pair, equity_quote, max(n_above, 1)) for symbol, pair in differing.items()}


def judge_cash(ledger: Decimal, venue: Decimal, equity_quote: Decimal) -> Grade:
    """Grade the difference of the quote balance: bad stops entries of the account.

    Raises
    ------
    ReconciliationError
        When equity is not above 0.
    """
    if not equity_quote > 0:
        raise ReconciliationError(f"equity was {equity_quote}, must be above 0 to grade cash; entries stay off, mark the account")
    diff = abs(EXACT.subtract(venue, ledger))
    if diff > EXACT.multiply(CASH_STOP_FRAC, equity_quote):
        return Grade.BAD
    return Grade.WARN if diff > EXACT.multiply(CASH_WARN_FRAC, equity_quote) else Grade.FINE


def judge_funding(booked: Decimal, venue: Decimal) -> Grade:
    """Grade funding of a day as booked against the venue's history; bad is an incident."""
    diff = abs(EXACT.subtract(venue, booked))
    if diff > EXACT.multiply(FUNDING_INCIDENT_FRAC, abs(venue)) and diff > FUNDING_WARN_QUOTE:
        return Grade.BAD
    return Grade.WARN if diff > FUNDING_WARN_QUOTE else Grade.FINE


def judge_fee(fee_quote: Decimal, notional_quote: Decimal, tariff_bps: Decimal) -> Grade:
    """Grade a fee, in quote, against the tariff; a rebate or a lower fee is no worse than the tariff, and so fine.

    A fee taken in a third asset has to be valued by the caller first.
    """
    due = QUOTIENT.divide(QUOTIENT.multiply(notional_quote, tariff_bps), BPS)
    excess = EXACT.subtract(fee_quote, due)
    if excess <= 0:
        return Grade.FINE
    if due <= 0 or excess > EXACT.multiply(FEE_INCIDENT_FRAC, due):
        return Grade.BAD
    return Grade.WARN if excess > EXACT.multiply(FEE_WARN_FRAC, due) else Grade.FINE


class Pause(NamedTuple):
    """A level that a source sets: for a symbol, or for the account where none is named."""

    source: Trigger
    symbol: str | None

    @property
    def level(self) -> Level:
        """REDUCE_ONLY for large differences, else ENTRIES_OFF."""
        return Level.REDUCE_ONLY if self.source is Trigger.RECON_LARGE else Level.ENTRIES_OFF


def pause_for(tier: Tier, symbol: str | None) -> Pause | None:
    """Pause that a confirmed difference sets; none for dust."""
    match tier:
        case Tier.DUST:
            return None
        case Tier.SMALL:
            return Pause(Trigger.RECON_SMALL, symbol)
        case Tier.MEDIUM:
            return Pause(Trigger.RECON_MEDIUM, symbol)
        case Tier.LARGE:
            return Pause(Trigger.RECON_LARGE, None)


def plan_lifts(held: Iterable[Pause], passes: Sequence[Collection[Pause] | None]) -> list[Pause]:
    """Choose the pauses that their source may lift: those that the two newest passes did not ask for.

    Parameters
    ----------
    held : iterable of Pause
        In force; a REDUCE_ONLY one is latched and waits for a person.
    passes : sequence of (collection of Pause or None)
        What each pass asked for, confirmed or not, newest first; None for one that could not read everything, which proves nothing.
    """
    newest = passes[:CLEAN_PASSES]
    if len(newest) < CLEAN_PASSES:
        return []
    return [
        pause
        for pause in held
        if pause.level is Level.ENTRIES_OFF and all(asked is not None and not _asks(asked, pause) for asked in newest)
    ]


def _asks(asked: Collection[Pause], pause: Pause) -> bool:
    """Small turns into medium and back: either keeps the symbol's pause."""
    return any(other.symbol == pause.symbol or other.source is Trigger.RECON_LARGE for other in asked)


def _judge(pair: Pair, equity_quote: Decimal, n_above_dust: int) -> Drift:
    return judge_drift(
        pair.ledger,
        pair.venue,
        step=pair.rules.step,
        price=pair.price,
        min_cost_quote=pair.rules.min_cost_quote,
        equity_quote=equity_quote,
        n_above_dust=n_above_dust,
    )


def sum_holdings(balances: Iterable[tuple[str, Decimal]]) -> dict[str, Decimal]:
    """Add up balances by asset, over all strategies; exact."""
    sums: dict[str, Decimal] = {}
    with localcontext(EXACT):
        for asset, balance in balances:
            sums[asset] = sums.get(asset, ZERO) + balance
    return sums
