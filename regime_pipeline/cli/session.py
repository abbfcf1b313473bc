"""What commands share: the database they work on, and the instant they are asked about."""

from datetime import UTC, datetime

from regime_pipeline.adapters.postgres.connect import database_urls, open_connection
from regime_pipeline.adapters.postgres.migrate import apply_roles, migrate, status
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.clock import now_s
from regime_pipeline.errors import BadInputError, MigrationError
from regime_pipeline.settings import Settings


def open_stores(settings: Settings) -> PostgresStores:
    """Open the database of the settings for reading; starts the embedded server if need be, and changes no schema.

    Raises
    ------
    MigrationError
        When the schema is not up to date.
    """
    url = database_urls(settings).regime
    with open_connection(url) as conn:
        pending = status(conn).pending
    if pending:
        raise MigrationError(f"the database lacks {len(pending)} migrations, from {pending[0]} on. Run `regime db migrate`.")
    return PostgresStores(url)


def open_migrated_stores(settings: Settings) -> PostgresStores:
    """Open the database of the settings for writing, brought to the newest schema."""
    url = database_urls(settings).regime
    with open_connection(url) as conn:
        migrate(conn)
        apply_roles(conn)
    return PostgresStores(url)


def read_instant(text: str | None) -> int:
    """Read `--at` as epoch seconds; None is now.

    Raises
    ------
    BadInputError
        When it is no time or has no zone.
    """
    if text is None:
        return now_s()
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInputError(f"time was {text!r}: write it as 2025-06-23T12:00:00+00:00.") from error
    if instant.tzinfo is None:
        raise BadInputError(f"time was {text!r}: it has no zone. Write {text}+00:00 if it is UTC.")
    return int(instant.timestamp())


def show_time(ts_s: int) -> str:
    """Spell an instant for people, UTC."""
    return f"{datetime.fromtimestamp(ts_s, UTC):%Y-%m-%d %H:%M}"


def iso_time(ts_s: int) -> str:
    """Spell an instant for programs."""
    return datetime.fromtimestamp(ts_s, UTC).isoformat()
