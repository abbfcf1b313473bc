"""Streams over real WebSockets: closed bars are told once and right, open ones as they are, and faults spoil a connection."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.simulation.faults import Fault, FaultKind
from regime_pipeline.simulation.server import Served
from regime_pipeline.simulation.wire import Api
from tests.builders import T0
from tests.simulated import NOON, simulated

M1 = Timeframe.M1
OPEN = NOON - 30
CANDLE = {"method": "subscribe", "subscription": {"type": "candle", "coin": "BTC", "interval": "1m"}}
KLINE = {"method": "SUBSCRIBE", "params": ["btcusdt@kline_1m"], "id": 7}


class Listener:
    """A client of one connection that waits for what it hears."""

    def __init__(self, served: Served, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.served, self._ws = served, ws

    async def say(self, message: Any) -> None:
        await self._ws.send_str(json.dumps(message))

    async def hear(self) -> Any:
        message = await asyncio.wait_for(self._ws.receive(), 5)
        return json.loads(message.data) if message.type is aiohttp.WSMsgType.TEXT else None

    async def is_quiet(self, seconds: float = 0.3) -> bool:
        try:
            await asyncio.wait_for(self._ws.receive(), seconds)
        except TimeoutError:
            return True
        return False

    async def after(self, seconds: float) -> Any:
        self.served.venue.clock.advance(seconds)
        return await self.hear()


def listen(served: Served, path: str, story: Callable[[Listener], Awaitable[None]], *, is_shut: bool = False) -> None:
    async def run() -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(served.url + path) as ws:
            client = Listener(served, ws)
            if "binance" in path and not is_shut:
                # The clock is moved only when the server is known to look at it.
                await client.say({"method": "LIST_SUBSCRIPTIONS", "id": 1})
                assert (await client.hear())["id"] == 1
            await story(client)

    asyncio.run(run())


def test_hyperliquid_tells_a_bars_last_update_then_the_next_bars_first() -> None:
    async def story(client: Listener) -> None:
        await client.say(CANDLE)
        assert await client.hear() == {"channel": "subscriptionResponse", "data": CANDLE}
        first = await client.hear()
        assert (first["channel"], first["data"]["t"], first["data"]["i"]) == ("candle", 1000 * OPEN, "1m")
        update = await client.after(15)
        assert (update["data"]["t"], update["data"]["T"]) == (1000 * OPEN, 1000 * OPEN + 59_999)
        last, following = await client.after(15), await client.hear()
        truth = client.served.truth.bars("hyperliquid", "BTC", M1, OPEN, OPEN + 60)
        assert [float(last["data"][name]) for name in "ohlc"] == [truth.open[0], truth.high[0], truth.low[0], truth.close[0]]
        assert following["data"]["t"] == 1000 * (OPEN + 60)
        await client.say({**CANDLE, "method": "unsubscribe"})
        assert (await client.hear())["data"]["method"] == "unsubscribe"
        client.served.venue.clock.advance(60)
        assert await client.is_quiet()

    with simulated() as served:
        listen(served, "/hyperliquid/ws", story)


def test_hyperliquid_answers_pings_and_tells_mids() -> None:
    async def story(client: Listener) -> None:
        await client.say({"method": "ping"})
        assert await client.hear() == {"channel": "pong"}
        await client.say({"method": "subscribe", "subscription": {"type": "allMids"}})
        assert (await client.hear())["channel"] == "subscriptionResponse"
        first, later = await client.hear(), await client.after(15)
        assert set(first["data"]["mids"]) == {"BTC", "ETH", "SOL", "BNB", "HYPE"}
        assert first["data"]["mids"]["BTC"] != later["data"]["mids"]["BTC"]
        for nonsense in (
            {"method": "dance"},
            {"method": "subscribe", "subscription": {"type": "candle", "coin": "NOPE", "interval": "1m"}},
        ):
            await client.say(nonsense)
            assert (await client.hear())["channel"] == "error"

    with simulated() as served:
        listen(served, "/hyperliquid/ws", story)


@pytest.mark.parametrize("path", ["/binance-um/ws/0", "/binance-um/market/ws/0", "/binance/ws"])
def test_binance_says_when_a_bar_is_closed(path: str) -> None:
    async def story(client: Listener) -> None:
        await client.say(KLINE)
        assert await client.hear() == {"result": None, "id": 7}
        first = await client.hear()
        assert (first["e"], first["k"]["t"], first["k"]["x"]) == ("kline", 1000 * OPEN, False)
        last, following = await client.after(30), await client.hear()
        truth = client.served.truth.bars("binance_um", "BTCUSDT", M1, OPEN, OPEN + 60)
        assert (last["k"]["x"], float(last["k"]["c"]), float(last["k"]["q"])) == (True, truth.close[0], truth.volume[0])
        assert (following["k"]["x"], following["k"]["t"], following["E"]) == (False, 1000 * (OPEN + 60), 1000 * (OPEN + 60))
        await client.say({**KLINE, "method": "UNSUBSCRIBE"})
        assert await client.hear() == {"result": None, "id": 7}
        client.served.venue.clock.advance(60)
        assert await client.is_quiet()
        await client.say("nonsense")
        assert (await client.hear())["error"]["code"] == 2

    with simulated() as served:
        listen(served, path, story)


@pytest.mark.parametrize(
    ("path", "is_wrapped"),
    [("/binance-um/ws/btcusdt@kline_1m", False), ("/binance-um/stream?streams=btcusdt@kline_1m/ethusdt@kline_1m", True)],
)
def test_binance_takes_streams_from_the_path(path: str, is_wrapped: bool) -> None:
    async def story(client: Listener) -> None:
        await client.say({"method": "LIST_SUBSCRIPTIONS", "id": 2})
        assert (await client.hear())["result"] == ["btcusdt@kline_1m", "ethusdt@kline_1m"][: 1 + is_wrapped]
        message = await client.after(15)
        assert message.get("stream") == ("btcusdt@kline_1m" if is_wrapped else None)
        assert (message["data"] if is_wrapped else message)["k"]["s"] == "BTCUSDT"

    with simulated() as served:
        listen(served, path, story)


def test_bars_that_closed_while_the_clock_jumped_are_told_in_order() -> None:
    async def story(client: Listener) -> None:
        client.served.venue.clock.advance(210)
        told = [await client.hear() for _ in range(4)]
        assert [(each["k"]["t"] // 1000, each["k"]["x"]) for each in told] == [
            (OPEN, True),
            (OPEN + 60, True),
            (OPEN + 120, True),
            (OPEN + 180, True),
        ]
        assert (await client.hear())["k"]["x"] is False

    with simulated() as served:
        listen(served, "/binance-um/ws/btcusdt@kline_1m", story)


def stream_fault(kind: FaultKind, **rest: Any) -> Fault:
    return Fault(kind=kind, every=1, max_count=1, venue=Api.USDM, **rest)


def test_silence_loses_messages_and_ends() -> None:
    async def story(client: Listener) -> None:
        client.served.venue.clock.advance(15)
        assert await client.is_quiet()
        client.served.venue.clock.advance(60)
        assert await client.is_quiet()
        message = await client.after(60)
        assert message["k"]["t"] == 1000 * (OPEN + 60)  # the close of 12:01 was never told

    with simulated(stream_fault(FaultKind.STREAM_SILENCE, value=100)) as served:
        listen(served, "/binance-um/ws/btcusdt@kline_1m", story)
        assert served.faults == {FaultKind.STREAM_SILENCE: 1}


def test_a_disconnect_ends_the_connection_and_the_next_one_works() -> None:
    async def dropped(client: Listener) -> None:
        assert await client.after(15) is None

    async def fine(client: Listener) -> None:
        assert (await client.after(15))["e"] == "kline"

    with simulated(stream_fault(FaultKind.STREAM_DISCONNECT)) as served:
        listen(served, "/binance-um/ws/btcusdt@kline_1m", dropped)
        listen(served, "/binance-um/ws/btcusdt@kline_1m", fine)


def test_in_a_storm_every_connection_is_closed_until_it_is_over() -> None:
    async def dropped(client: Listener) -> None:
        assert await client.after(15) is None

    async def refused(client: Listener) -> None:
        assert await client.hear() is None

    async def fine(client: Listener) -> None:
        assert (await client.after(15))["e"] == "kline"

    with simulated(stream_fault(FaultKind.RECONNECT_STORM)) as served:
        path = "/binance-um/ws/btcusdt@kline_1m"
        listen(served, path, dropped)
        listen(served, path, refused, is_shut=True)
        listen(served, path, refused, is_shut=True)
        served.venue.clock.advance(120)
        listen(served, path, fine)
        assert served.faults == {FaultKind.RECONNECT_STORM: 1}


def test_a_message_may_come_twice() -> None:
    async def story(client: Listener) -> None:
        assert await client.after(15) == await client.hear()

    with simulated(stream_fault(FaultKind.STREAM_DUPLICATE)) as served:
        listen(served, "/binance-um/ws/btcusdt@kline_1m", story)


def test_an_old_message_may_come_after_a_newer_one() -> None:
    async def story(client: Listener) -> None:
        old = await client.after(15)
        client.served.venue.clock.advance(15)
        told = [await client.hear() for _ in range(3)]
        assert [message["k"]["t"] // 1000 for message in told] == [OPEN, OPEN + 60, OPEN]
        assert told[-1] == old

    with simulated(stream_fault(FaultKind.STREAM_DISORDER, from_s=20)) as served:
        listen(served, "/binance-um/ws/btcusdt@kline_1m", story)


def test_a_late_bar_is_not_told() -> None:
    async def story(client: Listener) -> None:
        message = await client.after(30)
        assert (message["k"]["t"], message["k"]["x"]) == (1000 * (OPEN + 60), False)

    with simulated(Fault(kind=FaultKind.LATE, every=1, from_s=0), start_s=T0) as served:
        served.venue.clock.advance(NOON - T0)
        listen(served, "/binance-um/ws/btcusdt@kline_1m", story)
