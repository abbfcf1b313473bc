"""Money that comes and goes without a trade: what a paper account begins with, deposits and withdrawals, adjustments, funding."""

from collections.abc import Mapping, Sequence
from decimal import Decimal

from regime_pipeline.errors import BadInputError
from regime_pipeline.execution.ledger import Batch, Line, book_adjustment, book_external
from regime_pipeline.execution.ledger import LedgerAccount as A
from regime_pipeline.portfolio.money import EXACT, QUANTUM, QUOTIENT, ZERO
from regime_pipeline.ports import ACCOUNT, EXTERNAL, BrokerTraits, FundingPayment, Posting, Work
from regime_pipeline.risk.arm import Mode
from regime_pipeline.services.trading.context import Trading


def open_account(trading: Trading) -> bool:
    """Give a paper account what it begins with, in our ledger and at the paper broker; tells whether it was new.

    An account at a venue has what it has: its deposits come in as flows.
    """
    if trading.terms.mode is not Mode.PAPER:
        return False
    quote, amount = trading.broker.traits.quote, trading.terms.opening_cash_quote
    with trading.stores.open() as work:
        return deposit(work, trading.broker.traits, quote, amount, "opening", trading.clock.now_ms())


def deposit(
    work: Work, traits: BrokerTraits, asset: str, amount: Decimal, reference: str, at_ms: int, *, actor: str = "", reason: str = ""
) -> bool:
    """Book what came from outside (positive) or went there, once per reference; tells whether it was new.

    At the paper broker the money moves with it, which at a venue has happened already.

    Raises
    ------
    BadInputError
        When nothing moves, or no reference says what it is.
    """
    if not amount or not reference:
        raise BadInputError(f"flow was {amount} {asset} with reference {reference!r}; say how much, and what it is")
    batch = book_external(f"external:{traits.account}:{reference}", asset, amount)
    batch = Batch(batch.source, batch.lines, actor, reason)
    is_new = bool(work.ledger.post([Posting(traits.account, ACCOUNT, batch, at_ms)]))
    if is_new and traits.mode is Mode.PAPER:
        work.ledger.fund_paper(traits.account, asset, amount)
    return is_new


def adjust(
    work: Work, account: str, strategy: str, asset: str, amount: Decimal, reference: str, at_ms: int, *, actor: str, reason: str
) -> bool:
    """Book the explanation of a difference by a named person, once per reference; tells whether it was new.

    Raises
    ------
    BadInputError
        When nothing moves, or person or reason are missing.
    """
    if not amount:
        raise BadInputError(f"adjustment {reference!r} of {asset} was 0; say by how much the ledger was wrong")
    batch = book_adjustment(f"adjust:{account}:{reference}", asset, amount, actor=actor, reason=reason)
    return bool(work.ledger.post([Posting(account, strategy, batch, at_ms)]))


def book_funding_payments(work: Work, traits: BrokerTraits, payments: Sequence[FundingPayment]) -> int:
    """Book funding as the venue did, each payment once, shared by who held the contract then; returns how many were new.

    What nobody of ours held is `_external`. The last digit goes to the largest holder.
    """
    n = 0
    for payment in payments:
        held = _holders(work, traits.account, payment)
        shares = _share(payment.amount_quote, held)
        source = f"funding:{traits.venue}:{traits.account}:{payment.symbol}:{payment.payment_id}"
        postings = [
            Posting(traits.account, strategy, _funding(f"{source}:{strategy}", traits.quote, share), payment.at_ms)
            for strategy, share in shares.items()
            if share
        ]
        n += bool(postings) and bool(work.ledger.post(postings))
    return n


def _holders(work: Work, account: str, payment: FundingPayment) -> dict[str, Decimal]:
    balances = work.ledger.load_balances_at(account, payment.at_ms)
    return {
        key.strategy: abs(qty) for key, qty in balances.items() if key.ledger_account is A.POSITION and key.asset == payment.symbol and qty
    }


def _share(amount: Decimal, held: Mapping[str, Decimal]) -> dict[str, Decimal]:
    whole = sum(held.values(), ZERO)
    if whole == 0:
        return {EXTERNAL: amount}
    largest = max(held, key=lambda strategy: (held[strategy], strategy))
    shares = {
        strategy: QUOTIENT.quantize(QUOTIENT.divide(QUOTIENT.multiply(amount, qty), whole), QUANTUM)
        for strategy, qty in held.items()
        if strategy != largest
    }
    return {**shares, largest: EXACT.subtract(amount, sum(shares.values(), ZERO))}


def _funding(source: str, quote: str, amount: Decimal) -> Batch:
    return Batch(source, (Line(A.WALLET, quote, amount), Line(A.FUNDING, quote, EXACT.minus(amount))))
