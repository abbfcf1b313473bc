"""What a model may see and say: one snapshot in, one text out. Nothing here knows an order, and nothing reads what it says but people."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Comment:
    """What a model said about a snapshot; at most 8,000 characters."""

    author: str
    snapshot: Mapping[str, Any]
    text: str


class Commentator(Protocol):
    """A model. It is handed a document and gives back text; it holds no connection, no broker and no key."""

    @property
    def name(self) -> str:
        """Who it is, version included."""
        ...

    def comment(self, snapshot: Mapping[str, Any]) -> str:
        """Say something about a snapshot."""
        ...


class CommentBook(Protocol):
    """One transaction with the rights of a commentator: it reads the published snapshot and adds comments, nothing else."""

    def load_snapshot(self) -> Mapping[str, Any]:
        """Load what is published now."""
        ...

    def save(self, comment: Comment) -> None:
        """Add a comment."""
        ...


class CommentStore(Protocol):
    """Opens such transactions."""

    def open(self) -> AbstractContextManager[CommentBook]:
        """Begin one: commits when left without an error, rolls back otherwise."""
        ...
