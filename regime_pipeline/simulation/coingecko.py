"""CoinGecko /api/v3: /global, /coins/markets, and the history that paid plans have. Every figure is made at the vendor's last refresh."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from regime_pipeline.market.buckets import CapObservation
from regime_pipeline.market.universe import Universe
from regime_pipeline.simulation.answers import Answer, Call
from regime_pipeline.simulation.truth import Truth
from regime_pipeline.simulation.wire import Api

PREFIX: Final = "api/v3/"
REFRESH_S: Final = 600
"""The vendor makes its figures every ten minutes; between two of them every answer is the same."""

_DAY_S: Final = 86_400
# A cap that the source has not renewed for longer is unknown.
_CAP_AGE_S: Final = 3 * _DAY_S
# The whole market where the source knows no cap of BTC: only ratios matter then.
_TOTAL_USD: Final = 3e12
_MAX_PER_PAGE: Final = 250
_MAX_DAYS: Final = 4000
_HOURLY_DAYS: Final = 90
_INTERVALS_S: Final = {"5m": 300, "hourly": 3600, "daily": _DAY_S}
_DOMINANCES: Final = {"btc": "BTC.d", "usdt": "USDT.d"}


_TETHER: Final = "tether"


def read_call(path: str) -> Call:
    """Understand a request: the endpoint is the path, the id of a coin its symbol."""
    parts = path.removeprefix(PREFIX).split("/")
    if parts[0] == "coins" and len(parts) > 2:
        return Call(Api.COINGECKO, "/".join(["coins", "id", *parts[2:]]), parts[1])
    return Call(Api.COINGECKO, "/".join(parts))


def answer(truth: Truth, universe: Universe, call: Call, query: Mapping[str, str], now_s: float, *, is_null: bool = False) -> Answer:
    """Answer as CoinGecko does; `is_null` makes every figure of /global null."""
    refreshed_s = int(now_s) // REFRESH_S * REFRESH_S
    match call.endpoint:
        case "ping":
            return Answer({"gecko_says": "(V3) To the Moon!"})
        case "global":
            return Answer(_overview(_Market(truth, universe, [refreshed_s]), refreshed_s, is_null=is_null))
        case "coins/markets":
            return _coins_markets(_Market(truth, universe, [refreshed_s]), query, refreshed_s)
        case "global/market_cap_chart":
            times_s = _last_days(query, refreshed_s, {1: 3600})
            market = _Market(truth, universe, times_s)
            caps = [[1000 * at_s, market.total_usd(at_s)] for at_s in times_s if market.share_pct("BTC.d", at_s) is not None]
            return Answer({"market_cap_chart": {"market_cap": caps, "volume": [[at_ms, 0.0] for at_ms, _ in caps]}})
        case "coins/id/market_chart":
            return _coin_chart(truth, universe, call, _last_days(query, refreshed_s, {1: 300, 90: 3600}))
        case "coins/id/market_chart/range":
            return _coin_chart(truth, universe, call, _between(query, refreshed_s))
    return Answer({"error": "Incorrect path. Please check https://docs.coingecko.com/"}, 404)


class _Market:
    """Caps of the universe's coins at some instants, and what follows from them."""

    def __init__(self, truth: Truth, universe: Universe, times_s: Sequence[int]) -> None:
        self._truth = truth
        self.contracts = {each.coingecko_id: each.contract for each in universe.instruments() if each.coingecko_id}
        self._caps: Mapping[str, Sequence[CapObservation]] = {}
        if times_s:
            self._caps = truth.source.fetch_market_caps(times_s[0] - _CAP_AGE_S, times_s[-1] + 1)

    def known_usd(self, contract: str, at_s: int) -> float | None:
        """Give the newest cap known at an instant, if it is not too old."""
        seen = self._caps.get(contract, ())
        at = bisect_right(seen, at_s, key=lambda each: each.known_at_s) - 1
        return seen[at].cap_usd if at >= 0 and at_s - seen[at].known_at_s <= _CAP_AGE_S else None

    def price_usd(self, coin_id: str, at_s: int) -> float | None:
        """Give the price of a coin on the first venue that lists it."""
        listing = self._truth.listing_of(self.contracts.get(coin_id, ""))
        return 1.0 if coin_id == _TETHER else self._truth.price(listing, at_s) if listing else None

    def share_pct(self, driver: str, at_s: int) -> float | None:
        """Give a dominance of the source."""
        return self._truth.dominance(driver, at_s)

    def total_usd(self, at_s: int) -> float:
        """Give the cap of the whole market: that of BTC over its share."""
        percent, btc_usd = self._truth.dominance("BTC.d", at_s), self.known_usd("BTC", at_s)
        return _TOTAL_USD if btc_usd is None or percent is None else btc_usd / (percent / 100)

    def cap_usd(self, coin_id: str, at_s: int) -> float | None:
        """Give the cap of a coin; those of BTC and USDT agree with the source's dominances."""
        contract = self.contracts.get(coin_id)
        driver = "USDT.d" if coin_id == _TETHER else "BTC.d" if contract == "BTC" else None
        percent = self._truth.dominance(driver, at_s) if driver else None
        return self.total_usd(at_s) * (percent / 100) if percent is not None else self.known_usd(contract or "", at_s)


def _overview(market: _Market, at_s: int, *, is_null: bool) -> dict[str, Any]:
    shares = {name: market.share_pct(driver, at_s) for name, driver in _DOMINANCES.items()}
    total_usd = market.total_usd(at_s)
    return {
        "data": {
            "active_cryptocurrencies": 17_000,
            "upcoming_icos": 0,
            "ongoing_icos": 49,
            "ended_icos": 3376,
            "markets": 1200,
            "total_market_cap": {"usd": total_usd},
            "total_volume": {"usd": 0.04 * total_usd},
            "market_cap_percentage": {name: None if is_null else share for name, share in shares.items() if share is not None},
            "market_cap_change_percentage_24h_usd": 0.0,
            "updated_at": at_s,
        }
    }


def _coins_markets(market: _Market, query: Mapping[str, str], at_s: int) -> Answer:
    if not query.get("vs_currency"):
        return Answer({"error": "Missing parameter vs_currency"}, 422)
    wanted = query["ids"].split(",") if query.get("ids") else [*market.contracts, _TETHER]
    caps = {coin_id: cap for coin_id in wanted if (cap := market.cap_usd(coin_id, at_s)) is not None}
    ranked = sorted(caps, key=lambda coin_id: -caps[coin_id])
    per_page, page = min(int(query.get("per_page", 100)), _MAX_PER_PAGE), max(int(query.get("page", 1)), 1)
    updated = f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%dT%H:%M:%S}.000Z"
    rows = []
    for coin_id in ranked[(page - 1) * per_page : page * per_page]:
        symbol = market.contracts.get(coin_id, "USDT").lower()
        row = {
            "id": coin_id,
            "symbol": symbol,
            "name": symbol.upper(),
            "current_price": market.price_usd(coin_id, at_s),
            "market_cap": caps[coin_id],
        }
        rows.append(row | {"market_cap_rank": ranked.index(coin_id) + 1, "total_volume": None, "last_updated": updated})
    return Answer(rows)


def _coin_chart(truth: Truth, universe: Universe, call: Call, times_s: Sequence[int]) -> Answer:
    market, coin_id = _Market(truth, universe, times_s), call.symbol or ""
    if coin_id != _TETHER and coin_id not in market.contracts:
        return Answer({"error": "coin not found"}, 404)
    caps = {at_s: cap for at_s in times_s if (cap := market.cap_usd(coin_id, at_s)) is not None}
    return Answer(
        {
            "prices": [[1000 * at_s, market.price_usd(coin_id, at_s)] for at_s in caps],
            "market_caps": [[1000 * at_s, cap] for at_s, cap in caps.items()],
            "total_volumes": [[1000 * at_s, 0.0] for at_s in caps],
        }
    )


def _last_days(query: Mapping[str, str], now_s: int, steps_s: Mapping[int, int]) -> list[int]:
    """Space the points of the last `days`: each step holds up to that many days, daily beyond, always with the newest one."""
    text = query.get("days", "1")
    days = int(text) if text.isdecimal() else _MAX_DAYS
    step_s = _INTERVALS_S.get(query.get("interval", ""), next((step for up_to, step in steps_s.items() if days <= up_to), _DAY_S))
    return [*range(-(-(now_s - days * _DAY_S) // step_s) * step_s, now_s, step_s), now_s]


def _between(query: Mapping[str, str], now_s: int) -> list[int]:
    """Space the points of a range: 5 minutes up to a day, hourly up to 90 days, daily beyond."""
    start_s, end_s = int(float(query.get("from", now_s))), min(int(float(query.get("to", now_s))), now_s)
    span_days = (end_s - start_s) / _DAY_S
    step_s = 300 if span_days <= 1 else 3600 if span_days <= _HOURLY_DAYS else _DAY_S
    return list(range(-(-start_s // step_s) * step_s, end_s + 1, step_s))
