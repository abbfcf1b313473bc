"""How fresh and how good every series is, and who keeps it so, from what is stored: no vendor is asked."""

from dataclasses import dataclass

from regime_pipeline.market.timeframe import REGIME_TIMEFRAMES, Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.market.validity import staleness
from regime_pipeline.ports import BarTable, Heartbeat, Question, Work
from regime_pipeline.services.derivation import bar_timeframes, driver_series
from regime_pipeline.services.sample_dominance import VENDOR

LATE_BARS = 2.0
"""So many bar lengths after its end the newest bar of a live series is late."""
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class SeriesStatus:
    """One series on one timeframe; times are epoch seconds, `last_s` the open of its newest bar (None: it has none).

    `validity` is the stored score of that bar, less for staleness. `source` gave the newest bar that a vendor gave, `asked_s` and
    `answered_s` say when vendors were last heard. Gaps that are the vendors' own are counted apart.
    """

    series: str
    timeframe: Timeframe
    last_s: int | None
    age_bars: float | None
    validity: float | None
    source: str | None
    asked_s: int | None
    answered_s: int | None
    open_gaps: int
    vendor_gaps: int
    quarantined_24h: int
    revised_24h: int

    @property
    def is_driver(self) -> bool:
        """Whether the regime is made of it."""
        return self.series.startswith("regime:")

    @property
    def is_late(self) -> bool:
        """Whether its newest bar is older than it should be."""
        return self.age_bars is None or self.age_bars > LATE_BARS


@dataclass(frozen=True, slots=True)
class Status:
    """Every series at an instant, drivers first, and who feeds them.

    Parameters
    ----------
    newest_state_s : dict of timeframe to int
        Open time of the newest driver state of each regime timeframe, epoch seconds.
    engines : tuple of str
        Engine versions that made those states; more than one while a new version is still to replay some.
    collectors : dict of str to list of Heartbeat
        By instance; empty when no collector ever ran.
    question : Question or None
        The newest question for dominance; None when none was ever asked.
    """

    now_s: int
    series: tuple[SeriesStatus, ...]
    newest_state_s: dict[Timeframe, int]
    engines: tuple[str, ...]
    collectors: dict[str, list[Heartbeat]]
    question: Question | None

    def problems(self, min_validity: float) -> list[str]:
        """Say in words which drivers are late or below a validity; none is good news."""
        found = []
        for row in self.series:
            if row.is_driver and row.is_late:
                age = "no bar" if row.age_bars is None else f"newest bar ended {row.age_bars:.1f} bars ago"
                found.append(f"{row.series} {row.timeframe}: {age}, at most {LATE_BARS:g} allowed")
            elif row.is_driver and row.validity is not None and row.validity < min_validity:
                found.append(f"{row.series} {row.timeframe}: data validity {row.validity:.2f}, at least {min_validity:g} needed")
        return found


def read_status(work: Work, universe: Universe, now_s: int) -> Status:
    """Read how every series of the universe stands at `now_s`, in a handful of queries."""
    wanted = _wanted(universe)
    newest: dict[tuple[str, Timeframe], int] = {}
    for (table, timeframe), names in wanted.items():
        newest |= {(name, timeframe): last_s for name, last_s in work.bars.load_newest(table, timeframe, names).items()}
    places = [(name, timeframe) for (_, timeframe), names in wanted.items() for name in names]
    scores = dict(zip(newest, work.quality.load_scores([(*place, last_s) for place, last_s in newest.items()]), strict=True))
    feeds = work.quality.load_feeds(now_s - DAY_S)
    rows = []
    for name, timeframe in places:
        last_s = newest.get((name, timeframe))
        age = None if last_s is None else (now_s - last_s - timeframe.seconds) / timeframe.seconds
        validity = None if age is None else scores[name, timeframe] * staleness(age)
        feed = feeds.get((name, timeframe))
        told = (None, None, None, 0, 0, 0, 0) if feed is None else feed
        rows.append(SeriesStatus(name, timeframe, last_s, age, validity, *told))
    rows.sort(key=lambda row: (not row.is_driver, row.series, row.timeframe.seconds))
    states: dict[Timeframe, int] = {}
    first: dict[Timeframe, dict[str, int]] = {}
    for row in work.regime.load_board(now_s):
        states[row.timeframe] = max(row.ts_s, states.get(row.timeframe, row.ts_s))
        first.setdefault(row.timeframe, {})[driver_series(row.driver)] = row.ts_s
    engines = {version for timeframe, since in first.items() for version in work.regime.load_states(timeframe, since).engine_version}
    return Status(now_s, tuple(rows), states, tuple(sorted(engines)), work.feeds.load_heartbeats(), work.feeds.load_question(VENDOR))


def _wanted(universe: Universe) -> dict[tuple[BarTable, Timeframe], list[str]]:
    """Series to look at by table and timeframe: every driver, major and token."""
    wanted: dict[tuple[BarTable, Timeframe], list[str]] = {
        (BarTable.DRIVERS, timeframe): [driver_series(driver.name) for driver in universe.drivers] for timeframe in REGIME_TIMEFRAMES
    }
    for table in (BarTable.MAJORS, BarTable.TOKENS):
        for name, timeframes in bar_timeframes(universe, table).items():
            for timeframe in sorted(timeframes, key=lambda each: each.seconds):
                wanted.setdefault((table, timeframe), []).append(name)
    return wanted
