"""The order path of the account that the settings name, wired: database, broker, limits, latch, clocks. Free of Dagster, for the cli too.

On paper every process may have it. In sandbox and live only the executor holds keys; elsewhere the broker is one without any, which reads
what everybody may read and can send nothing.
"""

import os
import socket
from typing import TYPE_CHECKING

from regime_pipeline.adapters.latch_file import LATCH_NAME, LatchFile
from regime_pipeline.clock import Clock, utc_now
from regime_pipeline.errors import ConfigError
from regime_pipeline.ports import Broker, Stores
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.kill_switch import AUTOMATIC, Level
from regime_pipeline.risk.risk_file import load_risk
from regime_pipeline.services.judge_trading import EXECUTOR_SILENT_S
from regime_pipeline.services.trading.context import Trading, TradingTerms, VenueClock
from regime_pipeline.services.trading.kill_levels import MANUAL
from regime_pipeline.settings import Settings

if TYPE_CHECKING:
    from regime_pipeline.executor_secrets import ExecutorSecrets


def build_trading(
    settings: Settings, *, clock: Clock = utc_now, stores: Stores | None = None, secrets: "ExecutorSecrets | None" = None
) -> Trading:
    """Build the order path.

    Parameters
    ----------
    clock : Clock
        Wall clock; a replay hands in its own.
    stores : Stores, optional
        Database to use; None: that of the settings.
    secrets : ExecutorSecrets, optional
        Handed in by the executor and by nobody else; without them no broker outside paper can send or cancel.

    Raises
    ------
    ConfigError
        When the risk file, the mode, a key or a pinned setting of the client refuses.
    VenueReadError
        When the venue cannot be read at the start of an executor.
    """
    if stores is None:
        stores = _open_stores(settings)
    mode, venue_clock = Mode(settings.trading_mode), VenueClock(clock)
    broker = _build_broker(settings, mode, stores, venue_clock, secrets)
    risk = load_risk(settings.risk_file)
    fingerprint, acknowledged = getattr(broker, "fingerprint", ""), None if secrets is None else secrets.account
    if mode is not Mode.PAPER and secrets is None:
        fingerprint, acknowledged = _ask_executor(stores, settings.trading_account, venue_clock)
    return Trading(
        stores=stores,
        broker=broker,
        terms=TradingTerms(
            account=settings.trading_account,
            mode=mode,
            book_id=settings.trading_book,
            trading_enabled=settings.trading_enabled,
            holder=f"{socket.gethostname()}:{os.getpid()}",
            opening_cash_quote=settings.paper_cash_usd,
            key_fingerprint=fingerprint,
            acknowledged_account=acknowledged,
            flatten_on=_read_causes(settings.flatten_on),
        ),
        limits=risk.limits,
        protections=risk.protections,
        latch=LatchFile(settings.kill_dir / LATCH_NAME),
        allocation=risk.allocation,
        clock=venue_clock,
    )


def _read_causes(text: str) -> frozenset[str]:
    """Read what makes a hard stop sell positions; a word that no hard stop can have as its cause is refused."""
    known = {MANUAL, *(trigger.value for trigger, level in AUTOMATIC.items() if level is Level.HARD_STOP)}
    causes = frozenset(text.split())
    if wrong := sorted(causes - known):
        raise ConfigError(f"flatten_on named {', '.join(wrong)}; allowed are {', '.join(sorted(known))}. Correct or remove it.")
    return causes


def _ask_executor(stores: Stores, account: str, clock: VenueClock) -> tuple[str, str | None]:
    """Read fingerprint and acknowledged account from the executor's last sign of life; without a fresh one nothing is armed.

    It makes the gate of a process without keys judge as the executor would; the executor judges again, by what it holds itself.
    """
    with stores.open() as work:
        beats = [beat for beat in work.recon.load_beats() if (beat.process, beat.account) == ("executor", account)]
    for beat in beats:
        if clock.now_ms() - beat.at_ms <= 1000 * EXECUTOR_SILENT_S:
            return str(beat.detail.get("key_fingerprint", "")), beat.detail.get("acknowledged_account")
    return "", None


def _open_stores(settings: Settings) -> Stores:
    from regime_pipeline.adapters.postgres.connect import database_urls
    from regime_pipeline.adapters.postgres.work import PostgresStores

    return PostgresStores(database_urls(settings).regime)


def _build_paper(settings: Settings, stores: Stores, clock: VenueClock, secrets: "ExecutorSecrets | None") -> Broker:
    """Build the paper broker on the database of the settings; a process that holds keys of a real account is refused."""
    from regime_pipeline.adapters.brokers.paper import PaperBroker, PaperTerms
    from regime_pipeline.adapters.brokers.paper_market import StoredMarket
    from regime_pipeline.adapters.postgres.connect import database_urls
    from regime_pipeline.adapters.postgres.work import PostgresStores

    if secrets is not None:
        from regime_pipeline.adapters.brokers.start import refuse_foreign_keys

        refuse_foreign_keys(stores, secrets, settings.trading_account, Mode.PAPER)
    url = stores.url if isinstance(stores, PostgresStores) else database_urls(settings).regime
    terms = PaperTerms(settings.trading_account, settings.trading_quote, settings.trading_market)
    return PaperBroker(url, StoredMarket(settings.trading_quote, settings.trading_market), terms, clock=clock.clock)


def _build_broker(settings: Settings, mode: Mode, stores: Stores, clock: VenueClock, secrets: "ExecutorSecrets | None") -> Broker:
    if mode is Mode.PAPER:
        return _build_paper(settings, stores, clock, secrets)
    from regime_pipeline.adapters.brokers.start import TradingAccount, build_ccxt_broker, build_reader

    if settings.trading_exchange is None:  # the settings see to that
        raise ConfigError(f"trading_mode was {mode} without trading_exchange. Name the exchange.")
    account = TradingAccount(
        settings.trading_exchange, settings.trading_market, settings.trading_account, mode, settings.trading_quote, settings.venue_url
    )
    if secrets is None:
        return build_reader(account, clock.now_ms)
    return build_ccxt_broker(stores, secrets, account, clock.now_ms, correct=clock.correct)
