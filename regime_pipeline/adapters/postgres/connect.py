"""Addresses of the two databases, ours and Dagster's, and connections to them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from regime_pipeline.adapters.postgres.embedded import ensure_server, find_server
from regime_pipeline.errors import DatabaseBusyError, DatabaseError, LedgerImbalanceError
from regime_pipeline.settings import Settings

REGIME_DB: Final = "regime"
DAGSTER_DB: Final = "dagster"
DAGSTER_SCHEME: Final = "postgresql+psycopg2"
"""With SQLAlchemy 2.1 a plain `postgresql` means psycopg 3, whose `NOTIFY` fails: every run would stay NOT_STARTED."""
CONNECT_TIMEOUT_S: Final = 10
SILENCE: Final = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000}
"""A server whose machine vanished is given up after some ten seconds; the kernel's own patience is hours, in which no stop is watched."""
_NOT_A_URL: Final = "the database address is not a valid URL. Write postgresql://user:password@host:port/db."
_CREATE_LOCK_KEY: Final = 0x7265_6769_6D66
_IN_THE_WAY: Final = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure, psycopg.errors.LockNotAvailable)

_BROKEN_INSIDE: Final = (psycopg.errors.InternalError_, psycopg.errors.DataCorrupted, psycopg.errors.IndexCorrupted)
"""What a server says that could not write or believe a file of its own."""


@dataclass(frozen=True, slots=True)
class Urls:
    """The two addresses, passwords included: never printed by `repr`."""

    regime: str = field(repr=False)
    dagster: str = field(repr=False)


def database_urls(settings: Settings) -> Urls:
    """Return the addresses of both databases; both exist afterwards.

    Without `database_url` the embedded server is started. Our own address is for psycopg, Dagster's names the driver it needs.

    Raises
    ------
    DatabaseError
        When a server cannot be reached or started, or a database is missing and may not be created.
    """
    if settings.database_url is None:
        server = ensure_server(settings.home, settings.postgres_bin)
        regime, dagster = server.url(REGIME_DB), server.url(DAGSTER_DB)
    else:
        regime = _with_parts(settings.database_url, scheme="postgresql")
        dagster = _with_parts(regime, dbname=DAGSTER_DB)
    if settings.dagster_database_url is not None:
        dagster = _with_parts(settings.dagster_database_url, scheme="postgresql")
    for url in (regime, dagster):
        _ensure_database(url)
    return Urls(regime=regime, dagster=_with_parts(dagster, scheme=DAGSTER_SCHEME))


def find_running_url(settings: Settings) -> str:
    """Address of our database where a server is up; for what must not wait for one to be started.

    Raises
    ------
    DatabaseError
        When the embedded server is not running.
    """
    if settings.database_url is not None:
        return _with_parts(settings.database_url, scheme="postgresql")
    server = find_server(settings.home)
    if server is None:
        raise DatabaseError(f"the embedded server of {settings.home} is not running, and nothing here starts it; `regime up` does")
    return server.url(REGIME_DB)


def open_connection(url: str, *, autocommit: bool = False) -> psycopg.Connection:
    """Connect with our session settings: UTC, `application_name` regime, and no lock or idle transaction for ever.

    Raises
    ------
    DatabaseError
        When nobody answers or we are refused; the message names host, port, database and user, never the password.
    """
    params = {"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "regime", **SILENCE, **_read_url(url)}
    # one worker per query: columns are gathered in the order of their rows, and the machine has other things to do
    session = "-c timezone=UTC -c lock_timeout=60s -c idle_in_transaction_session_timeout=15min"
    session += " -c max_parallel_workers_per_gather=0 -c client_min_messages=warning"
    params["options"] = f"{params.get('options') or ''} {session}".strip()
    try:
        return psycopg.connect(**params, autocommit=autocommit)  # type: ignore[arg-type]
    except psycopg.OperationalError as error:
        raise _explain(params, error) from None


@contextmanager
def open_session(url: str) -> Iterator[psycopg.Connection]:
    """Connect for one transaction: it commits when left without an error, rolls back otherwise, and the connection is closed.

    Raises
    ------
    DatabaseError
        When the server cannot be reached, or goes away before the commit is answered.
    """
    conn = open_connection(url)
    try:
        with told_when_lost(conn), conn.transaction():
            yield conn
    finally:
        conn.close()


@contextmanager
def told_when_lost(conn: psycopg.Connection) -> Iterator[None]:
    """Turn what the server does to a transaction, and nobody can foresee, into an error of ours.

    Raises
    ------
    DatabaseBusyError
        When the server ended the transaction because of another one: a deadlock, a lock waited for too long.
    DatabaseError
        When the server went away, or ended the transaction for another reason: a full disk, a broken file. Any other error
        passes as it is.
    LedgerImbalanceError
        When a batch of the ledger does not sum to zero, which the database finds out at the commit.
    """
    try:
        yield
    except psycopg.errors.IntegrityConstraintViolation as error:  # raised by check_batch alone: all others have a subclass
        raise LedgerImbalanceError(f"{error.diag.message_primary}. Nothing of the transaction was kept.") from error
    except (psycopg.OperationalError, *_BROKEN_INSIDE) as error:
        reason = " ".join(str(error).split())
        what = "went away in the middle of a transaction" if conn.broken else "ended a transaction, and nothing of it was kept"
        kind = DatabaseBusyError if isinstance(error, _IN_THE_WAY) else DatabaseError
        raise kind(f"the database {what}: {reason}. What it wrote is asked for again.") from error


def _explain(params: dict[str, str | int | None], error: psycopg.OperationalError) -> DatabaseError:
    host = str(params.get("host") or "localhost")
    if "@" in host:
        return DatabaseError("the database address has an @ inside user or password. Write it as %40.")
    where = f"database {params.get('dbname')!r} at {host}:{params.get('port') or 5432} as user {params.get('user')!r}"
    reason = " ".join(str(error).split())
    if params.get("password"):
        reason = reason.replace(str(params["password"]), "***")
    return DatabaseError(f"cannot connect to {where}: {reason}. Check REGIME_DATABASE_URL and that the server is up, or unset it.")


def _ensure_database(url: str) -> None:
    """Create the database when the server is there and the database is not."""
    cause = _refusal_of(url)
    if cause is None:
        return
    dbname = str(_read_url(url).get("dbname"))
    try:
        conn = open_connection(_with_parts(url, dbname="postgres"), autocommit=True)
    except DatabaseError:
        raise cause from None
    with conn:
        conn.execute("select pg_advisory_lock(%s)", (_CREATE_LOCK_KEY,))  # CREATE DATABASE knows no IF NOT EXISTS
        if conn.execute("select from pg_database where datname = %s", (dbname,)).fetchone() is not None:
            if (cause := _refusal_of(url)) is not None:
                raise cause
            return
        try:
            conn.execute(sql.SQL("create database {} template template0 encoding 'UTF8'").format(sql.Identifier(dbname)))
        except psycopg.Error as error:
            msg = f"database {dbname!r} does not exist and could not be created: {str(error).strip()}"
            raise DatabaseError(f"{msg}. Create it, or grant this user CREATEDB.") from error


def _refusal_of(url: str) -> DatabaseError | None:
    """Try the door: None when it opens."""
    try:
        open_connection(url).close()
    except DatabaseError as error:
        return error
    return None


def _read_url(url: str) -> dict[str, str | int | None]:
    try:
        return dict(conninfo_to_dict(url))
    except psycopg.ProgrammingError:
        raise DatabaseError(_NOT_A_URL) from None  # libpq quotes the broken part, which may be the password


def _with_parts(url: str, *, scheme: str | None = None, dbname: str | None = None) -> str:
    """Replace the scheme or the database of a URL."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise DatabaseError(_NOT_A_URL) from None
    if parts.scheme.partition("+")[0] not in ("postgresql", "postgres"):
        raise DatabaseError(f"database address began with {parts.scheme!r}, only postgresql:// is supported. SQLite and others are not.")
    path = parts.path if dbname is None else f"/{dbname}"
    if path in ("", "/"):
        raise DatabaseError(f"the database address for host {parts.hostname!r} names no database. Append /regime to it.")
    return urlunsplit(parts._replace(scheme=scheme or parts.scheme, path=path))
