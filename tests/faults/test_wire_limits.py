"""X24, X25 and X28: what is refused before anything leaves, by the client's settings, by its version, and by the venue's own rules."""

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from regime_pipeline.adapters.brokers.client_check import DIALECTS, build_order_client, check_client
from regime_pipeline.errors import ConfigError
from regime_pipeline.execution.answers import PROFILES, classify_answer
from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.execution.rounding import plan_exit_qty, plan_qty, round_price
from regime_pipeline.portfolio.reasons import ReasonCode
from regime_pipeline.ports import Ok
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.checks import check_instrument
from regime_pipeline.risk.gate_view import Case, OrderRequest
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.limits import RiskSettings
from regime_pipeline.risk.purpose import Leg, Side
from regime_pipeline.services.trading.build_gate_view import SymbolView, build_gate_view
from regime_pipeline.services.trading.read_account import AccountView
from regime_pipeline.simulation.trading import Instrument
from regime_pipeline.simulation.trading.values import Kind, NewOrder, RefusalError
from regime_pipeline.simulation.trading.values import Side as VenueSide
from tests.golden.test_ccxt_answers import CLIENT_ID, ROWS, load_shown, replay, shown
from tests.trading import CREATE, EXCHANGES
from tests.unit.adapters.venues.scripted import Reply, serve
from tests.wire import LATE_MS, WireDesk, judge, open_wire

D = Decimal
S = OrderState
Cells = Callable[..., None]
Trap = Callable[[Any], object]
MARKETS = ["spot", "linear"]

# ---- X24 ----------------------------------------------------------------------------------------------------------------------------


def retry_adapter(exchange: Any) -> None:
    """Let the HTTP library below the client library try again, as many a recipe tells one to."""
    wanted = Retry(total=3, status_forcelist=[500, 502, 503, 504], allowed_methods=None, backoff_factor=0)
    for scheme in ("http://", "https://"):
        exchange.session.mount(scheme, HTTPAdapter(max_retries=wanted))


RETRIES: dict[str, tuple[Trap, str]] = {
    "option of the exchange": (lambda e: e.options.update({"maxRetriesOnFailure": 3}), "maxRetriesOnFailure was 3"),
    "option of the method": (lambda e: e.options.update({"createOrder": {"maxRetriesOnFailure": 3}}), "createOrder.maxRetriesOnFailure"),
    "option of another method": (
        lambda e: e.options.update({"cancelOrder": {"maxRetriesOnFailure": 1}}),
        "cancelOrder.maxRetriesOnFailure",
    ),
    "adapter": (retry_adapter, "adapter retries was"),
    "redirects": (lambda e: setattr(e.session, "max_redirects", 30), "max_redirects was 30"),
}
PROXIES: dict[str, tuple[Trap, str]] = {
    "proxy of the exchange": (lambda e: setattr(e, "httpProxy", "http://127.0.0.1:9"), "httpProxy was"),
    "proxy for https": (lambda e: setattr(e, "https_proxy", "http://127.0.0.1:9"), "https_proxy was"),
    "proxy by callback": (lambda e: setattr(e, "proxyUrl", "http://127.0.0.1:9/?"), "proxyUrl was"),
    "proxies of the client": (lambda e: setattr(e, "proxies", {"http": "http://127.0.0.1:9"}), "proxies was"),
    "proxies of the session": (lambda e: e.session.proxies.update({"https": "http://127.0.0.1:9"}), "session.proxies was"),
    "proxy of the environment": (lambda e: setattr(e.session, "trust_env", True), "trust_env was"),
    "another session": (lambda e: setattr(e, "session", requests.Session()), "session was Session"),
    "another time-out": (lambda e: setattr(e, "timeout", 30_000), "timeout was 30000"),
}


@pytest.mark.fault_row("X24")
@pytest.mark.parametrize("market_type", MARKETS)
def test_a_client_that_may_send_twice_is_refused_at_the_start(market_type: str, cells: Cells) -> None:
    traps = {**RETRIES, **PROXIES}
    exchange_id = {"spot": "binance", "linear": "bybit"}[market_type]
    dialect = DIALECTS[exchange_id, market_type]()
    for name, (trap, told) in traps.items():
        exchange = build_order_client(dialect, Mode.LIVE, ("key", "secret"))
        check_client(exchange, dialect, Mode.LIVE)
        built = exchange.session
        trap(exchange)
        with pytest.raises(ConfigError) as refused:
            check_client(exchange, dialect, Mode.LIVE)
        assert told in str(refused.value), name
        built.close()
        exchange.session.close()
    cells(run=len(traps), passed=len(traps))


@pytest.mark.fault_row("X24")
@pytest.mark.parametrize("market_type", MARKETS)
def test_even_where_it_was_switched_on_later_one_order_is_one_post(lasting_database: str, market_type: str, cells: Cells) -> None:
    """Every retry there is, against everything that would set it off: the session lets one request out."""
    faults: list[dict[str, Any]] = [{"status": 503, "body": ""}, {"status": 504, "body": ""}, {"cut": "reset"}, {"delay_ms": LATE_MS}]
    with open_wire(lasting_database, market_type) as desk:
        prefix = {"spot": "binance", "linear": "bybit"}[market_type]
        target = f"{desk.venue.url}/{prefix}{CREATE[desk.venue.market_type].partition(' ')[2]}"
        faults.append({"status": 307, "headers": {"Location": target}, "body": ""})
        exchange = desk.ccxt._lanes.create.exchange
        desk.hurry()
        for name, (trap, _) in RETRIES.items():
            trap(exchange)
            is_below = name == "adapter"  # it would repeat below the session, where nobody counts: then nothing leaves at all
            for fault in faults:
                posts = desk.posts()
                desk.fault(repeat=0, **fault)
                order_id = desk.intend()
                desk.execute()
                desk.wait_arrived(posts + (not is_below))
                assert desk.posts() == posts + (not is_below), (name, fault)
                assert desk.state(order_id) is (S.REJECTED if is_below else S.UNKNOWN)
                desk.venue.clear_script()
                desk.step(1)
                assert desk.state(order_id) is (S.REJECTED if is_below else S.FILLED)
            if is_below:
                for scheme in ("http://", "https://"):
                    exchange.session.mount(scheme, HTTPAdapter())
        judge(desk)
    cells(run=len(RETRIES) * len(faults), passed=len(RETRIES) * len(faults))


@contextmanager
def set_environment(**values: str) -> Iterator[None]:
    """Set variables of the environment for a block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@pytest.mark.fault_row("X24")
@pytest.mark.parametrize("market_type", MARKETS)
def test_a_proxy_of_the_environment_sees_no_order(lasting_database: str, market_type: str) -> None:
    """It may send again what it was not answered: the machine's proxy variables are not for orders."""
    with serve(Reply("", 502)) as proxy:
        names = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        with set_environment(no_proxy="", NO_PROXY="", **dict.fromkeys(names, proxy.url)), open_wire(lasting_database, market_type) as desk:
            order_id = desk.intend()
            desk.step(0, 2)
            assert (desk.state(order_id), desk.posts()) == (S.FILLED, 1)
            judge(desk)
        assert proxy.asked == []


# ---- X25 ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.fault_row("X25")
@pytest.mark.parametrize("venue", sorted(EXCHANGES.values()))
def test_what_this_version_of_ccxt_makes_of_every_golden_answer_is_on_file(venue: str, cells: Cells) -> None:
    """Sixty answers and more, over a socket: neither its mapping nor our class may change with an upgrade that nobody has looked at."""
    kept, differs = load_shown(venue)["answers"], []
    for row in ROWS[venue]:
        asked, answer, n_received = replay(venue, row)
        verdict = classify_answer(PROFILES[venue], answer, CLIENT_ID)
        is_sent = row["transport"] not in {"not_built", "not_connected"}
        if (shown(asked), verdict.answer_class.value, n_received) != (kept[row["name"]], row["class"], int(is_sent)):
            differs.append((row["name"], shown(asked), verdict.answer_class.value, n_received))
    assert differs == []
    assert len(ROWS[venue]) >= 60
    cells(run=len(ROWS[venue]), passed=len(ROWS[venue]))


# ---- X28 ----------------------------------------------------------------------------------------------------------------------------

N_ORDERS = 10_000
N_INSTRUMENTS = 300
LIMITS = RiskSettings(min_order_quote=D("0.000001"), max_order_quote=D(10) ** 9)


def any_instrument(at: int, dice: random.Random) -> Instrument:
    """A market with a grid and bounds of its own; some are closed."""
    tick = dice.choice([D("0.01"), D("0.1"), D("0.5"), D("0.05"), D("0.0001"), D("0.00001"), D("0.000001"), D(1), D("0.0025")])
    step = dice.choice([D(1), D("0.1"), D("0.001"), D("0.00001"), D(5), D("0.25"), D(10), D("0.002")])
    price = (tick * dice.randint(40, 200_000)).quantize(D("1E-8"))
    least = step * dice.randint(1, 20)
    return Instrument(
        f"T{at:03d}USDT", f"T{at:03d}", "USDT", tick, step, least, D(dice.choice(["1", "5", "10", "100"])), price,
        max_qty=least + step * dice.randint(10, 100_000), is_active=dice.random() > 0.05,
    )  # fmt: skip


def is_passed(request: OrderRequest, rules: InstrumentRules, account: AccountView) -> set[ReasonCode]:
    """Codes of check 4 of the gate."""
    view = build_gate_view(account, request, SymbolView(rules, (), None, request.price))
    return {found.code for found in check_instrument(Case(request, view, LIMITS))}


def a_request(symbol: str, leg: Leg, side: Side, qty: Decimal, price: Decimal, notional: Decimal) -> OrderRequest:
    return OrderRequest("0" * 32, "a", "s-1h", symbol, "c", leg, side, qty, price, notional, "strategy", Mode.SANDBOX, 2**50)


def ask_book(desk: WireDesk, at: int, venue_symbol: str, request: OrderRequest) -> str:
    """What the venue's book says to an order; empty when it takes it."""
    side = VenueSide(request.side.value.upper())
    asked = NewOrder(venue_symbol, side, Kind.LIMIT, request.qty, f"{at:032x}", request.price, spelled_type="LIMIT")
    try:
        order = desk.venue.book.create(asked, desk.now_ms)
    except RefusalError as refusal:
        return refusal.reason.value
    if order.is_open:
        desk.venue.book.cancel(None, desk.now_ms, order_id=order.order_id)
    return ""


@pytest.mark.fault_row("X28")
@pytest.mark.parametrize("market_type", MARKETS)
def test_of_ten_thousand_orders_the_venue_refuses_none_that_passed_here(lasting_database: str, market_type: str, cells: Cells) -> None:
    """Rules read from the venue's own listing; orders as drafted and orders as a mistake would make them: off the grid, in another unit.

    What rounding and check 4 of the gate let pass is taken; what they refuse is refused here, and most of it would be there too.
    """
    dice = random.Random(28)
    listed = [any_instrument(at, dice) for at in range(N_INSTRUMENTS)]
    held = {"USDT": D(10) ** 16, **({each.base: D(10) ** 12 for each in listed} if market_type == "spot" else {})}
    counts, refused = Counter[str](), Counter[str]()
    numbers = count()
    with open_wire(lasting_database, market_type, instruments=listed, balances=held, max_open_orders=10**9) as desk:
        read = desk.broker.fetch_listings()
        assert isinstance(read, Ok)
        suffix = "" if market_type == "spot" else ":USDT"
        account = AccountView(desk.now_ms, Mode.SANDBOX, "a", ())
        while counts["judged"] < N_ORDERS:
            at = next(numbers)
            instrument = dice.choice(listed)
            symbol = f"{instrument.base}/USDT{suffix}"
            rules = (
                read.value[symbol].rules
                if symbol in read.value
                else InstrumentRules(symbol, instrument.tick, instrument.step, is_active=False)
            )
            is_entry = market_type == "linear" or dice.random() < 0.6
            leg, side = (Leg.ENTRY, Side.BUY) if is_entry else (Leg.EXIT, Side.SELL)
            wanted = (instrument.price * D(repr(dice.uniform(0.95, 1.05)))).quantize(D("1E-10"))
            budget = D(repr(10 ** dice.uniform(1, 7)))
            kind = dice.choices(["drafted", "off grid", "quote for base", "contracts for base"], [85, 9, 3, 3])[0]
            price = wanted if kind == "off grid" else round_price(wanted, rules.tick, side)
            qty = (budget / price).quantize(D("1E-10"))
            if kind != "off grid":
                qty = plan_qty(qty, price, rules) if is_entry else plan_exit_qty(qty, D(10) ** 12, price, rules).qty
            notional = qty * price
            if kind == "quote for base":
                qty = plan_qty(budget, price, rules)
            elif kind == "contracts for base":
                qty = plan_qty(qty * 100, price, replace(rules, contract_size=D("0.01")))
            if qty == 0 and kind == "drafted":
                counts["below the minimum: not ordered"] += 1
                continue
            request = a_request(symbol, leg, side, qty, price, notional)
            codes = is_passed(request, rules, account)
            answer = ask_book(desk, at, instrument.symbol, request)
            assert codes or not answer, f"{request} passed, the venue says {answer}; {instrument}"
            counts.update(["judged", "refused here" if codes else "taken"])
            refused.update(code.value for code in codes)
            assert kind != "drafted" or codes <= {ReasonCode.SYMBOL_INACTIVE}, (request, codes)
            if (
                kind in {"quote for base", "contracts for base"}
                and qty * price != notional
                and abs(qty * price - notional) > notional / 100
            ):
                assert ReasonCode.UNIT_MISMATCH in codes, request
    assert counts["taken"] > 6_000, counts
    assert set(refused) >= {"BAD_TICK", "BELOW_MIN_QTY", "BELOW_MIN_COST", "UNIT_MISMATCH", "SYMBOL_INACTIVE"}, refused
    cells(run=N_ORDERS, passed=N_ORDERS)


@pytest.mark.fault_row("X28")
@pytest.mark.parametrize("market_type", MARKETS)
def test_what_was_rounded_here_is_taken_over_the_wire(lasting_database: str, market_type: str, cells: Cells) -> None:
    """A sample of the same orders through intent, executor, ccxt and socket; those off the grid stop at the socket and say why."""
    dice = random.Random(82)
    listed = [replace(any_instrument(at, dice), is_active=True) for at in range(24)]
    suffix, run = "" if market_type == "spot" else ":USDT", 0
    with open_wire(lasting_database, market_type, instruments=listed, balances={"USDT": D(10) ** 12}) as desk:
        read = desk.broker.fetch_listings()
        assert isinstance(read, Ok)
        for instrument in listed:
            rules = read.value[f"{instrument.base}/USDT{suffix}"].rules
            price = round_price(instrument.price * D("1.001") + instrument.tick, rules.tick, Side.BUY)
            qty = plan_qty(max(rules.min_qty, 2 * rules.min_cost_quote / price) * D("1.37"), price, rules)
            if qty == 0:
                continue
            run += 1
            order_id = desk.intend(symbol=rules.symbol, qty=qty, limit_price=price, decision_mid=instrument.price)
            desk.execute()
            assert desk.state(order_id) in {S.OPEN, S.FILLED}, (instrument, desk.codes(order_id))
            for changes in ({"qty": qty + rules.step / 10}, {"limit_price": price + rules.tick / 10}):
                desk.step(2)
                posts = desk.posts()
                bad = desk.intend(symbol=rules.symbol, **{"qty": qty, "limit_price": price, "decision_mid": instrument.price, **changes})
                desk.execute()
                assert (desk.state(bad), desk.codes(bad)["REJECTED"], desk.posts()) == (S.REJECTED, "CONFIG", posts)
        judge(desk)
    assert run >= 18
    cells(run=3 * run, passed=3 * run)
