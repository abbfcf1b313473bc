"""Levers as plain JSON values: what `regime levers` prints and what the decision journal keeps say the same in the same words."""

from dataclasses import fields
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Final

from regime_pipeline.regime.levers import Contribution, Diagnostics, LeverInput, LeverResult

_DIAGNOSTICS: Final = tuple(field.name for field in fields(Diagnostics) if field.name != "channels")


def describe_levers(given: LeverInput, result: LeverResult) -> dict[str, Any]:
    """Write a result with all fifteen contributions, under `diagnostics`, as plain JSON values."""
    found = result.diagnostics
    plain = {name: _plain(getattr(found, name)) for name in _DIAGNOSTICS}
    return {
        "exec_timeframe": given.exec_timeframe,
        "bucket": given.bucket,
        "book_id": given.book_id,
        "intents": {name: value if value is None or isfinite(value) else None for name, value in given.intents.items()},
        "A_value": result.A_value,
        "E_value": result.E_value,
        "position_size_frac": result.position_size_frac,
        "degraded": result.degraded,
        "diagnostics": {"channels": [_describe(channel) for channel in found.channels], **plain},
    }


def _describe(channel: Contribution) -> dict[str, Any]:
    """Write a channel, field by field: a decision has 75 of them."""
    return {
        "driver": channel.driver,
        "timeframe": channel.timeframe.value,
        "age_bars": channel.age_bars,
        "state": channel.state,
        "prev_state": channel.prev_state,
        "flags": list(channel.flags),
        "quality": channel.quality.value,
        "raw_a": channel.raw_a,
        "raw_e": channel.raw_e,
        "mult": channel.mult,
        "weight": channel.weight,
        "contrib_a": channel.contrib_a,
        "contrib_e": channel.contrib_e,
        "validity": channel.validity,
        "ts": None if channel.ts_s is None else datetime.fromtimestamp(channel.ts_s, UTC).isoformat(),
    }


def _plain(value: object) -> object:
    """What comes back from JSON: lists for tuples; a float stays one."""
    return list(value) if isinstance(value, tuple) else value
