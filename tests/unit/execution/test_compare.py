"""Our book against the venue's: grades, and which pauses are lifted."""

from decimal import Decimal

import pytest

from regime_pipeline.errors import ReconciliationError
from regime_pipeline.execution.compare import (
    Grade,
    Pair,
    Pause,
    judge_cash,
    judge_fee,
    judge_funding,
    judge_positions,
    pause_for,
    plan_lifts,
)
from regime_pipeline.execution.drift import Tier
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.kill_switch import Level, Trigger

D = Decimal
EQUITY = D(100_000)


def a_pair(symbol: str, ledger: str, venue: str, price: str = "40000") -> Pair:
    return Pair(InstrumentRules(symbol, D("0.01"), D("0.00001"), min_cost_quote=D(5)), D(ledger), D(venue), D(price))


def test_what_agrees_is_no_difference_at_all() -> None:
    assert judge_positions({"BTC/USDT": a_pair("BTC/USDT", "0.5", "0.5")}, EQUITY) == {}


def test_three_instruments_above_dust_are_graded_alone_and_a_fourth_makes_all_large() -> None:
    # 0.5 against 0.498 is 0.4 %: small.
    three = {f"T{n}/USDT": a_pair(f"T{n}/USDT", "0.5", "0.498") for n in range(3)}
    assert {drift.tier for drift in judge_positions(three, EQUITY).values()} == {Tier.SMALL}
    four = three | {"T3/USDT": a_pair("T3/USDT", "0.5", "0.498")}
    assert {drift.tier for drift in judge_positions(four, EQUITY).values()} == {Tier.LARGE}


def test_dust_does_not_count_towards_the_ceiling() -> None:
    pairs = {f"T{n}/USDT": a_pair(f"T{n}/USDT", "0.5", "0.498" if n < 3 else "0.4999") for n in range(8)}
    tiers = [drift.tier for drift in judge_positions(pairs, EQUITY).values()]
    assert (tiers.count(Tier.SMALL), tiers.count(Tier.DUST)) == (3, 5)


def test_cash_is_graded_by_equity() -> None:
    # Of 100,000 0.05 % is 50 and 0.25 % is 250; the limits themselves still pass.
    assert [judge_cash(D(1000), D(1000) + D(off), EQUITY) for off in ("-50", "50.01", "-250", "250.01")] == [
        Grade.FINE,
        Grade.WARN,
        Grade.WARN,
        Grade.BAD,
    ]


def test_cash_of_an_account_without_equity_cannot_be_graded() -> None:
    with pytest.raises(ReconciliationError, match="equity was 0"):
        judge_cash(D(1), D(1), D(0))


def test_funding_is_graded_in_quote_and_by_the_day() -> None:
    # 1 % of 5 is 0.05: between 0.01 and that a warning.
    assert [judge_funding(D(5) - D(off), D(5)) for off in ("0.01", "0.05", "0.051")] == [Grade.FINE, Grade.WARN, Grade.BAD]


@pytest.mark.parametrize(
    ("fee", "grade"), [("1", Grade.FINE), ("1.1", Grade.FINE), ("1.11", Grade.WARN), ("1.51", Grade.BAD), ("-1", Grade.FINE)]
)
def test_fee_is_graded_against_the_tariff(fee: str, grade: Grade) -> None:
    # 10 bps of 1000 is 1.
    assert judge_fee(D(fee), D(1000), D(10)) is grade


def test_fee_where_none_is_due_is_bad() -> None:
    assert judge_fee(D("0.01"), D(1000), D(0)) is Grade.BAD


def test_tiers_pause_symbol_or_account() -> None:
    assert pause_for(Tier.DUST, "A") is None
    assert pause_for(Tier.SMALL, "A") == Pause(Trigger.RECON_SMALL, "A")
    assert pause_for(Tier.MEDIUM, "A") == Pause(Trigger.RECON_MEDIUM, "A")
    large = pause_for(Tier.LARGE, "A")
    assert large == Pause(Trigger.RECON_LARGE, None)
    assert large is not None
    assert large.level is Level.REDUCE_ONLY


SMALL_A, MEDIUM_A, SMALL_B, LARGE = (
    Pause(Trigger.RECON_SMALL, "A"),
    Pause(Trigger.RECON_MEDIUM, "A"),
    Pause(Trigger.RECON_SMALL, "B"),
    Pause(Trigger.RECON_LARGE, None),
)


@pytest.mark.parametrize(
    ("passes", "lifted"),
    [
        ([set(), set()], [SMALL_A]),
        ([set()], []),  # one clean pass is not enough
        ([set(), {SMALL_A}], []),
        ([{SMALL_B}, {SMALL_B}], [SMALL_A]),  # another symbol's affair
        ([{MEDIUM_A}, set()], []),  # the difference has grown, it is not over
        ([{LARGE}, set()], []),
        ([None, set()], []),  # what could not be read is not clean
        ([set(), None], []),
    ],
)
def test_a_pause_is_lifted_after_two_clean_passes(passes: list[set[Pause] | None], lifted: list[Pause]) -> None:
    assert plan_lifts([SMALL_A], passes) == lifted


def test_large_waits_for_a_person() -> None:
    assert plan_lifts([LARGE], [set(), set(), set()]) == []
