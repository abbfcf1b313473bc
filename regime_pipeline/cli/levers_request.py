"""The document that `regime levers explain` reads, checked key by key, and the answers it writes."""

from typing import Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, Field, ValidationError
from rich import box
from rich.table import Table
from rich.text import Text

from regime_pipeline.errors import BadInputError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.levers import DEFAULT_BOOK, MIN_VALIDITY, Channel, LeverInput, LeverResult
from regime_pipeline.regime.levers_document import describe_levers

RegimeTimeframe = Literal["1d", "1h", "1m"]
State = Literal["S0", "S1", "S2", "S3", "S4"]
Flag = Literal["buy", "rebuy", "trim", "emergency_exit", "reclaimed_ema333", "exit_position"]


class ChannelRequest(BaseModel, frozen=True, extra="forbid", strict=True):
    """One mapper row; only driver, timeframe and age are needed, and without deltas the channel is absent."""

    driver: str
    timeframe: RegimeTimeframe
    age_bars: float
    delta_a_raw: float | None = None
    delta_e_raw: float | None = None
    ts: AwareDatetime | None = Field(None, strict=False)
    state: State | None = None
    prev_state: State | None = None
    flags: list[Flag] = []
    immature: bool = False
    validity: float | None = None


class LeverRequest(BaseModel, frozen=True, extra="forbid", strict=True):
    """One position; `channels` null says that their read failed as a whole."""

    exec_timeframe: str
    channels: list[ChannelRequest] | None
    bucket: str | None = None
    intents: dict[str, float | None] = {}
    regime_strength: float = 1.0
    book_id: str = DEFAULT_BOOK
    timeframes: list[RegimeTimeframe] = ["1d", "1h", "1m"]
    min_validity: float = MIN_VALIDITY


_CHANNEL_KEYS: Final = ", ".join(ChannelRequest.model_fields)
_REQUEST_KEYS: Final = ", ".join(LeverRequest.model_fields)


def parse_request(item: object, where: str = "") -> LeverInput:
    """Check one request and turn it into the input of `compute_levers`.

    Parameters
    ----------
    item : object
        The decoded JSON value.
    where : str
        Its place in the document, such as `[3]`, for error messages.

    Raises
    ------
    BadInputError
        When a key is unknown or missing, or a value breaks its rule; the message says which.
    """
    try:
        request = LeverRequest.model_validate(item)
        channels = request.channels
        return LeverInput(
            exec_timeframe=request.exec_timeframe,
            bucket=request.bucket,
            channels=None if channels is None else tuple(_to_channel(channel) for channel in channels),
            intents=request.intents,
            regime_strength=request.regime_strength,
            book_id=request.book_id,
            timeframes=tuple(Timeframe(timeframe) for timeframe in request.timeframes),
            min_validity=request.min_validity,
        )
    except ValidationError as error:
        raise BadInputError(f"levers request{where}: {_describe(error)}") from error
    except BadInputError as error:
        raise BadInputError(f"levers request{where}: {error}") from error


def to_document(given: LeverInput, result: LeverResult) -> dict[str, Any]:
    """Write a result as plain JSON values: the request's shape with the levers and all fifteen contributions, the rest as `diagnostics`."""
    found = describe_levers(given, result)
    channels = [{**row, "delta_a_raw": row["raw_a"], "delta_e_raw": row["raw_e"]} for row in found["diagnostics"]["channels"]]
    return {**found, "channels": channels}


def build_table(given: LeverInput, result: LeverResult) -> Table:
    """Draw the fifteen channels, their sums and the reasons for the terminal."""
    found = result.diagnostics
    levers = f"A {result.A_value:.4f}   E {result.E_value:.4f}   size {result.position_size_frac:.4f}"
    sums = f"sums {found.sum_a:+.5f} / {found.sum_e:+.5f} x strength {found.regime_strength:g}"
    intents = f"intents {found.intent_a:+.3f} / {found.intent_e:+.3f}, multiplier row {found.multiplier_row}"
    degraded = "   DEGRADED: no buys" if result.degraded else ""
    table = Table(  # Text: what a user wrote is never read as markup
        title=Text(f"{given.exec_timeframe}, bucket {given.bucket or 'unknown'}: {levers}{degraded}"),
        caption=Text("\n".join([f"{sums}, {intents}", *found.reasons])),
        caption_justify="left",
        box=box.SIMPLE,
        padding=0,  # fits 80 columns
    )
    for name in ("driver", "tf", "quality", "state"):
        table.add_column(name)
    for name in ("age", "raw a", "raw e", "mult", "weight", "A", "E"):
        table.add_column(name, justify="right")
    for row in found.channels:
        numbers = (_show(row.age_bars, ".2f"), _show(row.raw_a, "+.2f"), _show(row.raw_e, "+.2f"), f"{row.mult:.2f}", f"{row.weight:+g}")
        table.add_row(row.driver, row.timeframe, row.quality, row.state or "", *numbers, f"{row.contrib_a:+.4f}", f"{row.contrib_e:+.4f}")
    return table


def _to_channel(request: ChannelRequest) -> Channel:
    return Channel(
        driver=request.driver,
        timeframe=Timeframe(request.timeframe),
        age_bars=request.age_bars,
        delta_a_raw=request.delta_a_raw,
        delta_e_raw=request.delta_e_raw,
        ts_s=None if request.ts is None else int(request.ts.timestamp()),
        state=request.state,
        prev_state=request.prev_state,
        flags=tuple(request.flags),
        immature=request.immature,
        validity=request.validity,
    )


def _describe(error: ValidationError) -> str:
    """Say the first complaint in our words: the key, what its value was, and the rule."""
    first = error.errors()[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".") or "the request"
    if first["type"] == "missing":
        return f"{path} is missing. Add the key."
    if first["type"] == "extra_forbidden":
        keys = _CHANNEL_KEYS if first["loc"][0] == "channels" else _REQUEST_KEYS
        return f"{path} is not a known key; allowed: {keys}. Remove or correct it."
    return f"{path} was {first['input']!r}: {first['msg']}. Correct the value."


def _show(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)
