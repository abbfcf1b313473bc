"""The planning rules one by one, in their order: what each needs, what stops it, how much it takes."""

from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from regime_pipeline.errors import CallerError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.portfolio.actions import Action, ActionKind, ActionStatus, Funding, Signal
from regime_pipeline.portfolio.capital import Allocation
from regime_pipeline.portfolio.episodes import Block, Episodes
from regime_pipeline.portfolio.facts import BarFacts
from regime_pipeline.portfolio.plan import Book, Bound, Levers, Outcome, Plan, Rule, record_plan
from regime_pipeline.portfolio.pool import Pool
from regime_pipeline.portfolio.position import Position, Status
from regime_pipeline.portfolio.reasons import ReasonCode as Code
from regime_pipeline.portfolio.rules import plan_position
from regime_pipeline.portfolio.trade import Trade, fold_trade
from tests.unit.portfolio.desk import (
    CALM,
    HOUR_S,
    RICH,
    TRADE,
    a_bar,
    a_buy,
    a_dx,
    a_position,
    a_trim,
    an_exit,
    bar_s,
)

D = Decimal
BOUGHT = a_buy(-50, "100", "1000")
IN_ATTEMPT = Episodes("S1", attempt_s=1, s2_s=2, s1_s=3)
TRIM = a_trim(-20, "10", "120", level=8.0)


def plan_on(position: Position, facts: BarFacts | None, levers: Levers = CALM, book: Book = RICH, n: int = 0) -> Plan:
    return plan_position(position, facts, bar_s(n), levers, book)


def holder(*actions: Action, quantity: int = 90, **changes: Any) -> Position:
    return a_position(quantity, trade=fold_trade(TRADE, [BOUGHT, *actions]), **changes)


def whys(plan: Plan) -> list[str]:
    return [refusal.why for refusal in plan.refusals]


# ---- exits ----------------------------------------------------------------------------------------------------------------------


def test_in_s0_everything_is_sold_down_to_the_step() -> None:
    plan = plan_on(replace(holder(), quantity=D("1.23456")), a_bar(state="S0"))
    assert (plan.outcome, plan.rule, plan.kind, plan.signal) == (Outcome.ACT, Rule.EXIT_S0, ActionKind.EMERGENCY_EXIT, Signal.EXIT_POSITION)
    assert plan.size is not None
    assert (plan.size.quantity, plan.size.notional_usd, plan.size.funding) == (D("1.234"), None, Funding.HOLDING)
    assert plan.codes == ()


def test_in_s3_under_ema333_everything_is_sold_before_anything_else() -> None:
    facts = a_bar(emergency_exit=True, trim=True, nearest_level=10.0, dx=True, reclaim=True)
    plan = plan_on(holder(TRIM), facts)
    assert (plan.rule, plan.kind, plan.signal) == (Rule.EXIT_S3, ActionKind.EMERGENCY_EXIT, Signal.EMERGENCY_EXIT)


def test_in_s3_under_ema333_and_flat_nothing_is_bought() -> None:
    plan = plan_on(holder(quantity=0), a_bar(emergency_exit=True, reclaim=True, dx=True))
    assert (plan.outcome, plan.rule, plan.codes) == (Outcome.HOLD, Rule.FLAT_S3, (Code.CONDITION_NOT_MET,))


@pytest.mark.parametrize("state", ["S1", "S2"])
def test_the_exit_flag_of_another_state_is_no_order(state: str) -> None:
    assert plan_on(holder(), a_bar(state=state, emergency_exit=True)).outcome is Outcome.HOLD


def test_dust_is_flat() -> None:
    # 0.4 tokens at 10 are 4 USD, the venue wants 5
    dust = replace(holder(), quantity=D("0.4"))
    assert plan_on(dust, a_bar(state="S0")).outcome is Outcome.HOLD
    assert plan_on(dust, a_bar(state="S0", price=13.0)).kind is ActionKind.EMERGENCY_EXIT


def test_a_failed_exit_is_planned_again_next_bar_and_never_twice_in_one() -> None:
    position, facts = holder(), a_bar(0, "S0")
    first = plan_on(position, facts)
    tried = replace(position, last_action_s=bar_s(0), trade=fold_trade(TRADE, [BOUGHT, record_plan(first)]))
    assert plan_on(tried, facts).codes == (Code.DUPLICATE_KEY,)
    again = plan_on(tried, a_bar(1, "S0"), n=1)
    assert (again.kind, again.size) == (ActionKind.EMERGENCY_EXIT, first.size)


# ---- no record ------------------------------------------------------------------------------------------------------------------


def test_without_the_bars_own_record_nothing_is_done_and_somebody_told() -> None:
    plan = plan_on(holder(), None)
    assert (plan.outcome, plan.codes) == (Outcome.HOLD, (Code.DATA_GAP,))
    assert plan.alert == f"position 7: no record of bar {bar_s(0)}, found none"
    assert (plan.state, plan.price) == (None, None)


@pytest.mark.parametrize("n", [-1, 1])
def test_the_record_of_another_bar_is_not_decided_on(n: int) -> None:
    plan = plan_on(holder(), a_bar(n, "S0"))
    assert (plan.outcome, plan.codes) == (Outcome.HOLD, (Code.DATA_STALE,))
    assert plan.alert is not None
    assert f"that of bar {bar_s(n)}" in plan.alert


@pytest.mark.parametrize(("signal", "rule"), [(Signal.EXIT_POSITION, Rule.EXIT_S0), (Signal.EMERGENCY_EXIT, Rule.EXIT_S3)])
@pytest.mark.parametrize("facts", [None, a_bar(-1, "S3", emergency_exit=True), a_bar(-2, "S3"), a_bar(1, "S3")])
def test_an_exit_under_way_goes_on_without_a_record(signal: Signal, rule: Rule, facts: BarFacts | None) -> None:
    # its order of bar -2 sold 10 of 100; neither that bar's own record nor one still to come may end it
    plan = plan_on(holder(an_exit(-2, "10", "90", signal)), facts)
    assert (plan.outcome, plan.rule, plan.signal, plan.kind) == (Outcome.ACT, rule, signal, ActionKind.EMERGENCY_EXIT)
    assert plan.size is not None
    assert plan.size.quantity == 90
    assert plan.alert is not None
    assert record_plan(plan).bars_seen is None


def test_an_exit_that_a_later_record_no_longer_wants_is_over() -> None:
    plan = plan_on(holder(an_exit(-2, "10", "90")), a_bar(-1, "S3"))
    assert (plan.outcome, plan.codes) == (Outcome.HOLD, (Code.DATA_STALE,))


def test_an_exit_that_is_done_or_was_followed_by_another_action_is_over() -> None:
    assert plan_on(holder(an_exit(-2, "90", "90"), quantity=0), None).outcome is Outcome.HOLD
    assert plan_on(holder(an_exit(-2, "10", "90"), a_trim(-1, "1", "9")), None).outcome is Outcome.HOLD
    assert plan_on(a_position(90), None).outcome is Outcome.HOLD


# ---- trims ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["S2", "S3"])
def test_a_trim_sells_its_share_of_the_holding(state: str) -> None:
    # nothing extracted, E .5: .30 x 1.5 = .45 of 90 = 40.5
    plan = plan_on(holder(), a_bar(state=state, trim=True, nearest_level=10.1))
    assert (plan.outcome, plan.rule, plan.kind, plan.signal) == (Outcome.ACT, Rule.TRIM, ActionKind.TRIM, Signal.TRIM)
    assert plan.size is not None
    assert (plan.size.share, plan.size.basis, plan.size.quantity, plan.level_price) == (D("0.45"), 90, D("40.5"), 10.1)


@pytest.mark.parametrize("changes", [{"nearest_level": None}, {"nearest_level": 10.0, "trim": False}])
def test_a_trim_needs_its_flag_and_a_level(changes: dict[str, Any]) -> None:
    plan = plan_on(holder(), a_bar(**{"trim": True, **changes}))
    assert (plan.outcome, plan.codes) == (Outcome.HOLD, (Code.IN_POSITION,))


def test_there_is_nothing_to_trim_when_flat() -> None:
    assert plan_on(holder(quantity=0), a_bar(trim=True, nearest_level=10.0)).codes == (Code.CONDITION_NOT_MET,)


@pytest.mark.parametrize(
    ("bars_ago", "level", "trims"),
    [
        (2, 10.0, False),  # same level, too soon
        (5, 10.0, False),  # late enough, but this level was trimmed
        (5, 10.09, False),  # 0.09 is within 1 % of the price 10
        (5, 10.1, False),  # exactly 1 % is not more than 1 %
        (1, 10.11, True),  # another level, however soon
    ],
)
def test_one_trim_per_level_and_three_bars_apart(bars_ago: int, level: float, trims: bool) -> None:
    plan = plan_on(holder(a_trim(-bars_ago, "1", "10", level=10.0)), a_bar(trim=True, nearest_level=level))
    assert (plan.outcome is Outcome.ACT) == trims
    if not trims:
        assert plan.codes == (Code.CONDITION_NOT_MET,)
        assert [why[:2] for why in whys(plan)] == (["T1", "T2"] if bars_ago < 3 else ["T2"])


@pytest.mark.parametrize(("bars_ago", "trims"), [(2, False), (3, True)])
def test_three_bars_after_a_filled_trim_its_own_level_is_no_obstacle(bars_ago: int, trims: bool) -> None:
    # filled at 10, then planned at 12 without a fill: back at 10, T2 looks at 12 only, T1 at the three bars
    actions = [a_trim(-bars_ago, "1", "10", level=10.0), a_trim(-1, "0", "0", level=12.0)]
    assert (plan_on(holder(*actions), a_bar(trim=True, nearest_level=10.0)).outcome is Outcome.ACT) == trims


def test_a_planned_trim_that_did_not_fill_still_took_its_level() -> None:
    assert plan_on(holder(a_trim(-9, "0", "0", level=10.0)), a_bar(trim=True, nearest_level=10.0)).outcome is Outcome.HOLD


def test_bars_are_counted_not_hours() -> None:
    # two bars were stepped since, but ten hours have passed: no trade, no bar
    trim = replace(a_trim(-10, "1", "10", level=10.0), bars_seen=998)
    actions = [trim, a_trim(-9, "0", "0", level=12.0)]
    plan = plan_on(holder(*actions), a_bar(trim=True, nearest_level=10.0))
    assert whys(plan) == ["T1: the last trim is 2 bars old, at 10.0"]


def test_a_trim_too_small_for_the_venue_is_skipped_on_the_record() -> None:
    # E .1, three times the money back: .15 x .1 of 1 token = 0.015 tokens, 0.15 USD
    trade = fold_trade(TRADE, [a_buy(-9, "100", "10"), a_trim(-8, "99", "30", level=5.0)])
    plan = plan_on(a_position(1, trade=trade), a_bar(trim=True, nearest_level=10.0), Levers(0.5, 0.1, degraded=False))
    assert (plan.outcome, plan.kind, plan.codes) == (Outcome.SKIP, ActionKind.TRIM, (Code.BELOW_MIN_COST,))
    assert record_plan(plan).status is ActionStatus.SKIPPED


def test_a_blocked_trim_lets_the_buy_of_the_same_bar_pass() -> None:
    actions = [a_trim(-1, "10", "500", level=10.0)]
    plan = plan_on(holder(*actions), a_bar(trim=True, nearest_level=10.0, dx=True))
    assert (plan.rule, plan.outcome) == (Rule.DX, Outcome.ACT)
    assert [refusal.rule for refusal in plan.refusals] == [Rule.TRIM, Rule.TRIM]


def test_without_an_open_trade_a_trim_has_no_gates() -> None:
    plan = plan_on(a_position(90), a_bar(trim=True, nearest_level=10.0))
    assert (plan.kind, plan.trade_id) == (ActionKind.TRIM, None)


# ---- buys -----------------------------------------------------------------------------------------------------------------------


def s1_bar(**changes: Any) -> BarFacts:
    return a_bar(state="S1", buy=True, **changes)


def test_an_s1_buy_opens_a_trade_with_its_share_of_what_remains() -> None:
    # cap 20,000 x 15 % x .40 = 1200; A .5: .60 of it
    plan = plan_on(a_position(episodes=IN_ATTEMPT), s1_bar())
    assert (plan.outcome, plan.rule, plan.kind, plan.signal) == (Outcome.ACT, Rule.S1_BUY, ActionKind.ENTRY, Signal.S1_BUY)
    assert plan.size is not None
    assert (plan.size.funding, plan.size.share, plan.size.basis, plan.size.notional_usd) == (Funding.REMAINING, D("0.60"), 1200, 720)
    assert (plan.trade_id, plan.size.bound, plan.size.quantity) == (None, Bound.SHARE, None)


def test_an_s1_buy_waits_for_the_attempts_s2_episode() -> None:
    plan = plan_on(a_position(episodes=Episodes("S1", attempt_s=1)), s1_bar())
    assert (plan.codes, whys(plan)) == ((Code.CONDITION_NOT_MET,), ["this attempt has no S2 episode yet"])


def test_an_s1_buy_comes_once_per_trade() -> None:
    plan = plan_on(holder(episodes=IN_ATTEMPT), s1_bar())
    assert (plan.codes, whys(plan)) == ((Code.IN_POSITION,), ["this trade has its S1 buy"])
    unfilled = a_position(trade=None, episodes=IN_ATTEMPT, last_action_s=bar_s(-1))
    assert plan_on(unfilled, s1_bar()).kind is ActionKind.ENTRY
    other = fold_trade(TRADE, [a_buy(-5, "1", "10", Signal.S2_RETEST)])
    assert plan_on(a_position(1, trade=other, episodes=IN_ATTEMPT), s1_bar()).kind is ActionKind.ADD


def test_every_reason_against_a_buy_is_told() -> None:
    block = Block(blocked_s1=True, last_s1_failure_s=5)
    position = holder(block=block)
    plan = plan_on(position, s1_bar(immature=True), Levers(0.5, 0.5, degraded=True), replace(RICH, is_killed=True))
    assert plan.codes == (Code.KILLED, Code.DATA_STALE, Code.CONDITION_NOT_MET, Code.BLOCKED_EPISODE, Code.IN_POSITION)
    assert len(plan.refusals) == 6
    assert {refusal.rule for refusal in plan.refusals} == {Rule.S1_BUY}


def retest_bar(**changes: Any) -> BarFacts:
    return a_bar(state="S2", **{"s2_retest": True, **changes})


@pytest.mark.parametrize("flags", [{"s2_retest": True}, {"s2_retest": False, "buy": True}])
def test_a_retest_enters_when_flat_under_either_of_its_names(flags: dict[str, bool]) -> None:
    # A .5: .15 of 1200
    plan = plan_on(a_position(), retest_bar(**flags))
    assert (plan.rule, plan.kind, plan.signal) == (Rule.S2_RETEST, ActionKind.ENTRY, Signal.S2_RETEST)
    assert plan.size is not None
    assert (plan.size.funding, plan.size.notional_usd) == (Funding.REMAINING, 180)


def test_a_retest_of_a_recovered_flat_trade_takes_less() -> None:
    # 1000 in, 1000 out: remaining is the whole cap, .15 x .3 of it
    plan = plan_on(holder(a_trim(-9, "100", "1000"), quantity=0), retest_bar())
    assert plan.size is not None
    assert (plan.kind, plan.size.share, plan.size.notional_usd) == (ActionKind.ADD, D("0.045"), 54)


def test_a_retest_in_position_takes_from_the_pool() -> None:
    # the trim brought 120; A .5: .30 of it
    plan = plan_on(holder(TRIM), retest_bar())
    assert plan.size is not None
    assert (plan.kind, plan.size.funding, plan.size.share, plan.size.notional_usd) == (ActionKind.ADD, Funding.POOL, D("0.30"), 36)


def test_a_retest_in_position_needs_a_pool_that_nobody_began_to_spend() -> None:
    assert whys(plan_on(holder(), retest_bar())) == ["in a position without a pool"]
    assert whys(plan_on(holder(TRIM, a_dx(-5, "1", "10")), retest_bar())) == ["the pool's recovery has started"]


def test_a_block_on_s2_stops_the_retest() -> None:
    plan = plan_on(a_position(block=Block(blocked_s2=True, last_s2_failure_s=5)), retest_bar())
    assert (plan.codes, whys(plan)) == ((Code.BLOCKED_EPISODE,), ["the attempt that ended at 5 lost money"])


def test_what_an_earlier_trade_left_behind_is_not_dipped_into() -> None:
    # 90 tokens by the ledger but no open trade: the retest is an entry
    plan = plan_on(a_position(90), retest_bar())
    assert plan.size is not None
    assert (plan.kind, plan.size.funding) == (ActionKind.ENTRY, Funding.REMAINING)


@pytest.mark.parametrize(("a_value", "notional"), [(0.7, "24"), (0.5, "12"), (0.1, "4")])
def test_a_discount_buy_takes_its_share_of_the_pool(a_value: float, notional: str) -> None:
    # 120 in the pool: a fifth, a tenth, a thirtieth (rounded down to 18 places)
    plan = plan_on(holder(TRIM), a_bar(dx=True), Levers(a_value, 0.5, degraded=False), replace(RICH, equity_usd=D(10**6)))
    assert (plan.rule, plan.kind, plan.signal) == (Rule.DX, ActionKind.ADD, Signal.DX)
    assert plan.size is not None
    assert plan.size.notional_usd is not None
    assert 0 <= D(notional) - plan.size.notional_usd <= D("1e-18")


@pytest.mark.parametrize(("price", "buys"), [(9.0, True), (11.0, True), (8.999, False), (11.001, False)])
def test_a_discount_buy_lies_between_ema333_and_ema144(price: float, buys: bool) -> None:
    plan = plan_on(holder(TRIM), a_bar(price=price, ema333=9.0, ema144=11.0, dx=True))
    assert (plan.outcome is Outcome.ACT) == buys


def test_a_discount_buy_needs_a_pool() -> None:
    assert whys(plan_on(holder(), a_bar(dx=True))) == ["no pool"]
    assert whys(plan_on(a_position(), a_bar(dx=True))) == ["no pool"]


@pytest.mark.parametrize(("price", "buys"), [(9.5, True), (9.51, False)])
def test_the_next_discount_buy_waits_for_its_arm(price: float, buys: bool) -> None:
    # bought at 11 with ATR .25, so the next one at 11 - 1.5 or below
    plan = plan_on(holder(TRIM, a_dx(-5, "2", "22")), a_bar(price=price, dx=True))
    assert (plan.outcome is Outcome.ACT) == buys
    if not buys:
        assert whys(plan) == ["price 9.51 above the next arm 9.50"]


def test_a_pool_allows_three_discount_buys() -> None:
    trade = replace(fold_trade(TRADE, [BOUGHT]), pool=Pool(D(100), True, 3, D(1), None))
    assert whys(plan_on(a_position(90, trade=trade), a_bar(dx=True))) == ["3 discount buys already"]


def test_a_reclaim_puts_a_share_of_the_exits_proceeds_back() -> None:
    # the exit brought 400; A .7: .60 of it
    position = holder(an_exit(-3, "90", "400"), quantity=0)
    plan = plan_on(position, a_bar(reclaim=True), Levers(0.7, 0.5, degraded=False))
    assert (plan.rule, plan.kind, plan.signal) == (Rule.RECLAIM, ActionKind.ADD, Signal.RECLAIM)
    assert plan.size is not None
    assert (plan.size.funding, plan.size.basis, plan.size.notional_usd) == (Funding.EXIT_PROCEEDS, 400, 240)


def test_a_reclaim_without_an_exit_of_this_trade_is_none() -> None:
    reason = ["no exit of this trade has proceeds to put back"]
    assert whys(plan_on(a_position(), a_bar(reclaim=True))) == reason
    assert whys(plan_on(holder(), a_bar(reclaim=True))) == reason
    assert whys(plan_on(holder(an_exit(-3, "0", "0")), a_bar(reclaim=True))) == reason
    bought_back = a_buy(-2, "1", "10", Signal.RECLAIM)
    assert whys(plan_on(holder(an_exit(-3, "9", "40"), bought_back), a_bar(reclaim=True))) == reason


def test_a_discount_goes_before_a_reclaim_and_a_refused_one_lets_it_pass() -> None:
    exit_ = an_exit(-3, "90", "400")
    both = a_bar(dx=True, reclaim=True)
    assert plan_on(holder(TRIM, exit_), both).rule is Rule.DX
    plan = plan_on(holder(exit_), both)
    assert (plan.rule, [refusal.rule for refusal in plan.refusals]) == (Rule.RECLAIM, [Rule.DX])


BUYING_BARS = [
    (a_position(episodes=IN_ATTEMPT), s1_bar()),
    (a_position(), retest_bar()),
    (holder(TRIM), a_bar(dx=True)),
    (holder(an_exit(-3, "90", "400"), quantity=0), a_bar(reclaim=True)),
]


@pytest.mark.parametrize(("position", "facts"), BUYING_BARS)
def test_nothing_is_bought_when_degraded_killed_or_immature(position: Position, facts: BarFacts) -> None:
    assert plan_on(position, facts).outcome is Outcome.ACT
    degraded = plan_on(position, facts, CALM._replace(degraded=True))
    assert (degraded.outcome, degraded.codes, degraded.degraded) == (Outcome.HOLD, (Code.DATA_STALE,), True)
    killed = plan_on(position, facts, book=replace(RICH, is_killed=True))
    assert (killed.outcome, killed.codes) == (Outcome.HOLD, (Code.KILLED,))
    immature = replace(facts, immature=True)
    assert plan_on(position, immature).codes == (Code.CONDITION_NOT_MET,)
    assert plan_on(position, immature, book=replace(RICH, allow_immature_entries=True)).outcome is Outcome.ACT


@pytest.mark.parametrize(
    "facts", [a_bar(state="S0"), a_bar(emergency_exit=True), a_bar(trim=True, nearest_level=10.0)], ids=["s0", "s3", "trim"]
)
def test_everything_is_sold_when_degraded_killed_and_immature(facts: BarFacts) -> None:
    plan = plan_on(holder(), replace(facts, immature=True), CALM._replace(degraded=True), replace(RICH, is_killed=True))
    assert plan.outcome is Outcome.ACT


@pytest.mark.parametrize(
    ("cash", "equity", "bound", "notional"),
    [
        (100, 20_000, Bound.FREE_CASH, 100),
        (20_000, 20_000, Bound.SHARE, 240),  # .60 of 400
        (20_000, 13_000, Bound.REMAINING, 180),  # cap 780, less 1000 - 400 of it at work
    ],
)
def test_a_buy_is_bounded_by_its_share_what_remains_and_the_cash(cash: int, equity: int, bound: Bound, notional: int) -> None:
    book = Book(D(equity), D(cash), Allocation(), trading_enabled=True)
    plan = plan_on(holder(an_exit(-3, "90", "400"), quantity=0), a_bar(reclaim=True), Levers(0.7, 0.5, degraded=False), book)
    assert plan.size is not None
    assert (plan.outcome, plan.size.bound, plan.size.notional_usd) == (Outcome.ACT, bound, notional)


@pytest.mark.parametrize(
    ("cash", "price", "codes"),
    [
        ("4.99", 10.0, (Code.BELOW_MIN_COST,)),  # the venue wants 5
        ("5", 501.0, (Code.BELOW_MIN_QTY,)),  # 0.00998 tokens, it wants 0.01
        ("4", 500.0, (Code.BELOW_MIN_QTY, Code.BELOW_MIN_COST)),
        ("4", 5000.0, (Code.ZERO_SIZE,)),  # not a single step
        ("0", 10.0, (Code.ZERO_SIZE,)),
        ("-3", 10.0, (Code.ZERO_SIZE,)),
    ],
)
def test_a_buy_too_small_for_the_venue_is_skipped_on_the_record(cash: str, price: float, codes: tuple[Code, ...]) -> None:
    plan = plan_on(a_position(), retest_bar(price=price), book=replace(RICH, free_cash_usd=D(cash)))
    assert (plan.outcome, plan.rule, plan.kind, plan.codes) == (Outcome.SKIP, Rule.S2_RETEST, ActionKind.ENTRY, codes)
    assert plan.size is not None
    assert plan.size.notional_usd == max(0, D(cash))
    assert record_plan(plan).status is ActionStatus.SKIPPED


def test_a_timeframe_without_a_share_buys_nothing() -> None:
    plan = plan_on(a_position(timeframe=Timeframe.M1), retest_bar())
    assert (plan.outcome, plan.codes) == (Outcome.SKIP, (Code.ZERO_SIZE,))


# ---- holds, switches, refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["S0", "S1", "S2", "S3", "S4"])
def test_every_hold_says_why(state: str) -> None:
    assert plan_on(a_position(), a_bar(state=state)).codes == (Code.CONDITION_NOT_MET,)
    held = plan_on(holder(), a_bar(state=state))
    assert held.codes == (() if state == "S0" else (Code.IN_POSITION,))


def test_trading_is_off_unless_somebody_switched_it_on() -> None:
    plan = plan_on(holder(), a_bar(state="S0"), book=Book(D(20_000), D(20_000), Allocation()))
    assert (plan.outcome, plan.rule, plan.kind, plan.size) == (Outcome.HOLD, Rule.EXIT_S0, None, None)
    assert (plan.codes, whys(plan)) == ((Code.NOT_ARMED,), ["trading is not enabled, else: emergency_exit"])


def test_a_hold_is_the_same_with_trading_off() -> None:
    off = replace(RICH, trading_enabled=False)
    for facts in (a_bar(), a_bar(emergency_exit=True), None):
        assert plan_on(a_position(), facts, book=off) == plan_on(a_position(), facts)


def test_an_exit_withheld_without_a_record_still_tells_of_the_record() -> None:
    plan = plan_on(holder(an_exit(-1, "10", "90")), None, book=replace(RICH, trading_enabled=False))
    assert (plan.outcome, plan.codes) == (Outcome.HOLD, (Code.NOT_ARMED,))
    assert plan.alert is not None


@pytest.mark.parametrize("status", sorted(set(Status) - {Status.WATCHLIST, Status.ACTIVE}))
def test_drivers_and_others_not_traded_are_never_planned_for(status: Status) -> None:
    with pytest.raises(CallerError, match=f"status was {status}, planned are active, watchlist"):
        plan_on(a_position(status=status), a_bar())


@pytest.mark.parametrize("levers", [(1.1, 0.5), (0.5, -0.1), (float("nan"), 0.5), (0.5, float("nan"))])
def test_levers_outside_their_range_are_refused(levers: tuple[float, float]) -> None:
    with pytest.raises(CallerError, match="must lie in"):
        plan_on(a_position(), a_bar(), Levers(*levers, degraded=False))


def test_a_plan_says_what_it_was_taken_on() -> None:
    plan = plan_on(holder(TRIM), a_bar(dx=True, nearest_level=12.5), Levers(0.61, 0.29, degraded=False))
    assert (plan.position_id, plan.bar_ts_s, plan.trade_id) == (7, bar_s(0), TRADE)
    assert (plan.a_value, plan.e_value, plan.degraded) == (0.61, 0.29, False)
    assert (plan.state, plan.price, plan.level_price, plan.atr, plan.bars_seen) == ("S3", 10.0, 12.5, 0.25, 1000)


def test_a_plan_is_recorded_with_what_later_decisions_read() -> None:
    action = record_plan(plan_on(holder(TRIM), a_bar(dx=True, nearest_level=12.5)))
    assert action == Action(
        bar_ts_s=bar_s(0),
        trade_id=TRADE,
        kind=ActionKind.ADD,
        signal=Signal.DX,
        funding=Funding.POOL,
        status=ActionStatus.PLANNED,
        state="S3",
        level_price=12.5,
        atr=0.25,
        bars_seen=1000,
    )


def test_a_hold_is_no_action() -> None:
    with pytest.raises(CallerError, match="a hold has no action"):
        record_plan(plan_on(a_position(), a_bar()))


def test_equal_inputs_give_an_equal_plan_and_other_trades_change_nothing() -> None:
    foreign = [replace(a_trim(-40, "1", "10", level=10.0), trade_id=UUID(int=9)), replace(an_exit(-30, "1", "70"), trade_id=UUID(int=9))]
    own = [BOUGHT, TRIM]
    mixed = sorted([*foreign, *own], key=lambda action: action.bar_ts_s)
    facts = a_bar(trim=True, nearest_level=10.0, reclaim=True, dx=True)
    alone = plan_on(a_position(90, trade=fold_trade(TRADE, own)), facts)
    assert plan_on(a_position(90, trade=fold_trade(TRADE, mixed)), facts) == alone


def test_an_older_bar_than_the_last_action_is_not_acted_on() -> None:
    plan = plan_on(replace(holder(), last_action_s=bar_s(0) + HOUR_S), a_bar(state="S0"))
    assert plan.codes == (Code.DUPLICATE_KEY,)


def test_a_trade_that_was_sold_out_inside_s3_stays_open() -> None:
    position = holder(an_exit(-3, "90", "400"), quantity=0)
    plan = plan_on(position, a_bar(state="S3"))
    assert isinstance(position.trade, Trade)
    assert (plan.outcome, plan.codes) == (Outcome.HOLD, (Code.CONDITION_NOT_MET,))
