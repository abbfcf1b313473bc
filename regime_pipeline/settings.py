"""Frozen settings with units, read from the environment in this one place.

Every field can be set by `REGIME_<FIELD NAME IN CAPITALS>`; the generated table is in docs/configuration.md.
"""

import os
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, SecretStr, ValidationError, model_validator

from regime_pipeline.errors import ConfigError
from regime_pipeline.executor_secrets import VARIABLES as EXECUTOR_VARIABLES
from regime_pipeline.executor_secrets import ExecutorSecrets, read_secrets

ENV_PREFIX = "REGIME_"


class Settings(BaseModel, frozen=True, extra="forbid"):
    """Where things are and which switches are on."""

    home: Path = Field(Path(".regime"), description="Folder of the embedded server, Dagster's home and logs; created on first use.")
    database_url: str | None = Field(None, description="postgresql:// address of our database; unset: the embedded server.")
    dagster_database_url: str | None = Field(
        None, description="postgresql:// address of Dagster's own database; unset: database `dagster` on the server of `database_url`."
    )
    postgres_bin: Path | None = Field(None, description="Folder with initdb and postgres to use instead of the wheel's binaries.")
    universe: Path = Field(Path("config/universe.toml"), description="The universe file: majors, drivers, tokens, buckets, venues.")
    source: Literal["generated", "recorded", "live"] = Field(
        "generated", description="Where market data comes from; live: the venues of the universe file, over the network."
    )
    recorded_path: Path | None = Field(None, description="Folder of parquet or CSV bar files; needed with source = recorded.")
    generated_seed: int = Field(7, ge=0, description="Seed of the generated market; another seed is another market.")
    venue_url: str | None = Field(
        None, description="Address of a simulated venue that stands for every venue and for CoinGecko (`regime sim`); unset: the real ones."
    )
    fetch_timeout_s: float = Field(10.0, gt=0, le=60, description="Seconds a request to a venue or vendor may take.")
    coingecko_plan: Literal["keyless", "demo", "pro"] = Field(
        "keyless", description="CoinGecko plan: pro also has a history of dominance; the others only know what it is now."
    )
    coingecko_key: SecretStr | None = Field(None, description="CoinGecko API key of that plan.")
    coingecko_monthly_calls: int = Field(
        10_000, gt=0, description="Calls to CoinGecko a calendar month (UTC); counted in the database, refused and alerted beyond."
    )
    dominance_every_s: int = Field(
        300, ge=60, description="Seconds between two questions for dominance: 300 is 8,900 calls a month, 60 needs a paid key."
    )
    min_validity: float = Field(0.5, ge=0, le=1, description="A driver whose newest bar has a lower data validity score counts as missing.")
    instance_name: str = Field("regime", min_length=1, description="Who we are, in every alert and in status.")
    alert_urls: SecretStr | None = Field(
        None, description="Where alerts go: Apprise addresses (Telegram, Discord, Slack, e-mail ...), separated by spaces; unset: nowhere."
    )
    alert_modes: str = Field(
        "", description="Per kind of alert on, silent (recorded, not sent) or off: `freshness=silent budget=off`; all others are on."
    )
    alert_file: Path | None = Field(None, description="File that every alert is also appended to, one JSON object per line.")
    dead_man_url: SecretStr | None = Field(
        None, description="Address that is asked once a minute while all is well; the service behind it warns when that stops."
    )
    opinions_enabled: bool = Field(True, description="Whether the second opinions are computed; nothing of the trading path needs them.")
    throttle_enabled: bool = Field(
        False, description="Whether the risk throttle may make entries smaller; needs opinions_enabled and the three fields below."
    )
    throttle_evaluation: str | None = Field(None, description="Id of the stored evaluation that the throttle is switched on for.")
    throttle_approver: str | None = Field(None, description="Who approved switching the throttle on.")
    throttle_approved_on: date | None = Field(None, description="Day of that approval, as 2026-01-31.")
    trading_enabled: bool = Field(False, description="Whether planned orders may be sent; off, every plan is made, journaled and withheld.")
    trading_mode: Literal["paper", "sandbox", "live"] = Field(
        "paper",
        description="What orders are worth: paper fills them here, sandbox at a venue's test system, live costs real money.",
    )
    trading_account: str = Field(
        "paper-main",
        pattern=r"^[A-Za-z0-9_.:-]{1,64}$",
        description="Venue account in one mode; starts with `paper-` in paper mode and with nothing like it elsewhere.",
    )
    trading_book: str = Field(
        "onchain_crypto", pattern=r"^[A-Za-z0-9_]{1,48}$", description="Book whose positions are traded; strategies are named after it."
    )
    trading_exchange: str | None = Field(None, description="ccxt id of the exchange that sandbox and live orders go to: binance, bybit.")
    trading_market: Literal["spot", "linear"] = Field("spot", description="Kind of instrument traded: spot coins or linear perpetuals.")
    trading_quote: str = Field("USDT", pattern=r"^[A-Z0-9]{2,12}$", description="Asset that orders are paid in.")
    paper_cash_usd: Decimal = Field(Decimal(100_000), gt=0, description="What a paper account begins with, in the quote asset.")
    risk_file: Path = Field(Path("config/risk.toml"), description="Limits of the gate, protections and allocation; see docs/risk.md.")
    state_dir: Path | None = Field(
        None, description="Folder of the kill latch `kill.latch`, which works without any database; unset: `state` in the home."
    )
    flatten_on: str = Field(
        "", description="Causes of a hard stop after which positions are sold too: triggers, or `manual`, separated by spaces; empty: none."
    )
    executor_enabled: bool | None = Field(
        None, description="Whether `regime up` keeps an executor running; unset: in paper mode with trading enabled only."
    )
    digest_hour: int = Field(7, ge=0, le=23, description="Hour of the day, UTC, from which the daily digest of the book is sent.")
    shared: Path = Field(Path("../shared"), description="Reference data for tests and benchmarks; never needed by the product.")

    @model_validator(mode="after")
    def _throttle_has_grounds(self) -> "Settings":
        grounds = (self.throttle_evaluation, self.throttle_approver, self.throttle_approved_on)
        if self.throttle_enabled and not (self.opinions_enabled and all(grounds)):
            msg = (
                "throttle_enabled was true without opinions_enabled, throttle_evaluation, throttle_approver and throttle_approved_on;"
                " name the evaluation (`regime opinions evaluate`), the approver and the day, or leave the throttle off"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _orders_have_one_home(self) -> "Settings":
        if (self.trading_mode == "paper") != self.trading_account.startswith("paper-"):
            msg = (
                f"trading_account was {self.trading_account!r} with trading_mode {self.trading_mode}: an account belongs to one mode;"
                " paper accounts start with paper-, all others do not. Correct one of the two"
            )
            raise ValueError(msg)
        if self.trading_mode != "paper" and self.trading_exchange is None:
            msg = f"trading_mode was {self.trading_mode} without trading_exchange; name the exchange, as binance, or trade on paper"
            raise ValueError(msg)
        return self

    @property
    def kill_dir(self) -> Path:
        """Folder of the kill latch."""
        return self.state_dir if self.state_dir is not None else self.home / "state"

    @property
    def with_executor(self) -> bool:
        """Whether `regime up` keeps an executor: unless told otherwise on paper only, since live keys belong to another user."""
        return self.trading_enabled and self.trading_mode == "paper" if self.executor_enabled is None else self.executor_enabled


def load_settings(env: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from the environment; an unknown or bad `REGIME_*` variable is refused by name.

    Raises
    ------
    ConfigError
        When a variable is not a setting or its value breaks the setting's rule.
    """
    env = os.environ if env is None else env
    ours = (key for key in env if key.startswith(ENV_PREFIX) and key not in EXECUTOR_VARIABLES)
    given = {key.removeprefix(ENV_PREFIX).lower(): env[key] for key in ours}
    unknown = sorted(set(given) - set(Settings.model_fields))
    if unknown:
        names = ", ".join(ENV_PREFIX + name.upper() for name in unknown)
        allowed = ", ".join(ENV_PREFIX + name.upper() for name in Settings.model_fields)
        raise ConfigError(f"unknown setting {names}; allowed: {allowed}. Unset it or correct the name.")
    try:
        return Settings.model_validate({key: value for key, value in given.items() if value != ""})
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # a rule about several settings together
            raise ConfigError(f"{first['msg'].removeprefix('Value error, ')}.") from error
        name = ENV_PREFIX + str(first["loc"][0]).upper()
        raise ConfigError(f"{name} was {first['input']!r}: {first['msg']}. Correct the variable or unset it.") from error


def load_executor_secrets(env: Mapping[str, str] | None = None) -> ExecutorSecrets:
    """Read the executor's secrets from `REGIME_EXECUTOR_*` or from the file that `REGIME_EXECUTOR_FILE` names.

    Raises
    ------
    ConfigError
        As `read_secrets`; no message holds a value.
    """
    return read_secrets(os.environ if env is None else env)


def child_environment(**extra: str) -> dict[str, str]:
    """Copy our own environment for a child process, without the executor's secrets and with some variables set."""
    return {**{key: value for key, value in os.environ.items() if key not in EXECUTOR_VARIABLES}, **extra}


def executor_environment(**extra: str) -> dict[str, str]:
    """Copy our own environment, secrets included, for the one child that sends orders."""
    return {**os.environ, **extra}


def default_variable(name: str, value: str) -> None:
    """Set a variable of this process that a library reads, unless the user has set it."""
    os.environ.setdefault(name, value)


def export_settings(settings: Settings) -> None:
    """Make these the settings of this process and of those it starts: whoever loads them later gets these."""
    for name, value in settings.model_dump().items():
        key = ENV_PREFIX + name.upper()
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
