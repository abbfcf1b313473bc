"""The limits of the pre-trade gate and of the protections: frozen, typed, with units; a refusal names key, value and range."""

import difflib
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Self, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from regime_pipeline.errors import ConfigError

Limits = TypeVar("Limits", bound=BaseModel)
Frac = Annotated[Decimal, Field(gt=0, le=1)]


class RiskSettings(BaseModel, frozen=True, extra="forbid"):
    """Limits of the pre-trade gate; fractions are of equity unless they say otherwise."""

    max_weight_frac: Frac = Field(Decimal("0.25"), description="Largest share of equity in one symbol, live orders included.")
    max_cluster_frac: Frac = Field(Decimal("0.50"), description="Largest share of equity in one cluster of symbols.")
    max_gross_frac: Decimal = Field(Decimal("1.00"), gt=0, le=10, description="Longs plus shorts, of equity.")
    max_net_frac: Decimal = Field(Decimal("1.00"), gt=0, le=10, description="Longs less shorts, at their worst, of equity.")
    max_leverage_x: Decimal = Field(Decimal(1), gt=0, le=10, description="Gross exposure as a multiple of equity.")
    max_positions: int = Field(20, gt=0, le=1000, description="Symbols held or being entered at the same time.")
    min_liq_distance_frac: Frac = Field(Decimal("0.25"), description="Distance to liquidation, of price, that an entry must leave.")
    cash_reserve_frac: Decimal = Field(Decimal("0.05"), ge=0, lt=1, description="Share of equity that stays in cash.")
    daily_turnover_x: Decimal = Field(Decimal(6), gt=0, le=100, description="Traded in a UTC day, as a multiple of equity.")
    risk_per_trade_frac: Frac = Field(Decimal("0.01"), description="Loss at the stop, gap and costs included.")
    daily_loss_soft_frac: Frac = Field(Decimal("0.02"), description="Loss of a UTC day at which entries stop until the next.")
    daily_loss_hard_frac: Frac = Field(Decimal("0.03"), description="Loss of a UTC day at which only reducing goes on, until released.")
    weekly_loss_frac: Frac = Field(Decimal("0.06"), description="Loss over rolling 7 days at which only reducing goes on, until released.")
    drawdown_entries_frac: Decimal = Field(
        Decimal("0.08"), ge=Decimal("0.02"), le=Decimal("0.15"), description="Loss from the 7-day peak at which entries stop."
    )
    drawdown_kill_frac: Frac = Field(Decimal("0.12"), description="Loss from the 30-day peak at which everything stops.")
    max_friction_frac: Frac = Field(Decimal("0.30"), description="Costs as a share of the expected move.")
    max_order_quote: Decimal = Field(Decimal(10_000), gt=0, description="Largest order, in quote.")
    min_order_quote: Decimal = Field(Decimal(10), gt=0, description="Smallest entry, in quote.")
    max_entries_per_day: int = Field(10, gt=0, le=10_000, description="Accepted entries per strategy and UTC day.")
    max_orders_per_min: int = Field(30, gt=0, le=10_000, description="Orders per account in any minute; exits pass.")
    price_band_bps: Decimal = Field(
        Decimal(150), gt=0, le=5000, description="Distance of a major's price from mid and mark; exits three times."
    )
    price_band_other_bps: Decimal = Field(Decimal(500), gt=0, le=5000, description="The same for all other symbols.")
    max_spread_bps: Decimal = Field(Decimal(50), gt=0, le=5000, description="Widest spread at which entries are sent.")
    exit_slippage_cap_bps: Decimal = Field(Decimal(100), gt=0, le=5000, description="How far through the book an exit may go.")
    entry_ttl_s: int = Field(90, gt=0, le=86_400, description="Seconds an entry may rest before its cancel is requested.")
    exit_ttl_s: int = Field(30, gt=0, le=86_400, description="Seconds an exit may rest before it goes through the book.")
    protect_s: int = Field(5, gt=0, le=60, description="Seconds in which a fill must be under its stop.")
    start_by_min_s: int = Field(45, gt=0, le=3600, description="Shortest time after a bar's close in which its run may start.")
    start_by_max_s: int = Field(300, gt=0, le=3600, description="Longest time after a bar's close in which its run may start.")
    decide_by_extra_s: int = Field(60, gt=0, le=3600, description="Longest time after `start_by` in which an order may be sent.")
    clock_offset_max_ms: int = Field(500, gt=0, le=1000, description="Difference to the venue's clock beyond which entries stop.")
    request_window_s: int = Field(5, gt=0, le=60, description="Age beyond which the venue refuses a create.")
    visibility_s: int = Field(5, ge=0, le=60, description="Seconds in which a venue may hide a new order.")
    unknown_page_s: int = Field(300, gt=0, le=3600, description="Seconds of UNKNOWN after which a person is paged.")
    gate_timeout_s: int = Field(5, gt=0, le=60, description="Seconds the gate may take; longer counts as failed.")

    @model_validator(mode="after")
    def _limits_agree(self) -> Self:
        for low, high in (
            ("max_weight_frac", "max_cluster_frac"),
            ("max_cluster_frac", "max_gross_frac"),
            ("max_net_frac", "max_gross_frac"),
            ("max_gross_frac", "max_leverage_x"),
            ("risk_per_trade_frac", "daily_loss_soft_frac"),
            ("daily_loss_soft_frac", "daily_loss_hard_frac"),
            ("daily_loss_hard_frac", "weekly_loss_frac"),
            ("drawdown_entries_frac", "drawdown_kill_frac"),
            ("min_order_quote", "max_order_quote"),
            ("price_band_bps", "price_band_other_bps"),
            ("start_by_min_s", "start_by_max_s"),
            ("visibility_s", "unknown_page_s"),
        ):
            if getattr(self, low) > getattr(self, high):
                msg = f"{low} was {getattr(self, low)}, must be at most {high}, {getattr(self, high)}; lower the first or raise the second"
                raise ValueError(msg)
        return self


class ProtectionSettings(BaseModel, frozen=True, extra="forbid"):
    """Parameters of the protections; loss and drawdown limits are in `RiskSettings`."""

    guard_losses: int = Field(3, gt=0, le=20, description="Losing closes of a symbol in a row that stop its entries.")
    guard_bars: int = Field(6, gt=0, le=500, description="Bars in which they must lie, and for which entries stop.")
    guard_min_s: int = Field(3600, gt=0, le=604_800, description="Shortest look-back and hold of that guard, in seconds.")
    drawdown_hold_s: int = Field(86_400, gt=0, le=2_592_000, description="Seconds for which a drawdown stops entries.")
    cooldown_loss_frac: Frac = Field(Decimal("0.01"), description="One closing loss of this share of equity stops entries for a while.")
    cooldown_loss_s: int = Field(1800, gt=0, le=604_800, description="That while, in seconds.")
    cooldown_entry_s: int = Field(30, gt=0, le=86_400, description="Seconds after an entry in which strategy, symbol and side pause.")
    funding_margin_s: int = Field(120, ge=0, le=3600, description="Seconds around a perpetual's funding without entries.")
    volatility_returns: int = Field(20, gt=1, le=500, description="Returns that the volatility is taken over.")
    volatility_min_returns: int = Field(15, gt=1, le=500, description="Fewer known returns than this stop entries.")
    volatility_ratio: Decimal = Field(Decimal("3.0"), gt=1, le=100, description="Multiple of the 30-day median that stops entries.")
    volatility_hold_bars: int = Field(1, gt=0, le=100, description="Bars for which it does.")
    volatility_min_hold_s: int = Field(1800, gt=0, le=604_800, description="Shortest such hold, in seconds.")
    max_entries_per_symbol: int = Field(3, gt=0, le=1000, description="Accepted entries per symbol and UTC day.")
    min_coverage_frac: Frac = Field(Decimal("0.95"), description="Share of the bars of its warm-up that a required series must have.")
    stale_bars: Decimal = Field(Decimal(2), gt=0, le=10, description="Age limit of the newest closed bar, in bars, below 1h.")
    stale_slow_bars: Decimal = Field(Decimal("1.1"), gt=0, le=10, description="The same from 1h on.")
    stale_grace_s: int = Field(60, ge=0, le=3600, description="Seconds added to that limit.")

    @model_validator(mode="after")
    def _returns_suffice(self) -> Self:
        if self.volatility_min_returns > self.volatility_returns:
            msg = (
                f"volatility_min_returns was {self.volatility_min_returns}, must be at most volatility_returns,"
                f" {self.volatility_returns}; lower the first or raise the second"
            )
            raise ValueError(msg)
        return self


def read_limits(kind: type[Limits], values: Mapping[str, object]) -> Limits:
    """Read limits from configuration.

    Raises
    ------
    ConfigError
        When a key is unknown (the nearest one is named) or a value breaks its range or disagrees with another.
    """
    for key, value in values.items():
        if key not in kind.model_fields:
            nearest = difflib.get_close_matches(key, kind.model_fields, 1, 0.0)[0]
            raise ConfigError(f"limit {key} was {value!r}, there is no such limit; the nearest is {nearest}")
        if isinstance(value, bool):
            raise ConfigError(f"limit {key} was {value!r}, allowed are numbers {describe_range(kind, key)}; correct the value")
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # two limits that disagree
            raise ConfigError(first["msg"].removeprefix("Value error, ")) from error
        key = str(first["loc"][0])
        msg = f"limit {key} was {first['input']!r}, allowed are numbers {describe_range(kind, key)}; correct the value"
        raise ConfigError(msg) from error


def describe_range(kind: type[BaseModel], key: str) -> str:
    """Say in words which numbers a limit may have."""
    bounds = kind.model_fields[key].metadata
    words = {"gt": "above", "ge": "from", "lt": "below", "le": "up to"}
    return " ".join(f"{word} {getattr(bound, name)}" for name, word in words.items() for bound in bounds if hasattr(bound, name))
