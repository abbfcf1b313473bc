"""CoinGecko: dominance now, its history on a paid plan, and market caps. One request, one call of the month's budget."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import numpy as np
import requests

from regime_pipeline.adapters.venues.answers import TryAgainError, check_status, read_list, read_number, read_object, read_stamp_ms, refuse
from regime_pipeline.adapters.venues.http import Answer, BoundedSession
from regime_pipeline.clock import Clock
from regime_pipeline.errors import ConfigError, SourceError
from regime_pipeline.market.bars import FloatArray, IntArray, RawBars
from regime_pipeline.market.buckets import CapObservation
from regime_pipeline.market.dominance import DominanceSample, bars_from_closes
from regime_pipeline.market.timeframe import Timeframe

VENDOR: Final = "coingecko"
"""Its name in the ledger of halts and calls."""
COINS: Final = {"BTC.d": "bitcoin", "USDT.d": "tether"}
SHARES: Final = {"BTC.d": "btc", "USDT.d": "usdt"}
FIRST_S: Final = 1_367_107_200
"""2013-04-28, the first day of the vendor's charts."""
CHART_TIMEFRAMES: Final = (Timeframe.H1, Timeframe.D1)
"""What the chart of all markets gives: days, and of the last day hours. Minutes exist only as samples."""
PAGE_COINS: Final = 250
POINT_TOLERANCE_S: Final = 300
"""Chart points are stamped when they were made: a point this near to the end of a bar is its close."""
CLOCK_SKEW_S: Final = 60

_HOSTS: Final = {"keyless": "https://api.coingecko.com", "demo": "https://api.coingecko.com", "pro": "https://pro-api.coingecko.com"}
_KEY_HEADERS: Final = {"demo": "x-cg-demo-api-key", "pro": "x-cg-pro-api-key"}


class CoinGecko:
    """The vendor's client. It repeats nothing by itself and calls `spend` before each request."""

    def __init__(
        self, *, plan: str, key: str | None, venue_url: str | None, timeout_s: float, clock: Clock, spend: Callable[[], object]
    ) -> None:
        """Check that the plan has its key; nothing is asked yet.

        Raises
        ------
        ConfigError
            When a plan other than keyless has no key, unless a simulated venue stands for the vendor.
        """
        if plan in _KEY_HEADERS and key is None and venue_url is None:
            raise ConfigError(f"coingecko_plan was {plan!r} without a key. Set REGIME_COINGECKO_KEY, or the plan to keyless.")
        self.has_history = plan == "pro"
        host = _HOSTS[plan] if venue_url is None else f"{venue_url.rstrip('/')}/coingecko"
        self._base = f"{host}/api/v3"
        self._timeout_s, self._clock, self._spend = timeout_s, clock, spend
        self._session = BoundedSession()
        # a stand-in of the vendor must not learn the key
        if plan in _KEY_HEADERS and key is not None and venue_url is None:
            self._session.headers[_KEY_HEADERS[plan]] = key

    def fetch_dominance(self) -> tuple[dict[str, DominanceSample], float]:
        """Ask for the shares of the market, by driver, and its whole market cap in USD; USDT.d is absent when the answer lacks it.

        Raises
        ------
        TryAgainError, StayAwayError, SourceError, BudgetExhaustedError
        """
        body = read_object(VENDOR, "/global", self._get("/global", {}))
        return parse_global(body, int(self._clock().timestamp()))

    def fetch_caps(self, coins: Sequence[str]) -> dict[str, CapObservation]:
        """Ask for the market caps of at most 250 coins, by the vendor's id; a coin without a cap is absent.

        Raises
        ------
        TryAgainError, StayAwayError, SourceError, BudgetExhaustedError
        """
        params = {"vs_currency": "usd", "ids": ",".join(coins), "per_page": str(PAGE_COINS), "page": "1", "order": "market_cap_desc"}
        rows = read_list(VENDOR, "/coins/markets", self._get("/coins/markets", params))
        return parse_markets(rows, coins, int(self._clock().timestamp()))

    def fetch_total_caps(self, days: int) -> tuple[IntArray, FloatArray]:
        """Ask for the market cap of all coins over the last days: hours for one day, days for more. Pro plan only.

        Returns
        -------
        (ndarray of int64, ndarray of float64), each of shape (n,)
            Stamps in ms, and USD.
        """
        path = "/global/market_cap_chart"
        body = read_object(VENDOR, path, self._get(path, {"vs_currency": "usd", "days": str(days)}))
        return parse_chart(body.get("market_cap_chart"), "market_cap")

    def fetch_coin_caps(self, coin: str, days: int) -> tuple[IntArray, FloatArray]:
        """Ask for the market cap of a coin over the last days, in points at least as dense as `fetch_total_caps`.

        Returns
        -------
        (ndarray of int64, ndarray of float64), each of shape (n,)
            Stamps in ms, and USD.
        """
        params = {"vs_currency": "usd", "days": str(days), **({} if days == 1 else {"interval": "daily"})}
        path = f"/coins/{coin}/market_chart"
        return parse_chart(read_object(VENDOR, path, self._get(path, params)), "market_caps")

    def _get(self, path: str, params: Mapping[str, str]) -> Answer:
        self._spend()
        try:
            self._session.get(self._base + path, params=dict(params), timeout=self._timeout_s)
        except requests.RequestException as error:
            raise TryAgainError(f"{VENDOR} could not be read: {type(error).__name__}, {error}. It is asked again later.") from error
        answer = self._session.heard
        if answer is None:
            raise SourceError(f"{VENDOR}: no answer was kept. Report this as a bug.")
        check_status(VENDOR, answer, self._clock())
        return answer


def parse_global(body: Mapping[str, Any], now_s: int) -> tuple[dict[str, DominanceSample], float]:
    """Read `/global`: samples by driver, and the market cap of everything in USD.

    Raises
    ------
    TryAgainError
        When it lacks Bitcoin's share, the total or the time, or one of them is null or cannot be.
    """
    try:
        data = body["data"]
        updated_s = read_stamp_ms(data["updated_at"])
        shares = {driver: read_number(data["market_cap_percentage"][name]) for driver, name in SHARES.items() if driver == "BTC.d"}
        if SHARES["USDT.d"] in data["market_cap_percentage"]:
            shares["USDT.d"] = read_number(data["market_cap_percentage"][SHARES["USDT.d"]])
        total_usd = read_number(data["total_market_cap"]["usd"])
    except (KeyError, TypeError, ValueError) as error:
        refuse(VENDOR, "/global", f"lacked what it must hold ({type(error).__name__} {error})")
    if not all(0 < share < 100 for share in shares.values()) or total_usd <= 0:
        refuse(VENDOR, "/global", f"had shares that cannot be: {shares}, total {total_usd:g} USD")
    if updated_s > now_s + CLOCK_SKEW_S:
        refuse(VENDOR, "/global", f"was made at {updated_s}, which is {updated_s - now_s} s ahead of our clock")
    return {driver: DominanceSample(now_s, min(updated_s, now_s), share) for driver, share in shares.items()}, total_usd


def parse_markets(rows: Sequence[Any], coins: Sequence[str], now_s: int) -> dict[str, CapObservation]:
    """Read `/coins/markets` by the vendor's id; a null cap is an unknown one and leaves its coin out.

    Raises
    ------
    TryAgainError
        When a row is no coin that was asked for, a cap is no number or below 0, or a time cannot be read.
    """
    caps: dict[str, CapObservation] = {}
    for row in rows:
        try:
            coin, cap, updated = row["id"], row["market_cap"], row["last_updated"]
            if coin not in coins or coin in caps:
                refuse(VENDOR, "/coins/markets", f"had a row of {coin!r}, which was not asked for or came twice")
            if cap is None or updated is None:
                continue
            as_of_s, cap_usd = int(datetime.fromisoformat(updated).timestamp()), read_number(cap)
        except (KeyError, TypeError, ValueError) as error:
            refuse(VENDOR, "/coins/markets", f"had a row that cannot be read ({type(error).__name__} {error})")
        if cap_usd < 0 or as_of_s > now_s + CLOCK_SKEW_S:
            refuse(VENDOR, "/coins/markets", f"had a cap of {cap_usd:g} USD for {coin} at {updated}, which cannot be")
        caps[coin] = CapObservation(now_s, min(as_of_s, now_s), cap_usd)
    return caps


def parse_chart(chart: object, column: str) -> tuple[IntArray, FloatArray]:
    """Read one column of a chart: ascending stamps in ms, and values above 0.

    Raises
    ------
    TryAgainError
        When it is no list of [ms, number] pairs or does not ascend.
    """
    try:
        points = [(read_stamp_ms(at), read_number(value)) for at, value in chart[column]]  # type: ignore[index]
    except (KeyError, TypeError, ValueError) as error:
        refuse(VENDOR, f"a chart of {column}", f"cannot be read ({type(error).__name__} {error})")
    stamps_ms = np.array([at for at, _ in points], dtype=np.int64)
    values = np.array([value for _, value in points], dtype=np.float64)
    if np.any(np.diff(stamps_ms) <= 0) or np.any(values <= 0):
        refuse(VENDOR, f"a chart of {column}", "does not ascend in time, or has a value that is not above 0")
    return stamps_ms, values


def build_dominance_bars(
    total: tuple[IntArray, FloatArray], coin: tuple[IntArray, FloatArray], timeframe: Timeframe, start_s: int, end_s: int
) -> RawBars:
    """Divide two charts into bars of percent: a point at the end of a bar is its close.

    Parameters
    ----------
    total, coin : (ndarray of int64, ndarray of float64), each of shape (n,) and (m,)
        Stamps in ms, ascending, and market caps in USD.

    Returns
    -------
    RawBars
        Bars with opens in [start_s, end_s) that both charts have a point for; the unfinished last point of a chart belongs to none.
    """
    total_s, total_usd = _closes(*total, timeframe)
    coin_s, coin_usd = _closes(*coin, timeframe)
    ends_s, in_total, in_coin = np.intersect1d(total_s, coin_s, return_indices=True)
    bars = bars_from_closes(ends_s - timeframe.seconds, 100.0 * coin_usd[in_coin] / total_usd[in_total], timeframe)
    return bars[(bars.ts_s >= start_s) & (bars.ts_s < end_s)]


def _closes(stamps_ms: IntArray, values: FloatArray, timeframe: Timeframe) -> tuple[IntArray, FloatArray]:
    """Give the point nearest to each bar end that has one within the tolerance: ends ascending, epoch seconds."""
    step = timeframe.seconds
    ends_s = (stamps_ms // 1000 + step // 2) // step * step
    off_ms = np.abs(stamps_ms - ends_s * 1000)
    near = np.flatnonzero(off_ms <= POINT_TOLERANCE_S * 1000)
    order = near[np.lexsort((off_ms[near], ends_s[near]))]
    first = np.flatnonzero(np.diff(ends_s[order], prepend=-1))
    return ends_s[order][first], values[order][first]
