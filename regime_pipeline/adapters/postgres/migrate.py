"""Plain SQL migrations: `sql/migrations/NNNN_name.sql`, each applied once, in order, in one transaction with its own record."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import psycopg
from psycopg.pq import TransactionStatus

from regime_pipeline.errors import MigrationError

SQL_FOLDER: Final = Path(__file__).resolve().parents[3] / "sql"
_LOCK_KEY: Final = 0x7265_6769_6D65  # "regime"; one migrator at a time per database
_FILE_NAME: Final = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration file."""

    version: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Checksum of the file as it was read."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.version:04d}_{self.name}"


@dataclass(frozen=True, slots=True)
class Applied:
    """One row of `schema_migrations`."""

    version: int
    name: str
    sha256: str
    applied_at: datetime


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """What the database has and what it lacks."""

    applied: tuple[Applied, ...]
    pending: tuple[Migration, ...]


def read_migrations(folder: Path = SQL_FOLDER / "migrations") -> tuple[Migration, ...]:
    """Read the migration files in order.

    Raises
    ------
    MigrationError
        When the folder is absent or empty, a name is not `NNNN_name.sql`, or the numbers are not 1, 2, 3, ...
    """
    paths = sorted(folder.glob("*.sql"))
    if not paths:
        raise MigrationError(f"no migrations in {folder}. Run from a checkout of the project (it is installed editable).")
    found = []
    for expected, path in enumerate(paths, start=1):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None or int(match[1]) != expected:
            raise MigrationError(f"migration file was {path.name}, the next one must be {expected:04d}_name.sql. Rename or restore it.")
        found.append(Migration(expected, match[2], path.read_text()))
    return tuple(found)


def migrate(conn: psycopg.Connection, migrations: Sequence[Migration] | None = None) -> list[Migration]:
    """Bring the database to the newest schema; does nothing where it already is.

    Any number of processes may call this at once: each migration runs under a transaction lock, and whoever waited finds it done.

    Parameters
    ----------
    conn : psycopg.Connection
        Connection with no open transaction; its user must own the schema.
    migrations : sequence of Migration, optional
        Default: the files of the project.

    Returns
    -------
    list of Migration
        What this call applied, in order.

    Raises
    ------
    MigrationError
        When an applied file was changed, the database is newer than the files, or a migration fails (nothing of it is kept).
    """
    files = read_migrations() if migrations is None else tuple(migrations)
    if conn.info.transaction_status is not TransactionStatus.IDLE:
        raise MigrationError("the connection has an open transaction, a migration must own its own. Commit or roll back first.")
    done: list[Migration] = []
    while (step := _apply_next(conn, files)) is not None:
        done.append(step)
    return done


def status(conn: psycopg.Connection, migrations: Sequence[Migration] | None = None) -> SchemaStatus:
    """Compare the database with the files; changes nothing.

    Raises
    ------
    MigrationError
        When an applied file was changed or the database is newer than the files.
    """
    files = read_migrations() if migrations is None else tuple(migrations)
    with conn.transaction():
        known = conn.execute("select to_regclass('public.schema_migrations')").fetchone()
        applied = _load_applied(conn) if known is not None and known[0] is not None else ()
    return SchemaStatus(applied, _pending(files, applied))


def apply_roles(conn: psycopg.Connection) -> bool:
    """Create the least-privilege roles of `sql/roles.sql` and their grants; False when this user may not create roles."""
    with conn.transaction():
        row = conn.execute("select rolsuper or rolcreaterole from pg_roles where rolname = current_user").fetchone()
        if row is None or not row[0]:
            return False
        conn.execute("select pg_advisory_xact_lock(%s)", (_LOCK_KEY,))
        conn.execute((SQL_FOLDER / "roles.sql").read_bytes())
    return True


def _apply_next(conn: psycopg.Connection, files: Sequence[Migration]) -> Migration | None:
    with conn.transaction():
        conn.execute("select pg_advisory_xact_lock(%s)", (_LOCK_KEY,))
        conn.execute(
            "create table if not exists schema_migrations (version integer primary key, name text not null, sha256 text not null,"
            " applied_at timestamptz not null default now())"
        )
        pending = _pending(files, _load_applied(conn))
        if not pending:
            return None
        step = pending[0]
        try:
            conn.execute(step.text.encode())
            conn.execute(
                "insert into schema_migrations (version, name, sha256) values (%s, %s, %s)", (step.version, step.name, step.sha256)
            )
        except psycopg.Error as error:
            reason = str(error).strip()
            raise MigrationError(
                f"migration {step} failed and left nothing behind: {reason}. Correct the cause and migrate again."
            ) from error
        return step


def _load_applied(conn: psycopg.Connection) -> tuple[Applied, ...]:
    rows = conn.execute("select version, name, sha256, applied_at from public.schema_migrations order by version").fetchall()
    return tuple(Applied(*row) for row in rows)


def _pending(files: Sequence[Migration], applied: Sequence[Applied]) -> tuple[Migration, ...]:
    """Compare both lists pairwise; what is left of the files is pending."""
    if len(applied) > len(files):
        newest = applied[-1]
        msg = f"the database is at {newest.version:04d}_{newest.name}, the newest file here is {files[-1]}"
        raise MigrationError(f"{msg}. Update the checkout; an older program must not write to a newer schema.")
    for row, file in zip(applied, files, strict=False):
        if row.version != file.version:
            raise MigrationError(
                f"schema_migrations has version {row.version} where {file} is due: a gap. Restore the database from a backup."
            )
        if row.sha256 != file.sha256:
            msg = f"{file} was changed after it was applied on {row.applied_at:%Y-%m-%d}"
            raise MigrationError(f"{msg}. Restore the file and put the change into a new migration.")
    return tuple(files[len(applied) :])
