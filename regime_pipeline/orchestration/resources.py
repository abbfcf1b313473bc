"""What assets are handed: the database and the market. They hold no values, since the UI shows those; settings are read when opened."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from regime_pipeline.market.universe import Universe, load_universe
from regime_pipeline.ports import BarSource, Work
from regime_pipeline.risk.limits import RiskSettings
from regime_pipeline.risk.risk_file import RiskFile, load_risk
from regime_pipeline.settings import Settings, load_settings

if TYPE_CHECKING:
    from regime_pipeline.adapters.postgres.audit import PostgresAudit
    from regime_pipeline.adapters.postgres.bar_listener import PostgresBarListener
    from regime_pipeline.adapters.postgres.upkeep import PostgresUpkeep
    from regime_pipeline.adapters.postgres.work import PostgresStores
    from regime_pipeline.adapters.venues.live import LiveMarket
    from regime_pipeline.services.trading.context import Trading


class Stores(dg.ConfigurableResource):  # type: ignore[type-arg]  # Dagster's own generic parameter is for wrapped resources
    """Our database, of the settings."""

    def open(self) -> AbstractContextManager[Work]:
        """Begin a transaction: commits when left without an error, rolls back otherwise."""
        return _open_stores(database_url(load_settings())).open()

    @contextmanager
    def audit(self) -> "Iterator[PostgresAudit]":
        """Open the audit queries, which only read."""
        from regime_pipeline.adapters.postgres.audit import PostgresAudit
        from regime_pipeline.adapters.postgres.connect import open_connection

        with open_connection(database_url(load_settings())) as conn:
            yield PostgresAudit(conn)

    def bar_listener(self) -> "PostgresBarListener":
        """Who hears of new regime bars: one per process, which keeps what is told between two waits."""
        return _open_listener(database_url(load_settings()))

    def upkeep(self) -> "PostgresUpkeep":
        """Deletion of what is over and old."""
        from regime_pipeline.adapters.postgres.upkeep import PostgresUpkeep

        return PostgresUpkeep(database_url(load_settings()))


class Market(dg.ConfigurableResource):  # type: ignore[type-arg]
    """What we watch and where its bars come from, of the settings; built once per process."""

    def source(self, *, patient: bool = False) -> BarSource:
        """Where bars come from; a patient one repeats failed reads after 5, 15 and 60 seconds, for runs that nobody waits for."""
        return build_source(load_settings(), patient=patient)

    def universe(self) -> Universe:
        """What the universe file says."""
        return _read_universe(load_settings())

    def dominance_every_s(self) -> int:
        """Seconds between two questions for dominance."""
        return load_settings().dominance_every_s


class Desk(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The order path of the account that the settings name."""

    def open(self) -> "Trading":
        """Build it, on paper once per process; it holds no key, so that elsewhere it decides and leaves the sending to the executor."""
        settings = load_settings()
        return _open_paper_desk(settings) if settings.trading_mode == "paper" else _open_desk(settings)

    def limits(self) -> RiskSettings:
        """Limits of the risk file."""
        return read_risk(load_settings().risk_file).limits


def _open_desk(settings: Settings) -> "Trading":
    from regime_pipeline.orchestration.trading import build_trading

    return build_trading(settings, stores=_open_stores(database_url(settings)))


# The sensor that stands in for an executor looks every few seconds: a new broker each time would be a new connection each time.
_open_paper_desk = cache(_open_desk)


@cache
def _open_stores(url: str) -> "PostgresStores":
    """Keep one per process: its idle connection serves the next transaction of a run."""
    from regime_pipeline.adapters.postgres.work import PostgresStores

    return PostgresStores(url)


@cache
def _open_listener(url: str) -> "PostgresBarListener":
    from regime_pipeline.adapters.postgres.bar_listener import PostgresBarListener

    return PostgresBarListener(url)


@cache
def read_risk(path: Path) -> RiskFile:
    """Read the risk file, once per process: a change of limits needs a restart, and says so in the decisions' config hash."""
    return load_risk(path)


@cache
def build_source(settings: Settings, *, patient: bool = False) -> BarSource:
    """Build the source that the settings name; with `patient` one that repeats failed reads for minutes, as bootstrap and backfills may.

    Raises
    ------
    ConfigError
        When `source` is recorded and `recorded_path` is not set, or live and the CoinGecko plan lacks its key.
    """
    if settings.source == "live":
        market = build_live(settings)
        return market.patient() if patient else market
    if settings.source == "generated":
        from regime_pipeline.adapters.venues.generated import GeneratedMarket

        return GeneratedMarket(_read_universe(settings), settings.generated_seed)
    if settings.recorded_path is None:
        from regime_pipeline.errors import ConfigError

        raise ConfigError("source was 'recorded' without a folder. Set REGIME_RECORDED_PATH to the folder with the bar files.")
    from regime_pipeline.adapters.venues.recorded import RecordedMarket

    return RecordedMarket(settings.recorded_path)


@cache
def build_live(settings: Settings) -> "LiveMarket":
    """Build the live market of the settings, one per process: its halts, rests and rate limits are shared."""
    from regime_pipeline.adapters.postgres.venue_ledger import PostgresVenueLedger
    from regime_pipeline.adapters.venues.live import LiveMarket

    key = settings.coingecko_key
    return LiveMarket(
        _read_universe(settings),
        PostgresVenueLedger(database_url(settings)),
        venue_url=settings.venue_url,
        timeout_s=settings.fetch_timeout_s,
        coingecko_plan=settings.coingecko_plan,
        coingecko_key=None if key is None else key.get_secret_value(),
        coingecko_monthly_calls=settings.coingecko_monthly_calls,
    )


@cache
def _read_universe(settings: Settings) -> Universe:
    return load_universe(settings.universe)


@cache
def database_url(settings: Settings) -> str:
    """Address of our database; the embedded server is started if need be. Asked once per process."""
    from regime_pipeline.adapters.postgres.connect import database_urls

    return database_urls(settings).regime
