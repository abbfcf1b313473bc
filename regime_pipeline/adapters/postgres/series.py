"""Series names and the key columns they stand for in each price table."""

from collections.abc import Sequence
from typing import Final, LiteralString

from regime_pipeline.errors import BadInputError
from regime_pipeline.ports import BarTable

KEY_COLUMNS: Final[dict[BarTable, tuple[LiteralString, ...]]] = {
    BarTable.DRIVERS: ("driver",),
    BarTable.MAJORS: ("token_contract", "chain"),
    BarTable.TOKENS: ("token_contract", "chain"),
}


def split_series(series: str) -> tuple[str, ...]:
    """Key values of a series: (driver,) or (contract, chain)."""
    kind, _, rest = series.partition(":")
    if kind == "regime" and rest:
        return (rest,)
    contract, _, chain = rest.rpartition(":")
    if kind != "token" or not contract or not chain:
        raise BadInputError(f"series was {series!r}; it must be regime:<driver> or token:<contract>:<chain>.")
    return contract, chain


def join_series(table: BarTable, key: Sequence[str]) -> str:
    """Series name of key values."""
    return f"regime:{key[0]}" if table is BarTable.DRIVERS else f"token:{key[0]}:{key[1]}"
