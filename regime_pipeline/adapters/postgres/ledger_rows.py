"""Rows of the ledger as they go into Postgres and come out of it, and the statements that carry them."""

import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final, LiteralString

from psycopg import sql

from regime_pipeline.execution.fills import Fill
from regime_pipeline.portfolio.actions import Action, ActionKind, ActionStatus, Funding, Signal
from regime_pipeline.ports import FillRow, Posting, StoredAction
from regime_pipeline.risk.purpose import Side

_FILL: Final = sql.SQL(
    "select venue, account, market_type, symbol, fill_key, client_order_id, venue_order_id, venue_trade_id, side, qty, price, fee_amount,"
    " fee_asset, fee_quote, cumulative_qty, (extract(epoch from venue_ts) * 1000)::bigint as venue_ms, is_late, is_overfill, decision_mid"
    " from fills as f where venue = %(venue)s and account = %(account)s"
)
# Each order and each key is looked up for itself (offset 0 forbids anything else), whatever the planner believes of the tables:
# a process that starts on empty ones must not read them all when they are full. What is looked for comes as JSON: of an array the
# planner sees the length, takes the plan for ten for worse than one for this very call, and plans each call anew.
FILLS: Final = sql.SQL(
    "select found.* from json_array_elements_text(%(orders)s::json) as w (id) cross join lateral"
    " ({fill} and venue_order_id = w.id offset 0) as found union"
    " select found.* from json_to_recordset(%(keys)s::json) as w (symbol text, key text), (values ('spot'), ('linear')) as m (type)"
    " cross join lateral ({fill} and market_type = m.type and symbol = w.symbol and fill_key = w.key offset 0) as found"
).format(fill=_FILL)
LOCK_ORDERS: Final[LiteralString] = (
    "select o.client_order_id, o.venue_order_id, o.symbol, i.side, coalesce(p.book_id || '-' || p.timeframe, o.strategy), i.qty,"
    " o.state = any(%s), i.action_id, a.position_id, i.decision_mid, o.flags,"
    " case when a.kind = 'entry' and a.trade_id is null then a.idempotency_key end from orders as o"
    " join order_intents as i using (client_order_id) left join pm_actions as a on a.id = i.action_id"
    " left join lowcap_positions as p on p.id = a.position_id where o.client_order_id = any(array(select found.client_order_id"
    " from json_to_recordset(%s::json) as w (symbol text, id text) cross join lateral (select client_order_id from orders as t"
    " where t.venue = %s and t.account = %s and t.symbol = w.symbol and t.venue_order_id = w.id offset 0) as found) || %s::text[])"
    " order by o.client_order_id for update of o"
)
FILLS_BETWEEN: Final = sql.SQL(
    "{fill} and venue_ts > to_timestamp(%(after)s / 1000.0) and venue_ts <= to_timestamp(%(until)s / 1000.0)"
    " order by venue_ts, received_ts, fill_key"
).format(fill=_FILL)
# Rows go as one JSON text: to spell an array per column took a third of the time of booking a fill.
NEW_FILLS: Final[LiteralString] = (
    " from json_to_recordset(%s) as new (venue text, account text, market_type text, symbol text, fill_key text, client_order_id text,"
    " venue_order_id text, venue_trade_id text, side text, qty numeric, price numeric, fee_amount numeric, fee_asset text,"
    " fee_quote numeric, cumulative_qty numeric, venue_ms bigint, is_late boolean, is_overfill boolean, decision_mid numeric)"
)
ADD_FILLS: Final[LiteralString] = (
    "insert into fills (venue, account, market_type, symbol, fill_key, client_order_id, venue_order_id, venue_trade_id, side, qty, price,"
    " fee_amount, fee_asset, fee_quote, cumulative_qty, venue_ts, received_ts, is_late, is_overfill, decision_mid)"
    " select venue, account, market_type, symbol, fill_key, client_order_id, venue_order_id, venue_trade_id, side, qty, price, fee_amount,"
    " fee_asset, fee_quote, cumulative_qty, to_timestamp(venue_ms / 1000.0), to_timestamp(%s / 1000.0), is_late, is_overfill, decision_mid"
    + NEW_FILLS
    + " on conflict do nothing returning symbol, fill_key"
)
COMPLETE_FILLS: Final = sql.SQL(
    "update fills as f set client_order_id = new.client_order_id, fee_amount = new.fee_amount, fee_asset = new.fee_asset,"
    " fee_quote = new.fee_quote, is_late = new.is_late, is_overfill = new.is_overfill, decision_mid = new.decision_mid"
    "{new} where (f.venue, f.account, f.market_type, f.symbol, f.fill_key)"
    " = (new.venue, new.account, new.market_type, new.symbol, new.fill_key)"
).format(new=sql.SQL(NEW_FILLS))
POST: Final[LiteralString] = (
    "with new as materialized (select * from json_to_recordset(%s) as new (source text, line integer, account text, strategy text,"
    " ledger_account text, asset text, amount numeric, actor text, reason text, booked_for_ms bigint)),"
    " heads as (select source, nextval('ledger_batches') as batch_id from (select distinct source from new) as given"
    " where not exists (select from ledger_entries as known where known.source = given.source))"
    " insert into ledger_entries (batch_id, line, account, strategy, ledger_account, asset, amount, source, actor, reason, booked_for)"
    " select batch_id, line, account, strategy, ledger_account, asset, amount, source, actor, reason,"
    " to_timestamp(booked_for_ms / 1000.0) from new join heads using (source) on conflict do nothing returning source"
)
_ACTION: Final = sql.SQL(
    "a.id, a.position_id, a.idempotency_key, extract(epoch from a.bar_ts)::bigint as bar_ts_s, a.trade_id, a.kind, a.signal, a.funding,"
    " a.status, a.state, a.level_price, a.atr, a.bars_seen, a.filled_qty, a.filled_usd, a.fee_qty, a.fee_usd"
)
SUM_ACTIONS: Final = sql.SQL(
    "update pm_actions as a set trade_id = coalesce(a.trade_id, s.trade_id), filled_qty = s.qty, filled_usd = s.usd, fee_qty = s.fee_qty,"
    " fee_usd = s.fee_usd from (select i.action_id, t.trade_id, sum(f.qty) as qty, round(sum(f.qty * f.price), 18) as usd,"
    " coalesce(sum(f.fee_amount) filter (where f.fee_asset = split_part(f.symbol, '/', 1)), 0) as fee_qty,"
    " coalesce(sum(f.fee_quote) filter (where f.fee_asset <> split_part(f.symbol, '/', 1)), 0) as fee_usd"
    " from json_to_recordset(%s::json) as t (action_id bigint, trade_id uuid) join order_intents as i using (action_id)"
    " join fills as f using (client_order_id) group by i.action_id, t.trade_id) as s"
    " where a.id = s.action_id returning {action}"
).format(action=_ACTION)
TRADE: Final = sql.SQL("select {action} from pm_actions as a where trade_id = %s order by bar_ts").format(action=_ACTION)
_BARS_OF: Final = sql.SQL(
    "select distinct on (m.contract) m.contract, b.close_usd, b.timestamp + t.length as ended, t.length from ({markets}) as m"
    " cross join (values ('1m', interval '1 minute'), ('5m', '5 minutes'), ('15m', '15 minutes'), ('1h', '1 hour'), ('4h', '4 hours'),"
    " ('1d', '1 day')) as t (timeframe, length)"
    " cross join lateral (select close_usd, timestamp from {bars} as p where p.token_contract = m.contract and p.chain = m.chain and"
    " p.timeframe = t.timeframe and p.is_final and p.timestamp <= to_timestamp(%(at)s) - t.length order by p.timestamp desc limit 1) as b"
    " order by m.contract, ended desc, t.length"
)
_TOKENS: Final = sql.SQL(
    "select distinct token_contract as contract, token_chain as chain from lowcap_positions"
    " where token_contract = any(%(contracts)s) and token_chain <> 'regime'"
)
# ordered, so that the index of the key tells that a token is no major: the planner would read the whole table for it
_MAJORS: Final = sql.SQL(
    "select name as contract, (select chain from majors_price_data_ohlc where token_contract = name order by chain limit 1) as chain"
    " from unnest(%(contracts)s::text[]) as given (name)"
)
CLOSES: Final = sql.SQL(
    "select distinct on (contract) contract, close_usd from (({tokens}) union all ({majors})) as closes"
    " order by contract, ended desc, length"
).format(
    tokens=_BARS_OF.format(markets=_TOKENS, bars=sql.SQL("lowcap_price_data_ohlc")),
    majors=_BARS_OF.format(markets=_MAJORS, bars=sql.SQL("majors_price_data_ohlc")),
)


def write_rows(rows: Iterable[Mapping[str, object]]) -> str:
    """Rows as JSON; amounts as text, so that no digit is lost."""
    return json.dumps(list(rows), default=_spell_amount)


def _spell_amount(value: object) -> str:
    if isinstance(value, Decimal):
        return format(value, "f")
    raise TypeError(f"value of a row was {value!r}, a column takes text, numbers, booleans and amounts")


def fill_document(row: FillRow) -> dict[str, object]:
    """A fill as it is written."""
    fill = row.fill
    return {
        "venue": fill.venue,
        "account": fill.account,
        "market_type": fill.market_type,
        "symbol": fill.symbol,
        "fill_key": row.fill_key,
        "client_order_id": row.client_order_id,
        "venue_order_id": fill.venue_order_id,
        "venue_trade_id": fill.venue_trade_id,
        "side": fill.side.value,
        "qty": fill.qty,
        "price": fill.price,
        "fee_amount": fill.fee_amount,
        "fee_asset": fill.fee_asset,
        "fee_quote": row.fee_quote,
        "cumulative_qty": fill.cumulative_qty,
        "venue_ms": fill.venue_ts_ms,
        "is_late": row.is_late,
        "is_overfill": row.is_overfill,
        "decision_mid": row.decision_mid,
    }


def post_document(posting: Posting) -> list[dict[str, object]]:
    """Lines of a batch as they are written."""
    batch = posting.batch
    return [
        {
            "source": batch.source,
            "line": n,
            "account": posting.account,
            "strategy": posting.strategy,
            "ledger_account": line.account.value,
            "asset": line.asset,
            "amount": line.amount,
            "actor": batch.actor,
            "reason": batch.reason,
            "booked_for_ms": posting.booked_for_ms,
        }
        for n, line in enumerate(batch.lines, 1)
    ]


def read_fill(row: Mapping[str, Any]) -> FillRow:
    """Read a row of `FILLS` or `FILLS_BETWEEN`."""
    fill = Fill(
        venue=row["venue"],
        account=row["account"],
        market_type=row["market_type"],
        symbol=row["symbol"],
        venue_order_id=row["venue_order_id"],
        venue_trade_id=row["venue_trade_id"],
        side=Side(row["side"]),
        qty=row["qty"],
        price=row["price"],
        fee_amount=row["fee_amount"],
        fee_asset=row["fee_asset"],
        venue_ts_ms=row["venue_ms"],
        cumulative_qty=row["cumulative_qty"],
    )
    names = ("fill_key", "client_order_id", "is_late", "is_overfill", "fee_quote", "decision_mid")
    return FillRow(fill, **{name: row[name] for name in names})


def read_stored(row: Mapping[str, Any]) -> StoredAction:
    """Read a row of `SUM_ACTIONS` or `TRADE`."""
    action = Action(
        bar_ts_s=row["bar_ts_s"],
        trade_id=row["trade_id"],
        kind=ActionKind(row["kind"]),
        signal=Signal(row["signal"]),
        funding=Funding(row["funding"]),
        status=ActionStatus(row["status"]),
        **{name: row[name] for name in ("state", "level_price", "atr", "bars_seen", "filled_qty", "filled_usd", "fee_qty", "fee_usd")},
    )
    return StoredAction(row["id"], row["position_id"], row["idempotency_key"], action)


def spell_fill(fill: Fill) -> dict[str, str | None]:
    """Spell a fill for people and for comparison: equal reports are spelt alike."""
    amounts = {name: getattr(fill, name) for name in ("qty", "price", "fee_amount", "cumulative_qty")}
    return {
        "venue_order_id": fill.venue_order_id,
        "venue_trade_id": fill.venue_trade_id,
        "side": fill.side.value,
        "fee_asset": fill.fee_asset,
        "venue_ts_ms": str(fill.venue_ts_ms),
        **{name: None if amount is None else format(amount.normalize(), "f") for name, amount in amounts.items()},
    }
