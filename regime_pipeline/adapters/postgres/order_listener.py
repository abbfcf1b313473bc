"""Waiting for something to be due at the order path: LISTEN on a connection of its own, opened again after the server went away."""

from dataclasses import dataclass, field
from typing import Final

import psycopg
from psycopg import sql

from regime_pipeline.adapters.postgres.connect import open_connection
from regime_pipeline.errors import DatabaseError

ORDER_CHANNEL: Final = "regime_orders"
"""Told by the trigger of the outbox, with the account, at the commit."""


@dataclass(slots=True)
class PostgresOrderListener:
    """`OrderListener` of one account on the database at `url` (password included, so never printed)."""

    url: str = field(repr=False)
    account: str
    _conn: psycopg.Connection | None = field(default=None, init=False, repr=False)

    def wait(self, timeout_s: float) -> bool:
        """Wait until something is told, or was told since the last wait; False when nothing was within the time.

        Raises
        ------
        DatabaseError
            When the server cannot be reached or went away: what was told meanwhile is lost, so the caller looks for itself.
        """
        try:
            conn = self._listening()
            # others' notes end the wait as well, which costs one look in vain
            told = [*conn.notifies(timeout=timeout_s, stop_after=1), *conn.notifies(timeout=0)]
        except psycopg.OperationalError as error:
            self.close()
            raise DatabaseError(f"the wait for orders was cut off: {' '.join(str(error).split())}. Look for orders instead.") from error
        return any(each.payload == self.account for each in told)

    def close(self) -> None:
        """Hear no more."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def _listening(self) -> psycopg.Connection:
        if self._conn is None:
            self._conn = open_connection(self.url, autocommit=True)
            self._conn.execute(sql.SQL("listen {}").format(sql.Identifier(ORDER_CHANNEL)))
        return self._conn
