"""`/sim/trading/...`: what a tester in another process does with a floor; every field is JSON, decimals are text."""

from collections.abc import Callable
from dataclasses import asdict
from decimal import Decimal
from typing import Any

from regime_pipeline.errors import RegimeError
from regime_pipeline.simulation.clock import VirtualClock
from regime_pipeline.simulation.trading.book import TradingBook
from regime_pipeline.simulation.trading.floor import TradingFloor
from regime_pipeline.simulation.trading.hand import Hand
from regime_pipeline.simulation.trading.truth import spell
from regime_pipeline.simulation.trading.values import MarketType, RefusalError, Trade

Fields = dict[str, Any]
_DECIMAL_RULES = frozenset(
    {"liquidity", "half_spread_bps", "depth_qty", "maker_bps", "taker_bps", "third_price", "leverage", "maintenance_frac"}
)
HAND = frozenset(
    {
        "fill",
        "cancel",
        "place",
        "liquidate",
        "repeat_row",
        "alter_row",
        "hide_fee",
        "show_fees",
        "shuffle_rows",
        "deposit",
        "withdraw",
        "pay_funding",
    }
)
"""Methods of `Hand` that may be called by name."""


class Control:
    """Requests of a tester, without HTTP."""

    def __init__(self, floor: TradingFloor, clock: VirtualClock) -> None:
        self._floor, self._clock = floor, clock
        self._actions: dict[str, Callable[[Fields], Any]] = {
            "GET truth": lambda _fields: floor.truth(),
            "GET script": lambda _fields: floor.script.listed(),
            "POST script": self._script,
            "POST reset": self._reset,
            "GET clock": lambda _fields: self._time(),
            "POST clock": self._move_clock,
            "POST price": self._price,
            "POST rules": self._rules,
            "POST key": self._key,
            "GET keys": lambda _fields: [self._show_key(kind) for kind in floor.keys.kinds()],
            "POST hand": self._hand,
        }

    def do(self, method: str, what: str, fields: Fields) -> tuple[int, Any]:
        """Do what is asked; gives a status and a body."""
        action = self._actions.get(f"{method} {what}")
        if action is None:
            return 404, {"error": f"{method} {what} is none of {', '.join(self._actions)}"}
        try:
            return 200, action(dict(fields))
        except (RegimeError, RefusalError, ValueError, KeyError, TypeError, ArithmeticError) as error:
            return 400, {"error": f"{type(error).__name__}: {error}"}

    def _book(self, fields: Fields) -> TradingBook:
        """Take the market type out of the fields; a venue with one book needs none."""
        wanted = fields.pop("market_type", None)
        first = next(iter(self._floor.desks.values())).book.market_type
        return self._floor.desk(MarketType(wanted or first)).book

    def _clock_ms(self) -> int:
        return int(1000 * self._clock.now_s())

    def _time(self) -> Fields:
        return {"clock_ms": self._clock_ms(), "venue_ms": self._floor.now_ms(self._clock_ms()), "skew_ms": self._floor.skew_ms}

    def _script(self, fields: Fields) -> Any:  # noqa: ANN401 - JSON
        self._floor.script.add(*fields.get("entries", [fields] if "on" in fields else []))
        return self._floor.script.listed()

    def _reset(self, _fields: Fields) -> Fields:
        """Forget the script; books stay as they are."""
        self._floor.script.reset()
        return {}

    def _move_clock(self, fields: Fields) -> Fields:
        if "speed" in fields:
            self._clock.set_speed(float(fields["speed"]))
        if "advance_ms" in fields:
            self._clock.advance(float(fields["advance_ms"]) / 1000)
        self._floor.skew_ms = int(fields.get("skew_ms", self._floor.skew_ms))
        return self._time()

    def _price(self, fields: Fields) -> Fields:
        book = self._book(fields)
        if "path" in fields:
            book.set_path(fields["symbol"], [(int(at_ms), Decimal(price)) for at_ms, price in fields["path"]])
            return {"trades": 0}
        trades = book.set_price(fields["symbol"], Decimal(fields["price"]), self._floor.now_ms(self._clock_ms()))
        return {"trades": len(trades)}

    def _rules(self, fields: Fields) -> Fields:
        book = self._book(fields)
        book.change(**{name: _as_decimal(value) if name in _DECIMAL_RULES else value for name, value in fields.items()})
        return {name: _plain(value) for name, value in asdict(book.rules).items()}

    def _key(self, fields: Fields) -> Fields:
        kind = fields["kind"]
        if "is_revoked" in fields:
            self._floor.keys.revoke(kind, is_revoked=bool(fields["is_revoked"]))
        if "rights" in fields:
            self._floor.keys.grant(kind, *fields["rights"])
        return self._show_key(kind)

    def _show_key(self, kind: str) -> Fields:
        return asdict(self._floor.keys[kind]) | {"rights": sorted(self._floor.keys[kind].rights)}

    def _hand(self, fields: Fields) -> Any:  # noqa: ANN401 - JSON
        name = fields.pop("do")
        if name not in HAND:
            raise ValueError(f"do was {name!r}: it must be one of {', '.join(sorted(HAND))}")
        book = self._book(fields)
        hand: Hand = self._floor.hand(book.market_type, self._clock_ms)
        done = getattr(hand, name)(**{key: _as_decimal(value) if key == "fee" else value for key, value in fields.items()})
        if isinstance(done, Trade):
            return {"trade_id": done.trade_id, "order_id": done.order_id}
        return {"order_id": getattr(done, "order_id", None)}


def _as_decimal(value: Any) -> Decimal | None:  # noqa: ANN401 - JSON
    return None if value is None else Decimal(str(value))


def _plain(value: Any) -> Any:  # noqa: ANN401 - JSON
    return spell(value) if isinstance(value, Decimal) else value
