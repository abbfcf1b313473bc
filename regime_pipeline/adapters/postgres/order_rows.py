"""Orders and intents as rows: the columns that are read and written, and what they are turned into."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, LiteralString

from regime_pipeline.execution.keys import LogicalKey
from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.portfolio.money import EXACT
from regime_pipeline.ports import NewIntent, OrderRow, OrderType, TimeInForce
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.purpose import Leg, Side

SELECT_ORDER: Final[LiteralString] = """
select i.account, i.strategy, i.symbol, extract(epoch from i.bar_close)::bigint as bar_close_s, i.leg, i.seq, i.side, i.type, i.qty,
    i.mode, i.limit_price, i.stop_price, i.tif, i.reduce_only, i.origin, i.decision_id, i.action_id, i.replaces_id, i.decision_mid,
    i.payload_hash, (extract(epoch from i.decide_by) * 1000)::bigint as decide_by_ms,
    o.venue, o.state, o.version, o.venue_order_id, o.lease_token, o.cancel_tries, o.flags,
    (extract(epoch from o.created_at) * 1000)::bigint as created_at_ms,
    (extract(epoch from o.sent_at) * 1000)::bigint as sent_at_ms,
    (extract(epoch from o.request_expires_at) * 1000)::bigint as request_expires_at_ms,
    (extract(epoch from o.rest_until) * 1000)::bigint as rest_until_ms,
    (extract(epoch from o.unknown_at) * 1000)::bigint as unknown_at_ms,
    (extract(epoch from o.cancel_requested_at) * 1000)::bigint as cancel_requested_at_ms,
    (extract(epoch from o.cancel_asked_at) * 1000)::bigint as cancel_asked_at_ms,
    (extract(epoch from o.last_seen_at) * 1000)::bigint as last_seen_at_ms,
    (extract(epoch from o.next_look_at) * 1000)::bigint as next_look_at_ms,
    coalesce((select sum(f.qty) from fills as f where f.client_order_id = o.client_order_id), 0) as filled,
    coalesce((select r.step from instrument_rules as r where r.venue = o.venue and r.symbol = o.symbol), 0) as step
from orders as o join order_intents as i on i.client_order_id = o.client_order_id where """

_AS_STORED: Final = (
    "venue",
    "version",
    "payload_hash",
    "created_at_ms",
    "venue_order_id",
    "lease_token",
    "sent_at_ms",
    "request_expires_at_ms",
    "rest_until_ms",
    "unknown_at_ms",
    "cancel_requested_at_ms",
    "cancel_asked_at_ms",
    "cancel_tries",
    "last_seen_at_ms",
    "next_look_at_ms",
)


def columns_of(intents: Sequence[NewIntent]) -> dict[str, list[Any]]:
    """Turn intents into the columns of one statement."""
    return {
        "client_order_id": [each.client_order_id for each in intents],
        "account": [each.key.account for each in intents],
        "strategy": [each.key.strategy for each in intents],
        "symbol": [each.key.symbol for each in intents],
        "bar_close": [each.key.bar_close_s for each in intents],
        "leg": [each.leg.value for each in intents],
        "seq": [each.key.seq for each in intents],
        "decision_id": [each.decision_id for each in intents],
        "action_id": [each.action_id for each in intents],
        "replaces_id": [each.replaces_id for each in intents],
        "purpose": [each.purpose.value for each in intents],
        "side": [each.side.value for each in intents],
        "type": [each.type.value for each in intents],
        "qty": [each.qty for each in intents],
        "limit_price": [each.limit_price for each in intents],
        "stop_price": [each.stop_price for each in intents],
        "reduce_only": [each.reduce_only for each in intents],
        "tif": [each.tif.value for each in intents],
        "mode": [each.mode.value for each in intents],
        "origin": [each.origin for each in intents],
        "payload_hash": [each.payload_hash for each in intents],
        "decide_by": [each.decide_by_ms for each in intents],
        "decision_mid": [each.decision_mid for each in intents],
    }


def read_order(row: Mapping[str, Any]) -> OrderRow:
    """Read a row of `SELECT_ORDER`."""
    intent = NewIntent(
        LogicalKey(row["account"], row["strategy"], row["symbol"], row["bar_close_s"], Leg(row["leg"]), row["seq"]),
        Side(row["side"]),
        OrderType(row["type"]),
        _plain(row["qty"]),
        Mode(row["mode"]),
        row["decide_by_ms"],
        limit_price=_plain_or_none(row["limit_price"]),
        stop_price=_plain_or_none(row["stop_price"]),
        tif=TimeInForce(row["tif"]),
        **{name: row[name] for name in ("reduce_only", "origin", "decision_id", "action_id", "replaces_id")},
        decision_mid=_plain_or_none(row["decision_mid"]),
    )
    return OrderRow(
        intent,
        state=OrderState(row["state"]),
        flags=frozenset(row["flags"]),
        filled=_plain(row["filled"]),
        step=_plain(row["step"]),
        **{name: row[name] for name in _AS_STORED},
    )


def _plain(value: Decimal) -> Decimal:
    """Take a number out of the table's 18 decimals: 0.3, not 0.300000000000000000, and 10, not 1E+1."""
    shortest = value.normalize(EXACT)
    return shortest.quantize(Decimal(1), context=EXACT) if shortest.as_tuple().exponent > 0 else shortest  # type: ignore[operator]


def _plain_or_none(value: Decimal | None) -> Decimal | None:
    return None if value is None else _plain(value)
