"""How a broker for real venues comes to be: pinned clients, a key that may do no more than it must, and nothing of another mode.

Everything that is wrong refuses to start, by name; a broker that exists has passed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
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


@dataclass(frozen=True, slots=True)
class TradingAccount:
    """An account and where it trades, as the settings name them.

    Parameters
    ----------
    exchange_id, market_type : str
        Exchange by its name in ccxt, and `spot` or `linear`.
    name : str
        Ours for the account; every order, ledger row and lease carries it.
    quote : str
        Asset that prices and money are in.
    venue_url : str, optional
        A simulated venue on the loopback, in sandbox mode.
    """

    exchange_id: str
    market_type: str
    name: str
    mode: Mode
    quote: str = "USDT"
    venue_url: str | None = None


def build_ccxt_broker(
    stores: Stores,
    secrets: ExecutorSecrets,
    account: TradingAccount,
    now_ms: Callable[[], int],
    *,
    kind: KeyKind = KeyKind.TRADER,
    correct: Callable[[int], None] | None = None,
) -> CcxtBroker:
    """Build a broker that may trade: asks the venue for its markets, the key's rights and the account's id.

    Parameters
    ----------
    stores : Stores
        Where it is kept which key, host and account belong to which mode.
    secrets : ExecutorSecrets
        Of the executor.
    now_ms : callable
        Venue-corrected epoch milliseconds (`VenueClock.now_ms`).
    kind : KeyKind
        Which key.
    correct : callable, optional
        Told, before the first signed request, by how many milliseconds the venue's clock is ahead of `now_ms`.

    Raises
    ------
    ConfigError
        When a pinned setting, a right of the key, or something of another mode refuses.
    VenueReadError
        When the venue cannot be read: nothing is assumed of a key or a market.
    """
    broker = _assemble(secrets, account, now_ms, kind, correct)
    asked = _identities(secrets, account)
    asked.append(Identity(IdentityKind.KEY, broker.fingerprint, account.mode, account.name))
    _refuse_conflicts(stores, asked + _keys(secrets, account.name, account.mode))
    _demand("markets", broker.fetch_listings())
    _check_rights(broker, kind, account.mode)
    broker.venue_account = _demand("account id", broker.fetch_account_id())
    venue_account = f"{account.exchange_id}:{broker.venue_account}"
    asked.append(Identity(IdentityKind.VENUE_ACCOUNT, venue_account, account.mode, account.name))
    _refuse_conflicts(stores, asked)
    with stores.open() as work:
        work.identities.claim(asked)
    return broker


def build_kill_broker(secrets: ExecutorSecrets, account: TradingAccount, now_ms: Callable[[], int]) -> CcxtBroker:
    """Build a broker that can cancel while nothing else works: no database, no request before the first cancel, no clock that is right.

    Raises
    ------
    ConfigError
        When there is no kill key, or a pinned setting differs.
    """
    clock = _OwnClock(now_ms)
    return _assemble(secrets, account, clock.now_ms, KeyKind.KILL, clock.correct)


def build_reader(account: TradingAccount, now_ms: Callable[[], int]) -> CcxtBroker:
    """Build a broker without a key, for whoever decides and does not send: it reads what everybody may, the venue refuses it all else.

    Raises
    ------
    ConfigError
        When there is no such place for orders, or a pinned setting differs.
    """
    return _connect(account, now_ms, _Access(("", ""), Redactor([]), ""))


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


@dataclass(frozen=True, slots=True)
class _Access:
    """What signs requests, what keeps it out of every text, and what names it; key and secret may be empty."""

    credentials: tuple[str, str] = field(repr=False)
    redactor: Redactor
    fingerprint: str


def _assemble(
    secrets: ExecutorSecrets, account: TradingAccount, now_ms: Callable[[], int], kind: KeyKind, correct: Callable[[int], None] | None
) -> CcxtBroker:
    credentials = secrets.credentials(kind)
    _refuse_shared_keys(secrets, account.mode)
    # The means to cancel need neither a salt nor this very version of ccxt.
    is_kill = kind is KeyKind.KILL
    salt = secrets.require_salt() if not is_kill or secrets.salt is not None else None
    fingerprint = fingerprint_of(salt, credentials[0]) if salt is not None else ""
    access = _Access(credentials, Redactor(secrets.values()), fingerprint)
    return _connect(account, now_ms, access, correct, any_version=is_kill)


def _connect(
    account: TradingAccount,
    now_ms: Callable[[], int],
    access: _Access,
    correct: Callable[[int], None] | None = None,
    *,
    any_version: bool = False,
) -> CcxtBroker:
    dialect, mode, venue_url = _dialect(account), account.mode, account.venue_url

    def open_lane(*, has_limiter: bool) -> Lane:
        exchange = build_order_client(dialect, mode, access.credentials, venue_url=venue_url, has_limiter=has_limiter)
        check_client(exchange, dialect, mode, venue_url, any_version=any_version)
        return Lane(exchange, exchange.session, access.redactor, now_ms)

    # A simulated venue needs no sparing.
    lanes = Lanes(open_lane(has_limiter=False), open_lane(has_limiter=False), open_lane(has_limiter=venue_url is None))
    return CcxtBroker(_traits(dialect, account), dialect, lanes, now_ms, fingerprint=access.fingerprint, correct=correct)


def _dialect(account: TradingAccount) -> Dialect:
    place = account.exchange_id, account.market_type
    if place not in DIALECTS:
        known = ", ".join(" ".join(pair) for pair in DIALECTS)
        raise ConfigError(f"orders were to go to {' '.join(place)}; allowed: {known}. Correct trading_exchange or trading_market.")
    return DIALECTS[place]()


def _traits(dialect: Dialect, account: TradingAccount) -> BrokerTraits:
    return BrokerTraits(
        venue=dialect.exchange_id,
        account=account.name,
        mode=account.mode,
        market_type=dialect.market_type,
        quote=account.quote,
        profile=dialect.profile,
        has_venue_stops=dialect.has_venue_stops,
        client=str(read_ccxt_facts(dialect.exchange_id)),
    )


def _identities(secrets: ExecutorSecrets, account: TradingAccount) -> list[Identity]:
    """List what is about to be used besides the key."""
    reach = reach_of(account.exchange_id, account.mode, account.venue_url)
    used = [(IdentityKind.SALT, fingerprint_of("salt", secrets.require_salt())), (IdentityKind.ACCOUNT, account.name)]
    used += [(IdentityKind.HOST, host) for host in sorted(reach.hosts)]
    return [Identity(kind, value, account.mode, account.name) for kind, value in used]


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
