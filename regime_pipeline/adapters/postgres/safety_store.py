"""Kill levels, arm and protections in Postgres; what they are judged on is read by `safety_facts`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, LiteralString

from psycopg.rows import dict_row

from regime_pipeline.adapters.postgres.chains import verify_chains
from regime_pipeline.adapters.postgres.safety_facts import SafetyFacts
from regime_pipeline.portfolio.reasons import ReasonCode
from regime_pipeline.ports import ChainFault
from regime_pipeline.risk.arm import ArmRow
from regime_pipeline.risk.kill_switch import KillTransition, Level, Scope, Switch
from regime_pipeline.risk.protections import Effect, Trip
from regime_pipeline.risk.purpose import Side

_TRIP: Final[LiteralString] = (
    "select name, effect, account, strategy, symbol, code, side, trigger_id, extract(epoch from until)::bigint as until_s, evidence,"
    " released_by from protections"
)


class PostgresSafety(SafetyFacts):
    """`SafetyStore` on an open transaction."""

    def load_switches(self, account: str | None = None) -> list[Switch]:
        """Load the kill levels in force: of the newest row of each scope and source, where above 0; of an account, those for all too."""
        rows = self.conn.execute(
            "select account, strategy, symbol, level, source, actor, reason, extract(epoch from at)::bigint from ("
            " select distinct on (account, strategy, symbol, source) * from kill_switch"
            " where %s::text is null or account is null or account = %s"
            " order by account, strategy, symbol, source, seq desc) as newest where level > 0 order by seq",
            (account, account),
        )
        return [Switch(Scope(*row[:3]), Level(row[3]), row[4], row[5], row[6], row[7]) for row in rows]

    def has_seen(self, switch: Switch) -> bool:
        """Tell whether the newest row of a level's scope and source is as young as it, whatever became of it."""
        scope = switch.scope
        row = self.conn.execute(
            "select exists (select from kill_switch where (account, strategy, symbol) is not distinct from (%s, %s, %s) and source = %s"
            " and at >= to_timestamp(%s))",
            (scope.account, scope.strategy, scope.symbol, switch.source, switch.at_s),
        ).fetchone()
        return bool(row and row[0])

    def load_tip(self, scope: Scope) -> str:
        """Load the newest transition id of a scope; empty before the first."""
        row = self.conn.execute(
            "select transition_id from kill_switch where (account, strategy, symbol) is not distinct from (%s, %s, %s)"
            " order by seq desc limit 1",
            (scope.account, scope.strategy, scope.symbol),
        ).fetchone()
        return str(row[0]) if row else ""

    def save_transition(self, transition: KillTransition, second_actor: str = "", accounts: Sequence[str] = ()) -> bool:
        """Write a rise with its KILL notes for the executors, or a release; False when somebody else has written this very one.

        Parameters
        ----------
        accounts : sequence of str
            For a rise that is for everybody: whose executors are told. A scope with an account tells that one.
        """
        switch, scope = transition.switch, transition.switch.scope
        written = self.conn.execute(
            "insert into kill_switch (transition_id, account, strategy, symbol, level, old_level, source, actor, reason, second_actor, at,"
            " row_hash) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, to_timestamp(%s), '') on conflict (transition_id) do nothing",
            (
                transition.transition_id, scope.account, scope.strategy, scope.symbol, switch.level.value, transition.old.value,
                switch.source, switch.actor, switch.reason, second_actor, switch.at_s,
            ),
        ).rowcount == 1  # fmt: skip
        if written and switch.level > transition.old:
            keys = {scope.account: transition.transition_id} if scope.account else {a: f"{transition.transition_id}|{a}" for a in accounts}
            self.conn.execute(
                "insert into outbox (kind, dedupe_key, account, payload) select 'KILL', key, account,"
                " jsonb_build_object('transition_id', %s::text, 'level', %s::int, 'scope', %s::text)"
                " from unnest(%s::text[], %s::text[]) as told (account, key) on conflict (kind, dedupe_key) do nothing",
                (transition.transition_id, switch.level.value, scope.text, list(keys), list(keys.values())),
            )
        return written

    def has_notes(self, account: str) -> bool:
        """Tell whether KILL notes of an account are open."""
        row = self.conn.execute(
            "select exists (select from outbox where kind = 'KILL' and account = %s and done_at is null)", (account,)
        ).fetchone()
        return bool(row and row[0])

    def close_notes(self, account: str, error: str | None = None) -> None:
        """Mark the open KILL notes of an account done, or count a failed attempt at them."""
        self.conn.execute(
            "update outbox set attempts = attempts + 1, last_error = %s, done_at = case when %s::text is null then clock_timestamp() end"
            " where kind = 'KILL' and account = %s and done_at is null",
            (error, error, account),
        )

    def load_arm(self, account: str) -> ArmRow | None:
        """Load the newest arm row of an account, whether in force or not."""
        row = self.conn.execute(
            "select account, fingerprint, max_order_quote, max_day_quote, extract(epoch from started_at)::bigint,"
            " extract(epoch from expires_at)::bigint, actor, reason, extract(epoch from ended_at)::bigint from arm"
            " where account = %s order by id desc limit 1",
            (account,),
        ).fetchone()
        return ArmRow(*row) if row else None

    def save_arm(self, row: ArmRow) -> None:
        """Write an arm row; the one that stands ends."""
        self.end_arm(row.account, row.started_at_s)
        self.conn.execute(
            "insert into arm (account, fingerprint, max_order_quote, max_day_quote, started_at, expires_at, actor, reason)"
            " values (%s, %s, %s, %s, to_timestamp(%s), to_timestamp(%s), %s, %s)",
            (
                row.account, row.fingerprint, row.max_order_quote, row.max_day_quote, row.started_at_s, row.expires_at_s,
                row.actor, row.reason,
            ),
        )  # fmt: skip

    def end_arm(self, account: str, now_s: int) -> bool:
        """End the arm row that stands; False when none does."""
        done = self.conn.execute("update arm set ended_at = to_timestamp(%s) where account = %s and ended_at is null", (now_s, account))
        return done.rowcount > 0

    def load_trips(self, account: str, now_s: int) -> list[Trip]:
        """Load the protections that are active for an account."""
        rows = self.conn.cursor(row_factory=dict_row).execute(
            _TRIP + " where until > to_timestamp(%s) and (account is null or account = %s) order by effect desc, until", (now_s, account)
        )
        return [_read_trip(row) for row in rows]

    def load_tripped(self, name: str, trigger_id: str) -> list[Trip]:
        """Load what one trigger tripped, in all scopes, active or not."""
        rows = self.conn.cursor(row_factory=dict_row).execute(
            _TRIP + " where name = %s and trigger_id = %s order by tripped_at", (name, trigger_id)
        )
        return [_read_trip(row) for row in rows]

    def add_trips(self, trips: Iterable[Trip], now_s: int) -> list[Trip]:
        """Write the trips whose trigger is new; returns those."""
        return [trip for trip in trips if self._add_trip(trip, now_s)]

    def _add_trip(self, trip: Trip, now_s: int) -> bool:
        scope = trip.scope
        done = self.conn.execute(
            "insert into protections (name, account, strategy, symbol, scope, trigger_id, effect, code, side, tripped_at, until, evidence)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, to_timestamp(%s), to_timestamp(%s), %s) on conflict do nothing",
            (
                trip.name, scope.account, scope.strategy, scope.symbol, scope.text, trip.trigger_id, trip.effect.value, trip.code.value,
                None if trip.side is None else trip.side.value, now_s, trip.until_s, trip.evidence,
            ),
        )  # fmt: skip
        return done.rowcount == 1

    def end_trip(self, trip: Trip, reason: str) -> None:
        """Write a trip that a person ended (`release_trip`)."""
        self.conn.execute(
            "update protections set until = least(until, to_timestamp(%s)), released_by = %s, reason = %s, evidence = %s"
            " where name = %s and scope = %s and trigger_id = %s",
            (trip.until_s, trip.released_by, reason, trip.evidence, trip.name, trip.scope.text, trip.trigger_id),
        )

    def verify_chains(self) -> list[ChainFault]:
        """Recompute the chains of decisions, order steps and kill levels; the first bad row of each, none when all hold."""
        return verify_chains(self.conn)


def _read_trip(row: Mapping[str, Any]) -> Trip:
    return Trip(
        row["name"],
        Effect(row["effect"]),
        Scope(row["account"], row["strategy"], row["symbol"]),
        ReasonCode(row["code"]),
        row["until_s"],
        row["trigger_id"],
        row["evidence"],
        None if row["side"] is None else Side(row["side"]),
        row["released_by"],
    )
