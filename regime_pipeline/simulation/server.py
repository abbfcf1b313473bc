"""The server: every venue of the universe and CoinGecko behind one loopback port, and `/sim/` to look at it and to move its clock."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
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
from regime_pipeline.simulation.clock import VirtualClock
from regime_pipeline.simulation.streams import BinanceStream, HyperliquidStream, Stream
from regime_pipeline.simulation.truth import NoFacts, Truth
from regime_pipeline.simulation.wire import Api, undamaged

HOST: Final = "127.0.0.1"
_START_S: Final = 30.0


class SimulatedVenue:
    """Every venue of a universe, fed from one source, on one clock."""

    def __init__(self, source: BarSource, universe: Universe, clock: VirtualClock) -> None:
        """List what there is; nothing listens yet (see `serve`)."""
        self.universe, self.clock = universe, clock
        self.truth = Truth(source, universe, NoFacts())
        self.requests: Counter[str] = Counter()

    def build_app(self) -> web.Application:
        """Build the routes: one prefix per API, so that another API, or trading, is another handler."""
        app = web.Application()
        for api in (Api.SPOT, Api.USDM):
            app.router.add_get(f"/{api}/{{path:.*}}", partial(self._binance, api))
        app.router.add_post("/hyperliquid/info", self._hyperliquid)
        app.router.add_get("/hyperliquid/ws", self._hyperliquid_stream)
        app.router.add_get("/coingecko/{path:.*}", self._coingecko)
        app.router.add_get("/sim/status", self._status)
        app.router.add_get("/sim/clock", self._read_clock)
        app.router.add_post("/sim/clock", self._move_clock)
        app.router.add_get("/sim/truth", self._show_truth)
        return app

    async def _binance(self, api: Api, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        if "upgrade" in request.headers.get("Connection", "").lower():
            names = request.query.get("streams", "").split("/") if "streams" in request.query else path.split("/")
            return await self._stream(request, BinanceStream(self.truth, self.clock, api, names, is_combined="streams" in request.query))
        call = binance.read_call(api, path, request.query)
        return self._respond(call, binance.answer(self.truth, call, request.query, self.clock.now_s(), undamaged))

    async def _hyperliquid(self, request: web.Request) -> web.StreamResponse:
        try:
            payload = await request.json()
        except json.JSONDecodeError:
            payload = None
        call = hyperliquid.read_call(payload)
        return self._respond(call, hyperliquid.answer(self.truth, call, payload, self.clock.now_s(), undamaged))

    async def _hyperliquid_stream(self, request: web.Request) -> web.StreamResponse:
        return await self._stream(request, HyperliquidStream(self.truth, self.clock))

    async def _coingecko(self, request: web.Request) -> web.StreamResponse:
        call = coingecko.read_call(request.match_info["path"])
        return self._respond(call, coingecko.answer(self.truth, self.universe, call, request.query, self.clock.now_s()))

    async def _stream(self, request: web.Request, stream: Stream) -> web.StreamResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await stream.run(ws)
        return ws

    def _respond(self, call: Call, answer: Answer) -> web.StreamResponse:
        self.requests[f"{call.api}/{call.endpoint}"] += 1
        is_text = isinstance(answer.body, str)
        text = answer.body if is_text else json.dumps(answer.body)
        content_type = "text/plain" if is_text else "application/json"
        return web.Response(text=text, status=answer.status, headers=answer.headers, content_type=content_type)

    async def _status(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response({"clock": self._clock(), "requests": dict(self.requests)})

    async def _read_clock(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response(self._clock())

    async def _move_clock(self, request: web.Request) -> web.StreamResponse:
        wanted = await request.json()
        if "speed" in wanted:
            self.clock.set_speed(float(wanted["speed"]))
        if "advance_s" in wanted:
            self.clock.advance(float(wanted["advance_s"]))
        return web.json_response(self._clock())

    async def _show_truth(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        timeframe = Timeframe(query["timeframe"])
        bars = self.truth.bars(query["venue"], query["symbol"], timeframe, int(query["start_s"]), int(query["end_s"]))
        return web.json_response({name: getattr(bars, name).tolist() for name in RawBars.__match_args__})

    def _clock(self) -> dict[str, Any]:
        return {"now": self.clock.now().isoformat(), "now_s": self.clock.now_s(), "speed": self.clock.speed}


@dataclass(frozen=True, slots=True)
class Served:
    """A running server: where it listens, and what a client of it must end with."""

    url: str
    venue: SimulatedVenue

    @property
    def truth(self) -> Truth:
        """The exact bars."""
        return self.venue.truth


@contextmanager
def serve(venue: SimulatedVenue, port: int = 0) -> Iterator[Served]:
    """Serve on 127.0.0.1 from a thread of its own until the block is left.

    Parameters
    ----------
    venue : SimulatedVenue
        What to serve.
    port : int
        Port; 0 takes any free one.

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
            site = web.TCPSite(runner, HOST, port)
            await site.start()
            ports.append(runner.addresses[0][1])
            ready.set()
            await stop.wait()
        finally:
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
        yield Served(f"http://{HOST}:{ports[0]}", venue)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(_START_S)
