"""The two levers of a position: A, appetite to add, and E, eagerness to exit, both in [0, 1] (specification 7).

Pure: the age of a channel is handed in, never read from a clock. Many positions at once are in `levers_vector.py`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from regime_pipeline.errors import BadInputError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.drivers import BUCKETS, CHANNEL_TIMEFRAMES, DRIVERS, Driver, DriverKind, get_driver
from regime_pipeline.trend.record import STATES

MULTIPLIERS: Final[dict[str, tuple[float, float, float]]] = {
    "1m": (0.05, 0.35, 0.60),
    "5m": (0.10, 0.50, 0.40),
    "15m": (0.15, 0.55, 0.30),
    "1h": (0.30, 0.55, 0.15),
    "4h": (0.55, 0.40, 0.05),
    "1d": (0.80, 0.18, 0.02),
}
"""Share of macro, meso and micro in a position's levers, by its execution timeframe."""
OTHER_MULTIPLIERS: Final = (0.50, 0.40, 0.10)
OTHER_ROW: Final = "other"

INTENT_DELTAS: Final[dict[str, tuple[float, float]]] = {
    "hi_buy": (+0.25, -0.10),
    "med_buy": (+0.15, -0.05),
    "profit": (-0.15, +0.15),
    "sell": (-0.25, +0.35),
    "mock": (-0.30, +0.50),
}
MAX_INTENT_DELTA: Final = 0.4
NEUTRAL_LEVER: Final = 0.5
STALE_AFTER_BARS: Final = 3.0
MIN_VALIDITY: Final = 0.5
"""Default of the data validity below which a channel counts as missing."""

DEFAULT_BOOK: Final = "onchain_crypto"
BOOK_DRIVERS: Final[dict[str, str]] = {"onchain_crypto": DEFAULT_BOOK, "spot_crypto": DEFAULT_BOOK, "perp_crypto": DEFAULT_BOOK}
"""Whose drivers a book listens to; any other book has its own, and no others exist yet."""

# A mapper delta lies within +/-1. Anything finite is still added up as given, except where fifteen of them could overflow to inf - inf.
MAX_DELTA: Final = 1e300


class Quality(StrEnum):
    """Why a channel counts (only `ok` does) or does not; the first that holds, in this order."""

    OFF = "off"
    NO_BUCKET = "no_bucket"
    ABSENT = "absent"
    STALE = "stale"
    INVALID = "invalid"
    S4 = "s4"
    IMMATURE = "immature"
    OK = "ok"


@dataclass(frozen=True, slots=True)
class Channel:
    """The newest mapper row of one driver on one regime timeframe.

    Parameters
    ----------
    driver : str
        One of the eight names.
    timeframe : Timeframe
        1d, 1h or 1m.
    age_bars : float
        (now - bar end) / bar length, see `compute_age_bars`. Negative or NaN: the row is later than now and is not read.
    delta_a_raw, delta_e_raw : float or None
        From the mapper; None, NaN or infinite: the channel is absent.
    ts_s : int or None
        Open of the bar, for the diagnostics.
    state, prev_state, flags, immature
        As stored with the row. State `S4` and immature rows do not contribute.
    validity : float or None
        Data validity of its bar, 0 to 1; None: not known, and nothing follows from it.

    Raises
    ------
    BadInputError
        When driver or timeframe is not a channel's, or the state is unknown.
    """

    driver: str
    timeframe: Timeframe
    age_bars: float
    delta_a_raw: float | None
    delta_e_raw: float | None
    ts_s: int | None = None
    state: str | None = None
    prev_state: str | None = None
    flags: tuple[str, ...] = ()
    immature: bool = False
    validity: float | None = None

    def __post_init__(self) -> None:
        get_driver(self.driver)
        if self.timeframe not in CHANNEL_TIMEFRAMES:
            raise BadInputError(f"channel timeframe was {self.timeframe!r}, must be one of {', '.join(CHANNEL_TIMEFRAMES)}. Correct it.")
        if self.state is not None and self.state not in STATES:  # a code 4 would slip past the test for S4
            raise BadInputError(f"channel state was {self.state!r}, must be one of {', '.join(STATES)}. Pass the name, not the code.")


@dataclass(frozen=True, slots=True)
class LeverInput:
    """All that the levers of one position depend on.

    Parameters
    ----------
    exec_timeframe : str
        The position's own timeframe; one without a multiplier row uses the row `other`, with a warning.
    bucket : str or None
        The position's market-cap bucket; None or unknown: no bucket driver is read.
    channels : tuple of Channel or None
        At most one per driver and timeframe; None says that the read of the channels failed as a whole.
    intents : mapping of str to float or None
        Strength in [0, 1] of hi_buy, med_buy, profit, sell, mock; clamped, missing or non-finite is 0.
    regime_strength : float
        Finite factor >= 0 on the sum of all channels.
    book_id : str
        Chooses the set of drivers; crypto books share one, any other book has none.
    timeframes : tuple of Timeframe
        Regime timeframes in use; the others are `off`.
    min_validity : float
        A channel whose data validity is lower, or not a number, counts as missing.

    Raises
    ------
    BadInputError
        When a channel is given twice, an intent or a timeframe is unknown, or the strength is negative or not finite.
    """

    exec_timeframe: str
    bucket: str | None
    channels: tuple[Channel, ...] | None
    intents: Mapping[str, float | None] = field(default_factory=dict)
    regime_strength: float = 1.0
    book_id: str = DEFAULT_BOOK
    timeframes: tuple[Timeframe, ...] = CHANNEL_TIMEFRAMES
    min_validity: float = MIN_VALIDITY

    def __post_init__(self) -> None:
        seen = set[tuple[str, Timeframe]]()
        for channel in self.channels or ():
            key = (channel.driver, channel.timeframe)
            if key in seen:
                raise BadInputError(f"channel {channel.driver} {channel.timeframe} was given twice; pass only its newest row.")
            seen.add(key)
        if unknown := sorted(set(self.intents) - set(INTENT_DELTAS)):
            raise BadInputError(f"intents were {unknown}, allowed: {', '.join(INTENT_DELTAS)}. Correct the name.")
        if unused := [timeframe for timeframe in self.timeframes if timeframe not in CHANNEL_TIMEFRAMES]:
            raise BadInputError(f"timeframes in use were {unused}, allowed: {', '.join(CHANNEL_TIMEFRAMES)}. Correct them.")
        check_strength(self.regime_strength)
        if not 0 <= self.min_validity <= 1:
            raise BadInputError(f"min_validity was {self.min_validity}, must lie between 0 and 1. The default is {MIN_VALIDITY}.")


@dataclass(frozen=True, slots=True)
class Contribution:
    """One of the fifteen channels of a decision: what was read, whether it counted and what it added."""

    driver: str
    timeframe: Timeframe
    ts_s: int | None
    age_bars: float | None
    state: str | None
    prev_state: str | None
    flags: tuple[str, ...]
    quality: Quality
    raw_a: float | None
    raw_e: float | None
    mult: float
    weight: float
    contrib_a: float
    contrib_e: float
    validity: float | None = None


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """Everything that led to a decision, stored with it."""

    channels: tuple[Contribution, ...]
    sum_a: float
    sum_e: float
    regime_strength: float
    intents: dict[str, float]
    intent_a: float
    intent_e: float
    multiplier_row: str
    driver_book: str
    no_micro: bool
    degraded: bool
    degraded_by: tuple[str, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LeverResult:
    """A and E in [0, 1], the share of the position size they suggest, and why. `degraded` blocks every buy, never a trim or an exit."""

    A_value: float
    E_value: float
    position_size_frac: float
    degraded: bool
    diagnostics: Diagnostics


def compute_age_bars(ts_s: int, timeframe: Timeframe, now_s: int) -> float:
    """Count the bar lengths since the bar that opened at `ts_s` closed; negative while it is open or still to come."""
    return (now_s - ts_s - timeframe.seconds) / timeframe.seconds


def check_strength(regime_strength: float) -> None:
    """Refuse a regime strength that is negative or not finite with a `BadInputError`."""
    if not (math.isfinite(regime_strength) and regime_strength >= 0):
        raise BadInputError(f"regime_strength was {regime_strength}, must be finite and >= 0. The default is 1.")


def compute_intent_deltas(intents: Mapping[str, float | None]) -> tuple[dict[str, float], float, float]:
    """Clamp the five intents to [0, 1] and add up their rows.

    Returns
    -------
    (dict, float, float)
        The five clamped inputs, dA and dE; both sums are within +/-0.4.
    """
    clamped = {name: _clamp_intent(intents.get(name)) for name in INTENT_DELTAS}
    delta_a = math.fsum(clamped[name] * row[0] for name, row in INTENT_DELTAS.items())
    delta_e = math.fsum(clamped[name] * row[1] for name, row in INTENT_DELTAS.items())
    return clamped, _clamp(delta_a, -MAX_INTENT_DELTA, MAX_INTENT_DELTA), _clamp(delta_e, -MAX_INTENT_DELTA, MAX_INTENT_DELTA)


def compute_levers(given: LeverInput) -> LeverResult:
    """Compute the levers of one position.

    A = clamp01(0.5 + regime_strength * sum(raw_a * multiplier * weight) + intent dA) over the position's fifteen channels; E likewise.

    Returns
    -------
    LeverResult
        Always within bounds; a channel that cannot be used adds 0 and a reason, and the weights of the others stay as they are.
    """
    row = given.exec_timeframe if given.exec_timeframe in MULTIPLIERS else OTHER_ROW
    reasons = []
    if row == OTHER_ROW:
        reasons.append(f"execution timeframe {given.exec_timeframe!r} has no multiplier row: row {OTHER_ROW!r} used")
    if Timeframe.M1 not in given.timeframes:
        reasons.append("no_micro: computed without the 1m channels")
    if given.channels is None:
        reasons.append("the channels could not be read: intents only")

    channels, degraded_by = [], []
    read = {(channel.driver, channel.timeframe): channel for channel in given.channels or ()}
    multipliers = dict(zip(CHANNEL_TIMEFRAMES, MULTIPLIERS.get(row, OTHER_MULTIPLIERS), strict=True))
    for driver in _drivers_heard(given.bucket):
        for timeframe, mult in multipliers.items():
            channel = read.get((driver.name, timeframe))
            quality, why = judge_channel(given, driver, timeframe, channel)
            channels.append(_contribution(driver, timeframe, mult, quality, channel))
            if quality is not Quality.OK:
                reasons.append(f"{driver.name} {timeframe}: {quality}, {why}")
            if driver.required and quality in (Quality.ABSENT, Quality.STALE, Quality.INVALID):
                degraded_by.append(f"{driver.name} {timeframe}")

    sum_a = math.fsum(channel.contrib_a for channel in channels)
    sum_e = math.fsum(channel.contrib_e for channel in channels)
    intents, intent_a, intent_e = compute_intent_deltas(given.intents)
    a_value = _clamp(NEUTRAL_LEVER + given.regime_strength * sum_a + intent_a, 0.0, 1.0)
    e_value = _clamp(NEUTRAL_LEVER + given.regime_strength * sum_e + intent_e, 0.0, 1.0)
    degraded = bool(degraded_by) or given.channels is None
    diagnostics = Diagnostics(
        channels=tuple(channels),
        sum_a=sum_a,
        sum_e=sum_e,
        regime_strength=given.regime_strength,
        intents=intents,
        intent_a=intent_a,
        intent_e=intent_e,
        multiplier_row=row,
        driver_book=BOOK_DRIVERS.get(given.book_id, given.book_id),
        no_micro=Timeframe.M1 not in given.timeframes,
        degraded=degraded,
        degraded_by=tuple(degraded_by),
        reasons=tuple(reasons),
    )
    return LeverResult(a_value, e_value, 0.10 + 0.50 * a_value, degraded, diagnostics)


_NO_BUCKET: Final = Driver("bucket", DriverKind.BUCKET, DRIVERS[2].weight, required=False)


def _drivers_heard(bucket: str | None) -> list[Driver]:
    own = get_driver(bucket) if bucket in BUCKETS else _NO_BUCKET
    dominances = [driver for driver in DRIVERS if driver.kind is DriverKind.DOMINANCE]
    return [*(driver for driver in DRIVERS if driver.kind is DriverKind.GLOBAL), own, *dominances]


def judge_channel(given: LeverInput, driver: Driver, timeframe: Timeframe, channel: Channel | None) -> tuple[Quality, str]:
    """Find the first quality that holds, and say why in words."""
    if timeframe not in given.timeframes:
        return Quality.OFF, "timeframe not in use"
    if driver is _NO_BUCKET:
        return Quality.NO_BUCKET, f"the position's bucket was {given.bucket!r}"
    if given.book_id not in BOOK_DRIVERS:
        return Quality.ABSENT, f"book {given.book_id!r} has no drivers"
    if channel is None:
        return Quality.ABSENT, "no row" if given.channels is not None else "the read failed"
    if not channel.age_bars >= 0:  # NaN included
        return Quality.ABSENT, f"its bar ends after now (age {channel.age_bars:g} bars) and is not read"
    if not all(abs(delta) <= MAX_DELTA for delta in deltas_of(channel)):
        return Quality.ABSENT, f"its deltas were {channel.delta_a_raw} and {channel.delta_e_raw}"
    if channel.age_bars > STALE_AFTER_BARS:
        return Quality.STALE, f"{channel.age_bars:g} bars old, at most {STALE_AFTER_BARS:g} allowed"
    if channel.validity is not None and not channel.validity >= given.min_validity:  # NaN included
        return Quality.INVALID, f"data validity {channel.validity:g}, at least {given.min_validity:g} needed"
    if channel.state == "S4":
        return Quality.S4, "no state yet"
    if channel.immature:
        return Quality.IMMATURE, "fewer than 1000 bars"
    return Quality.OK, ""


def _contribution(driver: Driver, timeframe: Timeframe, mult: float, quality: Quality, channel: Channel | None) -> Contribution:
    counts = quality is Quality.OK and channel is not None
    raw_a, raw_e = deltas_of(channel) if channel is not None and counts else (0.0, 0.0)
    return Contribution(
        driver=driver.name,
        timeframe=timeframe,
        ts_s=channel.ts_s if channel else None,
        age_bars=_finite_or_none(channel.age_bars) if channel else None,
        state=channel.state if channel else None,
        prev_state=channel.prev_state if channel else None,
        flags=channel.flags if channel else (),
        quality=quality,
        raw_a=_finite_or_none(channel.delta_a_raw) if channel else None,
        raw_e=_finite_or_none(channel.delta_e_raw) if channel else None,
        mult=mult,
        weight=driver.weight,
        contrib_a=raw_a * mult * driver.weight + 0.0,  # no -0.0 in a stored decision
        contrib_e=raw_e * mult * driver.weight + 0.0,
        validity=_finite_or_none(channel.validity) if channel else None,
    )


def deltas_of(channel: Channel) -> tuple[float, float]:
    """Read both deltas of a channel, NaN where missing."""
    a, e = channel.delta_a_raw, channel.delta_e_raw
    return math.nan if a is None else a, math.nan if e is None else e


def _finite_or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _clamp(value: float, low: float, high: float) -> float:
    return min(high, max(low, value))


def _clamp_intent(value: float | None) -> float:
    return _clamp(value, 0.0, 1.0) if value is not None and math.isfinite(value) else 0.0
