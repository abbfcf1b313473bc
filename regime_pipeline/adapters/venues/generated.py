"""A made-up market as a source: any window, asked in any pieces, on any day, gives the same bars.

Days come from one seeded walk through bull, crash, bear and sideways regimes. A day is split into hours and an hour into minutes
by a bridge that keeps its open, high, low, close and volume exactly, so that longer bars ARE the rollups of the minutes and a year
of days costs no minutes. Below the day there is plain arithmetic only, which rounds alike wherever a bar lies in an array.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final
from zlib import crc32

import numpy as np

from regime_pipeline.market.bars import Bars, FloatArray, RawBars
from regime_pipeline.market.buckets import CapObservation
from regime_pipeline.market.rollup import roll_up
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Instrument, Token, Universe
from regime_pipeline.ports import TimeRange

FIRST_S: Final = 1_640_995_200  # 2022-01-01
N_DAYS: Final = 14_610  # to the end of 2061
DAY_S: Final = Timeframe.D1.seconds
HOUR_BLOCK_DAYS: Final = 32
DOMINANCES: Final = ("BTC.d", "USDT.d")

# What a level of the tree draws from; part of every seed, so that levels never share a stream.
_DAILY, _HOURS, _MINUTES = range(3)
_MARKET: Final = "market"


@dataclass(frozen=True, slots=True)
class _Regime:
    """One kind of market weather: mean length in days, daily log drift and volatility of the common factor, volume factor."""

    mean_days: float
    drift: float
    sigma: float
    volume: float


_BULL = _Regime(230, 0.0028, 0.018, 1.2)
_CRASH = _Regime(5, -0.045, 0.045, 2.8)
_BEAR = _Regime(150, -0.0032, 0.024, 0.9)
_CHOP = _Regime(35, 0.0, 0.011, 0.6)
# Always in this order, so that every stretch of three years has seen each of them.
_CYCLE: Final = (_BULL, _CRASH, _CHOP, _BEAR, _CHOP)
# Share of the level given back a day. The cycle's keeps forty years from drifting away; the swings', of weeks, turn hourly trends.
_CYCLE_PULL: Final = 0.0005
_SWING_PULL: Final = 0.06


@dataclass(frozen=True, slots=True)
class _Profile:
    """How one series behaves: start price, share of the common factor, own daily volatility, quote volume a day, market cap."""

    price: float
    beta: float
    sigma: float
    volume_usd: float
    cap_usd: float
    group: str = ""


_MAJORS: Final = {
    "BTC": _Profile(42_000, 0.8, 0.008, 18e9, 8e11),
    "ETH": _Profile(2_400, 1.0, 0.012, 9e9, 2.9e11),
    "SOL": _Profile(90, 1.3, 0.022, 2.5e9, 4e10),
    "BNB": _Profile(380, 0.8, 0.012, 9e8, 5.5e10),
    "HYPE": _Profile(20, 1.3, 0.030, 4e8, 7e9),
}
_DOMINANCE: Final = {"BTC.d": _Profile(55, -0.12, 0.004, 0, 0), "USDT.d": _Profile(5, -0.75, 0.008, 0, 0)}
_BY_BUCKET: Final = {
    "nano": _Profile(0.05, 1.3, 0.040, 2e6, 5e6, "nano"),
    "small": _Profile(0.4, 1.2, 0.035, 4e6, 24e6, "small"),
    "mid": _Profile(1.5, 1.1, 0.030, 2e7, 1.0e8, "mid"),
    "big": _Profile(40, 1.0, 0.022, 1.5e8, 2.5e9, "big"),
}


@dataclass(frozen=True, slots=True, eq=False)
class _Weather:
    """The common factor per day: log level, its daily volatility and the volume factor, each of shape (N_DAYS,)."""

    level: FloatArray
    sigma: FloatArray
    volume: FloatArray


class GeneratedMarket:
    """A `BarSource` for every instrument of a universe, both dominances and all market caps."""

    def __init__(self, universe: Universe, seed: int) -> None:
        """Remember which symbols mean which contract; nothing is generated yet."""
        self._seed = seed
        self._profiles: dict[str, _Profile] = dict(_DOMINANCE)
        self._by_symbol: dict[tuple[str, str], str] = {}
        for instrument in universe.instruments():
            self._profiles[instrument.contract] = self._profile(instrument)
            self._by_symbol.update({(source.venue, source.symbol): instrument.contract for source in instrument.sources})
        self._group_level = lru_cache(maxsize=None)(self._make_group_level)
        self._days = lru_cache(maxsize=None)(self._make_days)
        self._hours = lru_cache(maxsize=1024)(self._make_hours)

    @property
    def name(self) -> str:
        """Name for the `source` column."""
        return "generated"

    def venues(self) -> Collection[str]:
        """List the venues the universe names."""
        return {venue for venue, _ in self._by_symbol}

    def time_range(self, venue: str, symbol: str, timeframe: Timeframe) -> TimeRange | None:  # noqa: ARG002 - every timeframe alike
        """Tell the start of the made-up history; it goes on for ever. None for a symbol that the universe does not list."""
        return TimeRange(FIRST_S, None) if (venue, symbol) in self._by_symbol else None

    def fetch_bars(self, venue: str, symbol: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        """Make the bars of a window; none for a symbol that the universe does not list."""
        contract = self._by_symbol.get((venue, symbol))
        return self._bars(contract, timeframe, start_s, end_s) if contract else RawBars.empty()

    def dominance_range(self, driver: str, timeframe: Timeframe) -> TimeRange | None:  # noqa: ARG002 - every timeframe alike
        """Tell the start of the made-up history; None for what is not a dominance."""
        return TimeRange(FIRST_S, None) if driver in DOMINANCES else None

    def fetch_dominance(self, driver: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        """Make the dominance bars of a window: percent as price, volume 0."""
        return self._bars(driver, timeframe, start_s, end_s) if driver in DOMINANCES else RawBars.empty()

    def fetch_market_caps(self, start_s: int, end_s: int) -> Mapping[str, Sequence[CapObservation]]:
        """Make one cap a day and contract, known at 00:00 and true at that moment: a fixed supply at the price of the day's open."""
        caps: dict[str, list[CapObservation]] = {}
        for contract in sorted(set(self._by_symbol.values())):
            days, profile = _window(self._days(contract), start_s, end_s), self._profiles[contract]
            supply = profile.cap_usd / profile.price
            if len(days):
                pairs = zip(days.ts_s.tolist(), days.open.tolist(), strict=True)
                caps[contract] = [CapObservation(ts_s, ts_s, supply * price) for ts_s, price in pairs]
        return caps

    def _bars(self, contract: str, timeframe: Timeframe, start_s: int, end_s: int) -> RawBars:
        first, last = max(Timeframe.D1.floor(start_s), FIRST_S), min(end_s, FIRST_S + N_DAYS * DAY_S)
        days = range((first - FIRST_S) // DAY_S, -(-(last - FIRST_S) // DAY_S))
        if timeframe is Timeframe.D1:
            return _window(self._days(contract), start_s, end_s)
        if timeframe in {Timeframe.H1, Timeframe.H4}:
            blocks = range(days.start // HOUR_BLOCK_DAYS, -(-days.stop // HOUR_BLOCK_DAYS))
            made, base = RawBars.concat([self._hours(contract, block) for block in blocks]), Timeframe.H1
        else:
            made, base = RawBars.concat([self._make_minutes(contract, day) for day in days]), Timeframe.M1
        if timeframe is not base:
            rolled = roll_up(Bars.complete(made, base), base, timeframe)
            made = RawBars(rolled.ts_s, rolled.open, rolled.high, rolled.low, rolled.close, rolled.volume)
        return _window(made, start_s, end_s)

    def _rng(self, name: str, level: int, block: int = 0) -> np.random.Generator:
        """Open the stream of one block of one series: named, so that another token in the universe changes nobody's bars."""
        return np.random.default_rng([self._seed, crc32(name.encode()), level, block])

    def _profile(self, instrument: Instrument) -> _Profile:
        if instrument.contract in _MAJORS:
            return _MAJORS[instrument.contract]
        kind = _BY_BUCKET[(instrument.bucket if isinstance(instrument, Token) else None) or "mid"]
        spread = self._rng(f"profile:{instrument.contract}", _DAILY).uniform(0.6, 1.6, 4)
        # Caps spread less than prices, so that a token starts inside its bucket.
        cap_usd = kind.cap_usd * (0.8 + 0.25 * float(spread[3]))
        return _Profile(
            kind.price * float(spread[0]),
            kind.beta * (0.8 + 0.2 * float(spread[1])),
            kind.sigma,
            kind.volume_usd * float(spread[2]),
            cap_usd,
            kind.group,
        )

    @cached_property
    def _weather(self) -> _Weather:
        rng = self._rng(_MARKET, _DAILY)
        regimes: list[_Regime] = []
        while len(regimes) < N_DAYS:
            for regime in _CYCLE:
                regimes += [regime] * max(3, round(rng.gamma(8.0, regime.mean_days / 8.0)))
        drift, sigma, volume = np.array([(each.drift, each.sigma, each.volume) for each in regimes[:N_DAYS]]).T
        cycle = _pulled_walk(drift + 0.6 * sigma * rng.standard_normal(N_DAYS), _CYCLE_PULL)
        swing = _pulled_walk(0.8 * sigma * rng.standard_normal(N_DAYS), _SWING_PULL)
        return _Weather(cycle + swing, sigma, volume)

    def _make_group_level(self, group: str) -> FloatArray:
        """Walk that a bucket's tokens share beside the market."""
        return _pulled_walk(0.010 * self._rng(f"group:{group}", _DAILY).standard_normal(N_DAYS), 0.005)

    def _make_days(self, contract: str) -> RawBars:
        """Make every day of a series at once; the split of a day must never depend on the window asked for."""
        profile, weather, rng = self._profiles[contract], self._weather, self._rng(contract, _DAILY)
        own = _pulled_walk(profile.sigma * rng.standard_normal(N_DAYS), 0.007)
        level = profile.beta * weather.level + own + (self._group_level(profile.group) if profile.group else 0.0)
        close = profile.price * np.exp(level)
        open_ = np.concatenate([[profile.price], close[:-1]])
        sigma = np.hypot(profile.beta * weather.sigma, profile.sigma)
        reach = np.abs(rng.standard_normal((2, N_DAYS))) * 0.5 * sigma
        high, low = np.maximum(open_, close) * np.exp(reach[0]), np.minimum(open_, close) * np.exp(-reach[1])
        excitement = 0.6 + 0.5 * np.abs(np.log(close / open_)) / sigma
        volume = profile.volume_usd * weather.volume * excitement * np.exp(0.3 * rng.standard_normal(N_DAYS))
        # Whole units of quote: sums of them are exact, whatever the grouping.
        return RawBars(FIRST_S + DAY_S * np.arange(N_DAYS), open_, high, low, close, np.rint(volume))

    def _make_hours(self, contract: str, block: int) -> RawBars:
        days = self._days(contract)[block * HOUR_BLOCK_DAYS : (block + 1) * HOUR_BLOCK_DAYS]
        return self._split(contract, days, Timeframe.H1, _HOURS, block)

    def _make_minutes(self, contract: str, day: int) -> RawBars:
        at = 24 * (day % HOUR_BLOCK_DAYS)
        return self._split(contract, self._hours(contract, day // HOUR_BLOCK_DAYS)[at : at + 24], Timeframe.M1, _MINUTES, day)

    def _split(self, contract: str, parents: RawBars, child: Timeframe, level: int, block: int) -> RawBars:
        """Draw the noise of a block of parents, most of it shared with the whole market, and split them."""
        n_children = int(parents.ts_s[1] - parents.ts_s[0]) // child.seconds
        shape = (len(parents), n_children)
        rng, common = self._rng(contract, level, block), self._rng(_MARKET, level, block)
        shared = 0.88 if self._profiles[contract].beta > 0 else -0.7
        steps = shared * common.standard_normal(shape) + (1 - shared * shared) ** 0.5 * rng.standard_normal(shape)
        return _split_bars(parents, child, steps, rng.standard_exponential((2, *shape)), rng.standard_gamma(3.0, shape))


def _pulled_walk(steps: FloatArray, pull: float) -> FloatArray:
    """Add steps up while each day gives back a share `pull` of the level reached."""
    level, levels = 0.0, []
    for step in steps.tolist():
        level += step - pull * level
        levels.append(level)
    return np.array(levels)


def _split_bars(parents: RawBars, child: Timeframe, steps: FloatArray, wicks: FloatArray, weights: FloatArray) -> RawBars:
    """Split each parent into children whose rollup is the parent, exactly.

    Parameters
    ----------
    parents : RawBars
        n bars with whole-number volume.
    child : Timeframe
        Length of the children.
    steps : ndarray of shape (n, k)
        Noise of the path; k is the number of children.
    wicks : ndarray of shape (2, n, k)
        Reach beyond the bodies, upwards and downwards, >= 0.
    weights : ndarray of shape (n, k)
        Shares of the volume before moves are taken into account, > 0.
    """
    n, k = steps.shape
    open_, high, low, close = (column[:, None] for column in (parents.open, parents.high, parents.low, parents.close))
    elapsed = np.arange(1, k + 1) / k
    walk = np.cumsum(steps, axis=1)
    path = open_ + (close - open_) * elapsed + (walk - walk[:, -1:] * elapsed) * (high - low) / k**0.5
    # What leaves the span from open to close is scaled to come near the parent's extremes, never beyond.
    path = _fit_beyond(path, np.maximum(open_, close), high)
    path = -_fit_beyond(-path, -np.minimum(open_, close), -low)
    closes = np.clip(path, low, high)
    closes[:, -1] = parents.close
    opens = np.concatenate([open_, closes[:, :-1]], axis=1)
    top, bottom = np.maximum(opens, closes), np.minimum(opens, closes)
    reach = 0.25 * (high - low) / k**0.5
    highs, lows = np.minimum(top + wicks[0] * reach, high), np.maximum(bottom - wicks[1] * reach, low)
    rows = np.arange(n)
    highs[rows, top.argmax(axis=1)] = parents.high
    lows[rows, bottom.argmin(axis=1)] = parents.low
    ts_s = parents.ts_s[:, None] + child.seconds * np.arange(k)
    volumes = _share_out(parents.volume, weights * (0.3 + (top - bottom) / np.maximum((high - low) / k**0.5, np.finfo(float).tiny)))
    return RawBars(ts_s.ravel(), opens.ravel(), highs.ravel(), lows.ravel(), closes.ravel(), volumes.ravel())


def _fit_beyond(path: FloatArray, edge: FloatArray, limit: FloatArray) -> FloatArray:
    """Scale what lies above `edge` in each row so that its highest point comes to nine tenths of the way to `limit`."""
    beyond = np.maximum(path - edge, 0.0)
    highest = beyond.max(axis=1, keepdims=True)
    fitted: FloatArray = np.where(beyond > 0, edge + beyond * (0.9 * (limit - edge) / np.where(highest > 0, highest, 1.0)), path)
    return fitted


def _share_out(totals: FloatArray, weights: FloatArray) -> FloatArray:
    """Share whole numbers out by weight into whole numbers; the rest goes to the largest share."""
    shares: FloatArray = np.floor(totals[:, None] * (weights / weights.sum(axis=1, keepdims=True)))
    shares[np.arange(len(totals)), weights.argmax(axis=1)] += totals - shares.sum(axis=1)
    return shares


def _window(raw: RawBars, start_s: int, end_s: int) -> RawBars:
    first, last = np.searchsorted(raw.ts_s, [start_s, end_s])
    return raw[int(first) : int(last)]
