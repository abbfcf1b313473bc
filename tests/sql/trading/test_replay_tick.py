"""A stored decision computed again; what it says of levers; and what the commands print."""

import json
from collections.abc import Callable
from uuid import UUID, uuid4

import psycopg
import pytest
from typer.testing import CliRunner

from regime_pipeline.cli import app
from regime_pipeline.errors import BadInputError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.services.read_levers import levers_at
from regime_pipeline.services.trading.load_tick import TickTerms
from regime_pipeline.services.trading.plan_tick import plan_tick
from regime_pipeline.services.trading.replay_tick import TickReplay, explain_levers, replay_tick
from tests.tick_desk import CLOSE_S, TickDesk, desk

__all__ = ["desk"]
AAVE = "AAVE/USDT"
Run = Callable[..., str]
CLOSE = "2026-06-01T12:00:00+00:00"


def replay(desk: TickDesk, decision_id: UUID) -> TickReplay:
    with desk.stores.open() as work:
        return replay_tick(work, decision_id)


def trade_a_while(desk: TickDesk) -> None:
    """Buy, trim at a level, and leave, with fills at odd prices, so that the money of the trade has all the digits it may have."""
    desk.fake.fills_at_once = True
    desk.buy_signal("AAVE", price=99.97)
    desk.bar("LINK", state="S1")
    desk.tick()
    desk.settle()
    for state, values in (("S3", {"trim": True, "nearest_level_price": 101.3}), ("S3", {}), ("S0", {})):
        close_s = desk.to_next_bar()
        desk.regime(close_s)
        desk.bar("AAVE", close_s, state=state, price=101.03, **values)
        desk.bar("LINK", close_s, state="S2")
        desk.tick()
        desk.settle()


def test_every_decision_of_a_trade_comes_out_the_same(desk: TickDesk) -> None:
    trade_a_while(desk)
    ids = [row[0] for row in desk.execute("select decision_id from decisions order by seq")]
    assert len(ids) == 4
    assert [kind for (kind,) in desk.execute("select kind from pm_actions order by bar_ts")] == ["entry", "trim", "emergency_exit"]
    for decision_id in ids:
        found = replay(desk, decision_id)
        assert found.is_equal, (found.differing_plans, found.differing_levers)
        assert (found.inputs_hash, found.plan_hash) == (found.stored.inputs_hash, found.stored.plan_hash)


def test_later_facts_do_not_matter(desk: TickDesk) -> None:
    desk.buy_signal()
    found = desk.tick()
    desk.execute("delete from regime_deltas")
    desk.execute("update uptrend_states set latest_price = 1, revision = 9")
    desk.execute("update lowcap_positions set status = 'archived'")
    assert found.decision_id is not None
    assert replay(desk, found.decision_id).is_equal


@pytest.mark.parametrize(
    ("tampering", "plans"),
    [
        ("update decision_lines set inputs = jsonb_set(inputs, '{facts,state}', '\"S1\"')", (AAVE,)),
        ("update decision_lines set plan = jsonb_set(plan, '{size,notional}', '\"1500.01\"')", (AAVE,)),
        ("update decisions set inputs = jsonb_set(inputs, '{equity}', '\"100001\"')", (AAVE,)),
        ("update decisions set levers = jsonb_set(levers, '{big,A_value}', '0.1')", ()),
    ],
)
def test_tampered_row_is_told(desk: TickDesk, tampering: str, plans: tuple[str, ...]) -> None:
    desk.buy_signal()
    found = desk.tick()
    with psycopg.connect(desk.url) as conn:  # as somebody with all rights would
        conn.execute("alter table decisions disable trigger all; alter table decision_lines disable trigger all")
        conn.execute(tampering)  # type: ignore[arg-type]
    assert found.decision_id is not None
    replayed = replay(desk, found.decision_id)
    assert not replayed.is_equal
    assert replayed.differing_plans == plans
    assert replayed.differing_levers == (() if plans else ("big",))


def test_unknown_decision_is_named(desk: TickDesk) -> None:
    with pytest.raises(BadInputError, match="the journal has none of that id"):
        replay(desk, uuid4())


def test_levers_of_the_journal_are_those_of_the_stored_channels(desk: TickDesk) -> None:
    desk.buy_signal()
    found = desk.tick()
    with desk.stores.open() as work:
        explained = explain_levers(work, AAVE, found.decision_id)
        from_tables = levers_at(work, desk.universe, "AAVE", Timeframe.H1, CLOSE_S)
    line = desk.line()
    assert explained.is_equal
    assert (line.a_value, line.e_value) == (from_tables.A_value, from_tables.E_value)
    assert explained.found == from_tables


# --- commands


@pytest.fixture
def run(desk: TickDesk, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command on the desk's database."""
    monkeypatch.setenv("REGIME_DATABASE_URL", desk.url)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str, code: int = 0) -> str:
        found = CliRunner().invoke(app, list(arguments))
        assert found.exit_code == code, found.output
        return found.output

    return call


def test_replay_command_says_equal_or_different(desk: TickDesk, run: Run) -> None:
    desk.buy_signal()
    decision_id = str(desk.tick().decision_id)
    assert "EQUAL: the same plan, byte for byte" in run("replay-tick", decision_id)
    assert json.loads(run("replay-tick", decision_id, "--json"))["equal"] is True
    with psycopg.connect(desk.url) as conn:
        conn.execute("alter table decision_lines disable trigger all")
        conn.execute("update decision_lines set inputs = jsonb_set(inputs, '{revision}', '7')")
    assert "DIFFERENT" in run("replay-tick", decision_id, code=1)


def test_decisions_command_lists_bars_and_lines(desk: TickDesk, run: Run) -> None:
    desk.buy_signal()
    desk.bar("LINK", state="S1")
    decision_id = str(desk.tick().decision_id)
    (head,) = json.loads(run("decisions", "--json"))["decisions"]
    assert (head["decision_id"], head["lines"], head["acted"], head["held"]) == (decision_id, 2, 1, 1)
    (line,) = json.loads(run("decisions", "--symbol", "AAVE", "--json"))["lines"]
    assert (line["bar_close"], line["plan"]["size"]["notional"], line["gate"]["passed"]) == (CLOSE, "1500", True)
    assert decision_id in run("decisions")
    assert "CONDITION_NOT_MET" in run("decisions", "--symbol", "LINK/USDT")


def test_explain_command_agrees_with_the_journal(desk: TickDesk, run: Run) -> None:
    desk.buy_signal()
    decision_id = str(desk.tick().decision_id)
    by_id = json.loads(run("levers", "explain", "AAVE", "--decision", decision_id, "--json"))
    by_close = json.loads(run("levers", "explain", AAVE, "--at", CLOSE, "--json"))
    assert by_id == by_close == json.loads(run("levers", "explain", "AAVE", "--json"))
    assert by_id["journal"] == {"A_value": by_id["A_value"], "E_value": by_id["E_value"], "equal": True}
    assert len(by_id["channels"]) == 15
    assert "equal" in run("levers", "explain", "AAVE", "--at", CLOSE)


def test_explain_of_a_bar_nobody_decided_names_the_way_on(desk: TickDesk, run: Run) -> None:
    found = CliRunner().invoke(app, ["levers", "explain", "AAVE", "--at", CLOSE])
    assert isinstance(found.exception, BadInputError)
    assert "regime decisions --symbol" in str(found.exception)


def test_plan_writes_nothing(desk: TickDesk) -> None:
    desk.buy_signal()
    planned = plan_tick(desk.trading, desk.universe, Timeframe.H1, None, TickTerms())
    assert [desk.count(table) for table in ("decisions", "decision_lines", "orders", "pm_actions", "tick_runs", "leases")] == [0] * 6
    found = desk.tick()
    assert (found.decision_id, desk.decision().plan_hash) == (planned.texts.decision_id, planned.texts.plan_hash)
