"""The gate: every code by the smallest change that earns it, examples W12 and W13, and exits that only their own checks stop."""

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.portfolio.reasons import ReasonCode as R
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.gate import CHECKS, Check, Use, run_gate
from regime_pipeline.risk.gate_view import Case, Finding, GateVerdict, GateView, Holding, LiveOrder, OrderRequest, SeriesHealth, VenueHealth
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.kill_switch import EVERYBODY, Level, Scope
from regime_pipeline.risk.limits import RiskSettings
from regime_pipeline.risk.protections import Effect, Trip
from regime_pipeline.risk.purpose import Leg, Purpose, Side

D = Decimal
LIMITS = RiskSettings()
NOW_MS = 1_795_201_260_000
SERIES = SeriesHealth("BTC 1h", 60, 4020, D(1), D("0.95"))
VENUE = VenueHealth(is_up=True, is_breaker_open=False, clock_offset_ms=20, spread_bps=D(2))

# Buy 0.1 BTC at 40 000 = 4 000, stop 2 % lower: 80 at risk, plus 5 of gap and 8 of costs, of 100 000.
ENTRY = OrderRequest(
    client_order_id="c5",
    account="paper-main",
    strategy="core-1h",
    symbol="BTC/USDT",
    cluster="majors",
    leg=Leg.ENTRY,
    side=Side.BUY,
    qty=D("0.1"),
    price=D(40_000),
    notional_quote=D(4000),
    origin="strategy",
    mode=Mode.PAPER,
    decide_by_ms=NOW_MS + 1,
    stop_price=D(39_200),
    gap_quote=D(5),
    cost_quote=D(8),
    expected_move_quote=D(100),
)
CALM = GateView(
    now_ms=NOW_MS,
    mode=Mode.PAPER,
    kill_level=Level.NORMAL,
    rules=InstrumentRules("BTC/USDT", D("0.01"), D("0.001"), min_qty=D("0.002"), max_qty=D(100), min_cost_quote=D(5)),
    is_major=True,
    series=(SERIES,),
    venue=VENUE,
    recon_age_s=60,
    is_recon_clean=True,
    trips=(),
    equity_quote=D(100_000),
    cash_quote=D(80_000),
    allocation_left_quote=D(10_000),
    traded_today_quote=D(0),
    day_loss_frac=D(0),
    week_loss_frac=D(0),
    open_risk_frac=D(0),
    n_orders_last_min=0,
    is_rate_budget_left=True,
    mid=D(40_000),
    mark=D(40_000),
)
HELD = Holding("BTC/USDT", "majors", D("0.3"), D(40_000))
EXIT = replace(
    ENTRY, leg=Leg.EXIT, side=Side.SELL, qty=D("0.3"), notional_quote=D(12_000), stop_price=None, gap_quote=None, cost_quote=None
)
HOLDING = replace(CALM, holdings=(HELD,))


def judge(order: OrderRequest, view: GateView, limits: RiskSettings = LIMITS) -> GateVerdict:
    return run_gate(order, view, limits)


def a_live(
    purpose: Purpose = Purpose.ENTRY, side: Side = Side.BUY, qty: str = "0.05", *, unresolved: bool = False, symbol: str = "BTC/USDT"
) -> LiveOrder:
    return LiveOrder(symbol, "majors", side, purpose, D(qty), D(40_000), unresolved)


def a_trip(code: R, **changes: object) -> Trip:
    trip = Trip("x", Effect.ENTRIES_OFF, EVERYBODY, code, NOW_MS // 1000 + 60, "t")
    return replace(trip, **changes)  # type: ignore[arg-type]


def test_a_calm_entry_and_a_calm_exit_pass() -> None:
    assert judge(ENTRY, CALM).codes == ()
    assert judge(ENTRY, CALM).is_passed
    assert judge(EXIT, HOLDING).codes == ()


BIG = D("0.3")  # 12 000

# Every code of 7.1 with the smallest change of order and view that earns it, and it alone.
REFUSALS: list[tuple[R, dict, dict]] = [
    *[(R.KILLED, {}, {"kill_level": level}) for level in Level if level],
    (R.UNAUTHORIZED_ORIGIN, {"origin": "model"}, {}),
    (R.MODE_MISMATCH, {"mode": Mode.LIVE}, {}),
    (R.NOT_ARMED, {}, {"missing_arm_parts": ("no arm row",)}),
    (R.NOT_ARMED, {}, {"arm_order_quote": D(3999)}),
    (R.NOT_ARMED, {}, {"arm_day_left_quote": D(3999)}),
    (R.DUPLICATE_KEY, {}, {"known_ids": frozenset({"c5"})}),
    (R.DECISION_STALE, {"decide_by_ms": NOW_MS}, {}),
    (R.SYMBOL_INACTIVE, {}, {"rules": replace(CALM.rules, is_active=False)}),
    (R.SYMBOL_INACTIVE, {}, {"rules": replace(CALM.rules, symbol="ETH/USDT")}),
    (R.BAD_TICK, {"price": D("40000.005")}, {}),
    (R.BELOW_MIN_QTY, {}, {"rules": replace(CALM.rules, min_qty=D("0.2"))}),
    (R.BELOW_MIN_QTY, {"qty": D("0.1001"), "notional_quote": D(4004)}, {}),
    (R.BELOW_MIN_COST, {}, {"rules": replace(CALM.rules, min_cost_quote=D(4001))}),
    (R.ABOVE_MAX_QTY, {}, {"rules": replace(CALM.rules, max_qty=D("0.09"))}),
    (R.UNIT_MISMATCH, {"notional_quote": D(4021)}, {}),  # 21 of 4 021 is over 0.5 %
    (R.DATA_STALE, {}, {"series": None}),
    (R.DATA_STALE, {}, {"series": ()}),
    (R.DATA_STALE, {}, {"series": (SERIES, replace(SERIES, age_s=4021))}),
    (R.DATA_STALE, {}, {"series": (replace(SERIES, age_s=None),)}),
    (R.DATA_GAP, {}, {"series": (replace(SERIES, has_gap=True),)}),
    (R.DATA_UNCLOSED, {}, {"series": (replace(SERIES, is_closed=False),)}),
    (R.DATA_QUARANTINED, {}, {"series": (replace(SERIES, is_quarantined=True),)}),
    (R.COVERAGE_LOW, {}, {"series": (replace(SERIES, coverage_frac=D("0.949")),)}),
    (R.COVERAGE_LOW, {}, {"series": (replace(SERIES, coverage_frac=None),)}),
    (R.MODEL_STALE, {}, {"series": (replace(SERIES, is_model_fresh=False),)}),
    (R.VENUE_DOWN, {}, {"venue": None}),
    (R.VENUE_DOWN, {}, {"venue": replace(VENUE, is_up=False)}),
    (R.BREAKER_OPEN, {}, {"venue": replace(VENUE, is_breaker_open=True)}),
    (R.CLOCK_OFFSET, {}, {"venue": replace(VENUE, clock_offset_ms=-501)}),
    (R.CLOCK_OFFSET, {}, {"venue": replace(VENUE, clock_offset_ms=None)}),
    (R.SPREAD_TOO_WIDE, {}, {"venue": replace(VENUE, spread_bps=D("50.1"))}),
    (R.SPREAD_TOO_WIDE, {}, {"venue": replace(VENUE, spread_bps=None)}),
    (R.SPREAD_TOO_WIDE, {}, {"venue": replace(VENUE, spread_bps=D(-1))}),  # a crossed book
    (R.RECON_OPEN, {}, {"is_recon_clean": False}),
    (R.RECON_UNKNOWN, {}, {"is_recon_clean": None}),
    (R.RECON_UNKNOWN, {}, {"recon_age_s": None}),
    (R.RECON_UNKNOWN, {}, {"recon_age_s": 301}),
    (R.ORDER_UNRESOLVED, {}, {"holdings": (HELD,), "live_orders": (a_live(Purpose.STOP, Side.SELL, unresolved=True),)}),
    (R.LIVE_INTENT_EXISTS, {}, {"live_orders": (a_live(),)}),
    (R.OPPOSITE_SIGNAL, {}, {"holdings": (replace(HELD, qty=D("-0.01")),)}),
    (R.OPPOSITE_SIGNAL, {}, {"holdings": (HELD,), "live_orders": (a_live(Purpose.EXIT, Side.SELL),)}),
    (R.PROT_ERROR, {}, {"trips": None}),
    *[(code, {}, {"trips": (a_trip(code),)}) for code in R if code.startswith("PROT_")],
    (R.RISK_PER_TRADE, {"stop_price": None}, {}),
    (R.RISK_PER_TRADE, {"stop_price": D(40_000)}, {}),  # no distance is no stop
    (R.RISK_PER_TRADE, {"gap_quote": None}, {}),
    (R.RISK_PER_TRADE, {"stop_price": D(30_000)}, {}),  # 10 000 x 0.1 + 13 is 1 013, over 1 % of 100 000
    (R.FRICTION_TOO_HIGH, {"expected_move_quote": D("26.6")}, {}),  # 8 of 26.6 is over 30 %
    (R.FRICTION_TOO_HIGH, {"expected_move_quote": None}, {}),
    (R.FRICTION_TOO_HIGH, {"expected_move_quote": D(0)}, {}),
    (R.SYMBOL_CAP, {}, {"holdings": (replace(HELD, qty=D("0.55")),)}),  # 22 000 + 4 000 of 25 000
    (R.CLUSTER_CAP, {}, {"holdings": (Holding("ETH/USDT", "majors", D(10), D(4700)),)}),  # 47 000 + 4 000 of 50 000
    (R.LIQUIDATION_NEAR, {}, {"is_margin": True}),
    (R.LIQUIDATION_NEAR, {}, {"is_margin": True, "liq_distance_frac": D("0.24")}),
    (R.POSITIONS_CAP, {}, {"holdings": tuple(Holding(f"T{n}", f"c{n}", D(1), D(10)) for n in range(20))}),
    (R.ALLOCATION_CAP, {}, {"allocation_left_quote": D(3999)}),
    (R.ALLOCATION_CAP, {}, {"allocation_left_quote": None}),
    (R.ALLOCATION_CAP, {}, {"traded_today_quote": D(596_001)}),  # + 4 000 is over 6 x 100 000
    (R.ALLOCATION_CAP, {}, {"traded_today_quote": None}),
    (R.ALLOCATION_CAP, {"qty": BIG, "notional_quote": D(12_000)}, {"allocation_left_quote": D(99_000)}),  # over one order's 10 000
    (R.CASH_RESERVE, {}, {"cash_quote": D(8999)}),  # 4 999 would stay, 5 000 must
    (R.CASH_RESERVE, {}, {"cash_quote": None}),
    (R.DAILY_LOSS_BUDGET, {}, {"day_loss_frac": D("0.0195")}),
    (R.WEEKLY_LOSS_BUDGET, {}, {"week_loss_frac": D("0.0595")}),
    (R.EQUITY_UNKNOWN, {}, {"day_loss_frac": None}),
    (R.EQUITY_UNKNOWN, {}, {"open_risk_frac": None}),
    (R.RATE_LIMITED, {}, {"n_orders_last_min": 30}),
    (R.RATE_LIMITED, {}, {"n_orders_last_min": None}),
    (R.RATE_LIMITED, {}, {"is_rate_budget_left": False}),
    (R.PRICE_OUT_OF_BAND, {}, {"mid": D(39_408)}),  # 592 of 39 408 is over 150 bps
    (R.PRICE_OUT_OF_BAND, {}, {"mark": D(40_700)}),
    (R.PRICE_OUT_OF_BAND, {}, {"mid": None}),
    (R.PRICE_OUT_OF_BAND, {}, {"mark": D(0)}),
]

# A change that cannot avoid earning another code too.
ALSO = {
    R.RISK_PER_TRADE: {R.EQUITY_UNKNOWN},
    R.ORDER_UNRESOLVED: set(),
}


@pytest.mark.parametrize(("code", "order", "view"), REFUSALS)
def test_each_check_refuses_an_entry_with_its_code_alone(code: R, order: dict, view: dict) -> None:
    verdict = judge(replace(ENTRY, **order), replace(CALM, **view))
    assert not verdict.is_passed
    assert set(verdict.codes) - ALSO.get(code, set()) == {code}
    assert all(finding.detail for finding in verdict.findings)


def test_dust_takes_no_place_of_a_position() -> None:
    # 20 positions are allowed: 25 remainders worth 9.99 each, below the smallest entry of 10, are none.
    dust = tuple(Holding(f"T{n}", f"c{n}", D("0.999"), D(10)) for n in range(25))
    assert judge(ENTRY, replace(CALM, holdings=dust)).is_passed


def test_every_code_of_the_gate_is_earned_somewhere() -> None:
    gate_codes = list(R)[: list(R).index(R.IN_POSITION)]
    # These cannot come alone, or only an exit earns them; each has its own test.
    apart = {R.GROSS_CAP, R.NET_CAP, R.LEVERAGE_CAP, R.EXIT_EXCEEDS_POSITION}
    assert {code for code, _, _ in REFUSALS} == set(gate_codes) - apart


def test_all_failing_codes_are_returned_in_the_order_of_the_checks() -> None:
    order = replace(ENTRY, origin="model", decide_by_ms=0, qty=D("0.0001"))
    codes = judge(order, replace(CALM, kill_level=Level.REDUCE_ONLY, trips=None, equity_quote=None)).codes
    assert codes == (
        R.KILLED,
        R.UNAUTHORIZED_ORIGIN,
        R.DECISION_STALE,
        R.BELOW_MIN_QTY,
        R.BELOW_MIN_COST,
        R.UNIT_MISMATCH,
        R.PROT_ERROR,
        R.RISK_PER_TRADE,
        R.GROSS_CAP,
        R.ALLOCATION_CAP,
        R.CASH_RESERVE,
        R.EQUITY_UNKNOWN,
    )


def test_a_view_of_which_nothing_is_known_refuses_every_entry_check() -> None:
    blind = GateView(now_ms=NOW_MS, mode=Mode.PAPER, kill_level=Level.NORMAL, rules=CALM.rules)
    assert {
        R.DATA_STALE, R.VENUE_DOWN, R.RECON_UNKNOWN, R.PROT_ERROR, R.RISK_PER_TRADE, R.GROSS_CAP, R.ALLOCATION_CAP, R.CASH_RESERVE,
        R.EQUITY_UNKNOWN, R.RATE_LIMITED, R.PRICE_OUT_OF_BAND,
    } == set(judge(ENTRY, blind).codes)  # fmt: skip
    assert judge(ENTRY, blind).headroom_quote is None


# W13


def test_w13_live_and_unknown_orders_count_at_full_size() -> None:
    # Position 0.30 = 12 000, UNKNOWN 0.20 = 8 000, OPEN rest 0.05 = 2 000, new 0.10 = 4 000: 26 000 of 100 000 is 0.26 > 0.25.
    view = replace(HOLDING, live_orders=(a_live(qty="0.20", unresolved=True), a_live(qty="0.05")))
    verdict = judge(ENTRY, view)
    assert verdict.codes == (R.ORDER_UNRESOLVED, R.LIVE_INTENT_EXISTS, R.SYMBOL_CAP)
    assert "symbol would be 26000" in verdict.findings[-1].detail
    # 25 000 - 22 000.
    assert verdict.headroom_quote == 3000
    assert judge(EXIT, view).is_passed


def test_w13_what_fits_the_headroom_passes_the_cap() -> None:
    view = replace(HOLDING, live_orders=(a_live(qty="0.20"), a_live(qty="0.05")))
    assert judge(replace(ENTRY, qty=D("0.075"), notional_quote=D(3000)), view).codes == (R.LIVE_INTENT_EXISTS,)


# W12


def test_w12_loss_open_risk_and_this_trade_share_the_soft_limit() -> None:
    # 1.4 % lost + 0.3 % open + 0.4 % new (387 + 5 + 8 = 400 of 100 000) is 2.1 %, over 2 %.
    order = replace(ENTRY, stop_price=D(36_130))
    view = replace(CALM, day_loss_frac=D("0.014"), open_risk_frac=D("0.003"))
    assert judge(order, view).codes == (R.DAILY_LOSS_BUDGET,)
    assert judge(order, replace(view, day_loss_frac=D("0.013"))).codes == ()  # exactly 2 % is within


def test_a_profit_is_no_budget_to_lose() -> None:
    assert judge(ENTRY, replace(CALM, day_loss_frac=D("-0.10"), open_risk_frac=D("0.0195"))).codes == (R.DAILY_LOSS_BUDGET,)


# Check 11, where one cap implies another


def test_gross_net_and_leverage_count_both_sides() -> None:
    loose = RiskSettings(max_weight_frac=D(1), max_cluster_frac=D(1))
    longs = replace(CALM, holdings=(Holding("ETH/USDT", "eth", D(1), D(97_000)),))
    # 97 000 + 4 000 is over 100 000, net and gross.
    assert judge(ENTRY, longs, loose).codes == (R.GROSS_CAP, R.NET_CAP, R.LEVERAGE_CAP)
    hedged = replace(CALM, holdings=(Holding("ETH/USDT", "eth", D(1), D(50_000)), Holding("SOL/USDT", "sol", D(-1), D(47_000))))
    # Gross is 101 000, net 3 000 + 4 000.
    assert judge(ENTRY, hedged, loose).codes == (R.GROSS_CAP, R.LEVERAGE_CAP)


def test_net_is_taken_at_its_worst() -> None:
    # A live short of 98 000 may fill and this buy not: net -98 000; a leverage of 3 and a net cap of 90 000 leave only that.
    limits = RiskSettings(max_leverage_x=D(3), max_gross_frac=D(3), max_net_frac=D("0.9"))
    live = (LiveOrder("ETH/USDT", "eth", Side.SELL, Purpose.ENTRY, D(1), D(98_000)),)
    assert judge(ENTRY, replace(CALM, cash_quote=D(200_000), live_orders=live), limits).codes == (R.NET_CAP,)


# Exits


EXIT_ONLY = [
    {"series": None, "venue": None, "trips": None, "equity_quote": None, "n_orders_last_min": None, "recon_age_s": None},
    {"mid": None, "mark": None},
    {"kill_level": Level.REDUCE_ONLY, "missing_arm_parts": ("no arm row",)},
    {"trips": (a_trip(R.PROT_DAILY_LOSS, effect=Effect.HALT),)},
    {"day_loss_frac": D("0.5"), "cash_quote": D(-1), "is_recon_clean": False},
    {"mid": D(38_300)},  # 1 700 of 38 300 is 444 bps, within 3 x 150
]


@pytest.mark.parametrize("view", EXIT_ONLY)
def test_what_only_concerns_entries_never_stops_an_exit(view: dict) -> None:
    assert judge(EXIT, replace(HOLDING, **view)).codes == ()


def test_data_and_venue_are_logged_for_an_exit() -> None:
    logged = judge(EXIT, replace(HOLDING, series=None, venue=None)).logged
    assert [finding.code for finding in logged] == [R.DATA_STALE, R.VENUE_DOWN]


@pytest.mark.parametrize(
    ("order", "view", "code"),
    [
        ({}, {"kill_level": Level.HARD_STOP}, R.KILLED),
        ({"origin": "model"}, {}, R.UNAUTHORIZED_ORIGIN),
        ({"mode": Mode.LIVE}, {}, R.MODE_MISMATCH),
        ({}, {"known_ids": frozenset({"c5"})}, R.DUPLICATE_KEY),
        ({"decide_by_ms": NOW_MS}, {}, R.DECISION_STALE),
        ({"qty": D("0.001"), "notional_quote": D(40)}, {}, R.BELOW_MIN_QTY),
        ({}, {"holdings": ()}, R.EXIT_EXCEEDS_POSITION),
        ({"side": Side.BUY}, {}, R.EXIT_EXCEEDS_POSITION),
        ({}, {"live_orders": (a_live(Purpose.STOP, Side.SELL, "0.3"),)}, R.EXIT_EXCEEDS_POSITION),
        ({}, {"mid": D(38_000)}, R.PRICE_OUT_OF_BAND),  # 2 000 of 38 000 is 526 bps
    ],
)
def test_an_exit_is_stopped_by_its_own_checks(order: dict, view: dict, code: R) -> None:
    assert code in judge(replace(EXIT, **order), replace(HOLDING, **view)).codes


def test_an_exit_is_cut_to_what_is_free_never_refused_for_it() -> None:
    # 0.3 held, 0.1204 claimed by a target: 0.1796 free, 0.179 on the step.
    verdict = judge(EXIT, replace(HOLDING, live_orders=(a_live(Purpose.REDUCE, Side.SELL, "0.1204"),)))
    assert (verdict.codes, verdict.qty) == ((), D("0.179"))


@pytest.mark.parametrize("leg", [Leg.FLATTEN, Leg.SL])
def test_at_a_hard_stop_only_flatten_and_stops_go_on(leg: Leg) -> None:
    assert judge(replace(EXIT, leg=leg), replace(HOLDING, kill_level=Level.HARD_STOP)).is_passed
    assert judge(replace(EXIT, origin="human"), replace(HOLDING, kill_level=Level.HARD_STOP)).is_passed


def test_flatten_is_asked_four_checks_only() -> None:
    flatten = replace(EXIT, leg=Leg.FLATTEN, decide_by_ms=0)
    view = replace(HOLDING, kill_level=Level.PROCESS_STOP, series=None, known_ids=frozenset({"c5"}))
    assert judge(flatten, view) == GateVerdict((), (), D("0.3"))
    assert [check.number for check in CHECKS if check.on_flatten is Use.REFUSES] == [2, 4, 8, 15]


def test_the_columns_are_those_of_the_specification() -> None:
    assert [check.number for check in CHECKS] == list(range(1, 16))
    assert [check.number for check in CHECKS if check.on_exit is Use.REFUSES] == [1, 2, 3, 4, 8, 15]
    assert [check.number for check in CHECKS if check.on_exit is Use.LOGGED] == [5, 6]


# Protections that do not concern the order


@pytest.mark.parametrize(
    "trip",
    [
        a_trip(R.PROT_COOLDOWN, until_s=NOW_MS // 1000),
        a_trip(R.PROT_COOLDOWN, side=Side.SELL),
        a_trip(R.PROT_COOLDOWN, scope=Scope(symbol="ETH/USDT")),
        a_trip(R.PROT_COOLDOWN, effect=Effect.ALLOW),
    ],
)
def test_a_protection_of_somebody_else_or_of_the_past_lets_pass(trip: Trip) -> None:
    assert judge(ENTRY, replace(CALM, trips=(trip,))).is_passed


def test_an_add_beside_its_protective_stop_passes() -> None:
    view = replace(HOLDING, live_orders=(a_live(Purpose.STOP, Side.SELL, "0.3"),))
    assert judge(replace(ENTRY, leg=Leg.ADD), view).is_passed


def test_other_symbols_have_a_wider_band() -> None:
    # 1 500 of 38 500 is 390 bps: out for a major, within 500 for others.
    view = replace(CALM, mid=D(38_500))
    assert judge(ENTRY, view).codes == (R.PRICE_OUT_OF_BAND,)
    assert judge(ENTRY, replace(view, is_major=False)).codes == ()


# A check that fails itself


def broken(case: Case) -> Iterator[Finding]:
    raise KeyError(case.order.symbol)


def test_a_check_that_raises_refuses_an_entry() -> None:
    verdict = run_gate(ENTRY, CALM, LIMITS, [*CHECKS, Check(16, broken, Use.SKIPPED)])
    assert verdict.codes == (R.GATE_UNAVAILABLE,)
    assert not verdict.needs_page


@pytest.mark.parametrize(
    ("use", "codes", "logged", "pages"),
    [(Use.REFUSES, (R.GATE_UNAVAILABLE,), 0, True), (Use.LOGGED, (), 1, False), (Use.SKIPPED, (), 0, False)],
)
def test_a_check_that_raises_stops_an_exit_and_pages_only_if_it_concerns_exits(use: Use, codes: tuple, logged: int, pages: bool) -> None:
    verdict = run_gate(EXIT, HOLDING, LIMITS, [Check(1, broken, use)])
    assert (verdict.codes, len(verdict.logged), verdict.needs_page) == (codes, logged, pages)


@pytest.mark.parametrize("order", [ENTRY, EXIT])
@pytest.mark.parametrize("field", ["qty", "price", "notional_quote"])
def test_a_number_that_is_none_refuses_and_never_raises(order: OrderRequest, field: str) -> None:
    assert not judge(replace(order, **{field: D("NaN")}), HOLDING).is_passed


def test_a_holding_that_is_no_number_refuses_and_never_raises() -> None:
    nameless = replace(HOLDING, holdings=(replace(HELD, qty=D("NaN")),))
    assert R.GATE_UNAVAILABLE in judge(ENTRY, nameless).codes
    verdict = judge(EXIT, nameless)
    assert R.GATE_UNAVAILABLE in verdict.codes
    assert verdict.needs_page


# Properties

QTYS = st.decimals("0.001", "1", places=3)


@settings(max_examples=100)
@given(QTYS, st.sampled_from([Side.BUY, Side.SELL]), st.lists(st.tuples(QTYS, st.sampled_from(Purpose), st.booleans()), max_size=4), QTYS)
def test_no_exit_that_passes_flips_the_sign(held: Decimal, side: Side, live: list, qty: Decimal) -> None:
    view = replace(
        CALM,
        holdings=(replace(HELD, qty=-side.sign * held),),
        live_orders=tuple(a_live(purpose, side if same else side.opposite, str(rest)) for rest, purpose, same in live),
    )
    verdict = judge(replace(EXIT, side=side, qty=qty, notional_quote=qty * 40_000), view)
    claimed = sum((rest for rest, purpose, same in live if same and purpose is not Purpose.ENTRY), D(0))
    if verdict.is_passed:
        assert 0 < verdict.qty <= qty
        assert claimed + verdict.qty <= held


@settings(max_examples=100)
@given(QTYS, QTYS, QTYS)
def test_an_entry_that_passes_keeps_the_symbol_within_its_cap(held: Decimal, live: Decimal, qty: Decimal) -> None:
    # An entry that is live on the symbol is refused anyway: the cap is asked alone.
    view = replace(CALM, holdings=(replace(HELD, qty=held),), live_orders=(a_live(qty=str(live)),))
    caps = [check for check in CHECKS if check.number == 11]
    verdict = run_gate(replace(ENTRY, qty=qty, notional_quote=qty * 40_000), view, LIMITS, caps)
    assert (R.SYMBOL_CAP in verdict.codes) == ((held + live + qty) * 40_000 > 25_000)
    assert verdict.headroom_quote == max(25_000 - (held + live) * 40_000, D(0))


@settings(max_examples=50)
@given(st.sampled_from(list(Level)), st.sampled_from(list(Leg)), st.booleans())
def test_nothing_that_raises_exposure_passes_a_killed_scope(level: Level, leg: Leg, by_person: bool) -> None:
    order = replace(ENTRY, leg=leg, origin="human" if by_person else "strategy")
    if leg.purpose is Purpose.ENTRY and level is not Level.NORMAL:
        assert R.KILLED in judge(order, replace(CALM, kill_level=level)).codes
