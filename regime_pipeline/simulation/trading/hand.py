"""The tester's hand in a book: what other clients do, what only a venue can do, and what a venue should never do."""

import random
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final

from regime_pipeline.errors import BadInputError
from regime_pipeline.simulation.trading.accounts import LinearAccount
from regime_pipeline.simulation.trading.book import TradingBook
from regime_pipeline.simulation.trading.values import Flow, Kind, NewOrder, Side, Trade, VenueOrder

_FUNDING_QUANTUM: Final = Decimal("1e-8")


class Hand:
    """Acts on a book from outside. An order is named by its client id (the newest of it) or its venue id."""

    def __init__(self, book: TradingBook, clock_ms: Callable[[], int]) -> None:
        """Act at the time of `clock_ms`, the venue's epoch milliseconds."""
        self._book, self._now_ms = book, clock_ms

    # ---- orders and trades --------------------------------------------------------------------------------------------------------

    def fill(
        self, order: str, qty: Decimal | str, price: Decimal | str | None = None, *, is_maker: bool = True, trade_id: int | None = None
    ) -> Trade:
        """Trade any quantity of an order: part of it, more than it asked for, or late, when it is terminal.

        Parameters
        ----------
        price : Decimal or str, optional
            By default the order's limit, else the scripted price.
        trade_id : int, optional
            One that is taken already makes two trades with one id.
        """
        book = self._book
        with book.lock:
            found = self.order(order)
            at = Decimal(price) if price is not None else found.asked.price or book.prices[found.symbol]
            return book.fill(found, Decimal(qty), at, self._now_ms(), is_maker=is_maker, trade_id=trade_id)

    def cancel(self, order: str) -> VenueOrder:
        """Cancel an order as another client or the venue would."""
        return self._book.cancel(None, self._now_ms(), order_id=self.order(order).order_id, cancel_id="by_hand")

    def place(
        self, symbol: str, side: Side | str, qty: Decimal | str, price: Decimal | str | None = None, *, client_id: str | None = None
    ) -> VenueOrder:
        """Place an order as another client would: at market without a price. It does not count as an accepted create."""
        now_ms = self._now_ms()
        side, kind = Side(str(side).upper()), Kind.MARKET if price is None else Kind.LIMIT
        asked = NewOrder(
            symbol,
            side,
            kind,
            Decimal(qty),
            client_id or f"web_{len(self._book.orders):012d}",
            Decimal(price) if price is not None else None,
            spelled_type=kind.value,
        )
        return self._book.create(asked, now_ms, is_foreign=True)

    def liquidate(self, symbol: str, price: Decimal | str | None = None) -> Trade:
        """Take a perpetual position away at a price, by default the scripted one: trades of kind BustTrade."""
        book = self._book
        with book.lock:
            size, now_ms = self._linear().position(symbol).size, self._now_ms()
            if not size:
                raise BadInputError(f"position of {symbol} was 0: nothing can be liquidated. Open one first.")
            asked = NewOrder(symbol, Side.SELL if size > 0 else Side.BUY, Kind.MARKET, abs(size), "", spelled_type="MARKET")
            order = book.draft(asked, asked.qty, now_ms, is_foreign=True)
            book.admit(order)
            trade = book.fill(order, asked.qty, Decimal(price or book.prices[symbol]), now_ms, is_maker=False)
            return self.alter_row(trade.trade_id, kind="BustTrade")

    # ---- rows of trades -----------------------------------------------------------------------------------------------------------

    def repeat_row(self, trade_id: int) -> Trade:
        """Show a trade once more."""
        with self._book.lock:
            self._book.rows.append(self._book.rows[self._place(trade_id)])
            return self._book.rows[-1]

    def alter_row(self, trade_id: int | None, *, is_added: bool = False, **changes: Any) -> Trade:  # noqa: ANN401 - fields of Trade
        """Show a trade with other content, in place of its newest row or beside it; what happened stays as it was."""
        with self._book.lock:
            at = self._place(trade_id)
            altered = replace(self._book.rows[at], **changes)
            if is_added:
                self._book.rows.append(altered)
            else:
                self._book.rows[at] = altered
            return altered

    def hide_fee(self, trade_id: int) -> Trade:
        """Show a trade without its commission."""
        return self.alter_row(trade_id, fee=None, fee_asset=None)

    def show_fees(self) -> None:
        """Show every commission that was hidden, and those of new trades."""
        book = self._book
        with book.lock:
            book.change(is_fee_shown=True)
            true = {(trade.trade_id, trade.order_id): trade for trade in book.trades}
            book.rows[:] = [true.get((row.trade_id, row.order_id), row) if row.fee is None else row for row in book.rows]

    def shuffle_rows(self, seed: int = 0) -> None:
        """Show the trades so far in another order."""
        with self._book.lock:
            random.Random(seed).shuffle(self._book.rows)  # noqa: S311 - a repeatable disorder, no secret

    # ---- money --------------------------------------------------------------------------------------------------------------------

    def deposit(self, asset: str, amount: Decimal | str) -> None:
        """Bring money from outside."""
        self._flow("deposit", asset, Decimal(amount))

    def withdraw(self, asset: str, amount: Decimal | str) -> None:
        """Take money out, however much there is."""
        self._flow("withdrawal", asset, -Decimal(amount))

    def pay_funding(self, symbol: str, rate: Decimal | str) -> Trade:
        """Pay funding on the notional at the scripted price: a long pays when the rate is above 0."""
        book, rate = self._book, Decimal(rate)
        with book.lock:
            size, mark = self._linear().position(symbol).size, book.prices[symbol]
            paid = (size * mark * rate).quantize(_FUNDING_QUANTUM)
            self._flow("funding", book.instruments[symbol].quote, -paid, symbol)
            side = Side.BUY if size >= 0 else Side.SELL
            number, asset = book.take_trade_id(), book.instruments[symbol].quote
            row = Trade(number, "", "", symbol, side, abs(size), mark, paid, asset, False, self._now_ms(), "Funding", rate)
            book.rows.append(row)
            return row

    # ---- look-up ------------------------------------------------------------------------------------------------------------------

    def order(self, name: str) -> VenueOrder:
        """Find an order by client id or venue id.

        Raises
        ------
        BadInputError
            When there is none.
        """
        found = self._book.find(client_id=name) or self._book.find(order_id=name)
        if found is None:
            raise BadInputError(f"order was {name!r}: the simulated venue has none with this client or venue id. Look at its truth.")
        return found

    def _place(self, trade_id: int | None) -> int:
        """Find the newest row of a trade."""
        for at in reversed(range(len(self._book.rows))):
            if self._book.rows[at].trade_id == trade_id:
                return at
        raise BadInputError(f"trade was {trade_id}: the simulated venue shows none with this id. Look at its truth.")

    def _linear(self) -> LinearAccount:
        if not isinstance(self._book.account, LinearAccount):
            raise BadInputError("market type was spot: only perpetuals have positions. Use a book of market type `linear`.")
        return self._book.account

    def _flow(self, kind: str, asset: str, amount: Decimal, symbol: str = "") -> None:
        with self._book.lock:
            self._book.account.wallet.add(asset, amount)
            self._book.flows.append(Flow(len(self._book.flows) + 1, kind, asset, amount, self._now_ms(), symbol))
