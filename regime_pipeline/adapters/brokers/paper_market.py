"""The market that the paper broker trades in: stored bars, the newest close, and a live book where somebody can read one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, Protocol

import psycopg
from psycopg import sql

from regime_pipeline.execution.paper import PaperBar
from regime_pipeline.execution.paper_walk import BarView, WalkBar
from regime_pipeline.portfolio.money import QUOTIENT, to_decimal

Levels = Sequence[tuple[Decimal, Decimal]]
BookReader = Callable[[str], tuple[Levels, Levels] | None]
"""Bids and asks of a symbol, best first, as they are now; None where no book is known."""

LOOK_BACK_S: Final = 86_400
"""A bar length counts as stored when the symbol has such a bar of the last day."""

_LENGTHS: Final = sql.SQL(
    "(values ('1m', 60), ('5m', 300), ('15m', 900), ('1h', 3600), ('4h', 14400), ('1d', 86400)) as t (timeframe, length_s)"
)
_SAME: Final = sql.SQL("b.token_contract = %(contract)s and b.chain = %(chain)s and b.timeframe = t.timeframe and b.is_final")
_VIEW: Final = sql.SQL(
    "select t.length_s, extract(epoch from b.timestamp)::bigint, b.open_usd, b.high_usd, b.low_usd, b.close_usd, b.volume from"
    " (select timeframe, length_s from {lengths} where exists (select from {bars} as b where {same} and b.timestamp"
    " between to_timestamp(%(from)s - %(back)s) and to_timestamp(%(until)s - t.length_s)) order by length_s limit 1) as t"
    " left join {bars} as b on {same} and b.timestamp between to_timestamp(%(from)s - t.length_s) and to_timestamp(%(until)s - t.length_s)"
    " order by b.timestamp"
)
_CLOSE: Final = sql.SQL(
    "select b.close_usd, extract(epoch from b.timestamp)::bigint + t.length_s as ended_s from {lengths} cross join lateral"
    " (select close_usd, timestamp from {bars} as b where {same} and b.timestamp <= to_timestamp(%(until)s - t.length_s)"
    " order by b.timestamp desc limit 1) as b order by ended_s desc, length_s limit 1"
)


class PaperMarket(Protocol):
    """What happens in the market, told in closed bars."""

    def load_view(self, conn: psycopg.Connection, symbol: str, from_ms: int, now_ms: int) -> BarView | None:
        """Load the finest bars of a symbol that open from an instant on (and the one that contains it) and have closed; None without."""
        ...

    def load_close(self, conn: psycopg.Connection, symbol: str, now_ms: int) -> tuple[Decimal, int] | None:
        """Load the newest close of a symbol and when its bar ended, epoch milliseconds; None without."""
        ...

    def read_book(self, symbol: str) -> tuple[Levels, Levels] | None:
        """Read bids and asks as they are now; None where no book is known."""
        ...

    def list_symbols(self, conn: psycopg.Connection) -> list[str]:
        """List what can be traded."""
        ...


@dataclass(slots=True)
class StoredMarket:
    """`PaperMarket` on the price tables: tokens first, then majors.

    Parameters
    ----------
    quote, market_type : str
        What symbols end with: `AAVE/USDT`, or `AAVE/USDT:USDT` for `linear`.
    book : BookReader, optional
        Reads live books; without one orders trade in bars alone.
    """

    quote: str = "USDT"
    market_type: str = "spot"
    book: BookReader | None = None
    _places: dict[str, tuple[sql.SQL, str]] = field(default_factory=dict, init=False)

    def load_view(self, conn: psycopg.Connection, symbol: str, from_ms: int, now_ms: int) -> BarView | None:
        """Load the finest bars of a symbol that open from an instant on (and the one that contains it) and have closed; None without."""
        place = self._place(conn, symbol)
        if place is None:
            return None
        table, chain = place
        query = _VIEW.format(lengths=_LENGTHS, bars=table, same=_SAME)
        window = {"contract": _base(symbol), "chain": chain, "from": from_ms // 1000, "until": now_ms / 1000, "back": LOOK_BACK_S}
        rows = conn.execute(query, window).fetchall()
        if not rows:
            return None
        length_ms = rows[0][0] * 1000
        bars = [WalkBar(ts_s * 1000, _bar(*values)) for _, ts_s, *values in rows if ts_s is not None]
        return BarView(length_ms, bars, bars[-1].open_ms + length_ms if bars else 0)

    def load_close(self, conn: psycopg.Connection, symbol: str, now_ms: int) -> tuple[Decimal, int] | None:
        """Load the newest close of a symbol and when its bar ended, epoch milliseconds; None without."""
        place = self._place(conn, symbol)
        if place is None:
            return None
        table, chain = place
        query = _CLOSE.format(lengths=_LENGTHS, bars=table, same=_SAME)
        row = conn.execute(query, {"contract": _base(symbol), "chain": chain, "until": now_ms / 1000}).fetchone()
        return None if row is None else (to_decimal(row[0]), row[1] * 1000)

    def read_book(self, symbol: str) -> tuple[Levels, Levels] | None:
        """Read bids and asks as they are now; None where no book is known."""
        return None if self.book is None else self.book(symbol)

    def list_symbols(self, conn: psycopg.Connection) -> list[str]:
        """List what can be traded: every token of a position."""
        rows = conn.execute("select distinct token_contract from lowcap_positions where token_chain <> 'regime' order by 1")
        return [self._spell(contract) for (contract,) in rows]

    def _place(self, conn: psycopg.Connection, symbol: str) -> tuple[sql.SQL, str] | None:
        """Table and chain in which a symbol's bars are."""
        if symbol not in self._places and symbol == self._spell(_base(symbol)):
            row = conn.execute(
                "select true, token_chain from lowcap_positions where token_contract = %(contract)s and token_chain <> 'regime'"
                " union all (select false, chain from majors_price_data_ohlc where token_contract = %(contract)s limit 1) limit 1",
                {"contract": _base(symbol)},
            ).fetchone()
            if row is not None:
                table = sql.SQL("lowcap_price_data_ohlc") if row[0] else sql.SQL("majors_price_data_ohlc")
                self._places[symbol] = (table, row[1])
        return self._places.get(symbol)

    def _spell(self, contract: str) -> str:
        return f"{contract}/{self.quote}" + (f":{self.quote}" if self.market_type == "linear" else "")


def _base(symbol: str) -> str:
    return symbol.partition("/")[0]


def _bar(open_usd: float, high_usd: float, low_usd: float, close_usd: float, volume_quote: float) -> PaperBar:
    """A stored bar with its volume in base."""
    volume = QUOTIENT.divide(to_decimal(volume_quote), to_decimal(close_usd))
    return PaperBar(to_decimal(open_usd), to_decimal(high_usd), to_decimal(low_usd), volume)
