"""Limits: the defaults of specification 7.3, and refusals that name key, value, range and nearest key."""

from decimal import Decimal

import pytest
from pydantic import ValidationError

from regime_pipeline.errors import ConfigError
from regime_pipeline.risk.limits import ProtectionSettings, RiskSettings, describe_range, read_limits

D = Decimal

SPECIFIED = """
max_weight_frac 0.25   max_cluster_frac 0.50   max_gross_frac 1.00   max_net_frac 1.00   max_leverage_x 1   max_positions 20
min_liq_distance_frac 0.25   cash_reserve_frac 0.05   daily_turnover_x 6   risk_per_trade_frac 0.01   daily_loss_soft_frac 0.02
daily_loss_hard_frac 0.03   weekly_loss_frac 0.06   drawdown_entries_frac 0.08   drawdown_kill_frac 0.12   max_friction_frac 0.30
max_order_quote 10000   min_order_quote 10   max_entries_per_day 10   max_orders_per_min 30   price_band_bps 150
price_band_other_bps 500   max_spread_bps 50   exit_slippage_cap_bps 100   entry_ttl_s 90   exit_ttl_s 30   protect_s 5
start_by_min_s 45   start_by_max_s 300   decide_by_extra_s 60   clock_offset_max_ms 500   request_window_s 5   visibility_s 5
unknown_page_s 300   gate_timeout_s 5
"""


def test_the_defaults_are_those_of_the_specification() -> None:
    words = SPECIFIED.split()
    specified = {key: D(value) for key, value in zip(words[::2], words[1::2], strict=True)}
    assert {key: D(str(value)) for key, value in RiskSettings().model_dump().items()} == specified


def test_every_limit_says_its_unit_and_its_consequence() -> None:
    for kind in (RiskSettings, ProtectionSettings):
        for key, field in kind.model_fields.items():
            assert field.description
            assert describe_range(kind, key)
            assert key.endswith(("_frac", "_x", "_bps", "_quote", "_s", "_ms", "_bars", "_ratio")) or key.startswith(
                ("max_", "guard_", "volatility_")
            )


def test_configured_numbers_become_exact_decimals() -> None:
    assert read_limits(RiskSettings, {"max_weight_frac": 0.1, "max_order_quote": "2500.50"}).max_weight_frac == D("0.1")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_wieght_frac": 0.1}, r"limit max_wieght_frac was 0\.1, there is no such limit; the nearest is max_weight_frac"),
        ({"max_weight_frac": 1.5}, r"limit max_weight_frac was 1\.5, allowed are numbers above 0 up to 1; correct the value"),
        ({"max_weight_frac": float("nan")}, "limit max_weight_frac was nan"),
        ({"max_weight_frac": "much"}, "limit max_weight_frac was 'much'"),
        ({"entry_ttl_s": True}, r"limit entry_ttl_s was True, allowed are numbers above 0 up to 86400"),
        ({"entry_ttl_s": 1.5}, r"limit entry_ttl_s was 1\.5"),
        ({"drawdown_entries_frac": 0.2}, r"from 0\.02 up to 0\.15"),
        ({"cash_reserve_frac": 1}, "from 0 below 1"),
    ],
)
def test_a_bad_limit_is_refused_by_name_value_and_range(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_limits(RiskSettings, values)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ({"max_weight_frac": "0.6"}, "max_weight_frac", "max_cluster_frac"),
        ({"max_gross_frac": "0.4", "max_net_frac": "0.4"}, "max_cluster_frac", "max_gross_frac"),
        ({"max_net_frac": "1.5"}, "max_net_frac", "max_gross_frac"),
        ({"max_gross_frac": "1.5"}, "max_gross_frac", "max_leverage_x"),
        ({"risk_per_trade_frac": "0.025"}, "risk_per_trade_frac", "daily_loss_soft_frac"),
        ({"daily_loss_soft_frac": "0.04"}, "daily_loss_soft_frac", "daily_loss_hard_frac"),
        ({"daily_loss_hard_frac": "0.07"}, "daily_loss_hard_frac", "weekly_loss_frac"),
        ({"drawdown_entries_frac": "0.13"}, "drawdown_entries_frac", "drawdown_kill_frac"),
        ({"min_order_quote": 20_000}, "min_order_quote", "max_order_quote"),
        ({"price_band_bps": 600}, "price_band_bps", "price_band_other_bps"),
        ({"start_by_min_s": 301}, "start_by_min_s", "start_by_max_s"),
        ({"visibility_s": 50, "unknown_page_s": 49}, "visibility_s", "unknown_page_s"),
    ],
)
def test_limits_that_disagree_are_refused_together(values: dict[str, object], low: str, high: str) -> None:
    with pytest.raises(ConfigError, match=f"{low} was .*, must be at most {high}, .*; lower the first or raise the second"):
        read_limits(RiskSettings, values)


def test_protections_need_no_more_returns_than_they_look_at() -> None:
    with pytest.raises(ConfigError, match="volatility_min_returns was 25, must be at most volatility_returns, 20"):
        read_limits(ProtectionSettings, {"volatility_min_returns": 25})


def test_limits_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RiskSettings().max_positions = 3  # type: ignore[misc]
