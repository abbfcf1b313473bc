"""What recorded actions say of a trade: totals, gates, exits and the trim pool, folded and kept fill by fill."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.errors import CallerError
from regime_pipeline.portfolio.actions import Action, ActionStatus, Funding, Signal
from regime_pipeline.portfolio.pool import Pool, fold_pool
from regime_pipeline.portfolio.trade import Trade, TradeBook, fold_trade
from tests.unit.portfolio.desk import TRADE, a_buy, a_dx, a_trim, an_exit, bar_s

D = Decimal
OTHER = UUID(int=99)


def a_dip(n: int, qty: str, usd: str) -> Action:
    return a_buy(n, qty, usd, signal=Signal.S2_RETEST, funding=Funding.POOL, state="S2")


def a_reclaim(n: int, qty: str, usd: str) -> Action:
    return a_buy(n, qty, usd, signal=Signal.RECLAIM, funding=Funding.EXIT_PROCEEDS, state="S3")


def test_fees_make_a_buy_dearer_and_a_sale_poorer() -> None:
    # 10 bought for 100, fees 0.1 USD and 0.02 tokens: 100.10 paid, 9.98 came
    buy = a_buy(0, "10", "100", fee_usd=D("0.1"), fee_qty=D("0.02"))
    assert (buy.net_usd, buy.net_qty, buy.price) == (D("100.1"), D("9.98"), 10)
    # 4 sold for 60, fees the same: 59.90 came, 4.02 went
    sale = a_trim(1, "4", "60", fee_usd=D("0.1"), fee_qty=D("0.02"))
    assert (sale.net_usd, sale.net_qty, sale.price) == (D("59.9"), D("4.02"), 15)
    trade = fold_trade(TRADE, [buy, sale])
    assert (trade.allocated_usd, trade.extracted_usd, trade.bought_qty, trade.sold_qty) == (D("100.1"), D("59.9"), D("9.98"), D("4.02"))


@pytest.mark.parametrize(("qty", "usd"), [("1", "0"), ("0", "1"), ("-1", "-1")])
def test_a_fill_has_both_quantity_and_money(qty: str, usd: str) -> None:
    with pytest.raises(CallerError, match="both must be 0"):
        a_buy(0, qty, usd)


def test_a_skipped_action_has_no_fills() -> None:
    with pytest.raises(CallerError, match="was skipped and has fills"):
        a_buy(0, "1", "10", status=ActionStatus.SKIPPED)


def test_trims_feed_the_pool_until_a_recovery_begins_and_then_start_a_fresh_one() -> None:
    trims = [a_trim(0, "1", "12"), a_trim(3, "1", "13", fee_usd=D(1))]
    # the first brought 12, the second 13 less a fee of 1
    assert fold_pool(trims) == Pool(usd_basis=D(24))
    # a discount buy of 2 for 22 at ATR .25: price 11, next arm 11 - 6 x .25; the basis stays
    recovering = fold_pool([*trims, a_dx(5, "2", "22")])
    assert recovering == Pool(D(24), True, 1, D(11), D("9.5"))
    assert fold_pool([*trims, a_dx(5, "2", "22"), a_trim(9, "1", "8")]) == Pool(usd_basis=D(8))


@pytest.mark.parametrize("atr", [0.0, None])
def test_without_an_atr_the_next_discount_buy_may_come_anywhere(atr: float | None) -> None:
    pool = fold_pool([a_trim(0, "1", "12"), a_dx(5, "2", "22", atr=atr)])
    assert (pool.dx_count, pool.dx_next_arm) == (1, None)


def test_the_third_discount_buy_empties_the_pool() -> None:
    actions = [a_trim(0, "1", "12"), *(a_dx(n, "1", "5") for n in (1, 2))]
    assert fold_pool(actions).dx_count == 2
    assert fold_pool([*actions, a_dx(3, "1", "5")]) == Pool()


def test_a_dip_in_s2_empties_the_pool_and_an_entry_of_the_same_signal_does_not() -> None:
    trim = a_trim(0, "1", "12")
    assert fold_pool([trim, a_dip(1, "1", "5")]) == Pool()
    entry = a_buy(1, "1", "5", signal=Signal.S2_RETEST, funding=Funding.REMAINING)
    assert fold_pool([trim, entry]) == Pool(usd_basis=D(12))


def test_exits_unfilled_actions_and_other_buys_leave_the_pool_alone() -> None:
    trim = a_trim(0, "1", "12")
    others = [an_exit(1, "1", "9"), a_trim(2, "0", "0"), a_dx(3, "0", "0"), a_buy(4, "1", "9"), a_reclaim(5, "1", "4")]
    assert fold_pool([trim, *others]) == Pool(usd_basis=D(12))


def test_an_action_counts_by_its_fill_not_by_its_signal() -> None:
    trade = fold_trade(TRADE, [a_buy(0, "0", "0"), a_trim(1, "0", "0", level=11.0)])
    assert (trade.s1_bought, trade.last_trim, trade.buys) == (False, None, ())
    assert trade.planned_level == 11.0  # but the level was planned for
    trade = fold_trade(TRADE, [a_buy(0, "1", "10"), a_trim(1, "1", "10", level=11.0)])
    assert (trade.s1_bought, trade.last_trim, trade.buys) == (True, (1001, 11.0), ((bar_s(0), "S1"),))


def test_a_skipped_trim_was_never_sent_and_leaves_its_level_free() -> None:
    trade = fold_trade(TRADE, [a_trim(0, "0", "0", level=11.0, status=ActionStatus.SKIPPED)])
    assert (trade.planned_level, trade.last_action_s) == (None, bar_s(0))


@pytest.mark.parametrize("missing", [{"bars_seen": None}, {"level": None}])
def test_a_trim_without_what_its_gates_need_is_refused(missing: dict[str, None]) -> None:
    with pytest.raises(CallerError, match="no level or no bar count"):
        fold_trade(TRADE, [a_trim(0, "1", "10", **missing)])  # type: ignore[arg-type]


def test_an_exit_stays_due_until_another_action_follows() -> None:
    exit_ = an_exit(1, "0", "0")
    assert fold_trade(TRADE, [exit_]).exit_due == exit_
    assert fold_trade(TRADE, [exit_, a_reclaim(2, "0", "0")]).exit_due is None


def test_the_parts_of_an_exit_are_one_exit_until_something_else_is_filled() -> None:
    parts = [an_exit(1, "1", "30"), an_exit(2, "0", "0"), an_exit(3, "1", "12")]
    assert fold_trade(TRADE, parts).exit_usd == 42
    # a later exit begins anew
    assert fold_trade(TRADE, [*parts, a_dx(4, "1", "5"), an_exit(5, "1", "4")]).exit_usd == 4
    assert fold_trade(TRADE, [*parts, a_trim(4, "1", "5"), an_exit(5, "1", "4")]).exit_usd == 4


def test_a_reclaim_uses_the_proceeds_up_and_only_its_fill_does() -> None:
    exit_ = an_exit(1, "1", "30")
    assert fold_trade(TRADE, [exit_, a_reclaim(2, "0", "0")]).exit_usd == 30
    assert fold_trade(TRADE, [exit_, a_dx(2, "1", "10")]).exit_usd == 30
    assert fold_trade(TRADE, [exit_, a_reclaim(2, "1", "10")]).exit_usd == 0


def test_actions_of_other_trades_are_passed_over_by_a_fold_and_refused_by_a_step() -> None:
    foreign = a_trim(0, "5", "60", trade_id=OTHER)
    own = a_buy(1, "1", "10")
    assert fold_trade(TRADE, [foreign, own]) == fold_trade(TRADE, [own])
    with pytest.raises(CallerError, match="Fold its own actions"):
        Trade(TRADE).after(foreign)


@pytest.mark.parametrize("n", [3, 4])
def test_actions_out_of_order_are_refused(n: int) -> None:
    with pytest.raises(CallerError, match="in order"):
        fold_trade(TRADE, [a_buy(4, "1", "10"), a_trim(n, "1", "10")])


def test_a_late_fill_of_an_older_action_sends_the_book_back_to_a_fold() -> None:
    book = TradeBook.open(TRADE).book(a_buy(0, "1", "10")).book(a_trim(1, "1", "10"))
    with pytest.raises(CallerError, match="Fold all again"):
        book.book(a_buy(0, "2", "20"))


def test_more_fills_of_the_newest_action_replace_what_it_did_before() -> None:
    book = TradeBook.open(TRADE).book(a_buy(0, "100", "1000")).book(a_trim(1, "10", "120"))
    for dx in (a_dx(2, "1", "10"), a_dx(2, "2", "22"), a_dx(2, "3", "30")):
        book = book.book(dx)
    # three fills of one discount buy are one buy, at 30 / 3
    assert book.trade.pool == Pool(D(120), True, 1, D(10), D("8.5"))
    assert (book.trade.allocated_usd, book.trade.bought_qty, book.trade.sold_qty) == (1030, 103, 10)


MAKERS = [a_buy, a_trim, a_dx, a_dip, a_reclaim, an_exit]
AMOUNTS = st.decimals(D("0.001"), D(1000), places=3).map(str)
STEPS = st.lists(st.tuples(st.sampled_from(MAKERS), AMOUNTS, AMOUNTS, st.integers(0, 3)), max_size=25)


def actions_of(steps: Sequence[tuple], parts: bool) -> list[Action]:
    """One action per step, unfilled where the last number is 0; with `parts`, each action as it is after each of its fills."""
    out = []
    for n, (make, qty, usd, n_fills) in enumerate(steps):
        done = make(n, qty, usd) if n_fills else make(n, "0", "0")
        if parts:
            halves = (replace(done, filled_qty=done.filled_qty / 2**k, filled_usd=done.filled_usd / 2**k) for k in range(n_fills, 0, -1))
            out += [make(n, "0", "0"), *halves]
        out.append(done)
    return out


def pool_by_hand(steps: Sequence[tuple]) -> tuple[Fraction, int]:
    """Basis and number of discount buys, worked out from the words of the specification, in fractions."""
    basis, dx_count = Fraction(0), 0
    for make, _qty, usd, n_fills in steps:
        if not n_fills:
            continue
        if make is a_trim:
            basis, dx_count = (Fraction(usd), 0) if dx_count else (basis + Fraction(usd), 0)
        elif make is a_dx:
            dx_count += 1
        if make is a_dip or dx_count == 3:
            basis, dx_count = Fraction(0), 0
    return basis, dx_count


@given(STEPS)
@settings(max_examples=100)
def test_a_fold_equals_the_book_kept_fill_by_fill(steps: Sequence[tuple]) -> None:
    book = TradeBook.open(TRADE)
    for action in actions_of(steps, parts=True):
        book = book.book(action)
    folded = fold_trade(TRADE, actions_of(steps, parts=False))
    assert book.trade == folded
    assert folded.pool == fold_pool(actions_of(steps, parts=False))
    basis, dx_count = pool_by_hand(steps)
    assert (Fraction(folded.pool.usd_basis), folded.pool.dx_count, folded.pool.recovery_started) == (basis, dx_count, dx_count > 0)


@given(STEPS, st.lists(st.tuples(st.sampled_from(MAKERS), AMOUNTS, AMOUNTS, st.integers(0, 3)), max_size=8))
@settings(max_examples=50)
def test_nothing_of_another_trade_is_ever_read(steps: Sequence[tuple], foreign: Sequence[tuple]) -> None:
    own = actions_of(steps, parts=False)
    others = [replace(action, trade_id=OTHER) for action in actions_of(foreign, parts=False)]
    mixed = sorted([*own, *others], key=lambda action: action.bar_ts_s)
    assert fold_trade(TRADE, mixed) == fold_trade(TRADE, own)


def test_an_exit_out_of_s0_has_proceeds_like_any_other() -> None:
    trade = fold_trade(TRADE, [an_exit(1, "1", "30", signal=Signal.EXIT_POSITION)])
    assert (trade.exit_usd, trade.extracted_usd) == (30, 30)
