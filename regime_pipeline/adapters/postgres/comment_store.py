"""Comments of a model in Postgres, written with the role that can do nothing else."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, LiteralString

import psycopg
from psycopg.types.json import Jsonb

from regime_pipeline.adapters.postgres.connect import open_session
from regime_pipeline.errors import DatabaseError
from regime_pipeline.ports.commentary import Comment

_BECOME: Final[LiteralString] = "set local role regime_commentator"


@dataclass(frozen=True, slots=True)
class PostgresCommentBook:
    """`CommentBook` on an open transaction of the commentator."""

    conn: psycopg.Connection

    def load_snapshot(self) -> Mapping[str, Any]:
        """Load what is published now."""
        row = self.conn.execute("select as_of, snapshot from published_snapshot").fetchone()
        return {} if row is None else {"as_of": row[0].isoformat(), **row[1]}

    def save(self, comment: Comment) -> None:
        """Add a comment."""
        self.conn.execute(
            "insert into commentary (author, snapshot, comment) values (%s, %s, %s)",
            (comment.author, Jsonb(dict(comment.snapshot)), comment.text),
        )


@dataclass(frozen=True, slots=True)
class PostgresComments:
    """`CommentStore` on the database at `url` (password included, so never printed)."""

    url: str = field(repr=False)

    @contextmanager
    def open(self) -> Iterator[PostgresCommentBook]:
        """Begin a transaction with the rights of a commentator, whoever has logged in.

        Raises
        ------
        DatabaseError
            When the login may not become a commentator, or the server cannot be reached.
        """
        with open_session(self.url) as conn:
            try:
                conn.execute(_BECOME)
            except psycopg.Error as error:
                reason = " ".join(str(error).split())
                raise DatabaseError(f"this login may not become regime_commentator: {reason}. Grant it that role, and no other.") from error
            yield PostgresCommentBook(conn)
