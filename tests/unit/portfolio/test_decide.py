"""A whole tick as one function: what is stored of it decides the same, and a tick refuses buys but never sales."""

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.execution.keys import compute_hash, write_canonical, write_plain
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.portfolio.actions import ActionKind, Signal
from regime_pipeline.portfolio.capital import Allocation
from regime_pipeline.portfolio.decide import TickDecision, decide
from regime_pipeline.portfolio.documents import spell, tidy, write_plan
from regime_pipeline.portfolio.episodes import Block, Episodes, Failure
from regime_pipeline.portfolio.facts import BarFacts
from regime_pipeline.portfolio.plan import Book, Outcome
from regime_pipeline.portfolio.position import Position, Status, VenueLimits
from regime_pipeline.portfolio.reasons import ReasonCode
from regime_pipeline.portfolio.tick import LineInputs, TickInputs, read_tick_inputs, tidy_inputs
from regime_pipeline.portfolio.trade import Trade, fold_trade
from regime_pipeline.regime.drivers import BUCKETS, CHANNEL_TIMEFRAMES, DRIVER_NAMES
from regime_pipeline.regime.levers import Channel, LeverInput, compute_levers
from tests.unit.portfolio.desk import TRADE, a_bar, a_buy, a_dx, a_position, a_trim, an_exit, bar_s

STATES = ("S0", "S1", "S2", "S3", "S4")
prices = st.floats(1e-9, 1e9, allow_nan=False)
money = st.decimals(0, 10**9, places=9, allow_nan=False)


def calm_channels(delta: float = 0.2) -> tuple[Channel, ...]:
    """Every driver in S3 and none stale; dominances push the other way."""
    signs = {name: -1.0 if name.endswith(".d") else 1.0 for name in DRIVER_NAMES}
    keys = [(name, timeframe) for name in DRIVER_NAMES for timeframe in CHANNEL_TIMEFRAMES]
    return tuple(Channel(name, timeframe, 0.0, delta * signs[name], 0.0, ts_s=0, state="S3") for name, timeframe in keys)


def a_tick(*lines: LineInputs, **changes: Any) -> TickInputs:
    book = Book(Decimal(20_000), Decimal(20_000), Allocation(), trading_enabled=True)
    tick = TickInputs("paper-main", "onchain_crypto-1h", "onchain_crypto", Timeframe.H1, bar_s(0), book, calm_channels(), lines)
    return replace(tick, **changes)


def a_line(symbol: str, facts: BarFacts | None, **changes: Any) -> LineInputs:
    position = a_position(**{"status": Status.WATCHLIST, **changes})
    return LineInputs(symbol, "mid", position, facts)


def retest(symbol: str, **changes: Any) -> LineInputs:
    return a_line(symbol, a_bar(0, "S2", s2_retest=True), **changes)


def plans(decision: TickDecision) -> bytes:
    return write_canonical([write_plan(line.plan) for line in decision.lines])


# --- what is stored decides the same


@st.composite
def some_facts(draw: st.DrawFn) -> BarFacts | None:
    if draw(st.integers(0, 9)) == 0:
        return None
    flags = {name: draw(st.booleans()) for name in ("buy", "trim", "emergency_exit", "s2_retest", "dx", "reclaim", "immature")}
    price = draw(prices)
    return BarFacts(
        ts_s=bar_s(draw(st.sampled_from((0, 0, 0, -1)))),
        state=draw(st.sampled_from(STATES)),
        price=price,
        atr=draw(st.one_of(st.just(0.0), prices)),
        ema144=price * draw(st.floats(0.5, 2)),
        ema333=price * draw(st.floats(0.5, 2)),
        bars_seen=draw(st.integers(333, 10**6)),
        nearest_level=draw(st.one_of(st.none(), prices)),
        **flags,
    )


@st.composite
def some_trade(draw: st.DrawFn) -> Trade | None:
    if draw(st.booleans()):
        return None
    actions = [a_buy(-60, str(draw(st.integers(1, 10**6))), str(draw(st.integers(1, 10**9))))]
    for n in range(-59, -59 + draw(st.integers(0, 6))):
        quantity, usd = f"{draw(st.integers(1, 999))}.{draw(st.integers(0, 999)):03}", f"{draw(st.integers(1, 10**6))}.10"
        make = draw(st.sampled_from((a_trim, an_exit, a_dx)))
        actions.append(make(n, quantity, usd))
    if draw(st.booleans()):
        actions.append(an_exit(-1, "0", "0", Signal.EXIT_POSITION))
    return fold_trade(TRADE, actions)


@st.composite
def some_line(draw: st.DrawFn) -> LineInputs:
    trade = draw(some_trade())
    times = st.one_of(st.none(), st.integers(0, 2 * 10**9))
    failure = draw(st.one_of(st.none(), st.builds(Failure, st.integers(0, 10**9), st.integers(10**9, 2 * 10**9))))
    position = Position(
        position_id=draw(st.integers(1, 10**6)),
        status=Status.ACTIVE if trade else Status.WATCHLIST,
        timeframe=Timeframe.H1,
        limits=VenueLimits(Decimal(draw(st.sampled_from(("0.001", "1", "1E+1", "0.0100")))), draw(money), draw(money)),
        quantity=draw(money) if trade or draw(st.booleans()) else Decimal(0),
        trade=trade,
        episodes=Episodes(draw(st.sampled_from((None, *STATES))), draw(times), draw(times), draw(times), draw(times), failure),
        block=draw(st.builds(Block, st.booleans(), st.booleans(), times, times, times)),
        last_action_s=draw(st.sampled_from((None, bar_s(-1), bar_s(0)))),
    )
    return LineInputs("", draw(st.sampled_from((None, *BUCKETS))), position, draw(some_facts()), draw(st.integers(0, 3)))


@st.composite
def some_tick(draw: st.DrawFn) -> TickInputs:
    lines = tuple(replace(line, symbol=f"T{at}/USDT") for at, line in enumerate(draw(st.lists(some_line(), max_size=4))))
    channel = st.builds(
        Channel,
        driver=st.sampled_from(DRIVER_NAMES),
        timeframe=st.sampled_from(CHANNEL_TIMEFRAMES),
        age_bars=st.floats(-1, 5),
        delta_a_raw=st.one_of(st.none(), st.floats(-1, 1)),
        delta_e_raw=st.one_of(st.none(), st.floats(-1, 1)),
        ts_s=st.one_of(st.none(), st.integers(0, 2 * 10**9)),
        state=st.sampled_from((None, *STATES)),
        flags=st.sampled_from(((), ("buy",), ("trim", "rebuy"))),
        immature=st.booleans(),
        validity=st.one_of(st.none(), st.floats(0, 1)),
    )
    key = lambda each: (each.driver, each.timeframe)  # noqa: E731
    channels = draw(st.one_of(st.none(), st.lists(channel, max_size=24, unique_by=key).map(tuple)))
    book = Book(draw(money), draw(money), Allocation(), draw(st.booleans()), draw(st.booleans()), draw(st.booleans()))
    off = ((ReasonCode.RECON_OPEN, "the newest reconciliation has findings"),) if draw(st.booleans()) else ()
    opposed = tuple(line.symbol for line in lines if draw(st.booleans()))
    strength = draw(st.floats(0, 3))
    marks = {"BTC:1h": "2026-11-20T18:00:00Z#r0"}
    tick = a_tick(*lines, book=book, channels=channels, entries_off=off, opposed=opposed, regime_strength=strength, watermarks=marks)
    return tidy_inputs(tick)


@given(some_tick())
@settings(max_examples=150, deadline=None)
def test_document_gives_back_the_inputs_and_the_same_bytes(tick: TickInputs) -> None:
    stored = json.loads(write_canonical(tick.document()))
    again = read_tick_inputs(stored)
    assert again == tick
    assert write_canonical(again.document()) == write_canonical(tick.document())
    assert plans(decide(again)) == plans(decide(tick))


@given(some_tick())
@settings(max_examples=50, deadline=None)
def test_numbers_that_a_database_spells_anew_decide_the_same(tick: TickInputs) -> None:
    # jsonb keeps numbers as decimals: 1e16 comes back as 10000000000000000, an integer
    stored = json.loads(write_canonical(tick.document()), parse_float=lambda text: _as_jsonb(text))
    assert plans(decide(read_tick_inputs(stored))) == plans(decide(tick))


def _as_jsonb(text: str) -> float | int:
    spelt = format(Decimal(text), "f")
    return json.loads(spelt)  # type: ignore[no-any-return]


@given(st.decimals(-(10**20), 10**20, allow_nan=False, allow_infinity=False))
def test_money_is_spelt_in_one_way(value: Decimal) -> None:
    text = spell(value)
    assert "E" not in text.upper()
    assert Decimal(text) == value
    assert spell(Decimal(text)) == text == format(tidy(value), "f")


@given(some_tick())
@settings(max_examples=30, deadline=None)
def test_plain_text_is_the_canonical_one(tick: TickInputs) -> None:
    document = tick.document()
    assert write_plain(document).encode() == write_canonical(document)
    parts = [write_plain(tick.shared_document()), ",".join(write_plain(line.document()) for line in tick.lines)]
    joined = f"[{parts[0]},[{parts[1]}]]".encode()
    assert joined == write_canonical([document["shared"], document["lines"]])


def test_hash_of_the_inputs_notices_a_revised_bar() -> None:
    line = retest("AAVE/USDT")
    first, second = (compute_hash(a_tick(replace(line, revision=n)).document()) for n in (1, 2))
    assert first != second


# --- what a tick decides


def test_levers_are_those_of_each_bucket() -> None:
    tick = a_tick(*(replace(a_line(f"{bucket}/USDT", a_bar()), bucket=bucket) for bucket in (*BUCKETS, None)))
    decision = decide(tick)
    assert set(decision.levers) == {*BUCKETS, "unknown"}
    for line in decision.lines:
        alone = compute_levers(LeverInput("1h", line.bucket, tick.channels))
        assert (line.plan.a_value, line.plan.e_value) == (alone.A_value, alone.E_value)


def test_bar_is_taken_into_the_episodes() -> None:
    (line,) = decide(a_tick(a_line("AAVE/USDT", a_bar(0, "S1"), episodes=Episodes("S0")))).lines
    assert line.position.episodes == Episodes("S1", attempt_s=bar_s(0))


def test_record_of_another_bar_is_not_taken_in() -> None:
    (line,) = decide(a_tick(a_line("AAVE/USDT", a_bar(-1, "S1"), episodes=Episodes("S0")))).lines
    assert line.position.episodes == Episodes("S0")


def test_buys_share_the_cash_in_order() -> None:
    # 15 % of 20,000 x .40 = 1,200 each; a retest at A >= .7 takes .25 of it: 300. Of 500 free the first has 300, the second 200.
    book = Book(Decimal(20_000), Decimal(500), Allocation(), trading_enabled=True)
    decision = decide(a_tick(retest("AAVE/USDT"), retest("LINK/USDT"), retest("UNI/USDT"), book=book))
    sizes = [line.plan.size.notional_usd if line.plan.size else None for line in decision.lines]
    assert sizes == [Decimal(300), Decimal(200), Decimal(0)]
    assert [line.plan.outcome for line in decision.lines] == [Outcome.ACT, Outcome.ACT, Outcome.SKIP]


def test_refused_buy_leaves_its_cash_to_the_next() -> None:
    book = Book(Decimal(20_000), Decimal(300), Allocation(), trading_enabled=True)
    first, second = decide(a_tick(retest("AAVE/USDT"), retest("LINK/USDT"), book=book, opposed=("AAVE/USDT",))).lines
    assert (first.plan.outcome, first.plan.codes) == (Outcome.HOLD, (ReasonCode.OPPOSITE_SIGNAL,))
    assert second.plan.size is not None
    assert second.plan.size.notional_usd == Decimal(300)


def test_entries_off_stops_buys_and_says_what_was_wanted() -> None:
    off = ((ReasonCode.RECON_UNKNOWN, "never reconciled"), (ReasonCode.EQUITY_UNKNOWN, "no price of UNI/USDT"))
    (line,) = decide(a_tick(retest("AAVE/USDT"), entries_off=off)).lines
    assert (line.plan.outcome, line.plan.kind, line.plan.size) == (Outcome.HOLD, None, None)
    assert line.plan.codes == (ReasonCode.RECON_UNKNOWN, ReasonCode.EQUITY_UNKNOWN)
    assert [refusal.why for refusal in line.plan.refusals] == ["never reconciled, else: entry", "no price of UNI/USDT, else: entry"]


@pytest.mark.parametrize("state", ["S0", "S3"])
def test_nothing_of_that_stops_an_exit(state: str) -> None:
    off = ((ReasonCode.RECON_UNKNOWN, "never reconciled"),)
    held = a_line("AAVE/USDT", a_bar(0, state, emergency_exit=True), quantity=5, status=Status.ACTIVE)
    book = Book(Decimal(20_000), Decimal(0), Allocation(), trading_enabled=True, is_killed=True)
    (line,) = decide(a_tick(held, entries_off=off, opposed=("AAVE/USDT",), book=book, channels=None)).lines
    assert (line.plan.outcome, line.plan.kind) == (Outcome.ACT, ActionKind.EMERGENCY_EXIT)


def test_failed_read_of_the_channels_buys_nothing() -> None:
    (line,) = decide(a_tick(retest("AAVE/USDT"), channels=None)).lines
    assert (line.plan.codes, line.plan.degraded) == ((ReasonCode.DATA_STALE,), True)
