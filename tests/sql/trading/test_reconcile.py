"""Our book against the venue's: each finding does what the specification says, and nothing else."""

from dataclasses import replace
from decimal import Decimal

import pytest

from regime_pipeline.errors import BadInputError
from regime_pipeline.execution.order_states import OrderState, VenueStatus
from regime_pipeline.ports import Listing, OrderSpec, OrderType, PassKind, PassStatus, ReconFinding
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.kill_switch import Level, Scope, Trigger
from regime_pipeline.risk.purpose import Leg, Side
from regime_pipeline.services.trading.book_by_hand import ByHand, book_by_hand
from regime_pipeline.services.trading.incidents import ack_incident
from regime_pipeline.services.trading.kill_levels import Release, release
from regime_pipeline.services.trading.open_account import open_account
from regime_pipeline.services.trading.reconcile import ReconSummary, reconcile_full, reconcile_orders
from tests.trading_desk import ACCOUNT, SYMBOL, Desk

D = Decimal
OWN = Scope(ACCOUNT)
ON_SYMBOL = Scope(ACCOUNT, symbol=SYMBOL)


@pytest.fixture
def desk(database: str) -> Desk:
    """A desk whose account has its money, in a market that the venue lists."""
    desk = Desk(database)
    open_account(desk.trading)
    rules = InstrumentRules(SYMBOL, tick=D("0.01"), step=D("0.001"), min_cost_quote=D(5))
    with desk.stores.open() as work:
        work.recon.save_listings("paper", {SYMBOL: Listing(rules, "AAVE", "USDT", D(10), D(10))}, desk.now_ms)
    return desk


def levels(desk: Desk) -> set[tuple[str, Scope, Level]]:
    with desk.stores.open() as work:
        return {(switch.source, switch.scope, switch.level) for switch in work.safety.load_switches(ACCOUNT)}


def found(summary: ReconSummary, check: str) -> list[ReconFinding]:
    return [finding for finding in summary.run.findings if finding.check == check]


def buy(desk: Desk, qty: str = "1") -> str:
    """Hold something: an entry that is filled, and booked."""
    client_order_id = desk.intend(qty=D(qty))
    desk.execute()
    desk.fake.fill(client_order_id, qty)
    desk.advance(3)
    desk.execute()
    assert desk.state(client_order_id) is OrderState.FILLED
    return client_order_id


def twice(desk: Desk) -> ReconSummary:
    """Two full passes, far enough apart that the second one confirms the first."""
    first = reconcile_full(desk.trading)
    assert first.raised == ()  # one reading is not enough for anything
    desk.advance(6)
    return reconcile_full(desk.trading)


def test_books_that_agree_are_clean(desk: Desk) -> None:
    buy(desk)
    summary = reconcile_full(desk.trading)
    assert (summary.run.status, summary.run.findings, summary.needs_second) == (PassStatus.OK, (), False)
    assert levels(desk) == set()


@pytest.mark.parametrize("read", ["fetch_open_orders", "fetch_fills", "fetch_balances", "fetch_positions"])
def test_a_read_that_failed_is_unknown_and_never_a_match(desk: Desk, read: str) -> None:
    buy(desk)
    desk.fake.failing = {read}
    summary = reconcile_full(desk.trading)
    assert summary.run.status is PassStatus.UNKNOWN
    assert "scripted" in str(summary.run.detail["unknown"])
    assert found(summary, "position") == []  # not flat either


def test_balances_that_are_empty_are_unknown(desk: Desk) -> None:
    buy(desk)
    desk.fake.balances = {}
    assert reconcile_full(desk.trading).run.status is PassStatus.UNKNOWN


def test_a_difference_that_cannot_be_priced_is_unknown(desk: Desk) -> None:
    buy(desk)
    desk.fake.balances["AAVE"] -= D("0.1")
    desk.fake.failing = {"fetch_quote"}
    assert reconcile_full(desk.trading).run.status is PassStatus.UNKNOWN


# 1 was bought and 0.001 went as the fee: the ledger holds 0.999.
@pytest.mark.parametrize(
    ("missing", "tier", "level"),
    [
        ("0.05", "dust", None),  # 0.05 x 100 is 5, the minimum cost
        ("0.0502", "large", (Trigger.RECON_LARGE, OWN, Level.REDUCE_ONLY)),  # above it, and 5.03 % of 0.999
    ],
)
def test_a_position_that_differs_is_graded(desk: Desk, missing: str, tier: str, level: tuple[str, Scope, Level] | None) -> None:
    buy(desk)
    desk.fake.balances["AAVE"] -= D(missing)
    summary = twice(desk)
    assert [(each.tier, each.diff) for each in found(summary, "position")] == [(tier, D(missing))]
    assert levels(desk) == ({level} if level else set())
    assert summary.run.status is (PassStatus.FINDINGS if level else PassStatus.OK)


# Of 49.95 held 0.5 % is 0.24975 and 5 % is 2.4975.
@pytest.mark.parametrize(
    ("missing", "tier", "source", "incidents"),
    [("0.2", "small", "recon_small", []), ("2", "medium", "recon_medium", ["RECON_DRIFT"])],
)
def test_small_and_medium_stop_entries_of_the_symbol_and_are_lifted_after_two_clean_passes(
    desk: Desk, missing: str, tier: str, source: str, incidents: list[str]
) -> None:
    buy(desk, "50")
    desk.fake.balances["AAVE"] -= D(missing)
    summary = twice(desk)
    assert [each.tier for each in found(summary, "position")] == [tier]
    assert levels(desk) == {(source, ON_SYMBOL, Level.ENTRIES_OFF)}
    assert desk.incidents() == incidents
    desk.fake.balances["AAVE"] += D(missing)  # explained
    desk.advance(300)
    assert reconcile_full(desk.trading).lifted == ()
    desk.advance(300)
    assert [pause.source for pause in reconcile_full(desk.trading).lifted] == [source]
    assert levels(desk) == set()
    assert desk.incidents() == []


def test_large_waits_for_a_person(desk: Desk) -> None:
    buy(desk)
    desk.fake.balances["AAVE"] = D("0.5")
    twice(desk)
    desk.fake.balances["AAVE"] = D("0.999")
    for _ in range(3):
        desk.advance(300)
        assert reconcile_full(desk.trading).is_clean
    assert levels(desk) == {("recon_large", OWN, Level.REDUCE_ONLY)}
    assert desk.latch.switches[0].source == "recon_large"


def test_cash_and_a_position_that_differ_both_count(desk: Desk) -> None:
    buy(desk, "50")
    desk.fake.balances["AAVE"] -= D(2)
    desk.fake.balances["USDT"] -= D(300)
    twice(desk)
    assert levels(desk) == {("recon_medium", ON_SYMBOL, Level.ENTRIES_OFF), ("recon_medium", OWN, Level.ENTRIES_OFF)}


def test_a_large_difference_that_was_explained_and_released_is_closed(desk: Desk) -> None:
    buy(desk)
    desk.fake.balances["AAVE"] = D("0.5")
    twice(desk)
    assert desk.incidents() == ["RECON_DRIFT"]
    book_by_hand(desk.trading, ByHand("AAVE", D("-0.499"), "ann", "sent to the cold wallet", is_flow=False))
    desk.advance(6)
    assert reconcile_full(desk.trading).is_clean
    assert desk.incidents() == ["RECON_DRIFT"]  # not released yet
    with desk.stores.open() as work:
        release(work, desk.latch, Release(OWN, "ann", "explained"), mode=Mode.PAPER, now_s=desk.now_ms // 1000)
    desk.advance(300)
    reconcile_full(desk.trading)
    assert desk.incidents() == []


def test_what_the_ledger_does_not_know_is_large_and_nobodys(desk: Desk) -> None:
    desk.fake.balances["AAVE"] = D(1)
    summary = twice(desk)
    assert [(each.tier, each.evidence["owner"]) for each in found(summary, "position")] == [("large", "_orphan")]
    assert desk.select("select count(*) from fills") == [(0,)]
    assert desk.select("select count(*) from ledger_entries where asset = 'AAVE'") == [(0,)]


def test_an_asset_that_the_venue_does_not_trade_is_told_and_stops_nothing(desk: Desk) -> None:
    desk.fake.balances["AIRDROP"] = D(1000)
    summary = twice(desk)
    assert [each.tier for each in found(summary, "position")] == ["warning"]
    assert summary.is_clean


def test_a_difference_with_an_order_in_flight_does_not_count(desk: Desk) -> None:
    buy(desk)
    desk.fake.balances["AAVE"] = D("0.5")
    desk.intend(Leg.EXIT, qty=D("0.5"))
    desk.execute()
    summary = twice(desk)
    assert summary.needs_second
    assert levels(desk) == set()


def test_a_difference_that_moves_is_not_the_same_one(desk: Desk) -> None:
    buy(desk)
    desk.fake.balances["AAVE"] = D("0.5")
    reconcile_full(desk.trading)
    desk.fake.balances["AAVE"] = D("0.6")
    desk.advance(6)
    assert reconcile_full(desk.trading).raised == ()


def test_two_readings_within_five_seconds_are_one(desk: Desk) -> None:
    buy(desk)
    desk.fake.balances["AAVE"] = D("0.5")
    reconcile_full(desk.trading)
    desk.advance(4)
    assert reconcile_full(desk.trading).raised == ()


# Equity is 100,000: 0.05 % is 50, 0.25 % is 250.
@pytest.mark.parametrize(("gone", "tiers", "source"), [("50", [], None), ("60", ["warning"], None), ("251", ["medium"], "recon_medium")])
def test_cash_that_differs(desk: Desk, gone: str, tiers: list[str], source: str | None) -> None:
    desk.fake.balances["USDT"] -= D(gone)
    summary = twice(desk)
    assert [each.tier for each in found(summary, "cash")] == tiers
    assert levels(desk) == ({(source, OWN, Level.ENTRIES_OFF)} if source else set())


def test_a_person_explains_a_difference_of_cash(desk: Desk) -> None:
    desk.fake.balances["USDT"] -= D(300)
    twice(desk)
    book_by_hand(desk.trading, ByHand("USDT", D(-300), "ann", "the exchange charged for a listing"))
    for _ in range(2):
        desk.advance(300)
        assert reconcile_full(desk.trading).is_clean
    assert levels(desk) == set()
    rows = desk.select("select strategy, amount, actor from ledger_entries where ledger_account = 'ADJUST'")
    assert rows == [("_orphan", D(300), "ann")]


@pytest.mark.parametrize("wrong", [{"actor": " "}, {"reason": ""}, {"amount": D(0)}])
def test_an_explanation_needs_a_person_a_reason_and_an_amount(desk: Desk, wrong: dict[str, object]) -> None:
    asked = replace(ByHand("USDT", D(1), "ann", "found it"), **wrong)  # type: ignore[arg-type]
    with pytest.raises(BadInputError):
        book_by_hand(desk.trading, asked)


def test_a_fill_that_we_lack_is_booked(desk: Desk) -> None:
    client_order_id = desk.intend()
    desk.execute()
    desk.fake.fill(client_order_id, "0.4")
    summary = reconcile_orders(desk.trading)
    assert [(each.scope, each.action) for each in found(summary, "fill")] == [(SYMBOL, "booked")]
    assert desk.order(client_order_id).filled == D("0.4")
    assert found(reconcile_orders(desk.trading), "fill") == []  # once


def test_a_fill_that_cannot_be_booked_is_told_and_hides_no_other(desk: Desk) -> None:
    client_order_id = desk.intend()
    other = desk.intend(symbol="ETH/USDT")
    desk.execute()
    desk.fake.trades.append(replace(desk.fake.fill(client_order_id, "0.4"), venue_trade_id=""))
    desk.fake.fill(other, "0.5")
    first = reconcile_orders(desk.trading)
    assert [(each.scope, each.action) for each in found(first, "fill")] == [(SYMBOL, "entries off"), ("ETH/USDT", "booked")]
    assert desk.incidents() == []
    assert found(reconcile_orders(desk.trading), "fill")[0].repeats == 2
    assert desk.incidents() == ["FILL_MISSING"]
    assert levels(desk) == {("recon_order", ON_SYMBOL, Level.ENTRIES_OFF)}


def test_an_order_missing_from_two_listings_and_by_id_becomes_unknown(desk: Desk) -> None:
    client_order_id = desk.intend()
    desk.execute()
    desk.fake.hidden = {client_order_id}
    reconcile_orders(desk.trading)
    assert desk.state(client_order_id) is OrderState.OPEN
    desk.advance(60)
    summary = reconcile_orders(desk.trading)
    assert [each.action for each in found(summary, "order")] == ["unknown"]
    assert desk.state(client_order_id) is OrderState.UNKNOWN
    assert desk.incidents() == []


def test_an_order_missing_from_a_listing_that_failed_stays(desk: Desk) -> None:
    client_order_id = desk.intend()
    desk.execute()
    desk.fake.hidden = {client_order_id}
    for failing in ({"fetch_open_orders"}, {"fetch_order"}, {"fetch_open_orders"}):
        desk.fake.failing = failing
        assert reconcile_orders(desk.trading).run.status is PassStatus.UNKNOWN
        desk.advance(60)
    assert desk.state(client_order_id) is OrderState.OPEN


def test_an_order_that_ended_between_is_left_to_the_executor(desk: Desk) -> None:
    client_order_id = desk.intend()
    desk.execute()
    desk.fake.end(client_order_id, VenueStatus.CANCELED)
    assert found(reconcile_orders(desk.trading), "order") == []
    desk.execute()
    assert desk.state(client_order_id) is OrderState.CANCELLED


def test_an_order_that_had_ended_and_rests_is_cancelled_at_once(desk: Desk) -> None:
    client_order_id = desk.intend()
    desk.execute()
    desk.fake.end(client_order_id, VenueStatus.CANCELED)
    desk.advance(3)
    desk.execute()
    assert desk.state(client_order_id) is OrderState.CANCELLED
    desk.fake.end(client_order_id, VenueStatus.OPEN)  # the venue changes its mind
    desk.fake.fill(client_order_id, "0.3")
    summary = reconcile_orders(desk.trading)
    assert desk.fake.orders[client_order_id].status is VenueStatus.CANCELED
    assert desk.incidents() == ["ENDED_ORDER_OPEN", "LATE_FILL"]
    assert levels(desk) == {("recon_order", ON_SYMBOL, Level.ENTRIES_OFF)}
    assert desk.select("select is_late, qty from fills") == [(True, D("0.3"))]
    assert desk.state(client_order_id) is OrderState.CANCELLED
    assert summary.is_clean  # settled: nothing is left to differ
    for _ in range(2):
        desk.advance(60)
        reconcile_orders(desk.trading)
    assert levels(desk) == set()


def test_a_foreign_order_stops_entries_until_a_person_knows_and_is_never_cancelled(desk: Desk) -> None:
    desk.fake.place(OrderSpec("by-hand", SYMBOL, Side.BUY, OrderType.LIMIT, D(2), D(90)))
    for _ in range(3):
        reconcile_orders(desk.trading)
        desk.advance(60)
    assert desk.incidents() == ["FOREIGN_ORDER"]
    assert levels(desk) == {("recon_foreign", ON_SYMBOL, Level.ENTRIES_OFF)}
    with desk.stores.open() as work:
        incident = work.recon.load_incidents()[0]
        ack_incident(work, incident.incident_id, "ann")
    assert incident.evidence["owner"] == "_external"
    for _ in range(2):
        reconcile_orders(desk.trading)
        desk.advance(60)
    assert levels(desk) == set()
    assert desk.fake.cancels == []
    assert desk.select("select count(*) from orders") == [(0,)]


def test_a_trade_by_hand_is_external_and_stops_entries(desk: Desk) -> None:
    buy(desk)
    desk.fake.place(OrderSpec("by-hand", SYMBOL, Side.SELL, OrderType.LIMIT, D("0.5"), D(100)))
    desk.fake.fill("by-hand", "0.5")
    desk.advance(120)
    summary = reconcile_full(desk.trading)
    assert desk.incidents() == ["FOREIGN_FILL"]
    assert levels(desk) == {("recon_foreign", ON_SYMBOL, Level.ENTRIES_OFF)}
    balances = desk.select("select strategy, balance from ledger_balances where ledger_account = 'WALLET' and asset = 'AAVE' order by 1")
    assert balances == [("_external", D("-0.5")), ("onchain_crypto-1h", D("0.999"))]
    assert found(summary, "position") == []  # the trade explains it


def test_an_order_of_ours_without_a_row_is_adopted_by_its_key(desk: Desk) -> None:
    intent = desk.an_intent(bar_close_s=desk.an_intent().key.bar_close_s - 5 * 3600)
    desk.fake.place(intent.spec)
    desk.fake.fill(intent.client_order_id, "0.25")
    reconcile_orders(desk.trading)
    assert desk.path(intent.client_order_id) == ["INTENT", "SUBMITTING", "UNKNOWN"]
    desk.advance(1)
    desk.execute()
    assert desk.state(intent.client_order_id) is OrderState.PARTIAL
    desk.advance(120)
    desk.execute()
    desk.advance(3)
    desk.execute()
    assert desk.state(intent.client_order_id) is OrderState.CANCELLED  # past its time to live
    assert desk.order(intent.client_order_id).filled == D("0.25")
    assert desk.fake.creates == []
    assert desk.incidents() == ["ORDER_WITHOUT_ROW"]
    assert levels(desk) == {("recon_order", ON_SYMBOL, Level.ENTRIES_OFF)}


def test_an_order_given_up_that_surfaces_is_adopted(desk: Desk) -> None:
    client_order_id = give_up(desk)
    desk.fake.hidden = set()
    desk.fake.fill(client_order_id, "0.25")
    reconcile_orders(desk.trading)
    assert desk.state(client_order_id) is OrderState.PARTIAL
    assert desk.order(client_order_id).filled == D("0.25")
    assert desk.incidents() == ["ORDER_SURFACED", "LATE_FILL"]
    assert levels(desk) == {("recon_order", ON_SYMBOL, Level.ENTRIES_OFF)}
    assert len(desk.fake.creates) == 1


def test_an_order_that_surfaces_beside_another_is_cancelled_first(desk: Desk) -> None:
    client_order_id = give_up(desk)
    other = desk.intend(Leg.ADD, bar_close_s=desk.an_intent().key.bar_close_s + 3600)
    desk.execute()
    assert desk.state(other) is OrderState.OPEN
    desk.fake.hidden = set()
    reconcile_orders(desk.trading)
    assert desk.fake.orders[client_order_id].status is VenueStatus.CANCELED
    assert desk.state(client_order_id) is OrderState.NOT_FOUND
    assert desk.incidents() == ["ORDER_SURFACED"]


def give_up(desk: Desk) -> str:
    """An order whose answer was lost and that no look has found."""
    from tests.fakes_trading import lost

    client_order_id = desk.intend()
    desk.fake.create_script = [lost(is_done=True)]
    desk.fake.hidden = {client_order_id}
    desk.execute()
    for _ in range(40):
        desk.advance(1)
        desk.execute()
    assert desk.state(client_order_id) is OrderState.NOT_FOUND
    return client_order_id


def test_fees_beyond_the_tariff_are_an_incident(desk: Desk) -> None:
    with desk.stores.open() as work:
        rules = work.safety.load_rules("paper")[SYMBOL]
        work.recon.save_listings("paper", {SYMBOL: Listing(rules, "AAVE", "USDT", D(5), D(5))}, desk.now_ms)
    buy(desk)
    summary = reconcile_orders(desk.trading)  # 10 bps were taken, 5 are due
    assert [each.action for each in found(summary, "fee")] == ["incident"]
    assert desk.incidents() == ["FEE_OFF_TARIFF"]


def test_an_order_unknown_for_five_minutes_makes_the_account_reduce_only(desk: Desk) -> None:
    client_order_id = desk.intend()
    desk.execute()
    desk.fake.hidden = {client_order_id}
    for _ in range(8):  # it has a venue id, so that absence is never proven by itself
        reconcile_orders(desk.trading)
        desk.advance(60)
    assert desk.state(client_order_id) is OrderState.UNKNOWN
    assert ("unknown_order", OWN, Level.REDUCE_ONLY) in levels(desk)


def test_every_pass_is_recorded(desk: Desk) -> None:
    reconcile_orders(desk.trading)
    reconcile_full(desk.trading)
    with desk.stores.open() as work:
        kinds = [run.kind for run in work.recon.load_runs(ACCOUNT, limit=5)]
    assert kinds == [PassKind.FULL, PassKind.ORDERS]
