"""From a plan to its order: prices and quantities on the grid, what the gate is told, and what is too small to send."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regime_pipeline.errors import CallerError
from regime_pipeline.portfolio.actions import ActionKind, Funding, Signal
from regime_pipeline.portfolio.money import is_on_grid
from regime_pipeline.portfolio.plan import Bound, Outcome, Plan, Rule, Size
from regime_pipeline.portfolio.reasons import ReasonCode
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.limits import RiskSettings
from regime_pipeline.risk.purpose import Leg, Side
from regime_pipeline.services.trading.context import TradingTerms
from regime_pipeline.services.trading.draft_order import Draft, Instrument, build_intent, draft_order

D = Decimal
CLOSE_S = 1_795_201_200
TERMS = TradingTerms("paper-main", Mode.PAPER, "onchain_crypto", trading_enabled=True, holder="test")
LIMITS = RiskSettings()
RULES = InstrumentRules("AAVE/USDT", tick=D("0.01"), step=D("0.001"), min_qty=D("0.01"), min_cost_quote=D(5))
AAVE = Instrument(RULES, D(100), taker_bps=D(10), is_major=False, cluster="mid")


def a_plan(kind: ActionKind, *, notional: str | None = None, quantity: str | None = None, **changes: Any) -> Plan:
    size = Size(
        Funding.REMAINING, D(1), D(1), Bound.SHARE, None if notional is None else D(notional), None if quantity is None else D(quantity)
    )
    plan = Plan(7, CLOSE_S - 3600, None, 0.8, 0.2, degraded=False, outcome=Outcome.ACT, rule=Rule.S1_BUY, kind=kind, signal=Signal.S1_BUY)
    return replace(plan, size=size, price=100.0, atr=2.0, **changes)


def draft(plan: Plan, *, held: str = "0", instrument: Instrument = AAVE, limits: RiskSettings = LIMITS) -> Draft:
    return draft_order(plan, "AAVE/USDT", "onchain_crypto-1h", CLOSE_S, 3600, D(held), instrument, TERMS, limits)


def test_buy_spends_the_planned_money_at_its_limit() -> None:
    order = draft(a_plan(ActionKind.ENTRY, notional="1500")).request
    assert order is not None
    # 100 x 1.003 = 100.30; 1,500 / 100.30 = 14.955134..., down to the step
    assert (order.leg, order.side, order.price, order.qty) == (Leg.ENTRY, Side.BUY, D("100.30"), D("14.955"))
    cost = D("100.30") * D("14.955")
    # stop 3 % below the limit, 97.291, away from the market on the tick; gap 100 bps; costs 2 x (10 fee + 5 half spread + 1)
    assert (order.stop_price, order.gap_quote, order.cost_quote) == (D("97.29"), cost / 100, cost * 32 / 10_000)
    assert order.expected_move_quote == 3 * 2 * D("14.955")  # three ATR of 2
    assert order.decide_by_ms == 1000 * (CLOSE_S + 300 + 60)


def test_major_has_a_narrower_spread() -> None:
    order = draft(a_plan(ActionKind.ADD, notional="1500"), instrument=replace(AAVE, is_major=True)).request
    assert order is not None
    assert (order.leg, order.cost_quote) == (Leg.ADD, D("100.30") * D("14.955") * 24 / 10_000)


def test_entry_is_cut_to_the_largest_order() -> None:
    order = draft(a_plan(ActionKind.ENTRY, notional="50000")).request
    assert order is not None
    assert order.qty == D("99.700")  # 10,000 / 100.30 = 99.7009


def test_exit_sells_what_ledger_and_venue_both_hold() -> None:
    plan = a_plan(ActionKind.EMERGENCY_EXIT, quantity="3")
    ledger_only = draft(plan, held="3.0007").request
    venue_less = draft(plan, held="3.0007", instrument=replace(AAVE, held_qty=D("2.9995"))).request
    assert ledger_only is not None
    assert venue_less is not None
    assert (ledger_only.leg, ledger_only.side, ledger_only.qty, ledger_only.price) == (Leg.EXIT, Side.SELL, D(3), D(100))
    assert venue_less.qty == D("2.999")
    assert (ledger_only.stop_price, ledger_only.expected_move_quote) == (None, None)


def test_trim_sells_its_part_and_never_more_than_is_held() -> None:
    order = draft(a_plan(ActionKind.TRIM, quantity="1.5"), held="3").request
    more = draft(a_plan(ActionKind.TRIM, quantity="9"), held="3").request
    assert order is not None
    assert more is not None
    assert (order.leg, order.qty, more.qty) == (Leg.TRIM, D("1.5"), D(3))


@pytest.mark.parametrize(
    ("plan", "held", "code"),
    [
        (a_plan(ActionKind.ENTRY, notional="0.5"), "0", ReasonCode.BELOW_MIN_QTY),
        (a_plan(ActionKind.ENTRY, notional="4.9"), "0", ReasonCode.BELOW_MIN_COST),
        (a_plan(ActionKind.ENTRY, notional="0"), "0", ReasonCode.ZERO_SIZE),
        (a_plan(ActionKind.EMERGENCY_EXIT, quantity="0.0004"), "0.0004", ReasonCode.ZERO_SIZE),
        (a_plan(ActionKind.TRIM, quantity="0.02"), "0.02", ReasonCode.BELOW_MIN_COST),
    ],
)
def test_too_small_is_no_order(plan: Plan, held: str, code: ReasonCode) -> None:
    found = draft(plan, held=held)
    assert found.request is None
    assert code in found.codes


def test_exit_without_a_record_is_priced_by_the_mark() -> None:
    plan = replace(a_plan(ActionKind.EMERGENCY_EXIT, quantity="3"), price=None)
    order = draft(plan, held="3", instrument=replace(AAVE, mark=D("88.888"))).request
    assert order is not None
    assert order.price == D("88.89")  # a sale asks at least the price
    assert draft(plan, held="3", instrument=replace(AAVE, mark=None)).codes == (ReasonCode.DATA_GAP,)


def test_hold_has_no_order() -> None:
    with pytest.raises(CallerError, match="a hold asks for no order"):
        draft(replace(a_plan(ActionKind.ENTRY, notional="1"), kind=None, size=None))


def test_only_contracts_are_sold_reduce_only() -> None:
    sale, entry = draft(a_plan(ActionKind.EMERGENCY_EXIT, quantity="3"), held="3"), draft(a_plan(ActionKind.ENTRY, notional="1500"))
    for found, is_contract, reduce_only in ((sale, True, True), (sale, False, False), (entry, True, False)):
        assert found.request is not None
        intent = build_intent(found.request, found.key, found.request.qty, D(100), is_contract=is_contract)
        assert intent.reduce_only is reduce_only
        assert intent.client_order_id == found.request.client_order_id


@given(
    st.decimals("0.0001", 1_000_000, places=6),
    st.decimals("0.00001", 100_000, places=8),
    st.sampled_from(("0.01", "0.00000001", "1", "0.5")),
    st.sampled_from(("0.001", "1", "10", "0.00000001")),
)
def test_order_is_on_the_grid_and_within_its_money(notional: Decimal, price: Decimal, tick: str, step: str) -> None:
    rules = InstrumentRules("AAVE/USDT", tick=D(tick), step=D(step))
    plan = replace(a_plan(ActionKind.ENTRY, notional=str(notional)), price=float(price))
    found = draft(plan, instrument=Instrument(rules, price, D(10), is_major=False, cluster="mid"))
    order = found.request
    assert (order is None) == bool(found.codes)
    if order is not None:
        assert is_on_grid(order.price, rules.tick)
        assert is_on_grid(order.qty, rules.step)
        assert order.qty * order.price <= min(notional, LIMITS.max_order_quote)
