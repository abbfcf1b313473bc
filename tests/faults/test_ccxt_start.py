"""How a broker for a real venue starts, against a simulated one and a real database: what refuses, by name, and what is kept (X54)."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from regime_pipeline.adapters.brokers.ccxt_broker import CcxtBroker
from regime_pipeline.adapters.brokers.start import TradingAccount, build_ccxt_broker, build_kill_broker, refuse_foreign_keys
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.errors import ConfigError, VenueReadError
from regime_pipeline.executor_secrets import ExecutorSecrets, KeyKind
from regime_pipeline.ports import Ok
from regime_pipeline.risk.arm import Identity, IdentityKind, Mode, fingerprint_of
from regime_pipeline.simulation.trading import ApiKeys
from tests.brokers import SALT, secrets_of
from tests.trading import EXCHANGES, TradingVenue, serve_trading


@pytest.fixture
def venue(request: pytest.FixtureRequest) -> Iterator[TradingVenue]:
    """Binance spot, unless a test is parametrized with the market type."""
    with serve_trading(getattr(request, "param", "spot")) as running:
        yield running


both = pytest.mark.parametrize("venue", ["spot", "linear"], indirect=True)


@pytest.fixture
def stores(database: str) -> Iterator[PostgresStores]:
    opened = PostgresStores(database)
    yield opened
    opened.close()


def start(
    venue: TradingVenue,
    stores: PostgresStores,
    secrets: ExecutorSecrets | None = None,
    kind: KeyKind = KeyKind.TRADER,
    **changes: Any,
) -> CcxtBroker:
    usual: dict[str, Any] = {
        "exchange_id": EXCHANGES[venue.market_type],
        "market_type": venue.market_type.value,
        "name": "sim-main",
        "mode": Mode.SANDBOX,
        "venue_url": venue.url,
    }
    account = TradingAccount(**{**usual, **changes})
    return build_ccxt_broker(stores, secrets or secrets_of(venue.keys), account, lambda: venue.now_ms, kind=kind)


def kept(stores: PostgresStores) -> set[tuple[str, str, str]]:
    with stores.open() as work:
        return {(each.kind.value, each.value, each.mode.value) for each in work.identities.load()}


def claim(stores: PostgresStores, *identities: Identity) -> None:
    with stores.open() as work:
        work.identities.claim(identities)


@both
def test_a_broker_that_starts_can_trade_and_is_remembered(venue: TradingVenue, stores: PostgresStores) -> None:
    for _ in range(2):  # another start changes nothing
        broker = start(venue, stores)
        assert isinstance(broker.fetch_quote("BTC/USDT" if venue.market_type.value == "spot" else "BTC/USDT:USDT"), Ok)
        assert broker.fingerprint == fingerprint_of(SALT, venue.keys["trader"].key)
        assert broker.traits.client.startswith("ccxt 4.")
        assert broker.traits.has_venue_stops == (venue.market_type.value == "linear")
        assert kept(stores) == {
            ("key", broker.fingerprint, "sandbox"),
            ("host", "127.0.0.1", "sandbox"),
            ("account", "sim-main", "sandbox"),
            ("venue_account", f"{EXCHANGES[venue.market_type]}:{broker.venue_account}", "sandbox"),
            ("salt", fingerprint_of("salt", SALT), "sandbox"),
        }


def test_nothing_secret_is_kept(venue: TradingVenue, stores: PostgresStores, conn: psycopg.Connection) -> None:
    start(venue, stores)
    told = str(kept(stores))
    for kind in KeyKind:
        assert venue.keys[kind].key not in told
        assert venue.keys[kind].secret not in told
    assert SALT not in told


@both
@pytest.mark.parametrize(
    ("rights", "problem"),
    [
        (("read", "trade", "withdraw"), "it may withdraw"),
        (("read", "trade", "transfer"), "it may transfer"),
        (("read", "trade", "withdraw", "transfer"), "it may transfer, it may withdraw"),
        (("read",), "it may not trade"),
    ],
)
def test_a_key_that_may_do_too_much_or_too_little_refuses(
    venue: TradingVenue, stores: PostgresStores, rights: tuple[str, ...], problem: str
) -> None:
    venue.keys.grant("trader", *rights)
    with pytest.raises(ConfigError, match=f"the trader key of sim-main was refused: {problem}. Correct its rights at the venue"):
        start(venue, stores)
    assert kept(stores) == set()  # a key that was refused belongs to no mode


def test_a_key_that_only_reads_may_not_trade(venue: TradingVenue, stores: PostgresStores) -> None:
    assert start(venue, stores, kind=KeyKind.SNAPSHOT).fingerprint == fingerprint_of(SALT, venue.keys["snapshot"].key)
    venue.keys.grant("snapshot", "read", "trade")
    with pytest.raises(ConfigError, match="the snapshot key of sim-main was refused: it may trade"):
        start(venue, stores, kind=KeyKind.SNAPSHOT)


@pytest.mark.parametrize(
    ("venue", "on", "what"),
    [
        ("spot", "GET /api/v3/exchangeInfo", "markets"),
        ("spot", "GET /sapi/v1/account/apiRestrictions", "rights of the key"),
        ("spot", "GET /api/v3/account", "account id"),
        ("linear", "GET /v5/market/instruments-info", "markets"),
        ("linear", "GET /v5/user/query-api", "rights of the key"),
    ],
    indirect=["venue"],
)
def test_what_cannot_be_read_is_not_assumed(venue: TradingVenue, stores: PostgresStores, on: str, what: str) -> None:
    venue.script({"on": on, "status": 200, "body": "<html>maintenance</html>", "repeat": 0})
    with pytest.raises(VenueReadError, match=f"{what} could not be read: .*NO_JSON.* Nothing is assumed"):
        start(venue, stores)
    assert kept(stores) == set()


def test_a_key_that_was_revoked_refuses_without_being_shown(venue: TradingVenue, stores: PostgresStores) -> None:
    venue.keys.revoke("trader")
    with pytest.raises(VenueReadError) as caught:
        start(venue, stores)
    assert venue.keys["trader"].key not in str(caught.value)


LIVE, SANDBOX, PAPER = Mode.LIVE, Mode.SANDBOX, Mode.PAPER


@pytest.mark.fault_row("X54")
@pytest.mark.parametrize(
    ("kind", "mode"), [("key", LIVE), ("key", PAPER), ("kill key", LIVE), ("host", LIVE), ("account", PAPER), ("venue_account", LIVE)]
)
def test_what_belongs_to_another_mode_refuses(venue: TradingVenue, stores: PostgresStores, mode: Mode, kind: str) -> None:
    """A live key, host or account in a sandbox; the other keys that the executor holds count as well."""
    seen = {
        "key": (IdentityKind.KEY, fingerprint_of(SALT, venue.keys["trader"].key)),
        "kill key": (IdentityKind.KEY, fingerprint_of(SALT, venue.keys["kill"].key)),
        "host": (IdentityKind.HOST, "127.0.0.1"),
        "account": (IdentityKind.ACCOUNT, "sim-main"),
        "venue_account": (IdentityKind.VENUE_ACCOUNT, f"{EXCHANGES[venue.market_type]}:{_account_of(venue)}"),
    }
    claim(stores, Identity(*seen[kind], mode, "other-main"))
    with pytest.raises(ConfigError, match=f"{seen[kind][0]} {seen[kind][1]} belongs to {mode} mode, asked for in sandbox"):
        start(venue, stores)


def _account_of(venue: TradingVenue) -> str:
    from tests.brokers import connect

    read = connect(venue).fetch_account_id()
    assert isinstance(read, Ok)
    return read.value


@pytest.mark.fault_row("X54")
def test_a_mix_up_is_found_before_the_key_leaves(venue: TradingVenue, stores: PostgresStores) -> None:
    claim(stores, Identity(IdentityKind.KEY, fingerprint_of(SALT, venue.keys["trader"].key), LIVE, "binance-main"))
    with pytest.raises(ConfigError, match="belongs to live mode"):
        start(venue, stores)
    assert venue.truth()["requests"] == {}


@both
def test_a_known_account_whose_key_is_another_accounts_refuses(venue: TradingVenue, stores: PostgresStores) -> None:
    exchange = EXCHANGES[venue.market_type]
    claim(stores, Identity(IdentityKind.VENUE_ACCOUNT, f"{exchange}:1", SANDBOX, "sim-main"))
    with pytest.raises(ConfigError, match=f"account sim-main is venue account {exchange}:1, the key is of {exchange}:{_account_of(venue)}"):
        start(venue, stores)


def test_another_salt_refuses(venue: TradingVenue, stores: PostgresStores) -> None:
    """With a new salt every key would look new, and no mix-up would be seen."""
    start(venue, stores)
    with pytest.raises(ConfigError, match="the salt is not the one that fingerprints were made with"):
        start(venue, stores, secrets_of(venue.keys, salt="another-salt"))


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"mode": LIVE}, "a simulated venue is a sandbox"),
        ({"mode": PAPER, "venue_url": None}, "has no hosts"),
        ({"exchange_id": "okx"}, "allowed: binance spot, bybit linear"),
        ({"venue_url": "http://10.1.2.3"}, "a simulated venue is a sandbox on 127.0.0.1"),
    ],
)
def test_a_place_that_is_not_on_the_list_refuses(venue: TradingVenue, stores: PostgresStores, changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        start(venue, stores, **changes)
    assert venue.truth()["requests"] == {}


def test_live_wants_a_key_for_each_purpose(stores: PostgresStores) -> None:
    keys = ApiKeys()
    shared = secrets_of(keys, kill_key=keys["trader"].key)
    account = TradingAccount("binance", "spot", "binance-main", LIVE)
    with pytest.raises(ConfigError, match="keys of kinds trader, kill, snapshot were the same"):
        build_ccxt_broker(stores, shared, account, lambda: 0)
    with pytest.raises(ConfigError, match="the trader key was not given"):
        build_ccxt_broker(stores, ExecutorSecrets(), account, lambda: 0)


def test_paper_holds_no_key_of_another_mode(venue: TradingVenue, stores: PostgresStores) -> None:
    secrets = secrets_of(venue.keys)
    refuse_foreign_keys(stores, secrets, "paper-main", PAPER)
    refuse_foreign_keys(stores, ExecutorSecrets(), "paper-main", PAPER)
    start(venue, stores)
    with pytest.raises(ConfigError, match="belongs to sandbox mode, asked for in paper"):
        refuse_foreign_keys(stores, secrets, "paper-main", PAPER)
    with pytest.raises(ConfigError, match="account sim-main belongs to sandbox mode"):
        refuse_foreign_keys(stores, ExecutorSecrets(), "sim-main", PAPER)


def test_the_kill_broker_needs_neither_database_nor_venue_to_start() -> None:
    account = TradingAccount("bybit", "linear", "bybit-main", LIVE)
    broker = build_kill_broker(secrets_of(ApiKeys(), salt="a-salt-that-is-not-needed"), account, lambda: 0)
    assert broker.traits.mode is LIVE


@pytest.mark.parametrize(
    "statement", ["update trading_identities set mode = 'live'", "delete from trading_identities", "truncate trading_identities"]
)
def test_what_was_seen_is_never_changed(conn: psycopg.Connection, statement: str) -> None:
    conn.execute("insert into trading_identities (kind, value, mode, account) values ('key', 'f', 'sandbox', 'a')")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute(statement)


def test_the_first_claim_stands(stores: PostgresStores) -> None:
    claim(stores, Identity(IdentityKind.KEY, "f", SANDBOX, "a"))
    claim(
        stores,
        Identity(IdentityKind.KEY, "f", LIVE, "b"),
        Identity(IdentityKind.SALT, "s", LIVE, "b"),
        Identity(IdentityKind.SALT, "t", LIVE, "b"),
    )
    assert kept(stores) == {("key", "f", "sandbox"), ("salt", "s", "live")}
