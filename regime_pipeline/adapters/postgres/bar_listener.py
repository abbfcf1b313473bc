"""Waiting for new regime bars: LISTEN on a connection of its own, which keeps what is told between two waits."""

import threading
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from regime_pipeline.adapters.postgres.connect import open_connection
from regime_pipeline.adapters.postgres.regime_store import BAR_CHANNEL
from regime_pipeline.errors import DatabaseError
from regime_pipeline.market.timeframe import Timeframe


@dataclass(slots=True)
class PostgresBarListener:
    """Hears of new regime bars on the database at `url` (password included, so never printed); one waiter at a time."""

    url: str = field(repr=False)
    _conn: psycopg.Connection | None = field(default=None, init=False, repr=False)
    _turn: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def wait(self, timeout_s: float) -> set[Timeframe]:
        """Wait until a new bar is told, or was told since the last wait; empty when none was within the time.

        Raises
        ------
        DatabaseError
            When the server cannot be reached or went away: what was told meanwhile is lost, so the caller looks for itself.
        """
        with self._turn:
            try:
                conn = self._listening()
                # one makes us return; the rest of the same commit has come with it
                told = [*conn.notifies(timeout=timeout_s, stop_after=1), *conn.notifies(timeout=0)]
            except psycopg.OperationalError as error:
                self._drop()
                raise DatabaseError(f"the wait for new bars was cut off: {' '.join(str(error).split())}. Look for bars instead.") from error
        return {Timeframe(each.payload) for each in told}

    def close(self) -> None:
        """Hear no more."""
        with self._turn:
            self._drop()

    def _listening(self) -> psycopg.Connection:
        if self._conn is None:
            self._conn = open_connection(self.url, autocommit=True)
            self._conn.execute(sql.SQL("listen {}").format(sql.Identifier(BAR_CHANNEL)))
        return self._conn

    def _drop(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None
