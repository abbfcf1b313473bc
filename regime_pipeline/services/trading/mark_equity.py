"""Marked equity of an account at an instant: cash, and every holding at the newest close that was known then."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext

from regime_pipeline.errors import BadInputError
from regime_pipeline.execution.ledger import LedgerAccount as A
from regime_pipeline.execution.ledger import PerpPosition
from regime_pipeline.portfolio.money import EXACT, ZERO, to_decimal
from regime_pipeline.ports import BalanceKey, Work
from regime_pipeline.services.trading.post_fills import read_positions, split_symbol


@dataclass(frozen=True, slots=True)
class MarkedEquity:
    """What an account was worth at an instant.

    Parameters
    ----------
    holdings : Mapping of str to (Decimal, Decimal)
        Quantity and mark of every symbol held.
    """

    at_ms: int
    equity_quote: Decimal
    cash_quote: Decimal
    holdings: Mapping[str, tuple[Decimal, Decimal]]


def mark_equity(work: Work, account: str, at_s: int, quote: str = "USDT") -> MarkedEquity:
    """Value an account and keep the point; one that is kept already stays.

    Raises
    ------
    BadInputError
        When something is held that has no price: an unpriced holding is not worth nothing, so there is no point.
    """
    marked = value_account(work, account, at_s * 1000, quote)
    work.ledger.add_equity_point(account, marked.at_ms, marked.equity_quote, marked.cash_quote, marked.holdings)
    return marked


def value_account(work: Work, account: str, at_ms: int, quote: str = "USDT") -> MarkedEquity:
    """Value an account by its ledger as it was at an instant.

    Raises
    ------
    BadInputError
        When something is held that has no price.
    """
    balances = work.ledger.load_balances_at(account, at_ms)
    coins = sum_wallets(balances)
    cash = coins.pop(quote, ZERO)
    contracts = _sum_contracts(balances)
    names = set(coins) | {split_symbol(symbol)[0] for symbol in contracts}
    closes = {name: to_decimal(price) for name, price in work.ledger.load_closes(names, at_ms).items()} if names else {}
    missing = sorted(names - closes.keys())
    if missing:
        msg = f"no close was known for {', '.join(missing)} of account {account}; equity is unknown, entries stay off. Backfill its bars."
        raise BadInputError(msg)
    with localcontext(EXACT):
        spot = sum((qty * closes[name] for name, qty in coins.items()), ZERO)
        linear = sum((each.qty * closes[split_symbol(symbol)[0]] - each.open_quote for symbol, each in contracts.items()), ZERO)
        holdings = {f"{name}/{quote}": (qty, closes[name]) for name, qty in coins.items()}
        holdings |= {symbol: (each.qty, closes[split_symbol(symbol)[0]]) for symbol, each in contracts.items()}
        return MarkedEquity(at_ms, cash + spot + linear, cash, holdings)


def sum_wallets(balances: Mapping[BalanceKey, Decimal]) -> dict[str, Decimal]:
    """What an account owns of each asset, over all strategies, without zeros."""
    owned: dict[str, Decimal] = {}
    for key, amount in balances.items():
        if key.ledger_account is A.WALLET:
            owned[key.asset] = EXACT.add(owned.get(key.asset, ZERO), amount)
    return {asset: amount for asset, amount in owned.items() if amount}


def _sum_contracts(balances: Mapping[BalanceKey, Decimal]) -> dict[str, PerpPosition]:
    held: dict[str, PerpPosition] = {}
    for (_, symbol), each in read_positions(balances).items():
        before = held.get(symbol, PerpPosition())
        held[symbol] = PerpPosition(EXACT.add(before.qty, each.qty), EXACT.add(before.open_quote, each.open_quote))
    return held
