"""The order path as the settings name it: paper for everybody, keys for the executor alone."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from regime_pipeline.adapters.brokers.ccxt_broker import CcxtBroker
from regime_pipeline.adapters.brokers.paper import PaperBroker
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.clock import utc_now
from regime_pipeline.errors import ConfigError
from regime_pipeline.executor_secrets import ExecutorSecrets
from regime_pipeline.orchestration.trading import build_trading
from regime_pipeline.ports import Ok, TradingBeat
from regime_pipeline.risk.arm import Identity, IdentityKind, Mode, fingerprint_of
from regime_pipeline.risk.kill_switch import Level, Scope, Switch
from regime_pipeline.services.trading.open_account import open_account
from regime_pipeline.settings import Settings

REAL = {"trading_mode": "live", "trading_account": "binance-main", "trading_exchange": "binance"}


def settings_of(database: str, folder: Path, **changes: Any) -> Settings:
    return Settings.model_validate({"database_url": database, "dagster_database_url": database, "home": folder, **changes})


def test_paper_is_built_from_settings_and_risk_file(database: str, tmp_path: Path) -> None:
    risk = tmp_path / "risk.toml"
    risk.write_text("[limits]\nmax_positions = 3\n[protections]\nguard_losses = 5\n[portfolio]\nalloc_pct = 10\n")
    trading = build_trading(settings_of(database, tmp_path, paper_cash_usd=5000, risk_file=risk, trading_enabled=True))
    assert isinstance(trading.broker, PaperBroker)
    assert (trading.terms.account, trading.terms.mode, trading.terms.trading_enabled) == ("paper-main", Mode.PAPER, True)
    assert (trading.limits.max_positions, trading.protections.guard_losses, trading.allocation.alloc_pct) == (3, 5, 10)
    assert open_account(trading)
    assert not open_account(trading)
    balances = trading.broker.fetch_balances()
    assert isinstance(balances, Ok)
    assert balances.value["USDT"].total == Decimal(5000)
    trading.broker.close()


def test_what_flattens_is_named_by_the_settings_and_a_wrong_word_is_refused(database: str, tmp_path: Path) -> None:
    trading = build_trading(settings_of(database, tmp_path, flatten_on="drawdown_kill  manual"))
    assert trading.terms.flatten_on == {"drawdown_kill", "manual"}
    with pytest.raises(ConfigError, match="flatten_on named daily_loss; allowed are"):
        build_trading(settings_of(database, tmp_path, flatten_on="daily_loss"))


def test_the_latch_is_that_of_the_state_folder(database: str, tmp_path: Path) -> None:
    trading = build_trading(settings_of(database, tmp_path, state_dir=tmp_path / "kill"))
    trading.latch.change(lambda _: [Switch(Scope(), Level.HARD_STOP, "manual", "anna", "drill", 0)])
    assert (tmp_path / "kill" / "kill.latch").exists()
    (seen,) = build_trading(settings_of(database, tmp_path, state_dir=tmp_path / "kill")).latch.read()
    assert seen.level is Level.HARD_STOP


def test_a_paper_process_that_holds_a_known_real_key_is_refused(database: str, tmp_path: Path) -> None:
    key = {"trader_key": SecretStr("EXAMPLEKEY0001"), "trader_secret": SecretStr("EXAMPLESECRET1"), "salt": SecretStr("salt-7f-example")}
    secrets = ExecutorSecrets.model_validate(key)
    assert build_trading(settings_of(database, tmp_path), secrets=secrets).terms.mode is Mode.PAPER  # known to belong to nobody
    with PostgresStores(database).open() as work:
        fingerprint = fingerprint_of("salt-7f-example", "EXAMPLEKEY0001")
        work.identities.claim([Identity(IdentityKind.KEY, fingerprint, Mode.LIVE, "binance-main")])
    with pytest.raises(ConfigError, match="belongs to live mode, asked for in paper"):
        build_trading(settings_of(database, tmp_path), secrets=secrets)


def test_without_secrets_a_live_broker_has_no_key_and_is_not_armed(database: str, tmp_path: Path) -> None:
    trading = build_trading(settings_of(database, tmp_path, **REAL))
    assert isinstance(trading.broker, CcxtBroker)
    assert (trading.broker.fingerprint, trading.terms.key_fingerprint, trading.terms.acknowledged_account) == ("", "", None)
    assert trading.broker.traits.mode is Mode.LIVE


@pytest.mark.parametrize(("age_s", "armed"), [(89, True), (92, False)])
def test_a_tick_without_keys_knows_those_of_a_living_executor(database: str, tmp_path: Path, age_s: int, armed: bool) -> None:
    at_ms = round(1000 * utc_now().timestamp()) - 1000 * age_s
    detail = {"key_fingerprint": "6e2cfe9e147db174", "acknowledged_account": "binance-main"}
    with PostgresStores(database).open() as work:
        work.recon.beat(TradingBeat("executor", "binance-main", at_ms, 1, detail))
    terms = build_trading(settings_of(database, tmp_path, **REAL)).terms
    expected = ("6e2cfe9e147db174", "binance-main") if armed else ("", None)
    assert (terms.key_fingerprint, terms.acknowledged_account) == expected


def test_an_executor_without_a_key_does_not_start(database: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the trader key was not given"):
        build_trading(settings_of(database, tmp_path, **REAL), secrets=ExecutorSecrets())


def test_orders_go_only_where_they_are_known_to_work(database: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="allowed: binance spot, bybit linear"):
        build_trading(settings_of(database, tmp_path, **{**REAL, "trading_exchange": "kraken"}))
