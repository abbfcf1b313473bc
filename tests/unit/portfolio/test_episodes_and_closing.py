"""Attempts, blocks and the end of a trade."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.errors import BadInputError, CallerError
from regime_pipeline.portfolio.closing import Hold, close_trade, may_close, summarise_trade
from regime_pipeline.portfolio.episodes import Block, Episodes, Failure, entered_states, judge_failure
from regime_pipeline.portfolio.position import Position, Status, VenueLimits, step_position
from regime_pipeline.portfolio.trade import Trade, fold_trade
from tests.unit.portfolio.desk import COARSE, TRADE, a_buy, a_position, a_trim, an_exit, bar_s

D = Decimal


def after(*states: str, start: Episodes | None = None) -> Episodes:
    episodes = start or Episodes()
    for n, state in enumerate(states):
        episodes = episodes.after(bar_s(n), state)
    return episodes


def test_an_attempt_begins_out_of_s0_and_its_first_s2_is_an_episode() -> None:
    assert after("S0") == Episodes("S0")
    assert after("S0", "S1") == Episodes("S1", attempt_s=bar_s(1))
    assert after("S0", "S1", "S2", "S2") == Episodes("S2", attempt_s=bar_s(1), s2_s=bar_s(2))
    # S1 -> S2 -> S1 -> S2: the S2 episode is the first one's, the S1 episode the newest return
    assert after("S0", "S1", "S2", "S1", "S2", "S1") == Episodes("S1", attempt_s=bar_s(1), s2_s=bar_s(2), s1_s=bar_s(5))


def test_s3_is_success_and_forgives_what_failed_before() -> None:
    assert after("S0", "S1", "S0", "S1", "S2", "S3") == Episodes("S3", s3_s=bar_s(5))
    assert after("S0", "S1", "S2", "S3", "S3", "S0") == Episodes("S0")


def test_back_in_s0_the_attempt_has_failed() -> None:
    assert after("S0", "S1", "S1", "S0") == Episodes("S0", failure=Failure(bar_s(1), bar_s(3)))
    # nobody judged the first one: both are told, from the first one's begin to the last one's end
    assert after("S0", "S1", "S0", "S1", "S0").failure == Failure(bar_s(1), bar_s(4))


@pytest.mark.parametrize("states", [("S4", "S0"), ("S4", "S3", "S0"), ("S1", "S2", "S0"), ("S3", "S2", "S0"), ("S0", "S1", "S4", "S0")])
def test_what_did_not_begin_in_s0_is_no_attempt(states: Sequence[str]) -> None:
    assert after(*states) == Episodes("S0")


def a_loser(*buys: tuple[int, str]) -> Trade:
    """A trade that bought in these states and got half of it back."""
    actions = [a_buy(n, "1", "10", state=state) for n, state in buys]
    return fold_trade(TRADE, [*actions, an_exit(9, str(len(buys)), str(5 * len(buys)))])


FAILED = Episodes("S0", failure=Failure(bar_s(1), bar_s(5)))


@pytest.mark.parametrize(
    ("buys", "s1", "s2"),
    [
        ([(2, "S1")], True, True),
        ([(2, "S2")], False, True),
        ([(2, "S1"), (3, "S2")], True, True),
        ([(0, "S1")], False, False),  # before the attempt
        ([(5, "S1")], False, False),  # after it
        ([(2, "S3")], False, False),
    ],
)
def test_a_failed_attempt_blocks_what_it_bought_in(buys: list[tuple[int, str]], s1: bool, s2: bool) -> None:
    trade = a_loser(*buys)
    episodes, block = judge_failure(FAILED, Block(last_success_s=3), trade, D(-1))
    assert episodes == Episodes("S0")
    assert (block.blocked_s1, block.blocked_s2, block.last_success_s) == (s1, s2, 3)
    assert (block.last_s1_failure_s, block.last_s2_failure_s) == (bar_s(5) if s1 else None, bar_s(5) if s2 else None)


def test_an_attempt_that_lost_nothing_blocks_nothing() -> None:
    assert judge_failure(FAILED, Block(), a_loser((2, "S1")), D(0)) == (Episodes("S0"), Block())


def test_without_a_failure_there_is_nothing_to_judge() -> None:
    assert judge_failure(Episodes("S1"), Block(), a_loser((2, "S1")), D(-1)) == (Episodes("S1"), Block())


def test_entered_states_are_those_of_filled_buys_in_the_span() -> None:
    trade = fold_trade(TRADE, [a_buy(0, "1", "10"), a_buy(1, "0", "0", state="S2"), a_buy(2, "1", "10", state="S2"), a_trim(3, "1", "5")])
    assert entered_states(trade, bar_s(0), bar_s(2)) == {"S1"}
    assert entered_states(trade, bar_s(0), bar_s(3)) == {"S1", "S2"}


def a_holder(quantity: str = "1", **changes: object) -> Position:
    trade = fold_trade(TRADE, [a_buy(2, "1", "10")])
    return replace(a_position(), **{"quantity": D(quantity), "trade": trade, "episodes": after("S0", "S1", "S1"), **changes})


def test_the_full_cycle_of_a_block() -> None:
    held = step_position(a_holder(), bar_s(5), "S0", D(8))
    assert held.episodes.failure == Failure(bar_s(1), bar_s(5))
    assert held.block == Block()  # not flat, so not judged
    sold = replace(held, quantity=D(0), trade=fold_trade(TRADE, [a_buy(2, "1", "10"), an_exit(5, "1", "8")]))
    blocked, summary = close_trade(sold, "S0", D(8), Hold(0, 1, [8.0], [10.0]))
    assert summary is not None
    assert blocked.block == Block(True, True, bar_s(5), bar_s(5))
    for n, state in enumerate(("S1", "S2"), start=6):
        blocked = step_position(blocked, bar_s(n), state, D(8))
        assert blocked.block.blocked_s1
    freed = step_position(blocked, bar_s(8), "S3", D(8))
    assert freed.block == Block(False, False, bar_s(5), bar_s(5), last_success_s=bar_s(8))
    assert step_position(freed, bar_s(9), "S3", D(8)) is freed


def test_an_attempt_is_judged_once_flat_even_when_the_series_has_moved_on() -> None:
    held = step_position(a_holder(), bar_s(5), "S0", D(8))
    moved = step_position(held, bar_s(6), "S1", D(8))
    assert moved.episodes.failure == Failure(bar_s(1), bar_s(5))
    sold = replace(moved, quantity=D(0), trade=fold_trade(TRADE, [a_buy(2, "1", "10"), an_exit(5, "1", "8")]))
    judged = step_position(sold, bar_s(7), "S1", D(8))
    assert judged.block.blocked_s1
    assert judged.episodes == Episodes("S1", attempt_s=bar_s(6))
    # the open trade loses more, but the attempt was judged already
    assert step_position(judged, bar_s(8), "S1", D(1)) is judged


def test_what_is_left_as_dust_counts_at_its_price() -> None:
    # 10 paid, 9.99 came back, 0.004 tokens left: at 1 a loss of 0.006, at 3 a gain of 0.002
    trade = fold_trade(TRADE, [a_buy(2, "1", "10"), an_exit(5, "0.996", "9.99")])
    dust = a_holder("0.004", trade=trade, episodes=replace(FAILED))
    assert step_position(dust, bar_s(6), "S0", D(1)).block.blocked_s1
    assert not step_position(dust, bar_s(6), "S0", D(3)).block.blocked_s1


def test_a_fill_that_comes_after_the_attempt_failed_is_judged_with_it() -> None:
    flat = a_position(episodes=after("S0", "S1", "S1"))
    failed = step_position(flat, bar_s(3), "S0", D(8))
    assert failed.episodes.failure == Failure(bar_s(1), bar_s(3))  # no trade, so nothing to judge yet
    trade = fold_trade(TRADE, [a_buy(2, "1", "10"), an_exit(4, "1", "8")])
    closed, _ = close_trade(replace(failed, trade=trade), "S0", D(8), Hold(0, 1, [8.0], [10.0]))
    assert closed.block.blocked_s1


def test_flat_means_nothing_that_could_be_sold() -> None:
    # steps of 0.001, at least 0.01 tokens and 5 USD: 0.9 x 5.5 = 4.95 USD is too little, 0.91 x 5.5 = 5.005 is enough
    assert a_holder("0.9").is_flat(D("5.5"))
    assert not a_holder("0.91").is_flat(D("5.5"))
    assert a_holder("0.0099").is_flat(D(10_000))
    assert not a_holder("0.01").is_flat(D(10_000))
    # of 0.9 tokens in steps of 0.5 an order carries 0.5: 4.50 USD at 9
    assert VenueLimits(D("0.5"), D(0), D(5)).is_dust(D("0.9"), D(9))
    # without a price only the quantity is judged
    assert not a_holder("0.9").is_flat(None)
    # what is left below one step can never be sold, whatever the minimum
    assert VenueLimits(D("0.001")).is_dust(D("0.00025"), D(1_000_000))


@pytest.mark.parametrize("limits", [(0, 0, 0), (1, -1, 0), (1, 0, -1)])
def test_limits_that_no_venue_has_are_refused(limits: tuple[int, int, int]) -> None:
    with pytest.raises(BadInputError, match="the step must be above 0"):
        VenueLimits(*map(D, limits))


def test_a_negative_holding_is_refused() -> None:
    with pytest.raises(BadInputError, match="must be >= 0"):
        a_position(-1)


@given(st.lists(st.sampled_from(["S0", "S1", "S2", "S3", "S4"]), max_size=20))
@settings(max_examples=100)
def test_episodes_follow_from_the_changes_of_state_alone(states: list[str]) -> None:
    ts = [bar_s(n) for n in range(len(states))]
    changes = [(t, state) for n, (t, state) in enumerate(zip(ts, states, strict=True)) if n == 0 or states[n - 1] != state]
    episodes = Episodes()
    for t, state in changes:
        episodes = episodes.after(t, state)
    assert episodes == after(*states)
    assert episodes.s2_s is None or episodes.attempt_s is not None
    assert (episodes.s3_s is not None) == (episodes.state == "S3")


def test_a_summary_in_words() -> None:
    # 2 bought for 20, so 10 each; sold for 26: return 6 / 20. Lowest 8, highest 14: drawdown 1 - 8/10, gain 14/10 - 1. rr .3 / .2
    trade = fold_trade(TRADE, [a_buy(0, "2", "20"), a_trim(1, "1", "14"), an_exit(2, "1", "12")])
    summary = summarise_trade(trade, Hold(bar_s(0), bar_s(2), [9.0, 8.0, 11.0], [10.0, 14.0, 12.0]))
    assert (summary.trade_id, summary.allocated_usd, summary.extracted_usd, summary.hold_s) == (TRADE, 20, 26, 7200)
    assert (summary.return_frac, summary.max_drawdown_frac, summary.max_gain_frac) == pytest.approx((0.3, 0.2, 0.4), abs=1e-12)
    assert summary.rr == pytest.approx(1.5, abs=1e-12)


def test_a_trade_without_drawdown_closes_without_rr() -> None:
    trade = fold_trade(TRADE, [a_buy(0, "2", "20"), an_exit(1, "2", "26")])
    position = a_position(trade=trade, status=Status.ACTIVE)
    closed, summary = close_trade(position, "S0", D(13), Hold(0, 1, [10.0], [14.0]))
    assert summary is not None
    assert (summary.max_drawdown_frac, summary.rr) == (0.0, None)
    assert (closed.trade, closed.status, closed.allocated_usd, closed.extracted_usd) == (None, Status.WATCHLIST, 0, 0)


@pytest.mark.parametrize(("usd", "rr"), [("400", 33.0), ("0.001", -33.0)])
def test_rr_is_bounded(usd: str, rr: float) -> None:
    trade = fold_trade(TRADE, [a_buy(0, "2", "20"), an_exit(1, "2", usd)])
    assert summarise_trade(trade, Hold(0, 1, [9.99], [14.0])).rr == rr


def test_a_price_that_never_rose_above_the_entry_is_no_gain() -> None:
    trade = fold_trade(TRADE, [a_buy(0, "2", "20"), an_exit(1, "2", "10")])
    assert summarise_trade(trade, Hold(0, 1, [5.0], [9.0])).max_gain_frac == 0.0


def test_closing_twice_has_no_effect() -> None:
    trade = fold_trade(TRADE, [a_buy(0, "2", "20"), an_exit(1, "2", "26")])
    hold = Hold(0, 1, [9.0], [14.0])
    closed, _ = close_trade(a_position(trade=trade), "S0", D(13), hold)
    assert close_trade(closed, "S0", D(13), hold) == (closed, None)


@pytest.mark.parametrize(("state", "quantity"), [("S3", "0"), ("S1", "0"), ("S0", "1")])
def test_nothing_closes_outside_s0_or_while_something_is_held(state: str, quantity: str) -> None:
    position = a_holder(quantity)
    assert not may_close(position, state, D(10))
    assert close_trade(position, state, D(10), Hold(0, 1, [9.0], [14.0])) == (position, None)


@given(st.decimals(D(0), D(10), places=6), st.decimals(D("0.01"), D(100), places=2))
@settings(max_examples=100)
def test_nothing_closes_while_the_quantity_exceeds_dust(quantity: Decimal, close: Decimal) -> None:
    sellable = quantity // D("0.001") * D("0.001")
    is_dust = sellable < D("0.01") or sellable * close < 5
    assert may_close(a_holder(str(quantity), limits=COARSE), "S0", close) == is_dust


def test_dust_stays_behind_when_a_trade_closes() -> None:
    trade = fold_trade(TRADE, [a_buy(0, "1", "10"), an_exit(1, "0.999", "8")])
    closed, summary = close_trade(a_holder("0.001", trade=trade), "S0", D(8), Hold(0, 1, [8.0], [10.0]))
    assert summary is not None
    assert closed.quantity == D("0.001")


def test_a_trade_that_never_bought_cannot_be_summed_up() -> None:
    with pytest.raises(CallerError, match="no filled buy"):
        summarise_trade(Trade(UUID(int=5)), Hold(0, 1, [1.0], [1.0]))


@pytest.mark.parametrize("hold", [(0, 1, [], []), (0, 1, [1.0], []), (2, 1, [1.0], [1.0])])
def test_a_hold_has_its_bars_and_runs_forward(hold: tuple) -> None:
    with pytest.raises(CallerError, match="Load them before closing"):
        Hold(*hold)
