"""The identity of an order and of a decision: functions of what was decided, never of a run, a process or a clock.

`key = account|strategy|symbol|bar_close|leg|seq`, and the client order id is the first half of its SHA-256, spelt the way each
venue wants it. A decision's id comes from its inputs; that of its orders does not, so a revised bar cannot place a second order.
"""

import base64
import hashlib
import json
import re
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from itertools import product
from typing import Final

from regime_pipeline.errors import CallerError, OrderValidationError
from regime_pipeline.risk.purpose import Leg

DECISIONS: Final = uuid.UUID("d996d402-2510-568f-9e19-99ec4845f8c3")

# one for all: json.dumps would make another each time
_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_FIELD: Final = re.compile(r"[A-Za-z0-9_.:/-]{1,64}\Z")


class ClientIdForm(StrEnum):
    """How a venue wants the 128 bits of a client order id spelt."""

    HEX = "hex"  # Binance, Bybit, OKX, Kraken: 32 hex digits
    UUID = "uuid"  # Kraken's other form
    GATE = "gate"  # t- and 26 letters of base32
    HYPERLIQUID = "hyperliquid"  # 0x and 32 hex digits


@dataclass(frozen=True, slots=True)
class LogicalKey:
    """What makes two orders the same order.

    Parameters
    ----------
    account : str
        One venue account in one mode, as `binance-main`.
    strategy : str
        Includes its decision timeframe, as `core-1h`: two timeframes that close together do not collide.
    symbol : str
        Unified name, as `BTC/USDT`.
    bar_close_s : int
        Close of the decided bar, epoch seconds.
    leg : Leg
        Part of the plan.
    seq : int
        0 for the first child; child n + 1 replaces a terminal child n.

    Raises
    ------
    OrderValidationError
        When a field has a character or a length that the key does not allow, or `seq` is below 0.
    """

    account: str
    strategy: str
    symbol: str
    bar_close_s: int
    leg: Leg
    seq: int = 0

    def __post_init__(self) -> None:
        for name in ("account", "strategy", "symbol"):
            if not _FIELD.match(value := getattr(self, name)):
                msg = f"{name} of an order key was {value!r}, allowed are 1 to 64 of A-Z a-z 0-9 _ . : / -; rename it in the configuration"
                raise OrderValidationError(msg)
        if self.seq < 0:
            raise OrderValidationError(f"seq of an order key was {self.seq}, must be 0 or more; the first child is 0")

    @property
    def text(self) -> str:
        """The key as it is hashed."""
        return "|".join((self.account, self.strategy, self.symbol, spell_time(self.bar_close_s), self.leg, str(self.seq)))

    @property
    def client_order_id(self) -> str:
        """The id as we store it: 32 hex digits."""
        return _digest_hex(self.text)

    def next_child(self) -> "LogicalKey":
        """Key of the order that may replace this one once it is terminal."""
        return replace(self, seq=self.seq + 1)


def spell_time(ts_s: int) -> str:
    """Spell an instant as keys and decisions do, `2026-11-20T19:00:00Z`."""
    return datetime.fromtimestamp(ts_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def spell_client_id(client_order_id: str, form: ClientIdForm) -> str:
    """Spell our 32 hex digits the way a venue wants them."""
    match form:
        case ClientIdForm.HEX:
            return client_order_id
        case ClientIdForm.UUID:
            return str(uuid.UUID(hex=client_order_id))
        case ClientIdForm.GATE:
            # The prefix is ours to add: ccxt adds it only when the first letter is not t.
            return "t-" + base64.b32encode(bytes.fromhex(client_order_id)).decode().rstrip("=").lower()
        case ClientIdForm.HYPERLIQUID:
            return "0x" + client_order_id


def find_keys(
    wanted: Collection[str], accounts: Sequence[str], strategies: Sequence[str], symbols: Sequence[str], bar_closes_s: Iterable[int]
) -> dict[str, LogicalKey]:
    """Find the keys behind client order ids that have no row, as after a restore: every key that could have been ours is tried.

    Parameters
    ----------
    wanted : collection of str
        Client order ids as 32 hex digits.
    accounts, strategies, symbols, bar_closes_s
        What may have traded; each combination is tried with every leg and `seq` 0 to 3.

    Returns
    -------
    dict of str to LogicalKey
        Those that are ours.
    """
    sought, found = frozenset(wanted), {}
    spelt = [(ts_s, spell_time(ts_s)) for ts_s in bar_closes_s]
    for account, strategy, symbol, (ts_s, close), leg, seq in product(accounts, strategies, symbols, spelt, Leg, range(4)):
        digest = _digest_hex(f"{account}|{strategy}|{symbol}|{close}|{leg}|{seq}")
        if digest in sought:
            found[digest] = LogicalKey(account, strategy, symbol, ts_s, leg, seq)
    return found


def write_canonical(value: object) -> bytes:
    """Write JSON in its one canonical form: sorted keys, no spaces, UTF-8, decimals as strings, floats in shortest form.

    Raises
    ------
    CallerError
        When a number is not finite, a key is no text, or a value is of another type.
    """
    return write_plain(_plain(value)).encode()


def write_plain(value: object) -> str:
    """Write canonical JSON of what is plain JSON already, without decimals: a journal of ten thousand lines is written line by line."""
    return _ENCODER.encode(value)


def compute_hash(value: object) -> str:
    """SHA-256 of the canonical JSON of inputs, a plan or a payload, as 64 hex digits."""
    return hashlib.sha256(write_canonical(value)).hexdigest()


def compute_decision_id(account: str, strategy: str, bar_close_s: int, inputs_hash: str) -> uuid.UUID:
    """Id of a decision: the same inputs decide the same thing."""
    return uuid.uuid5(DECISIONS, f"{account}|{strategy}|{spell_time(bar_close_s)}|{inputs_hash}")


def _digest_hex(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _plain(value: object) -> object:
    match value:
        case None | bool() | int() | str():
            return value
        case float() if value - value == 0:
            return value
        case Decimal() if value.is_finite():
            return format(value, "f")
        case Mapping() if all(isinstance(key, str) for key in value):
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
    msg = f"value of a journal entry was {value!r}; allowed are finite numbers, text, booleans, null, lists and maps with text keys"
    raise CallerError(msg)
