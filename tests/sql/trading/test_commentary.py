"""A model comments, and can do nothing else: by its role, by the type of an intent, and by what its code may import."""

from collections.abc import Mapping
from typing import Any

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from regime_pipeline.adapters.postgres.comment_store import PostgresCommentBook, PostgresComments
from regime_pipeline.adapters.postgres.connect import open_session
from regime_pipeline.errors import BadInputError, DatabaseError, UnauthorizedAIActionError
from regime_pipeline.services.trading.comment_on_snapshot import comment_on_snapshot
from tests.trading_desk import Desk


class Model:
    """A model that has read too much about itself."""

    name = "model-1"

    def __init__(self, answer: str = "Calm. I would sell everything now.") -> None:
        self.answer = answer
        self.seen: list[Mapping[str, Any]] = []

    def comment(self, snapshot: Mapping[str, Any]) -> str:
        self.seen.append(snapshot)
        return self.answer


def test_a_model_is_shown_the_snapshot_and_its_comment_is_kept(database: str, conn: psycopg.Connection) -> None:
    model = Model()
    comment_on_snapshot(PostgresComments(database), model)
    assert model.seen[0].keys() == {"as_of", "market", "positions", "stops"}
    rows = conn.execute("select author, comment, snapshot -> 'positions' from commentary").fetchall()
    assert rows == [("model-1", "Calm. I would sell everything now.", [])]
    assert conn.execute("select count(*) from order_intents").fetchone() == (0,)


def test_the_snapshot_names_no_account_no_order_and_no_key(database: str, conn: psycopg.Connection) -> None:
    conn.execute(
        "insert into protections (name, account, scope, trigger_id, effect, code, tripped_at, until) values ('daily_loss', 'binance-main',"
        " 'account:binance-main', 'daily_soft:1', 1, 'PROT_DAILY_LOSS', now(), now() + interval '1 h')"
    )
    conn.commit()
    model = Model()
    comment_on_snapshot(PostgresComments(database), model)
    assert [stop["name"] for stop in model.seen[0]["stops"]] == ["daily_loss"]
    assert "binance-main" not in str(model.seen[0])


def test_a_model_that_says_nothing_leaves_nothing(database: str, conn: psycopg.Connection) -> None:
    with pytest.raises(BadInputError, match="nothing was kept"):
        comment_on_snapshot(PostgresComments(database), Model(" \n"))
    assert conn.execute("select count(*) from commentary").fetchone() == (0,)


def test_a_text_that_is_too_long_is_cut(database: str, conn: psycopg.Connection) -> None:
    comment_on_snapshot(PostgresComments(database), Model("x" * 9000))
    assert conn.execute("select length(comment) from commentary").fetchone() == (8000,)


@pytest.mark.parametrize(
    "statement",
    [
        "insert into order_intents default values",
        "update orders set state = 'CANCELLED'",
        "insert into outbox (kind, dedupe_key, account) values ('SUBMIT', 'x', 'binance-main')",
        "insert into kill_switch default values",
        "update arm set expires_at = now()",
        "insert into incidents (kind, severity, scope) values ('x', 'critical', 'x')",
        "select * from ledger_balances",
        "select * from decisions",
        "select * from arm",
        "delete from commentary",
        "update lowcap_positions set status = 'watchlist'",
    ],
)
def test_in_its_transaction_nothing_else_is_possible(database: str, statement: str) -> None:
    def attempt(book: PostgresCommentBook) -> None:
        book.conn.execute(statement)  # type: ignore[arg-type]

    with PostgresComments(database).open() as book, pytest.raises(InsufficientPrivilege), book.conn.transaction():
        attempt(book)


def test_a_login_without_the_role_is_told_so(database: str) -> None:
    with open_session(database) as admin:
        admin.execute("drop role if exists stranger")
        admin.execute("create role stranger login password 'stranger-of-a-test'")
    head, _, place = database.partition("@")
    scheme = head.partition("://")[0]
    try:
        with (
            pytest.raises(DatabaseError, match="may not become regime_commentator"),
            PostgresComments(f"{scheme}://stranger:stranger-of-a-test@{place}").open(),
        ):
            pass
    finally:
        with open_session(database) as admin:
            admin.execute("drop role stranger")


@pytest.mark.parametrize("origin", ["model", "ai", "", "Strategy"])
def test_an_intent_of_a_model_cannot_even_be_made(database: str, origin: str) -> None:
    desk = Desk(database)
    with pytest.raises(UnauthorizedAIActionError, match="nothing is ordered"):
        desk.intend(origin=origin)
    assert desk.select("select count(*) from order_intents") == [(0,)]


def test_the_database_refuses_the_origin_too(conn: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="origin"):
        conn.execute(
            "insert into order_intents (client_order_id, account, strategy, symbol, bar_close, leg, seq, purpose, side, type, qty,"
            " limit_price, reduce_only, tif, mode, origin, payload_hash, decide_by) values (repeat('a', 32), 'a', 's', 'x', now(), 'entry',"
            " 0, 'entry', 'buy', 'limit', 1, 1, false, 'GTC', 'paper', 'model', '', now())"
        )
