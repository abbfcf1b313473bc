"""Letting a model comment on the market and the book. It can say what it likes: nothing that trades reads it."""

from collections.abc import Mapping
from typing import Any, Final

from regime_pipeline.errors import BadInputError
from regime_pipeline.ports.commentary import Comment, Commentator, CommentStore

MAX_CHARS: Final = 8000


def comment_on_snapshot(store: CommentStore, commentator: Commentator) -> Comment:
    """Show a model the published snapshot and keep what it says.

    The model is asked between two transactions, so that it holds nothing open however long it takes.

    Parameters
    ----------
    store : CommentStore
        With the rights of a commentator, which are to read one view and to add comments.

    Raises
    ------
    BadInputError
        When it says nothing.
    """
    with store.open() as book:
        snapshot: Mapping[str, Any] = book.load_snapshot()
    text = commentator.comment(snapshot).strip()
    if not text:
        raise BadInputError(f"comment of {commentator.name} was empty; nothing was kept")
    comment = Comment(commentator.name, snapshot, text[:MAX_CHARS])
    with store.open() as book:
        book.save(comment)
    return comment
