"""The real venues as one source of market data, and CoinGecko beside them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from functools import partial
from time import sleep as sleep_s
from typing import Final, Literal, TypeVar

import numpy as np

from regime_pipeline.adapters.venues.answers import StayAwayError, TryAgainError
from regime_pipeline.adapters.venues.binance import PERPETUAL, SPOT, BinanceFeed
from regime_pipeline.adapters.venues.ccxt_bars import CcxtFeed
from regime_pipeline.adapters.venues.ccxt_client import CcxtClient
from regime_pipeline.adapters.venues.coingecko import CHART_TIMEFRAMES, COINS, FIRST_S, PAGE_COINS, VENDOR, CoinGecko, build_dominance_bars
from regime_pipeline.adapters.venues.door import Door
from regime_pipeline.adapters.venues.feed import BarFeed
from regime_pipeline.adapters.venues.hyperliquid import EXCHANGE as HYPERLIQUID
from regime_pipeline.adapters.venues.hyperliquid import HyperliquidFeed
from regime_pipeline.adapters.venues.retry import BRIEF, PATIENT, ask_patiently
from regime_pipeline.clock import Clock, utc_now
from regime_pipeline.errors import SourceError, SourceUnavailableError, VenueHaltedError
from regime_pipeline.market.bars import FloatArray, IntArray, RawBars
from regime_pipeline.market.buckets import CapObservation
from regime_pipeline.market.dominance import DominanceSample
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import TimeRange, VenueLedger

T = TypeVar("T")
CHART_FRESH_S: Final = 300
"""Both dominances divide by the same chart: within this long it is not asked for twice."""
PRESENT_S: Final = 900
"""A window counts as the present until this long after its end: a run reads its clock when it starts, and asks later."""
_DAY_S: Final = Timeframe.D1.seconds


class LiveMarket:
    """A `BarSource` and `DominanceSampler` over the venues of the universe file.

    A venue that is halted or rests after failures is left out of `venues()`, so that the next source of a series answers.
    """

    def __init__(
        self,
        universe: Universe,
        ledger: VenueLedger,
        *,
        venue_url: str | None,
        timeout_s: float,
        coingecko_plan: Literal["keyless", "demo", "pro"],
        coingecko_key: str | None,
        coingecko_monthly_calls: int,
        clock: Clock = utc_now,
        sleep: Callable[[float], None] = sleep_s,
    ) -> None:
        """Prepare the clients; nothing is asked, and ccxt is not imported, before something is wanted.

        Parameters
        ----------
        venue_url : str or None
            Address of a simulated venue that stands for all of them.
        timeout_s : float
            Seconds a request may take.

        Raises
        ------
        ConfigError
            When the CoinGecko plan needs a key and has none.
        """
        self._clock, self._sleep = clock, sleep
        self._draw = np.random.default_rng().random
        self._patience = BRIEF
        self._door = Door(ledger, clock)
        self._feeds: dict[str, BarFeed] = {
            name: _build_feed(CcxtClient(name, venue.exchange, venue_url, timeout_s, clock))
            for name, venue in universe.venues.items()
            if venue.exchange is not None
        }
        self._symbols: dict[str, list[str]] = {}
        for source in (each for instrument in universe.instruments() for each in instrument.sources):
            self._symbols.setdefault(source.venue, []).append(source.symbol)
        self._coins = {token.coingecko_id: token.contract for token in universe.tokens if token.coingecko_id is not None}
        self._coingecko = CoinGecko(
            plan=coingecko_plan,
            key=coingecko_key,
            venue_url=venue_url,
            timeout_s=timeout_s,
            clock=clock,
            spend=lambda: ledger.spend_call(VENDOR, self._now_s(), coingecko_monthly_calls),
        )
        self._totals: dict[int, tuple[int, tuple[IntArray, FloatArray]]] = {}

    @property
    def name(self) -> str:
        """Name for the `source` column."""
        return "live"

    def patient(self) -> "LiveMarket":
        """Give the same market for bootstrap and backfill: failed reads are repeated after 5, 15 and 60 seconds."""
        other = copy(self)
        other._patience = PATIENT  # noqa: SLF001 - a sibling of ours
        return other

    def venues(self) -> Collection[str]:
        """List the venues that may be asked now."""
        return self._door.open_ones(self._feeds)

    def time_range(self, venue: str, symbol: str, timeframe: Timeframe) -> TimeRange | None:  # noqa: ARG002 - nobody is asked
        """Tell since when the venue could have bars; whether it lists the symbol only its answer tells."""
        feed = self._feeds.get(venue)
        return None if feed is None else TimeRange(feed.first_s(timeframe, self._now_s()), None, is_exact=False)

    def fetch_bars(self, venue: str, symbol: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        """Fetch the bars of a window page by page, until it is full or the venue has no more.

        Raises
        ------
        SourceUnavailableError
            When the venue cannot be read or its answer not be believed; the bars of other pages are not handed over.
        VenueHaltedError
            When it is halted, or has just told us to stay away.
        SourceError
            When it refuses the question, as it does for a symbol that it does not list.
        """
        feed = self._feeds.get(venue)
        if feed is None:
            names = ", ".join(self._feeds) or "none"
            raise SourceError(f"venue was {venue!r}; live ones, with an `exchange` in [venues], are {names}. Add it there.")
        step = timeframe.seconds
        at_s, end_s = -(-start_s // step) * step, -(-end_s // step) * step
        pages: list[RawBars] = []
        while at_s < end_s:
            page = self._ask(venue, partial(feed.fetch_page, symbol, timeframe, at_s, end_s))
            if not len(page):
                break
            pages.append(page)
            at_s = int(page.ts_s[-1]) + step
        return RawBars.concat(pages)

    def fetch_prices(self, venue: str) -> dict[str, float | None]:
        """Ask a venue for every symbol that the universe names there: its last known price, None where it lists no such market.

        Hyperliquid says it in two requests (markets and mids); of others the close of the newest closed day is asked for, one by one.

        Raises
        ------
        SourceUnavailableError, VenueHaltedError
            As `fetch_bars`.
        """
        feed, symbols = self._feeds.get(venue), self._symbols.get(venue, [])
        if isinstance(feed, HyperliquidFeed):
            listed, mids = self._ask(venue, feed.fetch_symbols), self._ask(venue, feed.fetch_mids)
            return {symbol: mids.get(symbol) if symbol in listed else None for symbol in symbols}
        end_s = Timeframe.D1.floor(self._now_s())
        return {symbol: self._fetch_close(venue, symbol, end_s) for symbol in symbols}

    def _fetch_close(self, venue: str, symbol: str, end_s: int) -> float | None:
        try:
            bars = self.fetch_bars(venue, symbol, Timeframe.D1, end_s - _DAY_S, end_s)
        except (SourceUnavailableError, VenueHaltedError):
            raise
        except SourceError:
            return None
        return float(bars.close[-1]) if len(bars) else None

    def dominance_range(self, driver: str, timeframe: Timeframe) -> TimeRange | None:
        """Tell what the charts of a pro plan reach back to: days since 2013, hours of the last day. Other plans have none."""
        if not self._coingecko.has_history or driver not in COINS or timeframe not in CHART_TIMEFRAMES:
            return None
        first_s = FIRST_S if timeframe is Timeframe.D1 else timeframe.floor(self._now_s()) - _DAY_S
        return TimeRange(first_s, None, is_exact=False)

    def fetch_dominance(self, driver: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        """Fetch bars made of the market caps at each bar's end; one bar before the window is asked for too, since it is the first open.

        Raises
        ------
        SourceError
            As `fetch_bars`; BudgetExhaustedError when the month's calls are spent.
        """
        if self.dominance_range(driver, timeframe) is None:
            return RawBars.empty()
        days = 1 if timeframe is Timeframe.H1 else max(2, -(-(self._now_s() - start_s + timeframe.seconds) // _DAY_S) + 1)
        total = self._fetch_total(days)
        coin = self._ask(VENDOR, partial(self._coingecko.fetch_coin_caps, COINS[driver], days))
        return build_dominance_bars(total, coin, timeframe, start_s, end_s)

    def fetch_samples(self) -> Mapping[str, DominanceSample]:
        """Ask what dominance is now; one call, or two when the answer lacks USDT.

        Raises
        ------
        SourceError
            As `fetch_bars`; BudgetExhaustedError when the month's calls are spent.
        """
        samples, total_usd = self._ask(VENDOR, self._coingecko.fetch_dominance)
        if "USDT.d" not in samples:
            tether = COINS["USDT.d"]
            cap = self._ask(VENDOR, partial(self._coingecko.fetch_caps, [tether])).get(tether)
            if cap is not None and cap.cap_usd is not None:
                samples["USDT.d"] = DominanceSample(cap.known_at_s, cap.as_of_s, 100.0 * cap.cap_usd / total_usd)
        return samples

    def fetch_market_caps(self, start_s: int, end_s: int) -> Mapping[str, Sequence[CapObservation]]:
        """Fetch the caps of all tokens with a `coingecko_id`; the vendor knows only the present, so another window has none.

        Raises
        ------
        SourceError
            As `fetch_bars`; BudgetExhaustedError when the month's calls are spent.
        """
        if not start_s <= self._now_s() < end_s + PRESENT_S:
            return {}
        coins = sorted(self._coins)
        caps: dict[str, CapObservation] = {}
        for at in range(0, len(coins), PAGE_COINS):
            caps |= self._ask(VENDOR, partial(self._coingecko.fetch_caps, coins[at : at + PAGE_COINS]))
        return {self._coins[coin]: [cap] for coin, cap in caps.items()}

    def _fetch_total(self, days: int) -> tuple[IntArray, FloatArray]:
        now_s = self._now_s()
        asked_s, total = self._totals.get(days, (now_s - CHART_FRESH_S, None))
        if total is None or now_s - asked_s >= CHART_FRESH_S:
            total = self._ask(VENDOR, partial(self._coingecko.fetch_total_caps, days))
            self._totals[days] = (now_s, total)
        return total

    def _ask(self, name: str, question: Callable[[], T]) -> T:
        """Put one question with all its repetitions, and note how it went."""
        self._door.check(name)
        try:
            answer = ask_patiently(question, self._patience, self._sleep, self._draw)
        except StayAwayError as error:
            raise self._door.halt(name, error) from error
        except TryAgainError as error:
            self._door.note_failure(name, error)
            raise
        self._door.note_answer(name)
        return answer

    def _now_s(self) -> int:
        return int(self._clock().timestamp())


def _build_feed(client: CcxtClient) -> BarFeed:
    if client.exchange_id in {SPOT, PERPETUAL}:
        return BinanceFeed(client)
    return HyperliquidFeed(client) if client.exchange_id == HYPERLIQUID else CcxtFeed(client)
