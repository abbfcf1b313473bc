"""The server: every venue of the universe and CoinGecko behind one loopback port, and `/sim/` to look at it and to move its clock."""

import asyncio
import json
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final

from aiohttp import web

from regime_pipeline.errors import RegimeError
from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import BarSource
from regime_pipeline.simulation import binance, coingecko, hyperliquid
from regime_pipeline.simulation.answers import Answer, Call
from regime_pipeline.simulation.board import FaultBoard
from regime_pipeline.simulation.bodies import Bodies
from regime_pipeline.simulation.clock import VirtualClock
from regime_pipeline.simulation.faults import FaultKind, FaultScript
from regime_pipeline.simulation.streams import BinanceStream, HyperliquidStream, Stream
from regime_pipeline.simulation.trading.book import TradingBook
from regime_pipeline.simulation.trading.floor import TradingFloor
from regime_pipeline.simulation.trading.listing import follow_bars, list_markets
from regime_pipeline.simulation.trading.routes import TradingRoutes
from regime_pipeline.simulation.trading.tls import build_context
from regime_pipeline.simulation.trading.values import MarketType
from regime_pipeline.simulation.truth import Truth
from regime_pipeline.simulation.wire import Api, Damage

HOST: Final = "127.0.0.1"
_START_S: Final = 30.0
_WEIGHTS: Final = {"klines": 2, "exchangeInfo": 20}


class SimulatedVenue:
    """Every venue of a universe, fed from one source, on one clock."""

    def __init__(
        self,
        source: BarSource,
        universe: Universe,
        clock: VirtualClock,
        faults: FaultScript | None = None,
        seed: int = 0,
        bodies: Path | None = None,
        trading: TradingFloor | None = None,
    ) -> None:
        """List what there is; nothing listens yet (see `serve`).

        Parameters
        ----------
        source : BarSource
            What the venues know; recorded or generated.
        universe : Universe
            What they list: symbols of venues with a ccxt id that is spoken here.
        clock : VirtualClock
            Their time; faults count from its start.
        faults : FaultScript, optional
            What goes wrong; by default nothing.
        seed : int
            Seed of the script's draws.
        bodies : Path, optional
            Folder of recorded error bodies to answer with; by default they are worded here.
        trading : TradingFloor, optional
            Books to trade on, each behind its venue's API; by default there is market data only.
        """
        self.universe, self.clock, self.trading = universe, clock, trading
        self.board = FaultBoard(faults or FaultScript(), seed, clock.start_s)
        self.truth = Truth(source, universe, self.board)
        self.board.list_bars_of(self.truth.all_listings())
        self.requests: Counter[str] = Counter()
        self._bodies = Bodies(bodies)
        self._weighed_minute, self._used = 0, Counter[Api]()

    def open_floor(self) -> None:
        """Let everything that has bars be traded at their prices, with 100 000 USDT at each venue; call it before serving."""
        books = [TradingBook(each, list_markets(self.truth, each, self.clock.start_s)) for each in MarketType]
        for book in books:
            follow_bars(book, self.truth)
        self.trading = TradingFloor(*books)

    def build_app(self) -> web.Application:
        """Build the routes: one prefix per API, so that another API, or trading, is another handler."""
        app = web.Application()
        if self.trading is not None:
            TradingRoutes(self.trading, self.clock, partial(binance.list_symbols, self.truth)).add_to(app)
        for api in (Api.SPOT, Api.USDM):
            app.router.add_get(f"/{api}/{{path:.*}}", partial(self._binance, api))
        app.router.add_post("/hyperliquid/info", self._hyperliquid)
        app.router.add_get("/hyperliquid/ws", self._hyperliquid_stream)
        app.router.add_get("/coingecko/{path:.*}", self._coingecko)
        app.router.add_get("/sim/status", self._status)
        app.router.add_get("/sim/clock", self._read_clock)
        app.router.add_post("/sim/clock", self._move_clock)
        app.router.add_get("/sim/faults", self._list_faults)
        app.router.add_post("/sim/faults/stop", self._stop_faults)
        app.router.add_get("/sim/truth", self._show_truth)
        return app

    async def _binance(self, api: Api, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        if "upgrade" in request.headers.get("Connection", "").lower():
            names = request.query.get("streams", "").split("/") if "streams" in request.query else path.split("/")
            return await self._stream(
                request, BinanceStream(self.truth, self.clock, self.board, api, names, is_combined="streams" in request.query)
            )
        call = binance.read_call(api, path, request.query)
        return await self._answer(request, call, partial(binance.answer, self.truth, call, request.query))

    async def _hyperliquid(self, request: web.Request) -> web.StreamResponse:
        try:
            payload = await request.json()
        except json.JSONDecodeError:
            payload = None
        call = hyperliquid.read_call(payload)
        return await self._answer(request, call, partial(hyperliquid.answer, self.truth, call, payload))

    async def _hyperliquid_stream(self, request: web.Request) -> web.StreamResponse:
        return await self._stream(request, HyperliquidStream(self.truth, self.clock, self.board))

    async def _coingecko(self, request: web.Request) -> web.StreamResponse:
        call = coingecko.read_call(request.match_info["path"])

        def build(now_s: float, _damage: Damage) -> Answer:
            is_null = self.board.loses_field(call, now_s)
            return coingecko.answer(self.truth, self.universe, call, request.query, now_s, is_null=is_null)

        return await self._answer(request, call, build)

    async def _stream(self, request: web.Request, stream: Stream) -> web.StreamResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        if self.board.is_stormy(stream.api, self.clock.now_s()):
            await ws.close()
        else:
            await stream.run(ws)
        return ws

    async def _answer(self, request: web.Request, call: Call, build: Callable[[float, Damage], Answer]) -> web.StreamResponse:
        """Answer a request, with what goes wrong with it on the way."""
        self.requests[f"{call.api}/{call.endpoint}"] += 1
        fault = self.board.transport_fault(call, self.clock.now_s())
        kind, skew_s = fault.kind if fault else None, 0.0
        if fault is None:
            pass
        elif kind in {FaultKind.LATENCY, FaultKind.TIMEOUT}:
            await asyncio.sleep(fault.amount)
        elif kind is FaultKind.CLOCK_SKEW:
            skew_s = fault.amount
        elif kind not in {FaultKind.RESET, FaultKind.TRUNCATED}:
            return _response(self._bodies.refusal(fault, call.api), self.clock.now_s())
        if kind in {FaultKind.TIMEOUT, FaultKind.RESET}:
            return _cut(request)
        now_s = self.clock.now_s()
        answer = build(now_s, self.board.damage(self.truth, call, now_s))
        if skew_s and isinstance(answer.body, dict) and "serverTime" in answer.body:
            answer = replace(answer, body={**answer.body, "serverTime": int(1000 * (now_s + skew_s))})
        response = _response(answer, now_s + skew_s, self._weights(call, now_s))
        return await _send_half(request, response) if kind is FaultKind.TRUNCATED else response

    async def _status(self, _request: web.Request) -> web.StreamResponse:
        trading = {"trading": dict(self.trading.requests)} if self.trading is not None else {}
        return web.json_response({"clock": self._clock(), "requests": dict(self.requests), "faults": dict(self.board.counts), **trading})

    async def _read_clock(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response(self._clock())

    async def _move_clock(self, request: web.Request) -> web.StreamResponse:
        wanted = await request.json()
        if "speed" in wanted:
            self.clock.set_speed(float(wanted["speed"]))
        if "advance_s" in wanted:
            self.clock.advance(float(wanted["advance_s"]))
        return web.json_response(self._clock())

    async def _list_faults(self, _request: web.Request) -> web.StreamResponse:
        script = [fault.model_dump(mode="json", exclude_none=True) for fault in self.board.script.faults]
        return web.json_response({"counts": dict(self.board.counts), "script": script})

    async def _stop_faults(self, request: web.Request) -> web.StreamResponse:
        self.board.stop(self.clock.now_s())
        return await self._list_faults(request)

    async def _show_truth(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        timeframe = Timeframe(query["timeframe"])
        bars = self.truth.bars(query["venue"], query["symbol"], timeframe, int(query["start_s"]), int(query["end_s"]))
        return web.json_response({name: getattr(bars, name).tolist() for name in RawBars.__match_args__})

    def _weights(self, call: Call, now_s: float) -> dict[str, str]:
        """Tell the weight used in this minute, as Binance does."""
        if call.api not in {Api.SPOT, Api.USDM}:
            return {}
        minute = int(now_s) // 60
        if minute != self._weighed_minute:
            self._weighed_minute, self._used = minute, Counter()
        self._used[call.api] += _WEIGHTS.get(call.endpoint, 1)
        used = str(self._used[call.api])
        return {"x-mbx-used-weight": used, "x-mbx-used-weight-1m": used}

    def _clock(self) -> dict[str, Any]:
        return {"now": self.clock.now().isoformat(), "now_s": self.clock.now_s(), "speed": self.clock.speed}


def _response(answer: Answer, now_s: float, headers: Mapping[str, str] | None = None) -> web.Response:
    """Build a response that says the venue's time, not the machine's."""
    is_text = isinstance(answer.body, str)
    kind = "text/plain; charset=utf-8" if is_text else "application/json;charset=UTF-8"
    stamps = {"Date": format_datetime(datetime.fromtimestamp(int(now_s), UTC), usegmt=True), "Content-Type": kind}
    text = answer.body if is_text else json.dumps(answer.body, separators=(",", ":"))
    return web.Response(body=text.encode(), status=answer.status, headers={**stamps, **(headers or {}), **answer.headers})


def _cut(request: web.Request) -> web.Response:
    """Reset the connection: the client sees no status at all."""
    if request.transport is not None:
        sock = request.transport.get_extra_info("socket")
        # With a linger of 0 s, closing sends a reset instead of an orderly end.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return web.Response()


async def _send_half(request: web.Request, whole: web.Response) -> web.StreamResponse:
    """Promise the whole body and close after half of it."""
    body = whole.body if isinstance(whole.body, bytes) else b""
    half = web.StreamResponse(status=whole.status, headers={**whole.headers, "Content-Length": str(len(body))})
    await half.prepare(request)
    await half.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return half


async def _hang_up(runner: web.AppRunner) -> None:
    """Break off every connection: a farewell under TLS waits for that of a client which may never send it."""
    for handler in runner.server.connections if runner.server is not None else ():
        if handler.transport is not None:
            handler.transport.abort()
    await asyncio.sleep(0)


@dataclass(frozen=True, slots=True)
class Served:
    """A running server: where it listens, and what a client of it must end with."""

    url: str
    venue: SimulatedVenue

    @property
    def truth(self) -> Truth:
        """The exact bars."""
        return self.venue.truth

    @property
    def faults(self) -> Mapping[str, int]:
        """How often each kind of fault has happened."""
        return {kind.value: count for kind, count in self.venue.board.counts.items()}


@contextmanager
def serve(venue: SimulatedVenue, port: int = 0, tls: Path | None = None) -> Iterator[Served]:
    """Serve on 127.0.0.1 from a thread of its own until the block is left.

    Parameters
    ----------
    venue : SimulatedVenue
        What to serve.
    port : int
        Port; 0 takes any free one.
    tls : Path, optional
        PEM file with certificate and key (see `make_certificate`): https only; by default http.

    Raises
    ------
    RegimeError
        When the port cannot be had.
    """
    ready, failures, ports = Event(), list[OSError](), list[int]()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def run() -> None:
        runner = web.AppRunner(venue.build_app(), access_log=None, shutdown_timeout=0.5, handler_cancellation=True)
        await runner.setup()
        try:
            site = web.TCPSite(runner, HOST, port, ssl_context=build_context(tls) if tls else None)
            await site.start()
            ports.append(runner.addresses[0][1])
            ready.set()
            await stop.wait()
        finally:
            if tls is not None:
                await _hang_up(runner)
            await runner.cleanup()

    def work() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(run())
        except OSError as error:
            failures.append(error)
        finally:
            loop.close()
            ready.set()

    thread = Thread(target=work, name="simulated-venue", daemon=True)
    thread.start()
    ready.wait(_START_S)
    if failures or not ports:
        raise RegimeError(
            f"the simulated venue cannot listen on {HOST}:{port} ({failures[0] if failures else 'no answer'}); choose another port."
        )
    try:
        yield Served(f"{'https' if tls else 'http'}://{HOST}:{ports[0]}", venue)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(_START_S)
