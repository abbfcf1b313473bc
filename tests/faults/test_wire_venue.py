"""X15, X16, X18, X23, X26 and X27: a venue that wants rest, is closed, has another clock or will not have our key or our money."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from regime_pipeline.adapters.postgres.trading_health import PostgresTradingHealth
from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.portfolio.reasons import ReasonCode
from regime_pipeline.ports import PauseKind, Severity
from regime_pipeline.risk.gate import run_gate
from regime_pipeline.risk.gate_view import OrderRequest
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.kill_switch import Level
from regime_pipeline.risk.purpose import Leg, Side
from regime_pipeline.services.judge_trading import judge_incidents
from regime_pipeline.services.trading.act_on_turn import measure_offset
from regime_pipeline.services.trading.book_by_hand import ByHand, book_by_hand
from regime_pipeline.services.trading.build_gate_view import SymbolView, build_gate_view
from regime_pipeline.services.trading.context import VenueClock
from regime_pipeline.services.trading.read_account import AccountView, probe_venue
from tests.wire import WireDesk, judge, open_wire

D = Decimal
S = OrderState
Cells = Callable[..., None]
PAGE = "<html><head><title>edge</title></head><body>try again soon</body></html>"
LIMITS: dict[str, list[dict[str, Any]]] = {
    "spot": [
        {"status": 429, "body": {"code": -1003, "msg": "Too many requests."}},
        {"status": 429, "body": {"code": -1015, "msg": "Too many new orders."}},
        {"status": 418, "body": {"code": -1003, "msg": "Way too many requests; IP banned."}},
    ],
    "linear": [
        {"status": 200, "body": {"retCode": 10006, "retMsg": "Too many visits!", "result": {}}},
        {"status": 403, "body": {"retCode": 10006, "retMsg": "access too frequent", "result": {}}},
        {"status": 200, "body": {"retCode": 10018, "retMsg": "Exceeded the IP Rate Limit.", "result": {}}},
    ],
}
CANCEL = {"spot": "DELETE /api/v3/order", "linear": "POST /v5/order/cancel"}


@pytest.fixture(params=["spot", "linear"])
def wire(request: pytest.FixtureRequest, lasting_database: str) -> Iterator[WireDesk]:
    """A desk at each of the two venues."""
    with open_wire(lasting_database, request.param) as desk:
        yield desk


def market(desk: WireDesk) -> str:
    return desk.venue.market_type.value


def elsewhere(desk: WireDesk) -> dict[str, Any]:
    """What an order in another market has."""
    return {"symbol": desk.symbol.replace("BTC", "ETH"), "limit_price": D(2_010), "qty": D("0.1")}


def pauses(desk: WireDesk) -> dict[PauseKind, float]:
    """Seconds left of each pause."""
    with desk.stores.open() as work:
        kept = work.orders.load_pauses(desk.broker.traits.venue)
    return {kind: (pause.until_ms - desk.now_ms) / 1000 for kind, pause in kept.items() if pause.until_ms > desk.now_ms}


# ---- X15 ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.fault_row("X15")
def test_a_limited_create_is_final_and_nothing_is_created_while_the_venue_wants_rest(wire: WireDesk, cells: Cells) -> None:
    """With Retry-After as long as it says, without for a minute; cancels go on, and another executor keeps to it as well."""
    desk, run = wire, 0
    for fault in LIMITS[market(wire)]:
        for header, rest_s in (({"Retry-After": "23"}, 23), ({}, 60)):
            resting = desk.resting(symbol=elsewhere(desk)["symbol"], limit_price=D(1_900), qty=D("0.1"))
            desk.execute()
            desk.step(85)
            desk.fault(accept="never", headers=header, **fault)
            limited = desk.intend()
            desk.execute()
            assert (desk.state(limited), desk.codes(limited)["REJECTED"]) == (S.REJECTED, "RATE"), fault
            assert pauses(desk) == {PauseKind.CREATES: rest_s}
            waiting, posts = desk.intend(), desk.posts()
            desk = desk.restart()
            cancels = desk.venue.truth()["requests"].get(CANCEL[market(desk)], 0)
            desk.step(6, rest_s - 7)
            assert (desk.posts(), desk.state(waiting)) == (posts, S.INTENT)  # creates in the pause: 0
            assert desk.state(resting) is S.CANCELLED
            assert desk.venue.truth()["requests"][CANCEL[market(desk)]] == cancels + 1
            desk.step(1, 2)
            assert (desk.posts(), desk.state(waiting)) == (posts + 1, S.FILLED)
            assert pauses(desk) == {}
            run += 1
    judge(desk)
    cells(run=run, passed=run)


@pytest.mark.fault_row("X15")
def test_who_goes_on_being_limited_rests_longer_each_time_up_to_a_quarter_of_an_hour(wire: WireDesk) -> None:
    lengths = []
    for _ in range(6):
        wire.fault(accept="never", **LIMITS[market(wire)][0])
        wire.intend(decide_by_ms=wire.now_ms + 10_000_000)
        wire.execute()
        lengths.append(pauses(wire)[PauseKind.CREATES])
        wire.advance(lengths[-1])
    assert lengths == [60, 120, 240, 480, 900, 900]
    judge(wire)


@pytest.mark.fault_row("X15")
def test_reads_that_are_limited_are_no_information(wire: WireDesk) -> None:
    """The same storm over the reads: an order that is looked for stays UNKNOWN, one that rests stays OPEN."""
    resting = wire.resting(symbol=elsewhere(wire)["symbol"], limit_price=D(1_900), qty=D("0.1"))
    wire.execute()
    wire.fault(cut="reset")
    wire.venue.script({"on": "GET *", "repeat": 0, **LIMITS[market(wire)][0]})
    lost = wire.intend()
    wire.step(0, 1, 2, 4, 8, 15, 30)
    assert (wire.state(lost), wire.state(resting)) == (S.UNKNOWN, S.OPEN)
    wire.venue.clear_script()
    wire.step(30, 2)
    assert wire.state(lost) is S.FILLED
    wire.step(30, 2)
    judge(wire)


# ---- X16 ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.fault_row("X16")
def test_a_page_of_somebody_before_the_venue_proves_nothing_and_stops_entries(wire: WireDesk, cells: Cells) -> None:
    pages = [400, 401, 403, 404, 409, 429, 451]
    wire.bring("BTC", D(1)) if market(wire) == "spot" else None
    for status in pages:
        wire.fault(status=status, body=PAGE)
        lost = wire.intend()
        wire.execute()
        assert (wire.state(lost), wire.codes(lost)["UNKNOWN"]) == (S.UNKNOWN, f"HTTP_{status}")
        assert pauses(wire) == {PauseKind.ENTRIES: 60}
        assert "VENUE_PAGE" in wire.incidents()
        entry = wire.intend(**elsewhere(wire))
        wire.step(1)
        sale = wire.intend(Leg.EXIT, reduce_only=market(wire) == "linear")
        wire.step(57)
        assert (wire.state(lost), wire.state(entry)) == (S.FILLED, S.INTENT)
        wire.step(2, 2)
        assert {wire.state(sale), wire.state(entry)} == {S.FILLED}
        assert pauses(wire) == {}  # the venue itself has spoken
        assert wire.incidents() == []
    judge(wire)
    cells(run=len(pages), passed=len(pages))


@pytest.mark.fault_row("X16")
@pytest.mark.parametrize("status", [401, 403, 451])
def test_entries_stay_off_while_the_page_is_all_that_answers(wire: WireDesk, status: int) -> None:
    """Everything is answered by it for five minutes: nothing is concluded, and when it is gone all is found without a person."""
    wire.fault(status=status, body=PAGE)
    wire.venue.script({"on": "*", "repeat": 0, "accept": "never", "status": status, "body": PAGE})
    lost, entry = wire.intend(), wire.intend(**elsewhere(wire), decide_by_ms=wire.now_ms + 400_000)
    wire.step(0, 1, 2, 4, 8, 15, 28)
    assert (wire.state(lost), wire.state(entry), wire.posts()) == (S.UNKNOWN, S.INTENT, 1)
    wire.step(2)
    assert (wire.state(entry), wire.posts()) == (S.UNKNOWN, 2)  # after a minute one may ask; it is the page that answers
    assert pauses(wire) == {PauseKind.ENTRIES: 60}
    wire.step(*[20] * 12)
    assert wire.posts() == 2
    wire.venue.clear_script()
    wire.step(30, 30, 30)
    assert (wire.state(lost), wire.state(entry)) == (S.FILLED, S.NOT_FOUND)
    judge(wire)


# ---- X18 ----------------------------------------------------------------------------------------------------------------------------


def our_clock(desk: WireDesk, ahead_s: float) -> None:
    """Let our machine's clock be off, from now on; the correction is as it was measured before."""
    clock = desk.trading.clock

    def read() -> datetime:
        return desk.clock.now() + timedelta(seconds=ahead_s)

    desk.trading.clock.clock = read
    assert isinstance(clock, VenueClock)


def levels(desk: WireDesk) -> set[tuple[str, Level]]:
    return {(switch.source, switch.level) for switch in desk.switches()}


@pytest.mark.fault_row("X18")
@pytest.mark.parametrize("ahead_s", [3, -3, 300, -300])
def test_a_clock_that_is_off_is_measured_and_entries_stop(wire: WireDesk, ahead_s: int) -> None:
    """Beyond half a second nothing is entered; what reduces is sent with a corrected stamp; two good probes open entries again."""
    wire.bring("BTC", D(1)) if market(wire) == "spot" else None
    bought = wire.intend()
    wire.execute()
    wire.step(2)
    assert wire.state(bought) is S.FILLED
    seen: dict[str, Any] = {}

    def step_clock() -> None:
        our_clock(wire, ahead_s)

    def note() -> None:
        seen["offset_ms"], seen["levels"] = wire.trading.clock.offset_ms, levels(wire)
        seen["entry"] = wire.intend(**elsewhere(wire))
        seen["exit"] = wire.intend(Leg.EXIT, reduce_only=market(wire) == "linear")

    def mend() -> None:
        seen["states"] = wire.state(seen["entry"]), wire.state(seen["exit"])
        our_clock(wire, 0)

    def late() -> None:
        seen["after"] = levels(wire)

    wire.run_executor(200, {10: step_clock, 65: note, 75: mend, 175: late})
    assert seen["offset_ms"] == -1000 * ahead_s
    assert seen["levels"] == {("clock", Level.ENTRIES_OFF)}
    assert seen["states"] == (S.CANCELLED, S.FILLED)
    assert wire.codes(seen["entry"])["CANCELLED"] == "KILLED"
    assert seen["after"] == set()
    assert wire.trading.clock.offset_ms == 0
    judge(wire)


@pytest.mark.fault_row("X18")
def test_a_step_of_our_clock_is_answered_by_the_venue_and_measured_at_once(wire: WireDesk) -> None:
    """The stamp is five minutes old: the venue refuses it, which is final, and the offset is known before the next order leaves."""
    our_clock(wire, -300)
    stale = wire.intend(decide_by_ms=wire.now_ms + 600_000)
    summary = wire.execute()
    assert (wire.state(stale), wire.codes(stale)["REJECTED"]) == (S.REJECTED, "WINDOW")
    assert summary.wants == {"measure_clock"}
    assert measure_offset(wire.trading) == 300_000
    again = wire.intend()
    wire.step(0, 2)
    assert wire.state(again) is S.FILLED  # the clock is off, and we know by how much
    judge(wire)


@pytest.mark.fault_row("X18")
def test_a_refusal_for_the_clock_lets_the_executor_measure_without_waiting_for_its_turn(wire: WireDesk) -> None:
    seen: list[int | None] = []

    def step_and_send() -> None:
        our_clock(wire, -300)
        wire.intend(decide_by_ms=wire.now_ms + 600_000)

    wire.run_executor(40, {31.5: step_and_send, 34: lambda: seen.append(wire.trading.clock.offset_ms)})  # the next probe was due at 60 s
    assert seen == [300_000]
    assert levels(wire) == {("clock", Level.ENTRIES_OFF)}
    judge(wire)


@pytest.mark.fault_row("X18")
@pytest.mark.parametrize("skew_ms", [0, 450, -450, 550, -550, 3_000, -300_000])
def test_the_gate_refuses_entries_beyond_half_a_second(wire: WireDesk, skew_ms: int) -> None:
    wire.venue.skew(skew_ms)
    with wire.stores.open() as work:
        state = probe_venue(wire.trading, work)
    assert state.clock_offset_ms == skew_ms
    codes = {found.code for found in run_gate(a_request(wire), a_view(wire, state), wire.trading.limits).findings}
    assert (ReasonCode.CLOCK_OFFSET in codes) is (abs(skew_ms) > 500)


def a_request(desk: WireDesk) -> OrderRequest:
    return OrderRequest(
        "0" * 32, desk.account, "onchain_crypto-1h", desk.symbol, "majors", Leg.ENTRY, Side.BUY, D("0.010"), D(40_000), D(400),
        "strategy", desk.trading.terms.mode, desk.now_ms + 60_000,
    )  # fmt: skip


def a_view(desk: WireDesk, state: Any) -> Any:
    account = AccountView(desk.now_ms, desk.trading.terms.mode, desk.account, (), venue=state)
    rules = InstrumentRules(desk.symbol, tick=D("0.1"), step=D("0.001"))
    return build_gate_view(account, a_request(desk), SymbolView(rules, (), None, D(40_000)))


# ---- X23 ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.fault_row("X23")
def test_maintenance_turns_entries_off_and_ends_by_itself(wire: WireDesk) -> None:
    """Reads and cancels go on; one entry a minute asks whether it is over; the first one that is taken opens everything again."""
    resting = wire.resting()
    wire.execute()
    wire.venue.change(mode="maintenance")
    refused = wire.intend(**elsewhere(wire))
    wire.execute()
    assert (wire.state(refused), wire.codes(refused)["REJECTED"]) == (S.REJECTED, "MARKET_CLOSED")
    assert pauses(wire) == {PauseKind.ENTRIES: 60}
    assert wire.incidents() == ["VENUE_CLOSED"]
    with wire.stores.open() as work:
        assert probe_venue(wire.trading, work).is_breaker_open  # so the gate refuses too
    posts = wire.posts()
    waiting = wire.intend(**elsewhere(wire), decide_by_ms=wire.now_ms + 200_000)
    wire.step(30, 29)
    assert (wire.posts(), wire.state(waiting)) == (posts, S.INTENT)
    wire.step(1)
    assert (wire.posts(), wire.state(waiting)) == (posts + 1, S.REJECTED)
    wire.step(31, 2)
    assert wire.state(resting) is S.CANCELLED
    wire.venue.change(mode="normal")
    third = wire.intend(**elsewhere(wire), decide_by_ms=wire.now_ms + 200_000)
    wire.step(30, 2)
    assert wire.state(third) is S.FILLED
    assert (pauses(wire), wire.incidents()) == ({}, [])
    judge(wire)


@pytest.mark.fault_row("X23")
def test_a_venue_that_refuses_cancels_too_is_asked_again_until_it_carries_them_out(wire: WireDesk) -> None:
    resting = wire.resting()
    wire.execute()
    wire.venue.change(mode="read_only")
    wire.step(90, 1, 2, 4, 8, 15, 30, 30)
    assert wire.state(resting) in {S.CANCEL_REQUESTED, S.OPEN}
    wire.venue.change(mode="normal")
    wire.step(30, 30)
    assert wire.state(resting) is S.CANCELLED
    judge(wire)


# ---- X26 ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.fault_row("X26")
def test_a_key_that_is_revoked_turns_entries_off_after_three_refusals_and_pages_within_two_minutes(wire: WireDesk) -> None:
    paged: list[float] = []
    symbols = [wire.symbol, elsewhere(wire)["symbol"], wire.symbol.replace("BTC", "SOL")]
    ids: list[str] = []
    posts: list[int] = []
    began_s = wire.clock.now_s()

    def send_three() -> None:
        wire.venue.keys.revoke("kill")
        ids.extend(wire.intend(symbol=symbol, limit_price=D(100), qty=D(1)) for symbol in symbols)

    def one_more() -> None:
        posts.append(wire.posts())
        ids.append(wire.intend())

    def look() -> None:
        if not paged and "AUTH_REFUSED" in told_to_a_person(wire):
            paged.append(wire.clock.now_s() - began_s - 5)

    happens = {5: send_three, 8: one_more, 60: lambda: posts.append(wire.posts())}
    told = wire.run_executor(90, {**happens, **{at + 0.5: look for at in range(5, 60)}})
    assert [wire.codes(each)["REJECTED"] for each in ids] == ["AUTH"] * 4
    assert posts == [3, 3]  # the fourth waited a minute, and asked then whether the key is known again
    assert wire.posts() == 4
    assert paged
    assert paged[0] <= 120
    assert "unknown" in [facts["status"] for event, facts in told if event == "pass"]  # nothing can be read: that is not flat
    wire.venue.keys.revoke("kill", is_revoked=False)
    after = wire.intend()
    wire.step(10)
    assert wire.state(after) is S.INTENT
    wire.step(60, 2)
    assert wire.state(after) is S.FILLED  # nobody had to open entries again
    judge(wire)


def told_to_a_person(desk: WireDesk) -> set[str]:
    """Kinds of incidents of this account that the watchdog, which looks every 15 s, would page for now."""
    alerts = judge_incidents(PostgresTradingHealth(desk.url).load_critical_incidents())
    return {
        word for alert in alerts if desk.account in str(alert) and alert.severity is not Severity.WARNING for word in str(alert).split()
    }


# ---- X27 ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.fault_row("X27")
def test_a_balance_refusal_is_final_and_starts_a_balance_pass_at_once(wire: WireDesk) -> None:
    """Somebody took the money out: the ledger says enough, the venue does not. The pass that compares them does not wait its 300 s."""
    ids: list[str] = []
    seen: dict[str, Any] = {}
    quote_left = "100"

    def take_and_send() -> None:
        wire.venue.hand.withdraw("USDT", D(100_000) - D(quote_left))
        ids.append(wire.intend(qty=D("0.5")))

    def note() -> None:
        runs = wire.select("select kind, status from reconciliation_runs where account = %s order by run_id desc limit 1", wire.account)
        seen["run"], seen["levels"] = runs[0], levels(wire)

    wire.run_executor(60, {20: take_and_send, 22.5: note})
    assert (wire.state(ids[0]), wire.codes(ids[0])["REJECTED"]) == (S.REJECTED, "BALANCE")
    assert seen["run"] == ("full", "findings")
    assert "recon_medium" in {source for source, _ in levels(wire)}  # confirmed by a second reading
    book_by_hand(wire.trading, ByHand("USDT", D(quote_left) - D(100_000), "anna", "withdrawn", is_flow=True))
    wire.run_executor(700)
    assert levels(wire) == set()
    judge(wire)


@pytest.mark.fault_row("X27")
def test_every_code_for_missing_money_is_final(wire: WireDesk, cells: Cells) -> None:
    said: Mapping[str, list[dict[str, Any]]] = {
        "spot": [{"status": 400, "body": {"code": -2010, "msg": "Account has insufficient balance for requested action."}}],
        "linear": [
            {"status": 200, "body": {"retCode": code, "retMsg": "not enough", "result": {}}}
            for code in (110004, 110007, 110012, 110052, 170033, 170131)
        ],
    }
    faults = said[market(wire)]
    for fault in faults:
        wire.fault(accept="never", **fault)
        order_id = wire.intend()
        summary = wire.execute()
        assert (wire.state(order_id), wire.codes(order_id)["REJECTED"]) == (S.REJECTED, "BALANCE")
        assert summary.wants == {"check_balances"}
    judge(wire)
    cells(run=len(faults), passed=len(faults))
