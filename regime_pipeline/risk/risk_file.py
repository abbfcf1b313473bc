"""The risk file: limits of the gate, parameters of the protections and the allocation, read strictly; an error names file and line."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from regime_pipeline.errors import BadInputError, ConfigError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.portfolio.capital import Allocation
from regime_pipeline.risk.limits import ProtectionSettings, RiskSettings, read_limits

TABLES: Final = ("limits", "protections", "portfolio")
PORTFOLIO_KEYS: Final = ("alloc_pct", "split_frac")


@dataclass(frozen=True, slots=True)
class RiskFile:
    """What the file says; what it leaves out has its default."""

    limits: RiskSettings = field(default_factory=lambda: read_limits(RiskSettings, {}))
    protections: ProtectionSettings = field(default_factory=lambda: read_limits(ProtectionSettings, {}))
    allocation: Allocation = field(default_factory=Allocation)


def load_risk(path: Path) -> RiskFile:
    """Read and check the risk file; numbers become exact decimals.

    Parameters
    ----------
    path : Path
        A TOML file as `config/risk.toml`.

    Raises
    ------
    ConfigError
        When the file is missing or no TOML, names an unknown table or key, or a value breaks its range or disagrees with another;
        the message begins with file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"risk file {path} cannot be read ({error.strerror}); set REGIME_RISK_FILE to an existing file.") from error
    try:
        tables = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}. Correct that line.") from error
    for name, table in tables.items():
        if name not in TABLES or not isinstance(table, dict):
            raise ConfigError(f"{_place(path, text, '', name)}: unknown table {name!r}; allowed: {', '.join(TABLES)}. Remove it.")
    try:
        return RiskFile(
            read_limits(RiskSettings, tables.get("limits", {})),
            read_limits(ProtectionSettings, tables.get("protections", {})),
            _read_allocation(tables.get("portfolio", {})),
        )
    except (ConfigError, BadInputError) as error:
        # every refusal names the keys it is about; of two that disagree the file may set either
        given = {key: name for name, values in tables.items() for key in values}
        key = next((word for word in re.findall(r"\w+", str(error)) if word in given), "")
        table = given.get(key, "")
        raise ConfigError(f"{_place(path, text, table, key)}: {error}") from error


def changed_limits(risk: RiskFile) -> dict[str, object]:
    """List what differs from the defaults, by name."""
    changed: dict[str, object] = {}
    for given, default in ((risk.limits, RiskFile().limits), (risk.protections, RiskFile().protections)):
        changed |= {name: value for name, value in given.model_dump().items() if value != getattr(default, name)}
    default_allocation = Allocation()
    return changed | {
        name: getattr(risk.allocation, name)
        for name in PORTFOLIO_KEYS
        if getattr(risk.allocation, name) != getattr(default_allocation, name)
    }


def _read_allocation(values: Mapping[str, Any]) -> Allocation:
    for key, value in values.items():
        if key not in PORTFOLIO_KEYS:
            raise ConfigError(f"{key} was {value!r}, there is no such key; allowed: {', '.join(PORTFOLIO_KEYS)}")
    given: dict[str, Any] = {}
    if "alloc_pct" in values:
        given["alloc_pct"] = _number("alloc_pct", values["alloc_pct"])
    if "split_frac" in values:
        given["split_frac"] = _read_split(values["split_frac"])
    return Allocation(**given)


def _read_split(split: object) -> dict[Timeframe, Decimal]:
    if not isinstance(split, dict):
        raise ConfigError(f'split_frac was {split!r}, must be a table of shares by timeframe, as {{ "15m" = 0.2, "1h" = 0.8 }}')
    known = [timeframe.value for timeframe in Timeframe]
    for name in split:
        if name not in known:
            raise ConfigError(f"split_frac named the timeframe {name!r}; allowed: {', '.join(known)}. Correct the name")
    return {Timeframe(name): _number("split_frac", share) for name, share in split.items()}


def _number(key: str, value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        raise ConfigError(f"{key} was {value!r}, must be a number")
    return Decimal(value)


def _place(path: Path, text: str, table: str, key: str) -> str:
    """Name the line that sets a key inside a table, else the table's header, else the file alone; tomllib keeps no positions."""
    lines, start = text.splitlines(), 0
    for number, line in enumerate(lines, 1):
        header = re.match(r"\s*\[+\s*([\w.-]+)", line)
        if header is None and re.match(rf'\s*"?{re.escape(key)}"?\s*[.=]', line) and start >= 0:
            return f"{path}:{number}"
        if header is not None:
            if header[1] in {key, f"{table}.{key}"}:
                return f"{path}:{number}"
            start = number if header[1].partition(".")[0] == table else -1
    return str(path)
