"""Drift: example W7 and the ceilings."""

from decimal import Decimal

import pytest

from regime_pipeline.errors import ReconciliationError
from regime_pipeline.execution.drift import Tier, is_confirmed, judge_drift
from regime_pipeline.risk.kill_switch import Level

D = Decimal


def judge(ledger: str, venue: str, n_above_dust: int = 1, equity: str = "100000", price: str = "40000") -> tuple[str, Decimal]:
    drift = judge_drift(
        D(ledger),
        D(venue),
        step=D("0.00001"),
        price=D(price),
        min_cost_quote=D(5),
        equity_quote=D(equity),
        n_above_dust=n_above_dust,
    )
    return drift.tier.value, drift.frac


@pytest.mark.parametrize(
    ("ledger", "venue", "tier"),
    [
        ("0.5", "0.4999", "dust"),  # 0.0001, dust goes up to 5 / 40 000 = 0.000125
        ("0.5", "0.499875", "dust"),  # exactly
        ("0.5", "0.498", "small"),  # 0.002 of 0.5 is 0.4 %
        ("0.5", "0.49", "medium"),  # 2 %
        ("0.5", "0.475", "medium"),  # exactly 5 %, and 0.025 x 40 000 = 1000 is exactly 1 % of equity
        ("0.5", "0.47", "large"),  # 6 %
        ("3.0", "2.97", "large"),  # 1 %, but 0.03 x 40 000 = 1200 is 1.2 % of equity
        ("0", "0.01", "large"),  # unknown to the ledger
        ("0.5", "0.5", "dust"),
        ("-0.5", "0.5", "large"),
        ("0.5", "0", "large"),
    ],
)
def test_w7_each_difference_has_its_tier(ledger: str, venue: str, tier: str) -> None:
    assert judge(ledger, venue)[0] == tier


def test_w7_the_share_is_of_the_larger_side() -> None:
    assert judge("0.5", "0.498")[1] == D("0.004")
    assert judge("0.49", "0.5")[1] == D("0.02")


def test_a_difference_on_more_than_three_instruments_is_large() -> None:
    assert judge("0.5", "0.498", n_above_dust=3)[0] == "small"
    assert judge("0.5", "0.498", n_above_dust=4)[0] == "large"


def test_two_steps_are_small_however_little_is_held() -> None:
    # 2 steps of 0.00001 at 4 000 000 are worth 80, above the minimum cost of 5, and 4 % of 0.0005.
    assert judge("0.0005", "0.00048", price="4000000")[0] == "small"
    assert judge("0.0008", "0.00077", price="4000000")[0] == "medium"


@pytest.mark.parametrize(("price", "equity"), [("0", "100000"), ("40000", "0"), ("40000", "-1")])
def test_without_price_or_equity_nothing_is_graded(price: str, equity: str) -> None:
    with pytest.raises(ReconciliationError, match="entries stay off"):
        judge("0.5", "0.4", price=price, equity=equity)


def test_each_tier_has_its_level_and_pages_from_medium_on() -> None:
    assert {tier: tier.level for tier in Tier} == {
        Tier.DUST: Level.NORMAL,
        Tier.SMALL: Level.ENTRIES_OFF,
        Tier.MEDIUM: Level.ENTRIES_OFF,
        Tier.LARGE: Level.REDUCE_ONLY,
    }
    assert [tier.pages for tier in Tier] == [False, False, True, True]


@pytest.mark.parametrize(
    ("second", "in_flight", "confirmed"),
    [
        ((105, D("0.1")), False, True),
        ((104, D("0.1")), False, False),
        ((105, D("0.2")), False, False),
        ((105, D("0.1")), True, False),
    ],
)
def test_a_finding_counts_when_it_is_seen_twice_with_nothing_in_flight(
    second: tuple[int, Decimal], in_flight: bool, confirmed: bool
) -> None:
    assert is_confirmed((100, D("0.1")), second, has_order_in_flight=in_flight) is confirmed
