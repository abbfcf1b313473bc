"""Brokers that trade at a simulated venue through real ccxt clients: `with serve_trading() as venue: broker = connect(venue)`."""

from collections.abc import Callable
from pathlib import Path

from pydantic import SecretStr

from regime_pipeline.adapters.brokers.ccxt_broker import CcxtBroker
from regime_pipeline.adapters.brokers.start import TradingAccount, build_kill_broker
from regime_pipeline.executor_secrets import ExecutorSecrets
from regime_pipeline.ports import Ok
from regime_pipeline.risk.arm import Mode
from regime_pipeline.simulation.trading import ApiKeys
from tests.trading import EXCHANGES, TradingVenue

SALT = "salt-of-tests"
SYMBOLS = {"spot": "BTC/USDT", "linear": "BTC/USDT:USDT"}


def secrets_of(keys: ApiKeys, **changes: str) -> ExecutorSecrets:
    """The keys of a simulated venue as the executor holds them."""
    values = {f"{kind}_{part}": getattr(keys[kind], part) for kind in keys.kinds() for part in ("key", "secret")}
    return ExecutorSecrets(**{name: SecretStr(value) for name, value in {**values, "salt": SALT, **changes}.items()})


def connect(venue: TradingVenue, now_ms: Callable[[], int] | None = None, *, is_ready: bool = True) -> CcxtBroker:
    """A sandbox broker of a venue by the venue's own clock, that knows the markets; no database is needed.

    Parameters
    ----------
    is_ready : bool
        False: without having read the markets.
    """
    exchange_id = EXCHANGES[venue.market_type]
    account = TradingAccount(exchange_id, venue.market_type.value, f"{exchange_id}-test", Mode.SANDBOX, venue_url=venue.url)
    broker = build_kill_broker(secrets_of(venue.keys), account, now_ms or (lambda: venue.now_ms))
    trust(broker, venue.pem)
    if is_ready:
        read = broker.fetch_listings()
        assert isinstance(read, Ok), read
    return broker


def trust(broker: CcxtBroker, pem: Path | None) -> None:
    """Let the clients of a broker believe a venue's own certificate."""
    for lane in broker._lanes.all() if pem is not None else ():
        lane.exchange.validateServerSsl = str(pem)
