"""The portfolio tick against a real database: decided once, journaled whole, ordered at most once."""

import time
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from regime_pipeline.errors import LeaseLostError
from regime_pipeline.execution.keys import LogicalKey, compute_decision_id, compute_hash
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.portfolio.decide import decide
from regime_pipeline.ports import Failed, NewIntent, OrderType
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.kill_switch import EVERYBODY, Level, Switch
from regime_pipeline.risk.purpose import Leg, Side
from regime_pipeline.services.trading.kill_levels import write_raise
from regime_pipeline.services.trading.load_tick import TickTerms, load_tick
from regime_pipeline.services.trading.run_pm_tick import Tick, run_pm_tick
from regime_pipeline.services.trading.tick_market import StoredMarket
from tests.tick_desk import ACCOUNT, CLOSE_S, HOUR_S, STRATEGY, TickDesk, desk

__all__ = ["desk"]
AAVE = "AAVE/USDT"


def hold_aave(desk: TickDesk) -> None:
    """Buy AAVE on the first bar, all of it filled."""
    desk.fake.fills_at_once = True
    desk.buy_signal("AAVE")
    desk.bar("LINK", state="S1")
    desk.tick()
    desk.settle()


def test_buys_what_the_plan_says(desk: TickDesk) -> None:
    desk.buy_signal("AAVE")
    desk.bar("LINK", state="S1")
    summary = desk.tick()
    assert (summary.outcome, summary.bar_close_s) == ("decided", CLOSE_S)
    assert (summary.counts["orders"], summary.counts["held"]) == (1, 1)
    ((spec, _, _),) = desk.fake.creates
    # 15 % of 100,000 x .40 for the hour may be used, .25 of that at A >= .7: 1,500. Bought up to 100 x 1.003 = 100.30:
    # 1,500 / 100.30 = 14.955..., down to the step of .001.
    assert (spec.symbol, spec.limit_price, spec.qty) == (AAVE, Decimal("100.3"), Decimal("14.955"))
    assert spec.client_order_id == LogicalKey(ACCOUNT, STRATEGY, AAVE, CLOSE_S, Leg.ENTRY).client_order_id


def test_journals_every_position(desk: TickDesk) -> None:
    desk.buy_signal("AAVE")
    desk.bar("LINK", state="S1")
    desk.tick()
    acted, held = desk.line("AAVE"), desk.line("LINK")
    assert (acted.outcome, acted.rule, acted.codes, acted.gate and acted.gate["passed"]) == ("act", "5", (), True)
    assert (held.outcome, held.codes, held.gate, held.client_order_id) == ("hold", ("CONDITION_NOT_MET",), None, None)
    found = desk.decision()
    assert found.lease_token == 1
    assert len(found.levers[acted.bucket or "unknown"]["diagnostics"]["channels"]) == 15
    assert found.inputs["watermarks"]["BTC:1h"] == "2026-06-01T11:00:00Z#r0"
    assert found.plan == {"actions": {AAVE: {"kind": "entry", "outcome": "act", "signal": "s2_retest", "size": "1500", "unit": "quote"}},
                          "holds": {"CONDITION_NOT_MET": 1}}  # fmt: skip


def test_action_gets_the_fills_of_its_order(desk: TickDesk) -> None:
    hold_aave(desk)
    ((status, planned, filled_qty, filled_usd, key),) = desk.execute(
        "select status, planned_usd, filled_qty, filled_usd, idempotency_key from pm_actions"
    )
    assert (planned, filled_qty, filled_usd) == (1500, Decimal("14.955"), Decimal("14.955") * Decimal("100.3"))
    assert (status, key) == ("done", LogicalKey(ACCOUNT, STRATEGY, AAVE, CLOSE_S, Leg.ENTRY).client_order_id)
    assert desk.execute("select status, current_trade_id is not null from lowcap_positions where token_contract = 'AAVE'") == [
        ("active", True)
    ]


def test_second_tick_of_a_bar_adopts(desk: TickDesk) -> None:
    desk.buy_signal()
    first, second = desk.tick(), desk.tick()
    assert (second.outcome, second.decision_id) == ("adopted", first.decision_id)
    assert (desk.count("orders"), desk.count("pm_actions"), len(desk.fake.creates)) == (1, 1, 1)


def test_late_run_does_nothing(desk: TickDesk) -> None:
    desk.buy_signal()
    desk.go_to(CLOSE_S + 301)  # start_by of an hour is 300 s after its close
    assert desk.tick().outcome == "SKIPPED_LATE"
    assert desk.tick(CLOSE_S).outcome == "SKIPPED_LATE"
    assert (desk.count("decisions"), desk.count("orders")) == (0, 0)
    assert desk.execute("select outcome from tick_runs") == [("SKIPPED_LATE",)] * 2


def test_nothing_new_is_no_bar(desk: TickDesk) -> None:
    assert desk.tick().outcome == "no_bar"


def test_waits_for_the_regime_of_its_bar_and_not_for_ever(desk: TickDesk) -> None:
    desk.to_next_bar()
    desk.buy_signal("AAVE", CLOSE_S + HOUR_S)
    assert desk.tick().outcome == "no_bar"
    desk.go_to(CLOSE_S + HOUR_S + 290)  # ten seconds before its time is over it goes without
    desk.reconcile()
    assert desk.tick().outcome == "decided"


def test_held_lease_is_told_at_once(desk: TickDesk) -> None:
    desk.buy_signal()
    with desk.stores.open() as work:
        assert work.orders.acquire_lease(f"pm:{ACCOUNT}:{STRATEGY}", "another", 180) is not None
    began = time.perf_counter()
    summary = desk.tick()
    assert summary.outcome == "LEASE_HELD"
    assert time.perf_counter() - began < 0.1
    assert desk.count("decisions") == 0


def test_lease_taken_over_before_the_commit_writes_nothing(desk: TickDesk) -> None:
    desk.buy_signal()
    with desk.stores.open() as work:
        lease = work.orders.acquire_lease(f"pm:{ACCOUNT}:{STRATEGY}", "slow", 180)
    with desk.stores.open() as work:
        work.freeze()
        market = StoredMarket(work, desk.universe, "onchain_crypto", Timeframe.H1, "paper")
        snapshot = load_tick(work, desk.trading, market, Timeframe.H1, CLOSE_S, TickTerms())
    desk.execute("update leases set holder = 'another', token = token + 1")
    with pytest.raises(LeaseLostError):
        Tick(desk.trading, desk.universe, snapshot, decide(snapshot.inputs), {}, lease).commit()
    assert (desk.count("decisions"), desk.count("orders"), desk.count("pm_actions")) == (0, 0, 0)


def test_revised_bar_changes_the_decision_and_not_its_orders(desk: TickDesk) -> None:
    """W3: the id of a decision comes from its inputs, that of an order from what was decided about."""

    def snapshot() -> Any:
        with desk.stores.open() as work:
            work.freeze()
            market = StoredMarket(work, desk.universe, "onchain_crypto", Timeframe.H1, "paper")
            return load_tick(work, desk.trading, market, Timeframe.H1, CLOSE_S, TickTerms())

    desk.buy_signal()
    before = snapshot()
    desk.execute("update uptrend_states set revision = 1 where series = 'token:AAVE:binance'")
    after = snapshot()
    hashes = [compute_hash([each.inputs.shared_document(), [line.document() for line in each.inputs.lines]]) for each in (before, after)]
    ids = [compute_decision_id(ACCOUNT, STRATEGY, CLOSE_S, each) for each in hashes]
    assert ids[0] != ids[1]
    assert decide(before.inputs) == decide(after.inputs)
    first = desk.tick()
    assert first.decision_id == ids[1]
    desk.execute("update uptrend_states set revision = 2 where series = 'token:AAVE:binance'")
    assert desk.tick().decision_id == ids[1]
    assert desk.count("orders") == 1


def test_degraded_regime_buys_nothing_and_sells(desk: TickDesk) -> None:
    hold_aave(desk)
    close_s = desk.to_next_bar(5)  # five hours later nothing is known of the regime's hours and minutes
    desk.bar("AAVE", close_s, state="S0")
    desk.buy_signal("LINK", close_s)
    desk.tick(close_s)
    assert desk.line("LINK").codes == ("DATA_STALE",)
    assert desk.line("LINK").inputs["symbol"] == "LINK/USDT"
    assert (desk.line("AAVE").rule, desk.line("AAVE").outcome) == ("1", "act")
    assert desk.fake.creates[-1][0].side == "sell"


def test_killed_account_buys_nothing_and_sells(desk: TickDesk) -> None:
    hold_aave(desk)
    with desk.stores.open() as work:
        write_raise(work, Switch(EVERYBODY, Level.REDUCE_ONLY, "manual", "someone", "a drill", desk.now_s))
    close_s = desk.to_next_bar()
    desk.regime(close_s)
    desk.bar("AAVE", close_s, state="S0")
    desk.buy_signal("LINK", close_s)
    desk.tick()
    assert desk.line("LINK").codes == ("KILLED",)
    assert desk.line("AAVE").client_order_id is not None


def test_trading_switched_off_withholds_everything(desk: TickDesk) -> None:
    desk.buy_signal()
    desk.trading = replace(desk.trading, terms=replace(desk.trading.terms, trading_enabled=False))
    summary = desk.tick()
    line = desk.line()
    assert (summary.counts["orders"], line.outcome, line.codes) == (0, "hold", ("NOT_ARMED",))
    assert line.plan["refusals"] == [["5", "NOT_ARMED", "trading is not enabled, else: entry"]]
    assert desk.count("pm_actions") == 0


@pytest.mark.parametrize(("status", "code"), [("findings", "RECON_OPEN"), ("unknown", "RECON_UNKNOWN")])
def test_entries_are_off_without_a_clean_reconciliation(desk: TickDesk, status: str, code: str) -> None:
    desk.reconcile(status)
    desk.buy_signal()
    desk.tick()
    assert (desk.line().codes, desk.decision().codes) == ((code,), (code,))
    assert desk.count("orders") == 0


def test_entries_are_off_without_a_young_reconciliation(desk: TickDesk) -> None:
    close_s = CLOSE_S + HOUR_S
    desk.go_to(close_s + 70)
    desk.regime(close_s)
    desk.buy_signal("AAVE", close_s)
    desk.tick()
    assert desk.line().codes == ("RECON_UNKNOWN",)


def test_gate_error_costs_one_order_only(desk: TickDesk) -> None:
    desk.buy_signal("AAVE")
    desk.buy_signal("LINK")
    desk.execute(
        "create function refuse_aave() returns trigger language plpgsql as $$ begin"
        " if new.symbol = 'AAVE/USDT' then raise exception 'broken on purpose'; end if; return new; end $$;"
        " create trigger refuse_aave before insert on order_intents for each row execute function refuse_aave()"
    )
    summary = desk.tick()
    assert (summary.counts["orders"], summary.counts["refused"]) == (1, 1)
    broken = desk.line("AAVE")
    assert (broken.codes, broken.client_order_id) == (("GATE_UNAVAILABLE",), None)
    assert broken.gate is not None
    assert "broken on purpose" in broken.gate["error"]
    assert desk.execute("select p.token_contract from pm_actions as a join lowcap_positions as p on p.id = a.position_id") == [("LINK",)]


def test_gate_refusal_leaves_no_action_and_is_planned_again(desk: TickDesk) -> None:
    desk.fake.mid = Decimal(50)  # the market is far below the decided price
    desk.buy_signal()
    desk.tick()
    assert desk.line().codes == ("PRICE_OUT_OF_BAND",)
    assert (desk.count("pm_actions"), desk.count("orders")) == (0, 0)
    close_s = desk.to_next_bar()
    desk.feed()
    desk.regime(close_s)
    desk.buy_signal("AAVE", close_s)
    desk.fake.mid = Decimal(100)
    desk.tick()
    assert desk.line().client_order_id is not None


def test_unreadable_quote_refuses_an_entry(desk: TickDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.buy_signal()
    monkeypatch.setattr(desk.fake, "fetch_quote", lambda symbol: Failed("scripted"))
    desk.tick()
    assert "PRICE_OUT_OF_BAND" in desk.line().codes


def test_too_small_is_a_recorded_skip(desk: TickDesk) -> None:
    desk.execute(
        "alter table instrument_rules disable trigger user; update instrument_rules set min_cost = 5000 where symbol = 'AAVE/USDT'"
    )
    desk.buy_signal()
    summary = desk.tick()
    assert (summary.counts["skipped"], desk.line().codes) == (1, ("BELOW_MIN_COST",))
    assert desk.execute("select status, planned_usd from pm_actions") == [("skipped", Decimal(1500))]
    assert desk.count("orders") == 0


def test_instrument_without_rules_is_refused(desk: TickDesk) -> None:
    desk.execute("delete from instrument_rules where symbol = 'AAVE/USDT'")
    desk.buy_signal()
    desk.tick()
    assert desk.line().codes == ("SYMBOL_INACTIVE",)


def test_missing_record_holds_with_a_reason(desk: TickDesk) -> None:
    desk.bar("LINK", state="S1")
    desk.tick()
    line = desk.line("AAVE")
    assert (line.outcome, line.codes) == ("hold", ("DATA_GAP",))
    assert "alert" in line.plan


def test_exit_is_sold_whole_and_planned_until_flat(desk: TickDesk) -> None:
    hold_aave(desk)
    close_s = desk.to_next_bar()
    desk.regime(close_s)
    desk.bar("AAVE", close_s, state="S0", price=90.0)
    desk.fake.mid, desk.fake.fills_at_once = Decimal(90), False
    desk.tick()
    spec = desk.fake.creates[-1][0]
    # 14.955 were bought, a thousandth of it was the fee in AAVE: 14.940045, down to the step.
    assert (spec.side, spec.qty, spec.limit_price) == ("sell", Decimal("14.94"), Decimal(90))
    desk.clock.advance(40)  # its 30 s are over: cancelled, and what is left goes through the book as a second child
    desk.settle()
    desk.settle()
    close_s = desk.to_next_bar()
    desk.settle()
    desk.regime(close_s)
    desk.bar("AAVE", close_s, state="S0", price=80.0)
    desk.fake.mid, desk.fake.fills_at_once = Decimal(80), True
    desk.tick()
    desk.settle()
    assert desk.execute("select count(*) from pm_actions where kind = 'emergency_exit'") == [(2,)]
    assert desk.fake.balances["AAVE"] < Decimal("0.001")


def test_sold_symbol_is_not_bought_by_another_strategy(desk: TickDesk) -> None:
    hold_aave(desk)
    close_s = desk.to_next_bar()
    desk.regime(close_s)
    desk.bar("AAVE", close_s, state="S0")
    desk.fake.fills_at_once = False
    desk.tick()  # the hourly strategy is selling
    desk.execute(
        "insert into lowcap_positions (token_contract, token_chain, timeframe, token_ticker, status, book_id)"
        " values ('AAVE', 'binance', '15m', 'AAVE', 'watchlist', 'onchain_crypto')"
    )
    desk.record("token:AAVE:binance", Timeframe.M15, close_s - 900, state="S2", rebuy=True, rebuy_s2_retest=True)
    run_pm_tick(desk.trading, desk.universe, Timeframe.M15, close_s)
    assert desk.line().codes == ("OPPOSITE_SIGNAL",)


def test_exit_takes_back_a_live_entry_of_another_strategy(desk: TickDesk) -> None:
    hold_aave(desk)
    desk.fake.fills_at_once = False
    entry = LogicalKey(ACCOUNT, "onchain_crypto-4h", AAVE, CLOSE_S, Leg.ENTRY)
    with desk.stores.open() as work:
        intent = NewIntent(entry, Side.BUY, OrderType.LIMIT, Decimal(1), Mode.PAPER, 1000 * desk.now_s + 9_000_000, Decimal(100))
        work.orders.write_intents("paper", [intent])
    close_s = CLOSE_S + HOUR_S
    desk.go_to(close_s + 70)
    desk.reconcile()
    desk.regime(close_s)
    desk.bar("AAVE", close_s, state="S0")
    desk.tick()
    assert desk.line().client_order_id is not None
    assert desk.execute("select state from orders where client_order_id = %s", entry.client_order_id)[0][0] in {
        "CANCELLED",
        "CANCEL_REQUESTED",
    }


def test_drivers_and_dormant_positions_are_never_planned(desk: TickDesk) -> None:
    desk.execute("update lowcap_positions set status = 'dormant', bars_count = 332 where token_contract = 'LINK'")
    desk.execute(
        "insert into lowcap_positions (token_contract, token_chain, timeframe, token_ticker, status, book_id, bars_count)"
        " values ('BTC', 'regime', '1h', 'BTC', 'regime_driver', 'onchain_crypto', 5000)"
    )
    desk.buy_signal()
    desk.tick()
    assert [line.symbol for line in desk.decision().lines] == [AAVE]


def test_dormant_position_is_promoted_at_333_bars(desk: TickDesk) -> None:
    desk.execute("update lowcap_positions set status = 'dormant', bars_count = 333 where token_contract = 'LINK'")
    desk.buy_signal()
    desk.bar("LINK", state="S1")
    desk.tick()
    assert desk.execute("select status from lowcap_positions where token_contract = 'LINK'") == [("watchlist",)]


def test_episodes_missed_between_ticks_are_caught_up_with(desk: TickDesk) -> None:
    desk.bar("AAVE", state="S0")
    desk.tick()
    for hour, (old, new) in enumerate((("S0", "S1"), ("S1", "S2")), start=1):
        desk.execute(
            "insert into uptrend_state_events (series, timeframe, ts, from_state, to_state, engine_version)"
            " values ('token:AAVE:binance', '1h', to_timestamp(%s), %s, %s, 'm2-v5')",
            CLOSE_S + hour * HOUR_S - HOUR_S, old, new,
        )  # fmt: skip
    close_s = desk.to_next_bar(3)
    desk.regime(close_s)
    desk.bar("AAVE", close_s, state="S1")
    desk.tick()
    ((state, attempt_s, s2_s, s1_s),) = desk.execute(
        "select e.state, extract(epoch from attempt_ts)::int, extract(epoch from s2_ts)::int, extract(epoch from s1_ts)::int"
        " from position_episodes as e join lowcap_positions as p on p.id = e.position_id where p.token_contract = 'AAVE'"
    )
    assert (state, attempt_s, s2_s, s1_s) == ("S1", CLOSE_S, CLOSE_S + HOUR_S, close_s - HOUR_S)
