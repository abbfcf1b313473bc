"""The universe file: majors, drivers, tokens, buckets and venues, checked as one."""

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from regime_pipeline.errors import ConfigError
from regime_pipeline.market.buckets import BUCKETS, BucketRule
from regime_pipeline.market.timeframe import Timeframe

DRIVERS: Final = ("BTC", "ALT", "nano", "small", "mid", "big", "BTC.d", "USDT.d")
Bucket = Literal["nano", "small", "mid", "big"]


class _Entry(BaseModel):
    """A table of the file; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Entry):
    """One way to get an instrument's bars."""

    venue: str = Field(description="A name from [venues].")
    symbol: str = Field(min_length=1, description="How that venue spells the instrument.")


class Instrument(_Entry):
    """Something with bars; its sources in order of priority."""

    contract: str = Field(min_length=1, description="Our name for it: BTC, AAVE.")
    chain: str = Field(min_length=1, description="The venue or chain that is part of its identity.")
    sources: tuple[Source, ...] = Field(
        min_length=1, description="The first source that has the bar gives it; sources are never added together."
    )
    coingecko_id: str | None = Field(
        None, min_length=1, description="CoinGecko's id of it (bitcoin, aave); a token without one is never moved out of `bucket`."
    )

    @property
    def series(self) -> str:
        """Name of its series in history tables."""
        return f"token:{self.contract}:{self.chain}"


class Major(Instrument):
    """A market that drivers are made of."""


class Token(Instrument):
    """A market that may be traded, on its own execution timeframes."""

    bucket: Bucket | None = Field(None, description="Bucket to assume while no market cap is known; unset: unknown.")
    timeframes: tuple[Timeframe, ...] = Field((Timeframe.H1,), min_length=1, description="Execution timeframes.")


class Driver(_Entry):
    """A market that moves the regime (spec 5.1)."""

    name: Literal["BTC", "ALT", "nano", "small", "mid", "big", "BTC.d", "USDT.d"]
    kind: Literal["major", "composite", "bucket", "dominance"] = Field(description="Where its bars come from.")
    weight: float = Field(allow_inf_nan=False, description="Factor of its deltas in a lever; negative when its rise is bad for tokens.")
    required: bool = Field(False, description="Without it levers are degraded and entries stop.")
    components: tuple[str, ...] = Field((), description="Contracts of majors: one for kind major, several for composite.")
    min_components: int = Field(1, ge=1, description="Fewer give no composite bar and a recorded gap.")
    hl_mode: Literal["extreme", "mean"] = Field("mean", description="High and low from the outermost component or from the mean one.")
    method: Literal["chain", "price"] = Field("chain", description="price averages raw prices: for comparison only.")


class BucketSettings(_Entry):
    """Thresholds of the bucket classifier (spec 5.4)."""

    small_from_usd: float = Field(10e6, gt=0, description="Market cap from which a token is small.")
    mid_from_usd: float = Field(50e6, gt=0, description="Market cap from which a token is mid.")
    big_from_usd: float = Field(200e6, gt=0, description="Market cap from which a token is big.")
    hysteresis_pct: float = Field(10.0, ge=0, lt=50, description="How far beyond a bound a cap must be to move a token across it.")
    min_cap_usd: float = Field(10_000.0, gt=0, description="Smaller caps are vendor errors and change nothing.")
    max_age_s: int = Field(86_400, gt=0, description="Older caps change nothing.")

    @model_validator(mode="after")
    def _ascend(self) -> "BucketSettings":
        if not self.small_from_usd < self.mid_from_usd < self.big_from_usd:
            msg = f"bounds were {self.small_from_usd:g}, {self.mid_from_usd:g}, {self.big_from_usd:g}: they must ascend"
            raise ValueError(msg)
        return self

    @property
    def rule(self) -> BucketRule:
        """The classifier with these thresholds."""
        bounds_usd = (self.small_from_usd, self.mid_from_usd, self.big_from_usd)
        return BucketRule(bounds_usd, self.hysteresis_pct, self.min_cap_usd, self.max_age_s)


class Venue(_Entry):
    """A market place that sources may name."""

    exchange: str | None = Field(
        None, description="ccxt's id of it, for live bars: binance, binanceusdm, hyperliquid, bybit ...; unset: recorded bars only."
    )
    stream: bool = Field(False, description="Whether `regime collect` listens to its bars; otherwise they are asked for.")
    description: str = Field("", description="For people.")


class Universe(_Entry):
    """Everything the pipeline watches."""

    venues: dict[str, Venue] = Field({}, description="Market places that sources may name.")
    buckets: BucketSettings = Field(default_factory=lambda: BucketSettings.model_validate({}), description="Bucket thresholds.")
    majors: tuple[Major, ...] = Field((), description="Markets that drivers are made of.")
    drivers: tuple[Driver, ...] = Field((), description="Markets that move the regime.")
    tokens: tuple[Token, ...] = Field((), description="Markets that may be traded.")

    @model_validator(mode="after")
    def _hang_together(self) -> "Universe":
        for problem in _problems(self):
            raise ValueError(problem)
        return self

    def instruments(self) -> tuple[Instrument, ...]:
        """List majors, then tokens."""
        return (*self.majors, *self.tokens)

    def driver(self, name: str) -> Driver:
        """Find a driver by name.

        Raises
        ------
        ConfigError
            When the universe has no such driver.
        """
        for driver in self.drivers:
            if driver.name == name:
                return driver
        raise ConfigError(f"driver was {name!r}; the universe has {_listed(driver.name for driver in self.drivers)}. Name one of these.")

    def major(self, contract: str) -> Major:
        """Find a major by contract.

        Raises
        ------
        ConfigError
            When the universe has no such major.
        """
        for major in self.majors:
            if major.contract == contract:
                return major
        raise ConfigError(
            f"major was {contract!r}; the universe has {_listed(major.contract for major in self.majors)}. Name one of these."
        )


def load_universe(path: Path) -> Universe:
    """Read and check the universe file.

    Parameters
    ----------
    path : Path
        A TOML file as `config/universe.toml`.

    Raises
    ------
    ConfigError
        When the file is missing, is not TOML, holds an unknown key (with its line and the allowed names), or does not hang together.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"universe file {path} cannot be read ({error.strerror}); set REGIME_UNIVERSE to an existing file.") from error
    try:
        return Universe.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}. Correct that line.") from error
    except ValidationError as error:
        # A misspelt key is also a missing one; the misspelling says more.
        problem = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        line = _line_of(text, problem["loc"])
        where = f"{path}:{line}" if line else str(path)
        raise ConfigError(f"{where}: {_explain(problem)}") from error


def _problems(universe: Universe) -> Iterable[str]:
    """Name what single entries cannot know: repeated names, dangling names, drivers without bars."""
    if not universe.majors:
        yield "the universe has no majors; add [[majors]] tables: at least the components of BTC and ALT"
    if not universe.drivers:
        yield "the universe has no drivers; add [[drivers]] tables"
    yield from _repeated("driver", (driver.name for driver in universe.drivers))
    yield from _repeated("major", (major.contract for major in universe.majors))
    yield from _repeated("instrument", (instrument.series for instrument in universe.instruments()))
    yield from _repeated("coingecko_id", (each.coingecko_id for each in universe.instruments() if each.coingecko_id))
    majors = {major.contract for major in universe.majors}
    for instrument in universe.instruments():
        for source in instrument.sources:
            if source.venue not in universe.venues:
                yield f"{instrument.contract} names the venue {source.venue!r}; [venues] has {_listed(universe.venues)}"
    for driver in universe.drivers:
        yield from _driver_problems(driver, majors)


def _driver_problems(driver: Driver, majors: set[str]) -> Iterable[str]:
    """Name what is wrong with one driver, given the contracts of the majors."""
    for contract in driver.components:
        if contract not in majors:
            yield f"driver {driver.name} names the component {contract!r}; the majors are {_listed(majors)}"
    if driver.kind == "major" and len(driver.components) != 1:
        yield f"driver {driver.name} is one major: components must name exactly it, not {len(driver.components)}"
    if driver.kind == "composite" and len(driver.components) < driver.min_components:
        yield f"driver {driver.name} has {len(driver.components)} components and needs {driver.min_components}: it could never have a bar"
    if driver.kind in {"bucket", "dominance"} and driver.components:
        yield f"driver {driver.name} is a {driver.kind}: its components are not listed here; remove them"
    if (driver.kind == "bucket") != (driver.name in BUCKETS) or (driver.kind == "dominance") != driver.name.endswith(".d"):
        yield f"driver {driver.name} cannot be of kind {driver.kind}"


def _repeated(what: str, names: Iterable[str]) -> Iterable[str]:
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{what} {name} is listed {count} times; keep one"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _explain(problem: ErrorDetails) -> str:
    """Say in one line what was wrong and what is allowed."""
    names = [part for part in problem["loc"] if isinstance(part, str)]
    key = ".".join(names) or "universe"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {names[-1]!r}; allowed: {_listed(_allowed(problem['loc']))}. Remove it or correct its name."
    if problem["type"] == "missing":
        return f"{key} is missing; add it."
    message = problem["msg"].removeprefix("Value error, ")
    return f"{message}." if problem["type"] == "value_error" else f"{key} was {problem['input']!r}: {message}."


def _allowed(loc: Sequence[int | str]) -> Iterable[str]:
    """List the keys of the table that holds the last part of a pydantic location."""
    models: dict[str, type[_Entry]] = {"majors": Major, "tokens": Token, "drivers": Driver, "venues": Venue, "buckets": BucketSettings}
    if "sources" in loc[:-1]:
        return Source.model_fields
    return models[str(loc[0])].model_fields if len(loc) > 1 else Universe.model_fields


def _line_of(text: str, loc: Sequence[int | str]) -> int | None:
    """Find the line of a pydantic location: the key if it is written there, else its table's header.

    tomllib keeps no positions, so the headers are counted again: the n-th `[[tokens]]` is entry n of `tokens`.
    """
    if not loc:
        return None
    lines = text.splitlines()
    start, end = _table_lines(lines, loc)
    key = next((str(part) for part in reversed(loc) if isinstance(part, str)), "")
    pattern = re.compile(rf"""(^|[\s,{{\[.])["']?{re.escape(key)}["']?\s*[=\].]""")
    for number in range(start, end):
        if pattern.search(lines[number].split("#", 1)[0]):
            return number + 1
    return start + 1 if start or lines else None


def _table_lines(lines: Sequence[str], loc: Sequence[int | str]) -> tuple[int, int]:
    """Bound the table a location lies in, header included, as a half-open range of line indices."""
    headers = [(number, match) for number, line in enumerate(lines) if (match := re.match(r"\s*\[+\s*([^\]]+?)\s*\]+", line))]
    entry = loc[1] if len(loc) > 1 and isinstance(loc[1], int) else None
    wanted = {str(loc[0]), f"{loc[0]}.{loc[1]}" if len(loc) > 1 else str(loc[0])}
    tables = [(number, at) for at, (number, match) in enumerate(headers) if match[1].replace('"', "") in wanted]
    if not tables:
        return 0, len(lines)
    if entry is not None:
        tables = tables[entry : entry + 1] or tables[-1:]
    number, at = max(tables) if len(loc) > 1 and entry is None else tables[0]
    return number, headers[at + 1][0] if at + 1 < len(headers) else len(lines)
