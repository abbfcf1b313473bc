"""What tests of books and venue state over a wire ask of a desk: its fills, its stops of entries, and a watch over every step it takes."""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import count
from typing import Any

import psycopg

from regime_pipeline.execution.fills import Fill
from regime_pipeline.execution.ledger import LedgerAccount
from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.portfolio.money import ZERO
from regime_pipeline.portfolio.reasons import ReasonCode
from regime_pipeline.ports import BookingSummary, Ok
from regime_pipeline.risk.gate import run_gate
from regime_pipeline.risk.gate_view import GateVerdict, OrderRequest
from regime_pipeline.risk.purpose import Leg, Purpose, Side
from regime_pipeline.services.trading.book_fills import book_fills
from regime_pipeline.services.trading.build_gate_view import SymbolView, build_gate_view
from regime_pipeline.services.trading.read_account import VenueState, read_account
from tests.builders import T0
from tests.wire import WireDesk

D = Decimal
Cells = Callable[..., None]
CANCEL = {"spot": "DELETE /api/v3/order", "linear": "POST /v5/order/cancel"}
"""Endpoint of a cancel, as scripts name it."""


def market(desk: WireDesk) -> str:
    """Which of the two venues it is."""
    return desk.venue.market_type.value


def told_fills(desk: WireDesk) -> list[Fill]:
    """All trades as the venue shows them now, by the real broker."""
    read = desk.broker.fetch_fills(desk.symbol, desk.now_ms - 86_400_000)
    assert isinstance(read, Ok), read
    return list(read.value)


def show_id(desk: WireDesk, trade_id: int | None, shown: int | None) -> None:
    """Let the venue show a trade under another id, or under none."""
    book = desk.venue.book
    with book.lock:
        book.rows[:] = [replace(row, trade_id=shown) if row.trade_id == trade_id else row for row in book.rows]


def stream(desk: WireDesk, fills: Sequence[Fill]) -> BookingSummary:
    """Book reports as a stream brings them: as they come, whatever is known of their order."""
    with desk.stores.open() as work:
        return book_fills(work, desk.broker.traits, fills, desk.trading.clock.now_ms())


def booked(desk: WireDesk, columns: str = "client_order_id, qty, is_late, is_overfill") -> list[tuple[Any, ...]]:
    """Booked fills of the account, in the order they were numbered."""
    return desk.select(f"select {columns} from fills where account = %s order by venue_trade_id", desk.account)


def conflicts(desk: WireDesk) -> int:
    """Reports that contradict what is booked."""
    return int(desk.select("select count(*) from fills_conflict where account = %s", desk.account)[0][0])


def stopped(desk: WireDesk) -> set[tuple[str, str | None]]:
    """Levels in force, as source and symbol (None: the account)."""
    return {(switch.source, switch.scope.symbol) for switch in desk.switches()}


def held(desk: WireDesk) -> Decimal:
    """What we hold of the desk's instrument by the ledger, over all strategies."""
    account, asset = (LedgerAccount.WALLET, "BTC") if market(desk) == "spot" else (LedgerAccount.POSITION, desk.symbol)
    with desk.stores.open() as work:
        balances = work.ledger.load_balances(desk.account)
    return sum((qty for key, qty in balances.items() if (key.ledger_account, key.asset) == (account, asset)), ZERO)


def held_there(desk: WireDesk) -> Decimal:
    """The same by the venue's own truth."""
    told = desk.venue.truth()
    if market(desk) == "spot":
        return D(told["balances"].get("BTC", {"total": "0"})["total"])
    return D(told["positions"].get("BTCUSDT", {"size": "0"})["size"])


def reduce_only(desk: WireDesk) -> bool:
    """Whether what sells says so."""
    return market(desk) == "linear"


class Position:
    """A position of the portfolio in the desk's instrument, which the stops guard; it is bought by orders and by nothing else."""

    def __init__(self, desk: WireDesk) -> None:
        self.desk, self._bars = desk, count(1)
        self.position_id = self._write(
            "insert into lowcap_positions (token_contract, token_chain, timeframe, token_ticker, status, book_id)"
            " values ('BTC', %s, '1h', 'BTC', 'watchlist', %s) returning id",
            desk.account, desk.trading.terms.book_id,
        )  # fmt: skip

    def _write(self, query: str, *parameters: object) -> int:
        with psycopg.connect(self.desk.url) as conn:
            row = conn.execute(query, parameters).fetchone()  # type: ignore[arg-type]
        assert row is not None
        return int(row[0])

    @property
    def trade_id(self) -> Any:
        """The open trade; None when flat."""
        return self.desk.select("select current_trade_id from lowcap_positions where id = %s", self.position_id)[0][0]

    def intend(self, qty: Decimal | str, **changes: Any) -> str:
        """Write an entry, or an addition where a trade is open."""
        bar_ts_s, trade_id = T0 - 3600 * next(self._bars), self.trade_id
        kind, signal, funding = ("entry", "s1_buy", "remaining") if trade_id is None else ("add", "dx", "pool")
        action_id = self._write(
            "insert into pm_actions (idempotency_key, position_id, bar_ts, trade_id, kind, signal, funding, status, state, atr, bars_seen,"
            " a_value, e_value) values (%s, %s, to_timestamp(%s), %s, %s, %s, %s, 'planned', 'S1', 2.5, 1000, 0.5, 0.5) returning id",
            f"{kind}:{self.position_id}:{bar_ts_s}", self.position_id, bar_ts_s, trade_id, kind, signal, funding,
        )  # fmt: skip
        leg = Leg.ENTRY if trade_id is None else Leg.ADD
        return self.desk.intend(leg, qty=D(qty), action_id=action_id, bar_close_s=bar_ts_s + 3600, **changes)

    def buy(self, qty: Decimal | str, **changes: Any) -> str:
        """Buy at the market."""
        order_id = self.intend(qty, **changes)
        self.desk.step(0, 2)
        assert self.desk.state(order_id) is OrderState.FILLED, self.desk.path(order_id)
        return order_id


def judge_request(desk: WireDesk, leg: Leg, qty: Decimal, price: Decimal) -> GateVerdict:
    """Ask the gate, with what account, book and kill levels say now, whether an order may be written."""
    side = Side.BUY if leg.purpose is Purpose.ENTRY else Side.SELL
    now_ms, terms = desk.trading.clock.now_ms(), desk.trading.terms
    request = OrderRequest(
        "0" * 32, terms.account, "onchain_crypto-1h", desk.symbol, "majors", leg, side, qty, price, qty * price, "strategy", terms.mode,
        now_ms + 60_000,
    )  # fmt: skip
    quote = desk.broker.fetch_quote(desk.symbol)
    with desk.stores.open() as work:
        rules = work.safety.load_rules(desk.broker.traits.venue)[desk.symbol]
        account = read_account(work, desk.trading, now_ms, trips=(), venue=VenueState(is_up=True))
    view = build_gate_view(account, request, SymbolView(rules, (), quote.value if isinstance(quote, Ok) else None, price))
    return run_gate(request, view, desk.trading.limits)


def entry_codes(desk: WireDesk) -> set[ReasonCode]:
    """Codes by which the gate would refuse an entry now."""
    return {finding.code for finding in judge_request(desk, Leg.ENTRY, D("0.010"), D(40_000)).findings}


@dataclass
class Watch:
    """Holds at every named point of the order path what must hold at each of them, and lets things happen at one."""

    desk: WireDesk
    at: dict[str, Callable[[], object]] = field(default_factory=dict)
    looks: int = 0
    least: Decimal = ZERO
    most_claimed: Decimal = ZERO

    def __call__(self, point: str) -> None:
        self.desk.passed.append(point)
        happens = self.at.pop(point, None)
        if happens is not None:
            happens()
        self.look()

    def look(self) -> None:
        """Look at what is held and at what would sell it."""
        self.looks += 1
        there = held_there(self.desk)
        self.least = min(self.least, there)
        told = self.desk.venue.truth()["orders"]
        resting = sum((D(o["qty"]) - D(o["filled"]) for o in told if o["is_open"] and o["side"] == "SELL" and not o["trigger_price"]), ZERO)
        self.most_claimed = max(self.most_claimed, resting - there)
        with self.desk.stores.open() as work:
            live = work.orders.load_live(self.desk.account)
        claimed = sum((order.remaining for order in live if order.purpose is not Purpose.ENTRY), ZERO)
        self.most_claimed = max(self.most_claimed, claimed - held(self.desk))


@contextmanager
def watched(desk: WireDesk, **at: Callable[[], object]) -> Any:
    """Watch the points that a desk passes; `after_cancel_wire=...` lets something happen there, once."""
    before = desk.trading
    watch = Watch(desk, dict(at))
    desk.trading = replace(before, at=watch)
    try:
        yield watch
    finally:
        desk.trading = replace(desk.trading, at=before.at)
