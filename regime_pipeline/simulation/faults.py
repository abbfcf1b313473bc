"""Faults by script: what goes wrong, where, and when. One seed, one script and one clock give the same faults again."""

import json
import tomllib
from collections.abc import Iterable
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from regime_pipeline.errors import ConfigError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.simulation.answers import Call
from regime_pipeline.simulation.wire import Api

STREAM: Final = "stream"
"""The endpoint of a WebSocket connection."""


class FaultKind(StrEnum):
    """What can go wrong."""

    LATENCY = "latency"
    TIMEOUT = "timeout"
    RESET = "reset"
    TRUNCATED = "truncated"
    HTML_200 = "html_200"
    HTTP_403 = "http_403"
    HTTP_418 = "http_418"
    HTTP_429 = "http_429"
    HTTP_451 = "http_451"
    HTTP_502 = "http_502"
    HTTP_503 = "http_503"
    CLOCK_SKEW = "clock_skew"
    NULL_FIELD = "null_field"
    OPEN_CANDLE = "open_candle"
    DUPLICATE = "duplicate"
    MISSING = "missing"
    OUTLIER = "outlier"
    WRONG_UNIT = "wrong_unit"
    WRONG_SYMBOL = "wrong_symbol"
    WRONG_ORDER = "wrong_order"
    SHIFTED_GRID = "shifted_grid"
    LATE = "late"
    REVISED = "revised"
    VENDOR_GAP = "vendor_gap"
    STREAM_SILENCE = "stream_silence"
    STREAM_DISCONNECT = "stream_disconnect"
    RECONNECT_STORM = "reconnect_storm"
    STREAM_DUPLICATE = "stream_duplicate"
    STREAM_DISORDER = "stream_disorder"


K = FaultKind
TRANSPORT_KINDS: Final = frozenset(
    {K.LATENCY, K.TIMEOUT, K.RESET, K.TRUNCATED, K.HTML_200, K.CLOCK_SKEW, *(kind for kind in K if kind.startswith("http_"))}
)
"""Happen to one request."""
ROW_KINDS: Final = frozenset(
    {K.NULL_FIELD, K.OPEN_CANDLE, K.DUPLICATE, K.MISSING, K.OUTLIER, K.WRONG_UNIT, K.WRONG_SYMBOL, K.WRONG_ORDER, K.SHIFTED_GRID}
)
"""Happen to the bars of one answer; asked again, the answer is right."""
BAR_KINDS: Final = frozenset({K.LATE, K.REVISED, K.VENDOR_GAP})
"""Happen to a bar, for whoever asks, in answers and streams."""
STREAM_KINDS: Final = frozenset(K) - TRANSPORT_KINDS - ROW_KINDS - BAR_KINDS
"""Happen to one connection."""

# kind -> what `value` means and what it is unless given; kinds that are not here need none.
VALUES: Final[dict[FaultKind, tuple[float, str]]] = {
    K.LATENCY: (1.0, "real seconds before the answer"),
    K.TIMEOUT: (30.0, "real seconds without an answer before the connection is cut"),
    K.HTTP_429: (2.0, "Retry-After, seconds"),
    K.HTTP_418: (60.0, "Retry-After, seconds"),
    K.HTTP_403: (0.0, "Retry-After, seconds; 0: none is sent"),
    K.CLOCK_SKEW: (-90.0, "seconds added to the venue's stamps: Date header, server time"),
    K.OUTLIER: (10.0, "factor of one price of a bar"),
    K.WRONG_UNIT: (1000.0, "factor of every price of an answer"),
    K.SHIFTED_GRID: (7.0, "seconds added to every open time"),
    K.LATE: (90.0, "virtual seconds after its end before the bar is shown"),
    K.REVISED: (240.0, "virtual seconds after its end before the bar takes its final values"),
    K.STREAM_SILENCE: (180.0, "virtual seconds without a message"),
    K.RECONNECT_STORM: (120.0, "virtual seconds in which every connection is closed at once"),
}


class Fault(BaseModel):
    """One entry of a script: a kind, what it matches, and one rule for when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: FaultKind
    venue: Api | None = Field(None, description="binance, binance-um, hyperliquid or coingecko; unset: any.")
    endpoint: str | None = Field(None, description="klines, candleSnapshot, global, stream ...; unset: any.")
    symbol: str | None = Field(None, description="As the venue spells it; unset: any.")
    timeframe: Timeframe | None = Field(None, description="Of the bars asked for; unset: any, and 1m for faults of single bars.")
    every: int | None = Field(None, gt=0, description="Every n-th match.")
    every_s: int | None = Field(None, gt=0, description="Once in so many virtual seconds, at a match drawn from the first `spread`.")
    probability: float | None = Field(None, gt=0, le=1, description="Share of the matches.")
    spread: int = Field(10, gt=0, description="With `every_s`: how many matches of a period the draw is over.")
    from_s: int = Field(0, ge=0, description="Virtual seconds after the start from which it may happen.")
    until_s: int | None = Field(None, gt=0, description="Virtual seconds after the start from which it happens no more.")
    max_count: int | None = Field(None, gt=0, description="How often at most.")
    value: float | None = Field(None, allow_inf_nan=False, description="How much; what it means depends on the kind.")

    @model_validator(mode="after")
    def _hang_together(self) -> "Fault":
        rules = sum(rule is not None for rule in (self.every, self.every_s, self.probability))
        if rules != 1:
            msg = f"{self.kind} has {rules} of every, every_s and probability: give exactly one"
            raise ValueError(msg)
        if self.value is not None and self.kind not in VALUES:
            msg = f"{self.kind} takes no value; those that do: {', '.join(VALUES)}"
            raise ValueError(msg)
        return self

    @property
    def amount(self) -> float:
        """The value given, or that of its kind; 0 for kinds without one."""
        return self.value if self.value is not None else VALUES.get(self.kind, (0.0, ""))[0]

    def matches(self, call: Call) -> bool:
        """Tell whether a call is one that it may happen to."""
        return (
            self.venue in {None, call.api}
            and self.endpoint in {None, call.endpoint}
            and self.symbol in {None, call.symbol}
            and self.timeframe in {None, call.timeframe}
        )


class FaultScript(BaseModel):
    """The faults of a venue, in order: of two that are due at once the first happens, the other waits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    faults: tuple[Fault, ...] = ()

    def kinds(self) -> set[FaultKind]:
        """Name the kinds that may happen."""
        return {fault.kind for fault in self.faults}


def load_script(name: str) -> FaultScript:
    """Load a script: `standard`, or a TOML or JSON file with a list `faults`.

    Raises
    ------
    ConfigError
        When the file cannot be read or an entry breaks a rule.
    """
    if name == "standard":
        return STANDARD
    try:
        text = Path(name).read_text(encoding="utf-8")
        content: Any = json.loads(text) if name.endswith(".json") else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise ConfigError(f"fault script {name} cannot be read: {error}. Give `standard` or a TOML or JSON file.") from error
    try:
        return FaultScript.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"fault script {name}: {where} was {first['input']!r}: {first['msg']}. Correct that entry.") from error


def draw(seed: int, *keys: object) -> int:
    """Draw a number below 2**64 that depends on the keys alone, on every machine alike."""
    text = ":".join(map(str, (seed, *keys)))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


HOUR_S: Final = 3600


def _hourly(kinds: Iterable[FaultKind], offset_s: int, **rest: Any) -> list[Fault]:  # noqa: ANN401 - fields of Fault
    """Let kinds happen once an hour each, unless `rest` says how often, apart from each other."""
    return [Fault.model_validate({"kind": kind, "every_s": HOUR_S, "from_s": offset_s + 97 * at} | rest) for at, kind in enumerate(kinds)]


def _standard() -> FaultScript:
    # Ten minutes of peace: what a first answer says can be compared with nothing.
    calm_s = 600
    asked = {"venue": Api.USDM, "endpoint": "klines", "spread": 40}
    return FaultScript(
        faults=(
            *_hourly([K.HTTP_418, K.HTTP_451], calm_s, **asked),
            # Without a time to come back, one blocked request would cost the venue an hour: all day, at one an hour.
            *_hourly([K.HTTP_403], calm_s + 194, value=60, **asked),
            *_hourly(sorted(TRANSPORT_KINDS - {K.HTTP_418, K.HTTP_451, K.HTTP_403}), calm_s + 300, spread=40),
            *_hourly(sorted(ROW_KINDS), calm_s + 1200, spread=40),
            # Twice: a bar counts when somebody looks while it is late, and the perpetuals are halted for minutes of each hour.
            *_hourly([K.LATE, K.REVISED], calm_s, venue=Api.USDM, every_s=HOUR_S // 2),
            *_hourly([K.VENDOR_GAP], calm_s + 194, venue=Api.USDM),
            *_hourly(sorted(STREAM_KINDS), calm_s + 2100),
            *_hourly([K.HTML_200, K.HTTP_429, K.TIMEOUT, K.NULL_FIELD], calm_s + 2400, venue=Api.COINGECKO, endpoint="global", spread=3),
        )
    )


STANDARD: Final = _standard()
"""Every kind once an hour or more: at least 20 times in 24 virtual hours of a pipeline that asks every minute."""
