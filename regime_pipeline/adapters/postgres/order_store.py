"""Intents, orders, their steps and looks, leases and outbox in Postgres: a step is one statement, a batch of intents another."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, LiteralString

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from regime_pipeline.adapters.postgres.order_rows import SELECT_ORDER, columns_of, read_order
from regime_pipeline.errors import BrokerConfirmationRequiredError
from regime_pipeline.execution.ladder import Look, LookResult, Rung, Seen
from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.ports import (
    IntentOutcome,
    Lease,
    NewIntent,
    OpenNote,
    OrderRow,
    OrderStep,
    OrderTransition,
    Pause,
    PauseKind,
    Proof,
    Seeing,
    Stepped,
    WrittenIntent,
)
from regime_pipeline.ports.orders import LEASE_S, TAKEOVER_S

# Spelt out as in the partial indexes, which are used only where the words are the same.
_LIVE: Final[LiteralString] = "o.state in ('INTENT', 'SUBMITTING', 'UNKNOWN', 'OPEN', 'PARTIAL', 'CANCEL_REQUESTED')"

_WRITE: Final[LiteralString] = """
with given as (
    select * from unnest(
        %(client_order_id)s::text[], %(account)s::text[], %(strategy)s::text[], %(symbol)s::text[], %(bar_close)s::bigint[],
        %(leg)s::text[], %(seq)s::int[], %(decision_id)s::uuid[], %(action_id)s::bigint[], %(replaces_id)s::text[], %(purpose)s::text[],
        %(side)s::text[], %(type)s::text[], %(qty)s::numeric[], %(limit_price)s::numeric[], %(stop_price)s::numeric[],
        %(reduce_only)s::boolean[], %(tif)s::text[], %(mode)s::text[], %(origin)s::text[], %(payload_hash)s::text[],
        %(decide_by)s::bigint[], %(decision_mid)s::numeric[]
    ) as g (
        client_order_id, account, strategy, symbol, bar_close, leg, seq, decision_id, action_id, replaces_id, purpose, side, type, qty,
        limit_price, stop_price, reduce_only, tif, mode, origin, payload_hash, decide_by, decision_mid
    )
), written as (
    insert into order_intents (
        client_order_id, account, strategy, symbol, bar_close, leg, seq, decision_id, action_id, replaces_id, purpose, side, type, qty,
        limit_price, stop_price, reduce_only, tif, mode, origin, payload_hash, decide_by, decision_mid
    )
    select client_order_id, account, strategy, symbol, to_timestamp(bar_close), leg, seq, decision_id, action_id, replaces_id, purpose,
        side, type, qty, limit_price, stop_price, reduce_only, tif, mode, origin, payload_hash, to_timestamp(decide_by / 1000.0),
        decision_mid
    from given as g
    where not exists (
        select from orders as o where o.account = g.account and o.symbol = g.symbol
        and o.state in ('INTENT', 'SUBMITTING', 'UNKNOWN', 'OPEN', 'PARTIAL', 'CANCEL_REQUESTED')
        and o.purpose = g.purpose and (o.purpose = 'entry' or o.strategy = g.strategy)
    )
    on conflict do nothing returning client_order_id, account, strategy, symbol, purpose
), placed as (
    insert into orders (client_order_id, venue, account, strategy, symbol, purpose, state)
    select client_order_id, %(venue)s, account, strategy, symbol, purpose, 'INTENT' from written
), queued as (
    insert into outbox (kind, dedupe_key, account) select 'SUBMIT', client_order_id, account from written
)
select client_order_id from written"""

_HELD: Final[LiteralString] = "select token from leases where name = %(lease)s and token = %(token)s"
_RENEWED: Final[LiteralString] = (
    "update leases set until = clock_timestamp() + make_interval(secs => %(lease_s)s)"
    " where name = %(lease)s and token = %(token)s and until > clock_timestamp() returning token"
)
_STEP: Final[LiteralString] = """, moved as (
    update orders set state = %(new)s, version = version + 1, lease_token = greatest(lease_token, %(token)s),
        venue_order_id = coalesce(%(venue_order_id)s, venue_order_id),
        sent_at = coalesce(to_timestamp(%(sent_at)s::float8 / 1000), sent_at),
        request_expires_at = coalesce(to_timestamp(%(request_expires_at)s::float8 / 1000), request_expires_at),
        rest_until = coalesce(to_timestamp(%(rest_until)s::float8 / 1000), rest_until),
        unknown_at = coalesce(to_timestamp(%(unknown_at)s::float8 / 1000), unknown_at),
        cancel_requested_at = coalesce(cancel_requested_at, to_timestamp(%(cancel_requested_at)s::float8 / 1000)),
        last_seen_at = greatest(last_seen_at, to_timestamp(%(last_seen_at)s::float8 / 1000)),
        next_look_at = to_timestamp(%(next_look_at)s::float8 / 1000),
        flags = flags || %(add_flags)s::text[]
    where client_order_id = %(id)s and state = %(old)s and version = %(version)s and exists (select from held)
    returning client_order_id, account, version
), noted as (
    insert into order_transitions (
        client_order_id, order_seq, from_state, to_state, class, code, http_status, raw, evidence, actor, lease_token, row_hash
    )
    select client_order_id, version, %(old)s, %(new)s, %(class)s, %(code)s, %(http_status)s::int, %(raw)s, %(evidence)s, %(actor)s,
        %(token)s, ''
    from moved
)"""
_DONE: Final[LiteralString] = """, done as (
    update outbox set done_at = clock_timestamp(), attempts = attempts + 1, claimed_token = %(token)s
    where kind = %(done)s and dedupe_key = %(id)s and done_at is null and exists (select from moved)
)"""
_ADDED: Final[LiteralString] = """, added as (
    insert into outbox (kind, dedupe_key, account) select %(added)s, client_order_id, account from moved
    on conflict (kind, dedupe_key) do update set done_at = null, created_at = clock_timestamp(), attempts = 0
)"""


class PostgresOrders:
    """`OrderStore` on an open transaction."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self._conn = conn

    def acquire_lease(self, name: str, holder: str, length_s: int = LEASE_S) -> Lease | None:
        """Take a lease for a while by the clock of the database; None while somebody has it, or had it until less than 1 s ago."""
        row = self._conn.execute(
            "insert into leases as l (name, holder, token, until)"
            " values (%(name)s, %(holder)s, 1, clock_timestamp() + make_interval(secs => %(lease_s)s))"
            " on conflict (name) do update set holder = excluded.holder, token = l.token + 1, until = excluded.until"
            " where l.until + make_interval(secs => %(takeover_s)s) < clock_timestamp() returning token",
            {"name": name, "holder": holder, "lease_s": length_s, "takeover_s": TAKEOVER_S},
        ).fetchone()
        return Lease(name, holder, row[0]) if row else None

    def renew_lease(self, lease: Lease) -> bool:
        """Hold a lease for another 15 s; False when it has ended or is somebody else's."""
        return self._conn.execute(_RENEWED, {"lease": lease.name, "token": lease.token, "lease_s": LEASE_S}).fetchone() is not None

    def release_lease(self, lease: Lease) -> None:
        """Give a lease back at once; nothing happens when it is ours no more."""
        self._conn.execute("update leases set until = '-infinity' where name = %s and token = %s", (lease.name, lease.token))

    def try_lock_account(self, account: str) -> bool:
        """Lock an account until the transaction ends, without waiting: what tx1 begins with."""
        row = self._conn.execute("select pg_try_advisory_xact_lock(hashtextextended('account ' || %s, 0))", (account,)).fetchone()
        return bool(row and row[0])

    def write_intents(self, venue: str, intents: Sequence[NewIntent]) -> list[WrittenIntent]:
        """Write intents, their orders as INTENT, and SUBMIT into the outbox; adopt what exists."""
        if not intents:
            return []
        first_of_slot: dict[tuple[str, ...], NewIntent] = {}
        for intent in intents:  # two of a batch may want one place: the first has it
            first_of_slot.setdefault(_slot_of(intent), intent)
        columns = columns_of(list(first_of_slot.values()))
        written = {row[0] for row in self._conn.execute(_WRITE, {**columns, "venue": venue})}
        stored = self.load_orders([intent.client_order_id for intent in intents])
        return [_outcome_of(intent, stored.get(intent.client_order_id), written) for intent in intents]

    def load_orders(self, client_order_ids: Collection[str]) -> dict[str, OrderRow]:
        """Load orders by id."""
        rows = self._load("o.client_order_id = any(%s)", list(client_order_ids)) if client_order_ids else []
        return {row.client_order_id: row for row in rows}

    def load_by_venue_id(self, venue: str, account: str, venue_order_ids: Collection[str]) -> list[OrderRow]:
        """Load orders by the venue's ids."""
        return self._load("o.venue = %s and o.account = %s and o.venue_order_id = any(%s)", venue, account, list(venue_order_ids))

    def load_live(self, account: str, symbol: str | None = None) -> list[OrderRow]:
        """Load the orders that have not ended, oldest first."""
        where: LiteralString = f"o.account = %s and {_LIVE}"
        if symbol is None:
            return self._load(f"{where} order by o.created_at, o.client_order_id", account)
        return self._load(f"{where} and o.symbol = %s order by o.created_at, o.client_order_id", account, symbol)

    def load_recent(self, account: str, since_ms: int) -> list[OrderRow]:
        """Load all orders written since an instant, newest first."""
        return self._load("o.account = %s and o.created_at >= to_timestamp(%s / 1000.0) order by o.created_at desc", account, since_ms)

    def _load(self, where: LiteralString, *parameters: object) -> list[OrderRow]:
        return [read_order(row) for row in self._conn.cursor(row_factory=dict_row).execute(SELECT_ORDER + where, parameters)]

    def step(self, step: OrderStep) -> Stepped:
        """Write one step: compare-and-set, transition and outbox in one statement.

        Raises
        ------
        BrokerConfirmationRequiredError
            When the venue's id already belongs to another order of ours.
        """
        query: LiteralString = "with held as (" + _HELD_BY[step.lease is not None, step.renews_lease] + ")" + _STEP
        query += (_DONE if step.outbox_done else "") + (_ADDED if step.outbox_added else "")
        query += " select exists (select from held), exists (select from moved)"
        try:
            row = self._conn.execute(query, _values_of(step)).fetchone()
        except psycopg.errors.UniqueViolation as error:
            msg = (
                f"order {step.client_order_id}: venue id was {step.change.venue_order_id}, which another order of ours has; it is looked up"
            )
            raise BrokerConfirmationRequiredError(msg) from error
        has_lease, has_moved = row or (False, False)
        if not has_lease:
            return Stepped.LEASE_LOST
        return Stepped.DONE if has_moved else Stepped.CONFLICT

    def load_transitions(self, client_order_id: str) -> list[OrderTransition]:
        """Load the steps of an order, oldest first."""
        rows = self._conn.execute(
            "select order_seq, from_state, to_state, class, code, http_status, raw, evidence, actor, lease_token,"
            " (extract(epoch from at) * 1000)::bigint from order_transitions where client_order_id = %s order by order_seq",
            (client_order_id,),
        )
        return [
            OrderTransition(
                client_order_id,
                row[0],
                OrderState(row[1]),
                OrderState(row[2]),
                Proof(*row[3:8]),
                actor=row[8],
                lease_token=row[9],
                at_ms=row[10],
            )
            for row in rows
        ]

    def note_seen(self, seen: Sequence[Seeing]) -> None:
        """Record when orders were read and are read next, without a step."""
        if seen:
            self._conn.execute(
                "update orders as o set next_look_at = to_timestamp(g.next_ms / 1000.0),"
                " last_seen_at = greatest(o.last_seen_at, to_timestamp(g.seen_ms / 1000.0))"
                " from unnest(%s::text[], %s::bigint[], %s::bigint[]) as g (id, next_ms, seen_ms) where o.client_order_id = g.id",
                (
                    [each.client_order_id for each in seen],
                    [each.next_look_at_ms for each in seen],
                    [each.last_seen_at_ms for each in seen],
                ),
            )

    def note_cancels_asked(self, client_order_ids: Collection[str], asked_at_ms: int) -> None:
        """Record that cancels are about to leave: one more try each."""
        self._conn.execute(
            "update orders set cancel_asked_at = to_timestamp(%s / 1000.0), cancel_tries = cancel_tries + 1"
            " where client_order_id = any(%s)",
            (asked_at_ms, list(client_order_ids)),
        )

    def add_flag(self, client_order_id: str, flag: str) -> None:
        """Flag an order, once."""
        self._conn.execute(
            "update orders set flags = flags || %s::text where client_order_id = %s and not flags @> array[%s::text]",
            (flag, client_order_id, flag),
        )

    def add_look(self, client_order_id: str, look: Look, rungs: Mapping[Rung, Seen]) -> None:
        """Record a look for an UNKNOWN order."""
        self._conn.execute(
            "insert into order_looks (client_order_id, started_at, result, rungs) values (%s, to_timestamp(%s / 1000.0), %s, %s)"
            " on conflict do nothing",
            (client_order_id, look.started_ms, look.result.value, Jsonb({rung.value: seen.value for rung, seen in rungs.items()})),
        )

    def load_looks(self, client_order_ids: Collection[str]) -> dict[str, tuple[Look, ...]]:
        """Load the looks taken since each order last became UNKNOWN, oldest first."""
        rows = self._conn.execute(
            "select l.client_order_id, (extract(epoch from l.started_at) * 1000)::bigint, l.result"
            " from order_looks as l join orders as o on o.client_order_id = l.client_order_id"
            " where l.client_order_id = any(%s) and l.started_at >= o.unknown_at order by l.started_at",
            (list(client_order_ids),),
        )
        looks: dict[str, tuple[Look, ...]] = dict.fromkeys(client_order_ids, ())
        for client_order_id, started_ms, result in rows:
            looks[client_order_id] += (Look(started_ms, LookResult(result)),)
        return looks

    def load_pauses(self, venue: str) -> dict[PauseKind, Pause]:
        """Load what is or was paused at a venue."""
        rows = self._conn.execute(
            "select name, holder, (extract(epoch from until) * 1000)::bigint from leases where name = any(%s) and holder <> '0'",
            ([_pause_name(venue, kind) for kind in PauseKind],),
        )
        pauses = [Pause(PauseKind(name.rpartition(":")[2]), until_ms, int(length)) for name, length, until_ms in rows]
        return {pause.kind: pause for pause in pauses}

    def save_pause(self, venue: str, pause: Pause) -> None:
        """Record a pause; a length of 0 ends it. It is a lease that nobody holds: `holder` is its length."""
        self._conn.execute(
            "insert into leases as l (name, holder, token, until) values (%s, %s, 1, to_timestamp(%s / 1000.0))"
            " on conflict (name) do update set holder = excluded.holder, token = l.token + 1, until = excluded.until",
            (_pause_name(venue, pause.kind), str(pause.length_s), pause.until_ms),
        )

    def load_last_codes(self, account: str, limit: int) -> list[str]:
        """Load the codes of the newest answers to creates of an account, newest first."""
        rows = self._conn.execute(
            "select coalesce(t.code, '') from order_transitions as t join orders as o on o.client_order_id = t.client_order_id"
            " where o.account = %s and t.from_state = 'SUBMITTING' and t.class is not null order by t.seq desc limit %s",
            (account, limit),
        )
        return [code for (code,) in rows]

    def load_open_notes(self, account: str) -> list[OpenNote]:
        """Load what the outbox of an account still holds, oldest first."""
        rows = self._conn.execute(
            "select kind, dedupe_key, extract(epoch from clock_timestamp() - created_at)::int, attempts, last_error"
            " from outbox where account = %s and done_at is null order by id",
            (account,),
        )
        return [OpenNote(*row) for row in rows]


_HELD_BY: Final[Mapping[tuple[bool, bool], LiteralString]] = {
    (True, True): _RENEWED,
    (True, False): _HELD,
    (False, False): "select 1",
    (False, True): "select 1",
}


def _values_of(step: OrderStep) -> dict[str, object]:
    change, proof = step.change, step.proof
    return {
        "id": step.client_order_id,
        "old": step.old.value,
        "new": step.new.value,
        "version": step.version,
        "lease": step.lease.name if step.lease else "",
        "token": step.lease.token if step.lease else 0,
        "lease_s": LEASE_S,
        "actor": step.actor,
        "class": proof.answer_class,
        "code": proof.code,
        "http_status": proof.http_status,
        "raw": proof.raw,
        "evidence": Jsonb(dict(proof.evidence)),
        "venue_order_id": change.venue_order_id,
        "sent_at": change.sent_at_ms,
        "request_expires_at": change.request_expires_at_ms,
        "rest_until": change.rest_until_ms,
        "unknown_at": change.unknown_at_ms,
        "cancel_requested_at": change.cancel_requested_at_ms,
        "last_seen_at": change.last_seen_at_ms,
        "next_look_at": change.next_look_at_ms,
        "add_flags": list(change.add_flags),
        "done": step.outbox_done,
        "added": step.outbox_added,
    }


def _slot_of(intent: NewIntent) -> tuple[str, ...]:
    """Place that one live order may hold: an entry the symbol, anything else the symbol of its strategy and purpose."""
    key = intent.key
    return (key.account, key.symbol, intent.purpose, "" if intent.purpose == "entry" else key.strategy)


def _outcome_of(intent: NewIntent, stored: OrderRow | None, written: Collection[str]) -> WrittenIntent:
    if stored is None:
        return WrittenIntent(intent, IntentOutcome.BLOCKED, None)
    if stored.payload_hash != intent.payload_hash:
        return WrittenIntent(intent, IntentOutcome.CONFLICT, stored)
    outcome = IntentOutcome.WRITTEN if intent.client_order_id in written else IntentOutcome.ADOPTED
    return WrittenIntent(intent, outcome, stored)


def _pause_name(venue: str, kind: PauseKind) -> str:
    return f"pause:{venue}:{kind.value}"
