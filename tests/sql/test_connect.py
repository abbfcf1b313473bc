"""Addresses and connections: what exists afterwards, and what a wrong address is told."""

import subprocess
import sys

import psycopg
import pytest

from regime_pipeline.adapters.postgres.connect import Urls, database_urls, open_connection
from regime_pipeline.adapters.postgres.embedded import ServerAddress
from regime_pipeline.errors import DatabaseError
from regime_pipeline.settings import Settings
from tests.fixtures_postgres import open_home


def test_the_embedded_server_has_both_databases_and_dagsters_names_its_driver() -> None:
    with open_home() as home:
        urls = database_urls(Settings(home=home))
        assert urls.dagster.startswith("postgresql+psycopg2://")
        for url, name in ((urls.regime, "regime"), (urls.dagster.replace("+psycopg2", ""), "dagster")):
            with open_connection(url) as conn:
                assert conn.info.dbname == name
        assert database_urls(Settings(home=home)) == urls


def test_an_external_servers_missing_databases_are_created_even_by_many_at_once(postgres_server: ServerAddress) -> None:
    url = postgres_server.url("made_here")
    other = postgres_server.url("made_there")
    code = f"""
from regime_pipeline.adapters.postgres.connect import database_urls
from regime_pipeline.settings import Settings
database_urls(Settings(database_url={url!r}, dagster_database_url={other!r}))
"""
    callers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [caller.wait() for caller in callers] == [0] * 4
    with psycopg.connect(postgres_server.url("postgres"), autocommit=True) as admin:
        for name in ("made_here", "made_there"):
            admin.execute(f"drop database {name}")


def test_dagsters_database_defaults_to_the_same_server(postgres_server: ServerAddress, database: str) -> None:
    urls = database_urls(Settings(database_url=database.replace("postgresql://", "postgres://")))
    assert urls == Urls(database, postgres_server.url("dagster", "postgresql+psycopg2"))
    with psycopg.connect(postgres_server.url("postgres"), autocommit=True) as admin:
        admin.execute("drop database dagster")


def test_a_session_speaks_utc_and_says_who_it_is(database: str) -> None:
    with open_connection(database) as conn:
        row = conn.execute(
            "select current_setting('timezone'), current_setting('application_name'), current_setting('lock_timeout')"
        ).fetchone()
    assert row == ("UTC", "regime", "1min")


def test_a_server_whose_machine_vanished_is_given_up_in_seconds_unless_the_address_says_otherwise(database: str) -> None:
    patient = f"{database}{'&' if '?' in database else '?'}tcp_user_timeout=60000"
    for url, timeout_ms in ((database, "10000"), (patient, "60000")):
        with open_connection(url) as conn:
            told = conn.info.get_parameters()
        assert (told["keepalives_idle"], told["keepalives_count"], told["tcp_user_timeout"]) == ("5", "3", timeout_ms)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://me:s3cr3t@127.0.0.1:1/regime", r"database 'regime' at 127\.0\.0\.1:1 as user 'me'.*REGIME_DATABASE_URL"),
        ("postgresql://me:s3cr3t@no-such-host.invalid/regime", r"at no-such-host\.invalid:5432"),
        ("postgresql://me:s3cr3t@127.0.0.1:port/regime", r"at 127\.0\.0\.1:port .*invalid integer"),
        ("postgresql://me:s3cr3t@[127.0.0.1/regime", "not a valid URL"),
        ("postgresql://me:s3cr3t%zz@127.0.0.1/regime", "not a valid URL"),
        ("postgresql://me:s3cr3t@x@127.0.0.1:1/regime", "%40"),
        ("postgresql://me:s3cr3t@127.0.0.1:1", "names no database"),
        ("sqlite:///s3cr3t.db", "only postgresql"),
    ],
)
def test_a_wrong_address_is_explained_without_the_password(url: str, told: str) -> None:
    with pytest.raises(DatabaseError, match=told) as caught:
        database_urls(Settings(database_url=url))
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_wrong_password_is_explained(postgres_server: ServerAddress) -> None:
    wrong = ServerAddress(postgres_server.host, postgres_server.port, postgres_server.user, "s3cr3t")
    with pytest.raises(DatabaseError, match="password authentication failed") as caught:
        open_connection(wrong.url("regime"))
    assert "s3cr3t" not in str(caught.value)


def test_a_database_that_may_not_be_created_is_named(postgres_server: ServerAddress) -> None:
    with psycopg.connect(postgres_server.url("postgres"), autocommit=True) as admin:
        admin.execute("create role plain login password 'plain'")
        try:
            address = ServerAddress(postgres_server.host, postgres_server.port, "plain", "plain")
            with pytest.raises(DatabaseError, match=r"'absent' does not exist and could not be created.*grant this user CREATEDB"):
                database_urls(Settings(database_url=address.url("absent")))
        finally:
            admin.execute("drop role plain")


def test_urls_keep_their_passwords_out_of_repr() -> None:
    assert "secret" not in repr(Urls("postgresql://a:secret@h/d", "postgresql://a:secret@h/e"))
