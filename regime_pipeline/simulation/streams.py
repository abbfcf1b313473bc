"""WebSocket streams: Hyperliquid's candles and mids, Binance's klines. One loop per connection looks at the clock and says what is new."""

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import WSCloseCode, WSMsgType, web

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.simulation import hyperliquid
from regime_pipeline.simulation.board import FaultBoard
from regime_pipeline.simulation.clock import VirtualClock
from regime_pipeline.simulation.faults import FaultKind
from regime_pipeline.simulation.truth import Listing, Truth
from regime_pipeline.simulation.wire import Api, WireBar, binance_event, hyperliquid_row, wire_bars

TICK_S: Final = 15
"""Virtual seconds between two updates of an open bar."""

# Bars that closed while the clock jumped; a client that misses more asks for them.
_MAX_CAUGHT_UP: Final = 10
_LOOKS_PER_TICK: Final = 4


@dataclass(frozen=True, slots=True)
class Feed:
    """What a connection listens to: the bars of a listing."""

    listing: Listing
    timeframe: Timeframe


class Stream(ABC):
    """One connection: reads subscriptions and sends what is new at each tick of the clock."""

    api: Api

    def __init__(self, truth: Truth, clock: VirtualClock, board: FaultBoard) -> None:
        self.truth, self.clock, self._board = truth, clock, board
        self.feeds: dict[Feed, None] = {}
        self._silent_until_s = 0.0
        self._told: list[Any] = []

    async def run(self, ws: web.WebSocketResponse) -> None:
        """Serve the connection until the client leaves or a fault ends it."""
        tasks = [asyncio.create_task(self._listen(ws)), asyncio.create_task(self._tell(ws, self.clock.now_s()))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            endings = await asyncio.gather(*tasks, return_exceptions=True)
            await ws.close(code=WSCloseCode.GOING_AWAY)
        for ending in endings:
            # A client may leave while it is being told something; anything else is an error of ours.
            if isinstance(ending, Exception) and not isinstance(ending, ConnectionError):
                raise ending

    @abstractmethod
    def hear(self, text: str) -> Iterable[Any]:
        """Take a message of the client, and say what it is answered."""

    @abstractmethod
    def spell(self, bar: WireBar, now_s: float, *, is_closed: bool) -> dict[str, Any]:
        """Spell a bar as the venue's stream does."""

    def news(self, before_s: float, now_s: float) -> Iterator[Any]:
        """Tell what happened since the last look: bars that closed, then each open bar as it is now."""
        for feed in self.feeds:
            for bar, is_closed in self._bars(feed, before_s, now_s):
                yield self.spell(bar, now_s, is_closed=is_closed)

    def open_bar(self, feed: Feed) -> Iterator[Any]:
        """Show the bar of this moment, as a new subscriber gets it."""
        now_s = self.clock.now_s()
        for bar, is_closed in self._bars(feed, now_s, now_s):
            yield self.spell(bar, now_s, is_closed=is_closed)

    def _bars(self, feed: Feed, before_s: float, now_s: float) -> Sequence[tuple[WireBar, bool]]:
        length_s = feed.timeframe.seconds
        start_s = max(feed.timeframe.floor(int(before_s)), feed.timeframe.floor(int(now_s)) - _MAX_CAUGHT_UP * length_s)
        seen = self.truth.seen(feed.listing, feed.timeframe, start_s, int(now_s) + 1, now_s)
        return [(bar, bar.ts_s + length_s <= now_s) for bar in wire_bars(feed.listing.symbol, feed.timeframe, seen)]

    async def _listen(self, ws: web.WebSocketResponse) -> None:
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                for reply in self.hear(message.data):
                    await ws.send_str(json.dumps(reply))

    async def _tell(self, ws: web.WebSocketResponse, before_s: float) -> None:
        while True:
            await asyncio.sleep(_pause_s(self.clock.speed))
            now_s = self.clock.now_s()
            if now_s // TICK_S == before_s // TICK_S:
                continue
            messages = self._spoil(list(self.news(before_s, now_s)), now_s)
            if messages is None:
                return
            for message in messages:
                await ws.send_str(json.dumps(message))
            before_s = now_s

    def _spoil(self, messages: list[Any], now_s: float) -> list[Any] | None:
        """Let the faults of this tick have their way with what would be told; None ends the connection."""
        kinds = set()
        for fault in self._board.stream_faults(self.api, now_s) if self.feeds else ():
            kinds.add(fault.kind)
            if fault.kind is FaultKind.STREAM_SILENCE:
                self._silent_until_s = now_s + fault.amount
        if kinds & {FaultKind.STREAM_DISCONNECT, FaultKind.RECONNECT_STORM}:
            return None
        before, self._told = self._told, messages
        if now_s < self._silent_until_s:
            return []
        if FaultKind.STREAM_DUPLICATE in kinds:
            return [message for message in messages for _ in range(2)]
        # What was told at the last tick is older than all of this.
        return messages + before if FaultKind.STREAM_DISORDER in kinds else messages


class HyperliquidStream(Stream):
    """Subscriptions to candles and allMids, and the ping that keeps a connection open."""

    api = Api.HYPERLIQUID

    def __init__(self, truth: Truth, clock: VirtualClock, board: FaultBoard) -> None:
        super().__init__(truth, clock, board)
        self._has_mids = False

    def hear(self, text: str) -> Iterable[Any]:
        """Answer a ping, acknowledge a subscription and show its first value."""
        message = _read_object(text)
        wanted = message.get("subscription")
        if message.get("method") == "ping":
            return [{"channel": "pong"}]
        if message.get("method") not in {"subscribe", "unsubscribe"} or not isinstance(wanted, dict):
            return [{"channel": "error", "data": f"Error parsing JSON into valid websocket request: {text}"}]
        feed = self._feed(wanted)
        if wanted.get("type") == "candle" and feed is None:
            return [{"channel": "error", "data": f"Invalid subscription {json.dumps(wanted)}"}]
        is_on = message["method"] == "subscribe"
        replies: list[Any] = [{"channel": "subscriptionResponse", "data": {"method": message["method"], "subscription": wanted}}]
        if wanted.get("type") == "allMids":
            self._has_mids = is_on
            replies += [self._mids()] if is_on else []
        elif feed is not None and is_on:
            self.feeds[feed] = None
            replies += self.open_bar(feed)
        elif feed is not None:
            self.feeds.pop(feed, None)
        return replies

    def spell(self, bar: WireBar, now_s: float, *, is_closed: bool) -> dict[str, Any]:  # noqa: ARG002 - its candles do not say whether they are closed
        """Spell a candle."""
        return {"channel": "candle", "data": hyperliquid_row(bar)}

    def news(self, before_s: float, now_s: float) -> Iterator[Any]:
        """Add the mids to what every stream tells."""
        yield from super().news(before_s, now_s)
        if self._has_mids:
            yield self._mids()

    def _mids(self) -> dict[str, Any]:
        return {"channel": "allMids", "data": {"mids": hyperliquid.mids(self.truth, self.clock.now_s())}}

    def _feed(self, wanted: dict[str, Any]) -> Feed | None:
        listing, interval = self.truth.listings(self.api).get(str(wanted.get("coin"))), str(wanted.get("interval"))
        return Feed(listing, Timeframe(interval)) if listing and interval in set(Timeframe) else None


class BinanceStream(Stream):
    """Streams <symbol>@kline_<interval>, named in the path or by SUBSCRIBE; `x` says whether the bar is closed."""

    def __init__(self, truth: Truth, clock: VirtualClock, board: FaultBoard, api: Api, names: Iterable[str], *, is_combined: bool) -> None:
        super().__init__(truth, clock, board)
        self.api, self._is_combined = api, is_combined
        for name in names:
            if feed := self._feed(name):
                self.feeds[feed] = None

    def hear(self, text: str) -> Iterable[Any]:
        """Take SUBSCRIBE, UNSUBSCRIBE and LIST_SUBSCRIPTIONS; names of streams that do not exist are passed over, as Binance does."""
        message = _read_object(text)
        names, request_id = message.get("params"), message.get("id")
        if message.get("method") == "LIST_SUBSCRIPTIONS":
            return [{"result": [_name(feed.listing.symbol, feed.timeframe) for feed in self.feeds], "id": request_id}]
        if message.get("method") not in {"SUBSCRIBE", "UNSUBSCRIBE"} or not isinstance(names, list):
            return [{"error": {"code": 2, "msg": "Invalid request: unknown method or parameters"}, "id": request_id}]
        feeds = [feed for name in names if (feed := self._feed(str(name)))]
        if message["method"] == "UNSUBSCRIBE":
            for feed in feeds:
                self.feeds.pop(feed, None)
            return [{"result": None, "id": request_id}]
        self.feeds.update(dict.fromkeys(feeds))
        return [{"result": None, "id": request_id}, *(event for feed in feeds for event in self.open_bar(feed))]

    def spell(self, bar: WireBar, now_s: float, *, is_closed: bool) -> dict[str, Any]:
        """Spell an event; a combined stream wraps it with its name."""
        event = binance_event(self.api, bar, int(1000 * now_s), is_closed=is_closed)
        return {"stream": _name(bar.symbol, bar.timeframe), "data": event} if self._is_combined else event

    def _feed(self, name: str) -> Feed | None:
        symbol, _, kind = name.partition("@")
        listing, interval = self.truth.listings(self.api).get(symbol.upper()), kind.removeprefix("kline_")
        return Feed(listing, Timeframe(interval)) if listing and interval in set(Timeframe) else None


def _name(symbol: str, timeframe: Timeframe) -> str:
    return f"{symbol.lower()}@kline_{timeframe}"


def _read_object(text: str) -> dict[str, Any]:
    try:
        message = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return message if isinstance(message, dict) else {}


def _pause_s(speed: float) -> float:
    """Look a few times within a tick, and often enough while the clock is moved by hand."""
    return min(0.25, max(0.01, TICK_S / speed / _LOOKS_PER_TICK)) if speed else 0.05
