"""The unit of work on Postgres: one connection, one transaction, and the stores that share it."""

import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, LiteralString

import psycopg

from regime_pipeline.adapters.postgres.bar_store import PostgresBars
from regime_pipeline.adapters.postgres.connect import open_connection, told_when_lost
from regime_pipeline.adapters.postgres.feed_store import PostgresFeeds
from regime_pipeline.adapters.postgres.quality_store import PostgresQuality
from regime_pipeline.adapters.postgres.regime_store import PostgresRegime
from regime_pipeline.clock import monotonic_s
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import Stage

if TYPE_CHECKING:
    from regime_pipeline.adapters.postgres.book_store import PostgresBook
    from regime_pipeline.adapters.postgres.identity_store import PostgresIdentities
    from regime_pipeline.adapters.postgres.journal_store import PostgresJournal
    from regime_pipeline.adapters.postgres.ledger_store import PostgresLedger
    from regime_pipeline.adapters.postgres.opinion_store import PostgresOpinions
    from regime_pipeline.adapters.postgres.order_store import PostgresOrders
    from regime_pipeline.adapters.postgres.portfolio_store import PostgresPortfolio
    from regime_pipeline.adapters.postgres.recon_store import PostgresRecon
    from regime_pipeline.adapters.postgres.safety_store import PostgresSafety
    from regime_pipeline.adapters.postgres.snapshot_store import PostgresSnapshots
    from regime_pipeline.adapters.postgres.trend_store import PostgresTrend


TRUSTED_S: Final = 0.5
"""A connection given back this lately is used without asking whether it lives: asking costs as much as the step of an order."""
PATIENCE_S: Final = 300
"""A live minute leaves a long replay to whoever changes the past, until nobody has changed anything of it for so long: then it does it
itself. What counts is the newest change, since on a busy machine a backfill may write bars for longer than this before it derives."""


class PostgresMarks:
    """Marks in the table derivation_marks; advisory locks say which series a transaction derives now."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self._conn = conn

    def add(self, stage: Stage, timeframe: Timeframe, first_s: Mapping[str, int]) -> None:
        """Mark series for derivation from a bar on; waits for nobody, least of all for who derives them now."""
        if not first_s:
            return
        self._conn.execute(
            "insert into derivation_marks (stage, series, timeframe, from_ts)"
            " select %s, series, %s, to_timestamp(from_s) from unnest(%s::text[], %s::float8[]) as new (series, from_s)",
            (stage, timeframe, list(first_s), list(first_s.values())),
        )

    def load(self, stage: Stage, timeframe: Timeframe, recent_s: int | None = None) -> dict[str, int]:
        """Load the oldest mark of each series of a stage without taking or locking any; `recent_s` as in `take`."""
        rows = self._conn.execute(
            "select series, extract(epoch from min(from_ts))::bigint from derivation_marks where stage = %s and timeframe = %s and "  # noqa: S608 - constants
            + _REACHED
            + " group by series order by series",
            (stage, timeframe, *_reach(timeframe, recent_s)),
        )
        return dict(rows.fetchall())

    def take(
        self, stage: Stage, timeframe: Timeframe, series: Collection[str] | None = None, recent_s: int | None = None
    ) -> dict[str, int]:
        """Take the marks of a stage: their series are claimed, and they are gone when the transaction commits.

        With `recent_s` nobody is waited for: series that another transaction derives now are left alone, and so are marks from bars
        before it while any such mark of the timeframe, of whatever stage, is younger than `PATIENCE_S`.
        """
        marked = self.load(stage, timeframe, recent_s)
        wanted = sorted(marked if series is None else marked.keys() & set(series))
        claimed = self._claim(stage, timeframe, wanted, wait=recent_s is None) if wanted else []
        # only now, with the claims held, is everything visible that was marked before them
        rows = self._conn.execute(
            "delete from derivation_marks where stage = %s and timeframe = %s and "  # noqa: S608 - constants
            + _REACHED
            + " and series = any(%s) returning series, extract(epoch from from_ts)::bigint",
            (stage, timeframe, *_reach(timeframe, recent_s), claimed),
        ).fetchall()
        taken: dict[str, int] = {}
        for name, first_s in sorted(rows):
            taken.setdefault(name, first_s)  # ascending, so the oldest stays
        return taken

    def _claim(self, stage: Stage, timeframe: Timeframe, series: Sequence[str], *, wait: bool) -> list[str]:
        """Hold series of a stage until the transaction ends, in one order, so that two who claim cannot deadlock; returns those held."""
        if wait:
            self._conn.execute(
                "select pg_advisory_xact_lock(hashtextextended(%s || series, 0))"
                " from (select series from unnest(%s::text[]) with ordinality as given (series, n) order by n) as given",
                (f"{stage} {timeframe} ", list(series)),
            )
            return list(series)
        held = self._conn.execute(
            "select series, pg_try_advisory_xact_lock(hashtextextended(%s || series, 0)) from unnest(%s::text[]) as given (series)",
            (f"{stage} {timeframe} ", list(series)),
        )
        return [name for name, is_mine in held if is_mine]


_REACHED: Final[LiteralString] = (
    "(from_ts >= to_timestamp(%s) or not exists (select from derivation_marks as m where m.timeframe = %s"
    " and m.from_ts < to_timestamp(%s) and m.marked_at >= clock_timestamp() - %s * interval '1 second'))"
)
"""Which marks count; see `_reach` for its four values."""


def _reach(timeframe: Timeframe, recent_s: int | None) -> tuple[int, str, int, int]:
    """Values of `_REACHED`: without `recent_s` all marks count."""
    since_s = -(10**9) if recent_s is None else recent_s
    return since_s, timeframe.value, since_s, PATIENCE_S


@dataclass(frozen=True, slots=True)
class PostgresWork:
    """Stores on one open transaction."""

    conn: psycopg.Connection

    @property
    def marks(self) -> PostgresMarks:
        """Work to do."""
        return PostgresMarks(self.conn)

    @property
    def bars(self) -> PostgresBars:
        """Price tables."""
        return PostgresBars(self.conn)

    @property
    def trend(self) -> "PostgresTrend":
        """Engine tables."""
        # imported here: it brings the compiled engine, which a reader of the board must not wait for
        from regime_pipeline.adapters.postgres.trend_store import PostgresTrend

        return PostgresTrend(self.conn)

    @property
    def regime(self) -> PostgresRegime:
        """Mapper tables."""
        return PostgresRegime(self.conn)

    @property
    def quality(self) -> PostgresQuality:
        """What is known about the bars besides their values."""
        return PostgresQuality(self.conn)

    @property
    def opinions(self) -> "PostgresOpinions":
        """Second opinions by detector."""
        # imported here as well: compiled detectors
        from regime_pipeline.adapters.postgres.opinion_store import PostgresOpinions

        return PostgresOpinions(self.conn)

    @property
    def orders(self) -> "PostgresOrders":
        """Intents, orders, leases and outbox."""
        from regime_pipeline.adapters.postgres.order_store import PostgresOrders

        return PostgresOrders(self.conn)

    @property
    def snapshots(self) -> "PostgresSnapshots":
        """Second opinions as consumers read them."""
        from regime_pipeline.adapters.postgres.snapshot_store import PostgresSnapshots

        return PostgresSnapshots(self.conn)

    @property
    def portfolio(self) -> "PostgresPortfolio":
        """Positions as the tick plans them."""
        from regime_pipeline.adapters.postgres.portfolio_store import PostgresPortfolio

        return PostgresPortfolio(self.conn)

    @property
    def journal(self) -> "PostgresJournal":
        """Decisions and runs of the tick."""
        from regime_pipeline.adapters.postgres.journal_store import PostgresJournal

        return PostgresJournal(self.conn)

    @property
    def ledger(self) -> "PostgresLedger":
        """Fills, the double-entry ledger, and what follows from both."""
        from regime_pipeline.adapters.postgres.ledger_store import PostgresLedger

        return PostgresLedger(self.conn)

    @property
    def recon(self) -> "PostgresRecon":
        """Passes of reconciliation, incidents and heartbeats of the order path."""
        from regime_pipeline.adapters.postgres.recon_store import PostgresRecon

        return PostgresRecon(self.conn)

    @property
    def identities(self) -> "PostgresIdentities":
        """Keys, hosts and accounts by the mode they belong to."""
        from regime_pipeline.adapters.postgres.identity_store import PostgresIdentities

        return PostgresIdentities(self.conn)

    @property
    def safety(self) -> "PostgresSafety":
        """Kill levels, arm and protections, and what they and the gate are judged on."""
        from regime_pipeline.adapters.postgres.safety_store import PostgresSafety

        return PostgresSafety(self.conn)

    @property
    def book(self) -> "PostgresBook":
        """The book as people look at it."""
        from regime_pipeline.adapters.postgres.book_store import PostgresBook

        return PostgresBook(self.conn)

    @property
    def feeds(self) -> PostgresFeeds:
        """Heartbeats, questions and samples of live feeds."""
        return PostgresFeeds(self.conn)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Mark a point in the transaction: what is written in the block is undone when an error leaves it, the rest stays."""
        with self.conn.transaction():
            yield

    def hurry(self) -> None:
        """Let the commit return before the disk has it: for what is computed again when it is lost, never for what an order follows."""
        self.conn.execute("set local synchronous_commit = off")

    def freeze(self) -> None:
        """See one instant for the rest of the transaction, and write nothing; only before anything was read."""
        self.conn.execute("set transaction isolation level repeatable read read only")


@dataclass(frozen=True, slots=True, weakref_slot=True)
class PostgresStores:
    """Opens transactions on the database at `url` (password included, so never printed).

    A connection is kept for the next transaction: a new one costs as much as a small step, and a minute has five of them.
    """

    url: str = field(repr=False)
    _idle: list[tuple[psycopg.Connection, float]] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """See to it that nobody has to remember to close."""
        weakref.finalize(self, _close_all, self._idle)

    @contextmanager
    def open(self) -> Iterator[PostgresWork]:
        """Begin a transaction: commits when left without an error, rolls back otherwise.

        Raises
        ------
        DatabaseError
            When the server cannot be reached, or goes away before the commit is answered.
        """
        conn = self._connect()
        try:
            with told_when_lost(conn), conn.transaction():
                yield PostgresWork(conn)
        finally:
            if conn.closed:
                conn.close()
            else:
                self._idle.append((conn, monotonic_s()))

    def close(self) -> None:
        """Close the kept connections."""
        _close_all(self._idle)

    def _connect(self) -> psycopg.Connection:
        while True:
            try:
                conn, idle_since_s = self._idle.pop()
            except IndexError:  # another thread may have taken the last one, so asking first would not help
                break
            if monotonic_s() - idle_since_s < TRUSTED_S:
                return conn
            try:
                conn.execute("select")
                conn.rollback()
            except psycopg.OperationalError:  # the server went away in between
                conn.close()
            else:
                return conn
        return open_connection(self.url)


def _close_all(connections: list[tuple[psycopg.Connection, float]]) -> None:
    while connections:
        connections.pop()[0].close()
