"""Every golden answer once more, over a socket and through the real ccxt: what it returns or raises changes nothing.

What it shows is kept in ccxt_answers_*.json beside them, with real host names, since ccxt looks errors up by host. A version of ccxt that
maps one of them differently fails here, before it fails an order (X25). Written again by `python -m tests.golden.test_ccxt_answers`.
"""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any

import ccxt
import pytest
import requests

from regime_pipeline.adapters.brokers.ccxt_broker import CcxtBroker
from regime_pipeline.adapters.brokers.client_check import CCXT_VERSION
from regime_pipeline.adapters.brokers.lane import Asked
from regime_pipeline.adapters.brokers.start import TradingAccount, build_kill_broker
from regime_pipeline.execution.answers import PROFILES, AnswerClass, RawAnswer, Transport, classify_answer
from regime_pipeline.ports import OrderSpec, OrderType
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.purpose import Side
from regime_pipeline.simulation.trading import ApiKeys
from tests.brokers import secrets_of
from tests.trading import serve_trading
from tests.unit.adapters.venues.scripted import Reply, serve

FOLDER = Path(__file__).parent
CLIENT_ID = "c579c12d0ce182e98a99629fd09bb09e"
SENT_AT_MS = 1_795_201_272_000
MARKETS = {"binance": "spot", "bybit": "linear"}
ROWS = {venue: json.loads((FOLDER / f"answers_{venue}.json").read_text()) for venue in MARKETS}
CASES = [(venue, row) for venue, rows in ROWS.items() for row in rows]


class Detour(requests.adapters.HTTPAdapter):
    """Takes requests to a real host to a loopback port: ccxt sees the host's name, nothing leaves the machine."""

    def __init__(self, inner: requests.adapters.BaseAdapter, url: str) -> None:
        super().__init__()
        self.inner, self.target = inner, url

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        sent = request.copy()
        sent.url = f"{self.target}{request.path_url}"
        return self.inner.send(sent, *args, **kwargs)


@cache
def markets_of(venue: str) -> list[dict[str, Any]]:
    """What ccxt makes of the markets of a simulated venue."""
    with serve_trading(MARKETS[venue]) as simulated:
        exchange = simulated.exchange()
        exchange.number = str
        return list(exchange.fetch_markets())


@cache
def live_broker(venue: str) -> CcxtBroker:
    """A broker in live mode, at the real host by name."""
    account = TradingAccount(venue, MARKETS[venue], f"{venue}-main", Mode.LIVE)
    broker = build_kill_broker(secrets_of(ApiKeys()), account, lambda: SENT_AT_MS)
    broker._lanes.create.exchange.set_markets(markets_of(venue))
    broker._symbols.learn(markets_of(venue))
    return broker


def create_at(venue: str, url: str, qty: str = "0.3", *, is_known: bool = False, timeout_s: float = 4.0) -> tuple[Asked, RawAnswer]:
    """Create one order at a loopback address; gives what ccxt made of it, and what the broker hands on."""
    broker = live_broker(venue)
    lane, dialect = broker._lanes.create, broker._dialect
    inner = lane.session.adapters["http://"]
    lane.session.adapters["https://"] = Detour(inner, url)
    lane.session.timeout_s = timeout_s
    lane.exchange.options["hasAlreadyAuthenticatedSuccessfully"] = is_known
    symbol = "BTC/USDT" if venue == "binance" else "BTC/USDT:USDT"
    spec = OrderSpec(CLIENT_ID, symbol, Side.BUY, OrderType.LIMIT, Decimal(qty), Decimal(40_000))
    creation = dialect.create(spec, "BTCUSDT", SENT_AT_MS, 5000)
    asked = lane.ask(creation.question, creation.check, stamp_ms=SENT_AT_MS, window_ms=5000)
    return asked, lane.reply(asked).answer


def replay(venue: str, row: dict[str, Any]) -> tuple[Asked, RawAnswer, int]:
    """Give a golden answer over a socket; tells also how many requests came."""
    body = row["body"].replace("{id}", CLIENT_ID)
    match row["transport"], row["status"]:
        case "not_built", _:
            return *create_at(venue, "http://127.0.0.1:1", qty="0.3000000001"), 0
        case "not_connected", _:
            with socket.socket() as free:  # bound, and nobody listens
                free.bind(("127.0.0.1", 0))
                return *create_at(venue, f"http://127.0.0.1:{free.getsockname()[1]}"), 0
        case "answered", None:
            with serve_garbage() as url:
                return *create_at(venue, url), 1
        case "timed_out", _:
            reply = Reply(is_silent=True)
        case "broken", None:
            reply = Reply(is_reset=True)
        case "broken", status:
            reply = Reply(body, status, cut=len(body) - 1)
        case _, status:
            reply = Reply(body, status, {"Content-Type": "application/json", "Connection": "close"})
    with serve(reply) as peer:
        asked, answer = create_at(venue, peer.url, timeout_s=0.3 if row["transport"] == "timed_out" else 4.0)
        return asked, answer, len(peer.asked)


@contextmanager
def serve_garbage() -> Iterator[str]:
    """A peer whose first line is none of HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(b"garbage\r\n\r\n")

        thread = Thread(target=answer, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(2)


def shown(asked: Asked) -> dict[str, Any]:
    """What somebody who believed ccxt would see."""
    if asked.failure is not None:
        return {"raises": type(asked.failure).__name__}
    order = asked.result
    assert isinstance(order, dict)
    return {"returns": {name: order[name] for name in ("id", "clientOrderId", "status")}}


def load_shown(venue: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"ccxt_answers_{venue}.json").read_text())


@pytest.mark.fault_row("X25")
@pytest.mark.parametrize(("venue", "row"), CASES, ids=[f"{venue}: {row['name']}" for venue, row in CASES])
def test_what_ccxt_makes_of_an_answer_changes_nothing(venue: str, row: dict[str, Any]) -> None:
    asked, answer, n_received = replay(venue, row)
    assert shown(asked) == load_shown(venue)["answers"][row["name"]]
    assert n_received == asked.capture.n_sent if n_received else asked.capture.n_sent in {0, 1}
    verdict = classify_answer(PROFILES[venue], answer, CLIENT_ID)
    assert verdict.answer_class == row["class"]
    if row["transport"] == "answered" and row["status"] not in {None, 101}:
        assert answer == RawAnswer(Transport.ANSWERED, row["status"], row["body"].replace("{id}", CLIENT_ID).encode())
        assert (verdict.reason, verdict.venue_order_id) == (row["reason"], row.get("order_id"))


def test_a_refused_key_looks_like_too_many_requests_once_it_has_worked() -> None:
    """ccxt remembers that the key has worked and calls the same answer by another name; the class stays."""
    body = '{"code":-2015,"msg":"Invalid API-key, IP, or permissions for action."}'
    seen = []
    for is_known in (False, True):
        with serve(Reply(body, 401, {"Connection": "close"})) as peer:
            asked, answer = create_at("binance", peer.url, is_known=is_known)
        seen.append((shown(asked)["raises"], classify_answer(PROFILES["binance"], answer, CLIENT_ID).answer_class))
    assert seen == [("AuthenticationError", AnswerClass.REFUSED), ("DDoSProtection", AnswerClass.REFUSED)]


@pytest.mark.parametrize("venue", list(MARKETS))
def test_what_ccxt_shows_is_kept_for_sixty_answers_of_this_version(venue: str) -> None:
    kept = load_shown(venue)
    assert kept["ccxt"] == CCXT_VERSION == ccxt.__version__
    assert len(kept["answers"]) == len(ROWS[venue]) >= 60
    assert {row["name"] for row in ROWS[venue]} == kept["answers"].keys()


@pytest.mark.parametrize("venue", list(MARKETS))
def test_the_class_of_an_exception_proves_nothing(venue: str) -> None:
    """Why none is ever looked at: exceptions that sound final come with answers that are not, and orders come from no order at all."""
    kept = load_shown(venue)["answers"]
    unknown = [kept[row["name"]] for row in ROWS[venue] if row["class"] == "UNKNOWN"]
    assert any("returns" in each for each in unknown)
    assert any(each.get("raises") == "ExchangeError" for each in unknown)
    final = {kept[row["name"]].get("raises") for row in ROWS[venue] if row["class"] == "REFUSED"}
    assert final & {each.get("raises") for each in unknown}


def record() -> None:
    """Write what this version of ccxt shows."""
    for venue, rows in ROWS.items():
        answers = {row["name"]: shown(replay(venue, row)[0]) for row in rows}
        text = json.dumps({"ccxt": ccxt.__version__, "answers": answers}, indent=1, ensure_ascii=False)
        (FOLDER / f"ccxt_answers_{venue}.json").write_text(text + "\n")


if __name__ == "__main__":
    record()
