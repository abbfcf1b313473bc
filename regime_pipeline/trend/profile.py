"""Profiles of the trend engine: every constant of specs section 4 in one immutable object, and the two parameter sets.

A profile is data: no code asks for its name. `v4` gives the uncorrected numbers of the older engine, for comparison only; its
results never feed regime channels or trading.
"""

from typing import Final, NamedTuple

from regime_pipeline.errors import BadInputError


class Constants(NamedTuple):
    """What the compiled kernels read. Shares are of 1, distances in ATR, windows in bars. Defaults are profile v5."""

    eps: float = 1e-300
    """Denominator floor: protects only an exact zero, so that tokens priced below 1e-6 work."""
    rsi_flat: float = 50.0
    """RSI of a window without any change."""
    strength_scale: float = 20.0
    """Level strength is min(1, raw / scale); 0 keeps the raw count."""
    boost_cap: float = 0.25
    boost_weight: float = 0.25
    gate: float = 0.60
    """Smallest boosted trend strength of a buy."""
    s1_halo_atr: float = 1.0
    s2_halo_atr: float = 0.5
    trim_ox: float = 0.65
    trim_halo_atr: float = 1.0
    dx_threshold: float = 0.60
    position_boost: float = 0.10
    """DX threshold relief at EMA333 ..."""
    position_penalty: float = 0.05
    """... and its surcharge at EMA144; both 0 switch the position term off."""
    ox_decay_gain: float = 0.33
    dx_decay_cut: float = 0.50
    edx_min_bars: float = 10.0
    edx_health_sign: float = -1.0
    """-1: the slow part is 1 - health (high = decaying); +1: it is health itself."""
    edx_divisor: float = 0.85
    """Sum of the four weights: makes neutral .5."""
    edx_slow: float = 0.30
    edx_struct: float = 0.25
    edx_part: float = 0.20
    edx_comp: float = 0.10
    edx_slope_gain: float = 1000.0
    edx_vwap_gain: float = 1000.0
    edx_comp_gain: float = 20000.0
    s2_retest_as_buy: float = 0.0
    """1 reports the EMA333 retest in S2 as buy instead of rebuy."""


class Profile(NamedTuple):
    """A named parameter set."""

    name: str
    constants: Constants
    winsorised_volume: bool
    """Clip the volume history to its 2 % and 98 % quantiles before the volume z (rewrites the past at every bar)."""

    @property
    def engine_version(self) -> str:
        """Version stamp of every record made with this profile."""
        return f"m2-{self.name}"


V5: Final = Profile("v5", Constants(), winsorised_volume=False)
V4: Final = Profile(
    "v4",
    Constants(
        eps=1e-9,
        rsi_flat=0.0,
        strength_scale=0.0,
        position_boost=0.0,
        position_penalty=0.0,
        edx_health_sign=1.0,
        edx_divisor=1.0,
        edx_comp_gain=100.0,
    ),
    winsorised_volume=True,
)
PROFILES: Final = {profile.name: profile for profile in (V5, V4)}


def profile_named(name: str) -> Profile:
    """Look a profile up.

    Raises
    ------
    BadInputError
        When there is no such profile.
    """
    if name not in PROFILES:
        raise BadInputError(f"profile was {name!r}; allowed: {', '.join(PROFILES)}")
    return PROFILES[name]
