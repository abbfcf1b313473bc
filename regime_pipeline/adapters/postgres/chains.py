"""The chains of hashes in the journal, recomputed row by row by the database with the words of their triggers."""

from typing import Final, LiteralString

import psycopg

from regime_pipeline.ports import ChainFault

_DECISIONS: Final[LiteralString] = """
select 'decisions', account || ' ' || strategy, seq, 'hash' from (
    select *, encode(sha256(convert_to(concat_ws('|', coalesce(lag(row_hash) over chain, ''), decision_id, account, strategy,
        extract(epoch from bar_close)::bigint, inputs_hash, plan_hash, config_hash, code_version,
        lease_token, array_to_string(codes, ','), inputs, levers, plan), 'UTF8')), 'hex') as expected
    from decisions window chain as (partition by account, strategy order by seq)
) as chained where row_hash <> expected order by seq limit 1
"""
_TRANSITIONS: Final[LiteralString] = """
select 'order_transitions', client_order_id, seq, case when order_seq <> place then 'a step is missing before it' else 'hash' end from (
    select *, row_number() over chain as place,
        encode(sha256(convert_to(concat_ws('|', coalesce(lag(row_hash) over chain, ''), client_order_id, order_seq,
        from_state, to_state, coalesce(class, ''), coalesce(code, ''), coalesce(http_status, 0),
        coalesce(raw, ''), evidence, actor, lease_token), 'UTF8')), 'hex') as expected
    from order_transitions window chain as (partition by client_order_id order by order_seq)
) as chained where row_hash <> expected or order_seq <> place order by seq limit 1
"""
_VERSIONS: Final[LiteralString] = """
select 'orders', o.client_order_id, o.version, 'version was ' || o.version || ' and state ' || o.state || ', the chain has '
    || coalesce(t.order_seq, 0) || ' steps and ends in ' || coalesce(t.to_state, 'INTENT')
from orders as o left join lateral (
    select order_seq, to_state from order_transitions as t where t.client_order_id = o.client_order_id order by order_seq desc limit 1
) as t on true
where o.version <> coalesce(t.order_seq, 0) or o.state <> coalesce(t.to_state, 'INTENT') order by o.created_at limit 1
"""
_KILLS: Final[LiteralString] = """
select 'kill_switch', 'all', seq, 'hash' from (
    select *, encode(sha256(convert_to(concat_ws('|', coalesce(lag(row_hash) over (order by seq), ''), transition_id,
        coalesce(account, ''), coalesce(strategy, ''), coalesce(symbol, ''), level, old_level, source, actor, reason,
        second_actor, extract(epoch from at)), 'UTF8')), 'hex') as expected
    from kill_switch
) as chained where row_hash <> expected order by seq limit 1
"""


def verify_chains(conn: psycopg.Connection) -> list[ChainFault]:
    """Recompute the chains of decisions, order steps and kill levels; the first bad row of each, none when all hold.

    Tampering as owner, with the triggers off, is found at the first row that was changed or follows one that was removed.
    """
    rows = [conn.execute(query).fetchone() for query in (_DECISIONS, _TRANSITIONS, _VERSIONS, _KILLS)]
    return [ChainFault(*row) for row in rows if row is not None]
