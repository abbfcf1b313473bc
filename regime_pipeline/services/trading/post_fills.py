"""From booked fills to batches of the ledger: the fill, its fee where that came later, and its move to the order it belongs to.

What a contract position was opened for is kept in the ledger as well, as a memo against the market that no wallet sees, so that a
close finds its average entry in one balance, however many fills came before.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final

from regime_pipeline.execution.fills import Fill
from regime_pipeline.execution.ledger import Batch, Line, PerpPosition, book_perp_fill, book_spot_fill
from regime_pipeline.execution.ledger import LedgerAccount as A
from regime_pipeline.portfolio.money import EXACT, ZERO
from regime_pipeline.ports import EXTERNAL, BalanceKey, FillRow, Posting

_COST: Final = "@cost"


def split_symbol(symbol: str) -> tuple[str, str]:
    """Base and quote of a unified symbol: `AAVE/USDT`, or `AAVE/USDT:USDT` of a linear contract."""
    base, _, rest = symbol.partition("/")
    return base, rest.partition(":")[0]


def cost_asset(symbol: str) -> str:
    """Name under which the ledger remembers what a contract position was opened for."""
    return f"{symbol}{_COST}"


def read_positions(balances: Mapping[BalanceKey, Decimal]) -> dict[tuple[str, str], PerpPosition]:
    """Contract positions by (strategy, symbol), from the balances of an account."""
    return {
        (key.strategy, key.asset): PerpPosition(qty, balances.get(BalanceKey(key.strategy, A.TRADE, cost_asset(key.asset)), ZERO))
        for key, qty in balances.items()
        if key.ledger_account is A.POSITION and qty
    }


@dataclass(slots=True)
class FillPoster:
    """Turns fills into postings, one after the other; contract positions go along from fill to fill."""

    positions: dict[tuple[str, str], PerpPosition] = field(default_factory=dict)
    postings: list[Posting] = field(default_factory=list)

    def post_fill(self, row: FillRow, strategy: str | None) -> None:
        """Add the batch of a fill for the strategy of its order; without an order it is nobody's of ours."""
        self._add(row, strategy or EXTERNAL, f"fill:{_name(row)}", row.fill)

    def post_fee(self, row: FillRow, strategy: str | None) -> None:
        """Add the batch of a fee that has become known after its fill was booked."""
        if row.fill.fee_amount is None or row.fill.fee_asset is None or not row.fill.fee_amount:
            return
        asset, amount = row.fill.fee_asset, row.fill.fee_amount
        lines = (Line(A.WALLET, asset, EXACT.minus(amount)), Line(A.FEE, asset, amount))
        self._post(row, strategy or EXTERNAL, Batch(f"fee:{_name(row)}", lines))

    def post_link(self, row: FillRow, strategy: str) -> None:
        """Move a fill that was nobody's to the strategy of its order."""
        self._add(row, EXTERNAL, f"unlink:{_name(row)}", _reverse(row.fill))
        self._add(row, strategy, f"link:{_name(row)}", row.fill)

    def _add(self, row: FillRow, strategy: str, source: str, fill: Fill) -> None:
        base, quote = split_symbol(fill.symbol)
        if fill.market_type == "spot":
            self._post(row, strategy, book_spot_fill(source, fill, base, quote))
            return
        before = self.positions.get((strategy, fill.symbol), PerpPosition())
        batch, after = book_perp_fill(source, fill, before, quote)
        self.positions[strategy, fill.symbol] = after
        self._post(row, strategy, replace(batch, lines=(*batch.lines, *_memo(fill.symbol, before, after))))

    def _post(self, row: FillRow, strategy: str, batch: Batch) -> None:
        self.postings.append(Posting(row.fill.account, strategy, batch, row.fill.venue_ts_ms))


def value_fee(fill: Fill, marks_quote: Mapping[str, Decimal]) -> Decimal | None:
    """Worth of a fill's fee in quote: at the fill's own price in base, at its mark in a third asset; None where either is unknown."""
    if fill.fee_amount is None or fill.fee_asset is None:
        return None
    base, quote = split_symbol(fill.symbol)
    marks = {**marks_quote, base: fill.price, quote: Decimal(1)}
    mark = marks.get(fill.fee_asset)
    return None if mark is None else EXACT.multiply(fill.fee_amount, mark)


def find_contract_assets(rows: Iterable[FillRow]) -> set[str]:
    """Assets whose balances must be known before fills of contracts are posted."""
    symbols = {row.fill.symbol for row in rows if row.fill.market_type != "spot"}
    return symbols | {cost_asset(symbol) for symbol in symbols}


def _memo(symbol: str, before: PerpPosition, after: PerpPosition) -> tuple[Line, ...]:
    change = EXACT.subtract(after.open_quote, before.open_quote)
    return (Line(A.TRADE, cost_asset(symbol), change), Line(A.PNL, cost_asset(symbol), EXACT.minus(change))) if change else ()


def _reverse(fill: Fill) -> Fill:
    return replace(fill, side=fill.side.opposite, fee_amount=None if fill.fee_amount is None else EXACT.minus(fill.fee_amount))


def _name(row: FillRow) -> str:
    fill = row.fill
    return ":".join((fill.venue, fill.account, fill.market_type, fill.symbol, row.fill_key))
