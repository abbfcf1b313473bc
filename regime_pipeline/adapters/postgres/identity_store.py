"""Keys, hosts and accounts by mode, in the table trading_identities."""

from collections.abc import Iterable

import psycopg

from regime_pipeline.risk.arm import Identity, IdentityKind, Mode


class PostgresIdentities:
    """Identities on one connection."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self._conn = conn

    def load(self) -> list[Identity]:
        """Load all of it: a handful of rows."""
        rows = self._conn.execute("select kind, value, mode, account from trading_identities order by kind, value").fetchall()
        return [Identity(IdentityKind(kind), value, Mode(mode), account) for kind, value, mode, account in rows]

    def claim(self, identities: Iterable[Identity]) -> None:
        """Add what is new; what is known keeps its mode."""
        for each in identities:
            self._conn.execute(
                "insert into trading_identities (kind, value, mode, account) values (%s, %s, %s, %s) on conflict do nothing",
                (each.kind, each.value, each.mode, each.account),
            )
