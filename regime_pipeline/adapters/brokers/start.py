"""How a broker for real venues comes to be: pinned clients, a key that may do no more than it must, and nothing of another mode.

Everything that is wrong refuses to start, by name; a broker that exists has passed.
"""

from collections.abc import Callable
from typing import Final, TypeVar

from regime_pipeline.adapters.brokers.ccxt_broker import CcxtBroker, Lanes
from regime_pipeline.adapters.brokers.client_check import DIALECTS, build_order_client, check_client, reach_of, read_ccxt_facts
from regime_pipeline.adapters.brokers.dialect import Dialect
from regime_pipeline.adapters.brokers.lane import Lane
from regime_pipeline.adapters.brokers.redact import Redactor
from regime_pipeline.errors import ConfigError, VenueReadError
from regime_pipeline.executor_secrets import ExecutorSecrets, KeyKind
from regime_pipeline.ports import BrokerTraits, Failed, Read, Stores
from regime_pipeline.risk.arm import Identity, IdentityKind, Mode, fingerprint_of, identity_conflicts

T = TypeVar("T")

FORBIDDEN: Final = frozenset({"withdraw", "transfer"})
NEEDED: Final = {
    KeyKind.TRADER: frozenset({"read", "trade"}),
    KeyKind.KILL: frozenset({"read", "trade"}),
    KeyKind.SNAPSHOT: frozenset({"read"}),
}


def build_ccxt_broker(
    stores: Stores,
    secrets: ExecutorSecrets,
    *,
    exchange_id: str,
    market_type: str,
    account: str,
    mode: Mode,
    now_ms: Callable[[], int],
    quote: str = "USDT",
    kind: KeyKind = KeyKind.TRADER,
    venue_url: str | None = None,
    correct: Callable[[int], None] | None = None,
) -> CcxtBroker:
    """Build a broker that may trade: asks the venue for its markets, the key's rights and the account's id.

    Parameters
    ----------
    stores : Stores
        Where it is kept which key, host and account belong to which mode.
    secrets : ExecutorSecrets
        Of the executor.
    exchange_id, market_type, account, mode, quote
        As the settings name them.
    now_ms : callable
        Venue-corrected epoch milliseconds (`VenueClock.now_ms`).
    kind : KeyKind
        Which key.
    venue_url : str, optional
        A simulated venue on the loopback, in sandbox mode.
    correct : callable, optional
        Told, before the first signed request, by how many milliseconds the venue's clock is ahead of `now_ms`.

    Raises
    ------
    ConfigError
        When a pinned setting, a right of the key, or something of another mode refuses.
    VenueReadError
        When the venue cannot be read: nothing is assumed of a key or a market.
    """
    broker = _assemble(secrets, exchange_id, market_type, account, mode, now_ms, quote, kind, venue_url, correct)
    asked = _identities(secrets, exchange_id, account, mode, venue_url)
    asked.append(Identity(IdentityKind.KEY, broker.fingerprint, mode, account))
    _refuse_conflicts(stores, asked + _keys(secrets, account, mode))
    _demand("markets", broker.fetch_listings())
    _check_rights(broker, kind, mode)
    broker.venue_account = _demand("account id", broker.fetch_account_id())
    asked.append(Identity(IdentityKind.VENUE_ACCOUNT, f"{exchange_id}:{broker.venue_account}", mode, account))
    _refuse_conflicts(stores, asked)
    with stores.open() as work:
        work.identities.claim(asked)
    return broker


def build_kill_broker(
    secrets: ExecutorSecrets,
    *,
    exchange_id: str,
    market_type: str,
    account: str,
    mode: Mode,
    now_ms: Callable[[], int],
    quote: str = "USDT",
    venue_url: str | None = None,
) -> CcxtBroker:
    """Build a broker that can cancel while nothing else works: no database, no request before the first cancel, no clock that is right.

    Raises
    ------
    ConfigError
        When there is no kill key, or a pinned setting differs.
    """
    clock = _OwnClock(now_ms)
    return _assemble(secrets, exchange_id, market_type, account, mode, clock.now_ms, quote, KeyKind.KILL, venue_url, clock.correct)


def build_reader(
    *,
    exchange_id: str,
    market_type: str,
    account: str,
    mode: Mode,
    now_ms: Callable[[], int],
    quote: str = "USDT",
    venue_url: str | None = None,
) -> CcxtBroker:
    """Build a broker without a key, for whoever decides and does not send: it reads what everybody may, the venue refuses it all else.

    Raises
    ------
    ConfigError
        When there is no such place for orders, or a pinned setting differs.
    """
    return _connect(_dialect(exchange_id, market_type), account, mode, now_ms, quote, venue_url, ("", ""), Redactor([]), "")


class _OwnClock:
    """A clock that nobody else corrects."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms, self._ahead_ms = now_ms, 0

    def now_ms(self) -> int:
        return self._now_ms() + self._ahead_ms

    def correct(self, ahead_ms: int) -> None:
        self._ahead_ms += ahead_ms


def refuse_foreign_keys(stores: Stores, secrets: ExecutorSecrets, account: str, mode: Mode) -> None:
    """Refuse a process that holds a key, or uses an account name, of another mode; paper has no keys of its own, so any known one refuses.

    Raises
    ------
    ConfigError
        When there is one.
    """
    named = [Identity(IdentityKind.ACCOUNT, account, mode, account)]
    _refuse_conflicts(stores, named + (_keys(secrets, account, mode) if secrets.salt is not None else []))


def _assemble(
    secrets: ExecutorSecrets,
    exchange_id: str,
    market_type: str,
    account: str,
    mode: Mode,
    now_ms: Callable[[], int],
    quote: str,
    kind: KeyKind,
    venue_url: str | None,
    correct: Callable[[int], None] | None,
) -> CcxtBroker:
    dialect = _dialect(exchange_id, market_type)
    credentials = secrets.credentials(kind)
    _refuse_shared_keys(secrets, mode)
    # The means to cancel need neither a salt nor this very version of ccxt.
    is_kill = kind is KeyKind.KILL
    salt = secrets.require_salt() if not is_kill or secrets.salt is not None else None
    fingerprint = fingerprint_of(salt, credentials[0]) if salt is not None else ""
    redactor = Redactor(secrets.values())
    return _connect(dialect, account, mode, now_ms, quote, venue_url, credentials, redactor, fingerprint, correct, any_version=is_kill)


def _dialect(exchange_id: str, market_type: str) -> Dialect:
    if (exchange_id, market_type) not in DIALECTS:
        known = ", ".join(" ".join(pair) for pair in DIALECTS)
        raise ConfigError(
            f"orders were to go to {exchange_id} {market_type}; allowed: {known}. Correct trading_exchange or trading_market."
        )
    return DIALECTS[exchange_id, market_type]()


def _connect(
    dialect: Dialect,
    account: str,
    mode: Mode,
    now_ms: Callable[[], int],
    quote: str,
    venue_url: str | None,
    credentials: tuple[str, str],
    redactor: Redactor,
    fingerprint: str,
    correct: Callable[[int], None] | None = None,
    *,
    any_version: bool = False,
) -> CcxtBroker:
    def open_lane(*, has_limiter: bool) -> Lane:
        exchange = build_order_client(dialect, mode, credentials, venue_url=venue_url, has_limiter=has_limiter)
        check_client(exchange, dialect, mode, venue_url, any_version=any_version)
        return Lane(exchange, exchange.session, redactor, now_ms)

    # A simulated venue needs no sparing.
    lanes = Lanes(open_lane(has_limiter=False), open_lane(has_limiter=False), open_lane(has_limiter=venue_url is None))
    return CcxtBroker(_traits(dialect, account, mode, quote), dialect, lanes, now_ms, fingerprint=fingerprint, correct=correct)


def _traits(dialect: Dialect, account: str, mode: Mode, quote: str) -> BrokerTraits:
    return BrokerTraits(
        venue=dialect.exchange_id,
        account=account,
        mode=mode,
        market_type=dialect.market_type,
        quote=quote,
        profile=dialect.profile,
        has_venue_stops=dialect.has_venue_stops,
        client=str(read_ccxt_facts(dialect.exchange_id)),
    )


def _identities(secrets: ExecutorSecrets, exchange_id: str, account: str, mode: Mode, venue_url: str | None) -> list[Identity]:
    """List what is about to be used besides the key."""
    salt = fingerprint_of("salt", secrets.require_salt())
    hosts = [Identity(IdentityKind.HOST, host, mode, account) for host in sorted(reach_of(exchange_id, mode, venue_url).hosts)]
    return [Identity(IdentityKind.SALT, salt, mode, account), Identity(IdentityKind.ACCOUNT, account, mode, account), *hosts]


def _keys(secrets: ExecutorSecrets, account: str, mode: Mode) -> list[Identity]:
    """List every key that we hold: none of them may be of another mode, but only the one that the venue accepted is claimed."""
    salt = secrets.require_salt()
    prints = [fingerprint_of(salt, key.get_secret_value()) for kind in secrets.kinds() if (key := getattr(secrets, f"{kind}_key"))]
    return [Identity(IdentityKind.KEY, each, mode, account) for each in prints]


def _refuse_shared_keys(secrets: ExecutorSecrets, mode: Mode) -> None:
    """Refuse one key for two purposes in live: revoking the trader's would take the means to cancel with it."""
    keys = [getattr(secrets, f"{kind}_key").get_secret_value() for kind in secrets.kinds()]
    if mode is Mode.LIVE and len(set(keys)) < len(keys):
        raise ConfigError(f"keys of kinds {', '.join(secrets.kinds())} were the same; make one at the venue for each purpose.")


def _refuse_conflicts(stores: Stores, asked: list[Identity]) -> None:
    with stores.open() as work:
        stored = work.identities.load()
    if conflicts := identity_conflicts(asked, stored):
        raise ConfigError(f"{'; '.join(conflicts)}. Use the keys, hosts and accounts of this mode; what belongs to which is kept for ever.")


def _check_rights(broker: CcxtBroker, kind: KeyKind, mode: Mode) -> None:
    """Refuse a key that may move money out, or do more or less than its purpose needs.

    A venue's test system may have no such call; a key of it can move no money.
    """
    read = broker.fetch_permissions()
    if isinstance(read, Failed) and mode is Mode.SANDBOX and read.reason.startswith("NOT_SENT"):
        return
    rights = _demand("rights of the key", read)
    problems = [f"it may {right}" for right in sorted(rights & FORBIDDEN)]
    problems += [f"it may not {right}" for right in sorted(NEEDED[kind] - rights)]
    if kind is KeyKind.SNAPSHOT and "trade" in rights:
        problems.append("it may trade")
    if mode is Mode.LIVE and "ip_bound" not in rights:
        problems.append("it works from any address")
    if problems:
        raise ConfigError(f"the {kind} key of {broker.traits.account} was refused: {', '.join(problems)}. Correct its rights at the venue.")


def _demand(what: str, read: Read[T]) -> T:
    if isinstance(read, Failed):
        raise VenueReadError(f"{what} could not be read: {read.reason}. Nothing is assumed; start again when the venue answers.")
    return read.value
