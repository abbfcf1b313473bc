"""The trading floor on HTTP: requests through the script of faults, and a control that no fault ever touches."""

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Final

from aiohttp import web

from regime_pipeline.simulation.answers import Answer
from regime_pipeline.simulation.clock import VirtualClock
from regime_pipeline.simulation.trading.calls import HttpCall
from regime_pipeline.simulation.trading.control import Control
from regime_pipeline.simulation.trading.desk import Desk
from regime_pipeline.simulation.trading.floor import Received, TradingFloor, scripted
from regime_pipeline.simulation.trading.script import ScriptEntry

_GLANCE_S: Final = 0.005
"""How often, in real time, a held request looks at the virtual clock."""
_BINANCE_PATHS: Final = (
    "time",
    "exchangeInfo",
    "order",
    "openOrders",
    "allOrders",
    "myTrades",
    "account",
    "depth",
    "ticker/{name}",
)


class TradingRoutes:
    """Handlers of a trading floor for one aiohttp application."""

    def __init__(self, floor: TradingFloor, clock: VirtualClock, extra_symbols: Callable[[], list[dict[str, Any]]]) -> None:
        """Serve a floor on a clock; `extra_symbols` are listed for their bars and cannot be traded."""
        self._floor, self._clock, self._extra_symbols = floor, clock, extra_symbols
        self._control = Control(floor, clock)
        # Requests that the book takes after their client has left must not be lost with the handler.
        self._pending: set[asyncio.Task[Answer]] = set()

    def add_to(self, app: web.Application) -> None:
        """Add the routes; they must come before those of market data."""
        router = app.router
        if "binance" in self._floor.desks:
            for path in _BINANCE_PATHS:
                router.add_route("*", f"/binance/api/v3/{path}", self._serve)
            router.add_route("*", "/binance/sapi/{path:.*}", self._serve)
        if "bybit" in self._floor.desks:
            router.add_route("*", "/bybit/{path:.*}", self._serve)
        router.add_route("*", "/sim/trading/{what:.*}", self._steer)
        app.on_cleanup.append(self._drop_pending)

    def _clock_ms(self) -> int:
        return int(1000 * self._clock.now_s())

    def _now_ms(self) -> int:
        return self._floor.now_ms(self._clock_ms())

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        prefix, _, rest = request.path.lstrip("/").partition("/")
        desk = self._floor.desks[prefix]
        body = (await request.read()).decode("utf-8", "replace") if request.can_read_body else ""
        headers = {name.lower(): value for name, value in request.headers.items()}
        call = HttpCall(request.method, f"/{rest}", request.rel_url.raw_query_string, body, headers)
        note = self._floor.record(desk, call, self._now_ms())
        entry = self._floor.script.take(call)
        if entry is None:
            return self._respond(call, self._floor.take(desk, call, self._now_ms(), note))
        return await self._serve_scripted(request, desk, call, entry, note)

    async def _serve_scripted(
        self, request: web.Request, desk: Desk, call: HttpCall, entry: ScriptEntry, note: Received | None
    ) -> web.StreamResponse:
        """Take the request when the entry says so, wait, and answer or cut as it says."""
        if entry.accept == "after":
            task = asyncio.ensure_future(self._take_later(desk, call, entry, note))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)
            # The client may give up and end this handler; the request is under way all the same.
            normal = await asyncio.shield(task)
        else:
            normal = self._floor.serve(desk, call, entry, self._now_ms(), note)
            await asyncio.sleep(entry.delay_ms / 1000)
        response = self._respond(call, scripted(entry, normal))
        return await _CUTS[entry.cut](request, response)

    async def _take_later(self, desk: Desk, call: HttpCall, entry: ScriptEntry, note: Received | None) -> Answer:
        until_ms = (self._now_ms() if note is None else note.at_ms) + entry.hold_ms
        await asyncio.sleep(entry.delay_ms / 1000)
        while self._now_ms() < until_ms:
            await asyncio.sleep(_GLANCE_S)
        return self._floor.serve(desk, call, entry, self._now_ms(), note)

    def _respond(self, call: HttpCall, answer: Answer) -> web.Response:
        """Build a response that says the venue's time, not the machine's."""
        body = answer.body
        if call.path == "/api/v3/exchangeInfo" and isinstance(body, dict) and "symbols" in body:
            listed = {each["symbol"] for each in body["symbols"]}
            body = {**body, "symbols": [*body["symbols"], *(each for each in self._extra_symbols() if each["symbol"] not in listed)]}
        text = body if isinstance(body, str) else json.dumps(body, separators=(",", ":"))
        date = format_datetime(datetime.fromtimestamp(self._now_ms() // 1000, UTC), usegmt=True)
        headers = {"Date": date, "Content-Type": "application/json;charset=UTF-8"}
        return web.Response(body=text.encode(), status=answer.status, headers={**headers, **answer.headers})

    async def _steer(self, request: web.Request) -> web.StreamResponse:
        wanted = await request.json() if request.can_read_body else {}
        status, body = self._control.do(request.method, request.match_info["what"], wanted)
        return web.json_response(body, status=status)

    async def _drop_pending(self, _app: web.Application) -> None:
        for task in self._pending:
            task.cancel()
        await asyncio.gather(*self._pending, return_exceptions=True)


async def _whole(_request: web.Request, response: web.Response) -> web.StreamResponse:
    return response


async def _reset(request: web.Request, _response: web.Response) -> web.StreamResponse:
    """Reset the connection before a byte of the answer."""
    _linger(request)
    return _abort(request)


async def _fin(request: web.Request, _response: web.Response) -> web.StreamResponse:
    """Close the connection in order, before a byte of the answer."""
    if request.transport is not None:
        request.transport.close()
    return web.Response()


async def _truncate(request: web.Request, response: web.Response) -> web.StreamResponse:
    """Promise the whole body and close in order after half of it."""
    half = await _send_half(request, response)
    if request.transport is not None:
        request.transport.close()
    return half


async def _tear(request: web.Request, response: web.Response) -> web.StreamResponse:
    """Break off after half of the body: under TLS without its farewell, so that the end cannot be told from an attack."""
    half = await _send_half(request, response)
    _abort(request)
    return half


async def _send_half(request: web.Request, whole: web.Response) -> web.StreamResponse:
    body = whole.body if isinstance(whole.body, bytes) else b""
    half = web.StreamResponse(status=whole.status, headers={**whole.headers, "Content-Length": str(len(body))})
    await half.prepare(request)
    await half.write(body[: len(body) // 2])
    return half


def _linger(request: web.Request) -> None:
    if request.transport is not None:
        # With a linger of 0 s, closing sends a reset instead of an orderly end.
        sock = request.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _abort(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


_Cut = Callable[[web.Request, web.Response], Awaitable[web.StreamResponse]]
_CUTS: Final[dict[str, _Cut]] = {"none": _whole, "reset": _reset, "fin": _fin, "truncate": _truncate, "tls": _tear}
