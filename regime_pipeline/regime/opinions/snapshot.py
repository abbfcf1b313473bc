"""One row per series and minute with all that the opinions say, and the only thing their consumers read (specification 11)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from regime_pipeline.errors import CallerError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.opinions.changepoint import Level
from regime_pipeline.regime.opinions.consensus import Agreement, Belief, Consensus, compute_belief, compute_consensus, voice_of
from regime_pipeline.regime.opinions.hmm_filter import Opinion
from regime_pipeline.regime.opinions.ladder import age_s, is_fresh, opinion_in_force
from regime_pipeline.regime.opinions.quality import Tier
from regime_pipeline.regime.opinions.survival import Spell
from regime_pipeline.regime.opinions.terms import TIMEFRAMES, Label, Status, Triple, check_series
from regime_pipeline.regime.opinions.throttle import Throttle, compute_throttle
from regime_pipeline.regime.opinions.tracker import TrackerState, Transition
from regime_pipeline.regime.opinions.volatility import DirectionAxis, VolAxis, VolRegime

SNAPSHOT_S: Final = 60
MAX_AGE_S: Final = 180
"""A consumer may use a snapshot up to this age; equality is in time."""
NO_TRENDS: Final[Mapping[Timeframe, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ChangepointReading:
    """A stored change-point row: open of its bar, probability of a young run (None or NaN where unknown or warming), level."""

    ts_s: int
    cp_prob: float | None
    level: Level


@dataclass(frozen=True, slots=True)
class VolatilityReading:
    """A stored 1h volatility row: open of its bar, published regime, both axes, band and rank (None or NaN where there is none)."""

    ts_s: int
    regime: VolRegime
    vol_axis: VolAxis
    direction_axis: DirectionAxis
    band: float | None
    band_rank: float | None
    status: Status


@dataclass(frozen=True, slots=True)
class StrategicReading:
    """The tracker as stored with a 1h row, the running spell at that row, and the newest transition confirmed up to it."""

    ts_s: int
    tracker: TrackerState
    spell: Spell
    transition: Transition | None


@dataclass(frozen=True, slots=True)
class TimeframeView:
    """One timeframe in the snapshot; numbers as in `Opinion`, `age_s` from the close of the newest row, None without one."""

    p: Triple
    label: Label
    conf: float
    bias: float
    entropy: float
    p_switch60: float | None
    status: Status
    age_s: int | None
    tier: Tier
    model_id: str | None
    cp_prob: float | None
    cp_level: Level


@dataclass(frozen=True, slots=True)
class StrategicView:
    """The confirmed 1h label, what may follow it and how long it may last; unknown when the 1h row is not fresh."""

    label: Label = Label.UNKNOWN
    candidate: Label | None = None
    count: int = 0
    spell_age_bars: int | None = None
    p_spell_4h: float | None = None
    p_spell_24h: float | None = None
    transition_id: str | None = None


@dataclass(frozen=True, slots=True)
class VolatilityView:
    """The 1h volatility regime; unknown without numbers when the 1h row is not fresh."""

    regime: VolRegime = VolRegime.UNKNOWN
    vol_axis: VolAxis = VolAxis.UNKNOWN
    direction_axis: DirectionAxis = DirectionAxis.UNKNOWN
    band: float | None = None
    band_rank: float | None = None
    status: Status = Status.STALE


@dataclass(frozen=True, slots=True)
class RegimeSnapshot:
    """What the opinions say of a series at a minute.

    Parameters
    ----------
    series : str
        One of the six.
    ts_s : int
        The minute, epoch seconds.
    m1, m15, h1 : TimeframeView
        The three timeframes.
    consensus, belief : Consensus, Belief
        What they add up to.
    strategic, volatility : StrategicView, VolatilityView
        From 1h rows.
    trend_1m, trend_1h, trend_1d : str or None
        State of the trend engine as of the minute, None if it has none.
    throttle : Throttle
        What the throttle would take, whether it is on or not.
    """

    series: str
    ts_s: int
    m1: TimeframeView
    m15: TimeframeView
    h1: TimeframeView
    consensus: Consensus
    belief: Belief
    strategic: StrategicView
    volatility: VolatilityView
    trend_1m: str | None
    trend_1h: str | None
    trend_1d: str | None
    throttle: Throttle

    def columns(self) -> dict[str, Any]:
        """Lay the snapshot out in the columns of table regime_snapshots, without its key, origin and time of writing."""
        return {
            **{
                f"{name}_{timeframe}": value
                for timeframe, view in zip(TIMEFRAMES, (self.m1, self.m15, self.h1), strict=True)
                for name, value in _view_columns(view).items()
            },
            "consensus_p": list(self.consensus.p),
            "consensus_label": str(self.consensus.label),
            "consensus_conf": self.consensus.confidence,
            "consensus_bias": self.consensus.bias,
            "consensus_entropy": self.consensus.entropy,
            "agreement": str(self.consensus.agreement),
            "belief_p": list(self.belief.p),
            "belief_entropy": self.belief.entropy,
            "direction_score": self.belief.direction_score,
            "belief_p_switch60": self.belief.p_switch60,
            "coverage": self.belief.coverage,
            "strategic_label": str(self.strategic.label),
            "strategic_candidate": None if self.strategic.candidate is None else str(self.strategic.candidate),
            "strategic_count": self.strategic.count,
            "spell_age_bars": self.strategic.spell_age_bars,
            "p_spell_4h": self.strategic.p_spell_4h,
            "p_spell_24h": self.strategic.p_spell_24h,
            "transition_id": self.strategic.transition_id,
            "vol_regime": str(self.volatility.regime),
            "vol_axis": str(self.volatility.vol_axis),
            "direction_axis": str(self.volatility.direction_axis),
            "band": self.volatility.band,
            "band_rank": self.volatility.band_rank,
            "vol_status": str(self.volatility.status),
            "trend_1m": self.trend_1m,
            "trend_1h": self.trend_1h,
            "trend_1d": self.trend_1d,
            "throttle_shadow": self.throttle.value,
            "throttle_parts": {"m_vol": self.throttle.m_vol, "m_cp": self.throttle.m_cp, "m_bear": self.throttle.m_bear},
        }

    @classmethod
    def from_columns(cls, series: str, ts_s: int, row: Mapping[str, Any]) -> "RegimeSnapshot":
        """Read a stored row back: the inverse of `columns`."""
        m1, m15, h1 = (_view_from(row, timeframe) for timeframe in TIMEFRAMES)
        candidate = row["strategic_candidate"]
        parts = row["throttle_parts"]
        return cls(
            series=series,
            ts_s=ts_s,
            m1=m1,
            m15=m15,
            h1=h1,
            consensus=Consensus(
                agreement=Agreement(row["agreement"]),
                label=Label(row["consensus_label"]),
                confidence=row["consensus_conf"],
                bias=row["consensus_bias"],
                p=_triple(row["consensus_p"]),
                entropy=row["consensus_entropy"],
            ),
            belief=Belief(
                p=_triple(row["belief_p"]),
                entropy=row["belief_entropy"],
                direction_score=row["direction_score"],
                coverage=row["coverage"],
                p_switch60=row["belief_p_switch60"],
            ),
            strategic=StrategicView(
                label=Label(row["strategic_label"]),
                candidate=None if candidate is None else Label(candidate),
                count=row["strategic_count"],
                spell_age_bars=row["spell_age_bars"],
                p_spell_4h=row["p_spell_4h"],
                p_spell_24h=row["p_spell_24h"],
                transition_id=row["transition_id"],
            ),
            volatility=VolatilityView(
                regime=VolRegime(row["vol_regime"]),
                vol_axis=VolAxis(row["vol_axis"]),
                direction_axis=DirectionAxis(row["direction_axis"]),
                band=row["band"],
                band_rank=row["band_rank"],
                status=Status(row["vol_status"]),
            ),
            trend_1m=row["trend_1m"],
            trend_1h=row["trend_1h"],
            trend_1d=row["trend_1d"],
            throttle=Throttle(parts["m_vol"], parts["m_cp"], parts["m_bear"]),
        )


def build_snapshot(
    series: str,
    snapshot_s: int,
    *,
    opinions: Mapping[Timeframe, Opinion],
    changepoints: Mapping[Timeframe, ChangepointReading],
    volatility: VolatilityReading | None,
    strategic: StrategicReading | None,
    trends: Mapping[Timeframe, str] = NO_TRENDS,
) -> RegimeSnapshot:
    """Assemble the snapshot of one minute from the newest rows that it may read, whatever they say.

    Parameters
    ----------
    series : str
        One of the six.
    snapshot_s : int
        A full minute, epoch seconds.
    opinions, changepoints : mapping from timeframe to row
        Newest visible row per timeframe (`visible_rows`), unknown rows included; no key where there is none.
    volatility, strategic : VolatilityReading or None, StrategicReading or None
        Of the newest visible 1h row.
    trends : mapping from timeframe to state
        1m, 1h and 1d states of the trend engine as of the minute.

    Returns
    -------
    RegimeSnapshot
        Whatever is absent or older than its limit is unknown: the label never, and the numbers never, outlive their row.

    Raises
    ------
    CallerError
        The series is unknown, the instant is no full minute, or a row may not be read yet.
    """
    check_series(series)
    if snapshot_s % SNAPSHOT_S:
        raise CallerError(f"snapshot was at {snapshot_s}, must be a full minute. Floor it.")
    in_force = {timeframe: opinion_in_force(opinions.get(timeframe), timeframe, snapshot_s) for timeframe in TIMEFRAMES}
    m1, m15, h1 = (
        _view(in_force[timeframe], opinions.get(timeframe), changepoints.get(timeframe), timeframe, snapshot_s) for timeframe in TIMEFRAMES
    )
    voices = tuple(voice_of(in_force[timeframe]) for timeframe in TIMEFRAMES)
    vol = _volatility_view(volatility, snapshot_s)
    confirmed = _strategic_view(strategic, snapshot_s)
    return RegimeSnapshot(
        series=series,
        ts_s=snapshot_s,
        m1=m1,
        m15=m15,
        h1=h1,
        consensus=compute_consensus(voices[0], voices[1]),
        belief=compute_belief(*voices),
        strategic=confirmed,
        volatility=vol,
        trend_1m=trends.get(Timeframe.M1),
        trend_1h=trends.get(Timeframe.H1),
        trend_1d=trends.get(Timeframe.D1),
        throttle=compute_throttle(vol.regime, vol.band_rank, h1.cp_level, confirmed.label, h1.conf),
    )


def unknown_snapshot(series: str, ts_s: int) -> RegimeSnapshot:
    """Build the snapshot that says nothing: what consumers get when there is none, or none in time."""
    return build_snapshot(series, ts_s - ts_s % SNAPSHOT_S, opinions={}, changepoints={}, volatility=None, strategic=None)


def snapshot_in_force(newest: RegimeSnapshot | None, series: str, at_s: int) -> RegimeSnapshot:
    """Return what a consumer may use at an instant: the newest snapshot up to 180 s old, else the UNKNOWN one.

    Raises
    ------
    CallerError
        The snapshot is of another series or later than the instant.
    """
    if newest is None or (newest.series == series and at_s - newest.ts_s > MAX_AGE_S):
        return unknown_snapshot(series, at_s)
    if newest.series != series or newest.ts_s > at_s:
        raise CallerError(f"snapshot was {newest.series} at {newest.ts_s}, asked for {series} at {at_s}. Load the newest one up to then.")
    return newest


def risk_throttle(snapshot: RegimeSnapshot, *, enabled: bool) -> float:
    """Return the multiplier for the size of an entry or add: exactly 1.0 unless a person switched the throttle on."""
    return snapshot.throttle.value if enabled else 1.0


def _view(
    opinion: Opinion, newest: Opinion | None, changepoint: ChangepointReading | None, timeframe: Timeframe, snapshot_s: int
) -> TimeframeView:
    known = opinion.status is Status.OK
    fresh = changepoint if changepoint is not None and is_fresh(changepoint.ts_s, timeframe, snapshot_s) else None
    return TimeframeView(
        p=opinion.p,
        label=opinion.label,
        conf=opinion.confidence,
        bias=opinion.bias,
        entropy=opinion.entropy,
        p_switch60=opinion.p_switch60,
        status=opinion.status,
        age_s=age_s(None if newest is None else newest.ts_s, timeframe, snapshot_s),
        tier=opinion.tier,
        model_id=opinion.model_id if known else None,
        cp_prob=None if fresh is None else _number(fresh.cp_prob),
        cp_level=Level.UNKNOWN if fresh is None else fresh.level,
    )


def _volatility_view(reading: VolatilityReading | None, snapshot_s: int) -> VolatilityView:
    if reading is None or not is_fresh(reading.ts_s, Timeframe.H1, snapshot_s):
        return VolatilityView()
    return VolatilityView(
        regime=reading.regime,
        vol_axis=reading.vol_axis,
        direction_axis=reading.direction_axis,
        band=_number(reading.band),
        band_rank=_number(reading.band_rank),
        status=reading.status,
    )


def _strategic_view(reading: StrategicReading | None, snapshot_s: int) -> StrategicView:
    if reading is None or not is_fresh(reading.ts_s, Timeframe.H1, snapshot_s):
        return StrategicView()
    tracker, spell, transition = reading.tracker, reading.spell, reading.transition
    if transition is not None and transition.confirmed_bar_s > reading.ts_s:
        raise CallerError(f"transition {transition.transition_id} was confirmed after hour {reading.ts_s}. Pass the newest one up to it.")
    return StrategicView(
        label=tracker.current,
        candidate=None if tracker.candidate is Label.UNKNOWN else tracker.candidate,
        count=tracker.count,
        spell_age_bars=spell.age_bars,
        p_spell_4h=spell.p_4h,
        p_spell_24h=spell.p_24h,
        transition_id=transition.transition_id if transition is not None and snapshot_s < transition.expires_at_s else None,
    )


def _view_columns(view: TimeframeView) -> dict[str, Any]:
    return {
        "p": list(view.p),
        "label": str(view.label),
        "conf": view.conf,
        "bias": view.bias,
        "entropy": view.entropy,
        "p_switch60": view.p_switch60,
        "status": str(view.status),
        "age_s": view.age_s,
        "tier": str(view.tier),
        "model_id": view.model_id,
        "cp_prob": view.cp_prob,
        "cp_level": str(view.cp_level),
    }


def _view_from(row: Mapping[str, Any], timeframe: Timeframe) -> TimeframeView:
    return TimeframeView(
        p=_triple(row[f"p_{timeframe}"]),
        label=Label(row[f"label_{timeframe}"]),
        conf=row[f"conf_{timeframe}"],
        bias=row[f"bias_{timeframe}"],
        entropy=row[f"entropy_{timeframe}"],
        p_switch60=row[f"p_switch60_{timeframe}"],
        status=Status(row[f"status_{timeframe}"]),
        age_s=row[f"age_s_{timeframe}"],
        tier=Tier(row[f"tier_{timeframe}"]),
        model_id=row[f"model_id_{timeframe}"],
        cp_prob=row[f"cp_prob_{timeframe}"],
        cp_level=Level(row[f"cp_level_{timeframe}"]),
    )


def _triple(values: Sequence[float]) -> Triple:
    bear, ranging, bull = values
    return bear, ranging, bull


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
