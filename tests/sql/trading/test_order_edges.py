"""Every step of the registry that the executor can make, made at the desk; the rest is the reconciler's."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from regime_pipeline.execution.order_states import EDGES, Guard, OrderState, VenueStatus
from regime_pipeline.ports import OrderType, TimeInForce
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.kill_switch import EVERYBODY, Level, Switch
from regime_pipeline.risk.purpose import Leg
from tests.fakes_trading import lost, refused
from tests.trading_desk import Desk

S = OrderState
Story = Callable[[Desk], str]


def filled(part: str) -> Story:
    """An order that has traded before its create is answered."""

    def story(desk: Desk) -> str:
        desk.fake.on_place = lambda order_id: desk.fake.fill(order_id, part)
        return sent(desk)

    return story


def ended(status: VenueStatus) -> Story:
    """An order that has ended before its create is answered."""

    def story(desk: Desk) -> str:
        desk.fake.on_place = lambda order_id: desk.fake.end(order_id, status)
        return sent(desk)

    return story


def sent(desk: Desk) -> str:
    order_id = desk.intend()
    desk.execute()
    return order_id


def rejected_by_mode(desk: Desk) -> str:
    order_id = desk.intend()
    desk.trading = replace(desk.trading, terms=replace(desk.trading.terms, mode=Mode.SANDBOX))
    desk.execute()
    return order_id


def killed(desk: Desk) -> str:
    order_id = desk.intend()
    desk.latch.switches = (Switch(EVERYBODY, Level.REDUCE_ONLY, "manual", "alice", "drill", 0),)
    desk.execute()
    return order_id


def refused_by_venue(desk: Desk) -> str:
    desk.fake.create_script.append(refused(-2010, "Account has insufficient balance for requested action."))
    return sent(desk)


def unknown(then: Callable[[Desk, str], object] = lambda _desk, _order_id: None, *, seconds: tuple[float, ...] = (1,)) -> Story:
    """An order whose create was not answered, what happened to it at the venue, and looks."""

    def story(desk: Desk) -> str:
        desk.fake.create_script.append(lost(is_done=then is not never_arrived))
        order_id = sent(desk)
        then(desk, order_id)
        for each in seconds:
            desk.advance(each)
            desk.execute()
        return order_id

    return story


def never_arrived(_desk: Desk, _order_id: str) -> None:
    """Nothing is there to be found."""


def rests(then: Callable[[Desk, str], object], *parts: str) -> Story:
    """An order that rests, perhaps with parts filled, and what happens to it then."""

    def story(desk: Desk) -> str:
        order_id = sent(desk)
        for part in parts:
            desk.fake.fill(order_id, part)
            look(desk)
        then(desk, order_id)
        look(desk)
        return order_id

    return story


def cancels(then: Callable[[Desk, str], object], *parts: str) -> Story:
    """An order past its time whose cancel is taken and not carried out, and what happens to it then."""

    def story(desk: Desk) -> str:
        desk.fake.holds_cancels = True
        order_id = sent(desk)
        for part in parts:
            desk.fake.fill(order_id, part)
            look(desk)
        desk.advance(90)
        desk.execute()
        then(desk, order_id)
        look(desk)
        return order_id

    return story


def look(desk: Desk) -> None:
    desk.advance(2)
    desk.execute()


def fill(part: str) -> Callable[[Desk, str], object]:
    return lambda desk, order_id: desk.fake.fill(order_id, part)


def end(status: VenueStatus) -> Callable[[Desk, str], object]:
    return lambda desk, order_id: desk.fake.end(order_id, status)


def refuse_cancels(desk: Desk, _order_id: str) -> None:
    desk.fake.cancel_script.append(refused(-2011, "Unknown order sent."))


def expire(desk: Desk, _order_id: str) -> None:
    desk.advance(90)


V = VenueStatus
STORIES: dict[str, tuple[Story, list[OrderState]]] = {
    "rests": (sent, [S.SUBMITTING, S.OPEN]),
    "mode": (rejected_by_mode, [S.REJECTED]),
    "killed": (killed, [S.CANCELLED]),
    "partly filled at once": (filled("0.4"), [S.SUBMITTING, S.PARTIAL]),
    "filled at once": (filled("1"), [S.SUBMITTING, S.FILLED]),
    "cancelled at once": (ended(V.CANCELED), [S.SUBMITTING, S.CANCELLED]),
    "expired at once": (ended(V.EXPIRED), [S.SUBMITTING, S.EXPIRED]),
    "refused": (refused_by_venue, [S.SUBMITTING, S.REJECTED]),
    "found open": (unknown(), [S.SUBMITTING, S.UNKNOWN, S.OPEN]),
    "found partly filled": (unknown(fill("0.4")), [S.SUBMITTING, S.UNKNOWN, S.PARTIAL]),
    "found filled": (unknown(fill("1")), [S.SUBMITTING, S.UNKNOWN, S.FILLED]),
    "found cancelled": (unknown(end(V.CANCELED)), [S.SUBMITTING, S.UNKNOWN, S.CANCELLED]),
    "found rejected": (unknown(end(V.REJECTED)), [S.SUBMITTING, S.UNKNOWN, S.REJECTED]),
    "found expired": (unknown(end(V.EXPIRED)), [S.SUBMITTING, S.UNKNOWN, S.EXPIRED]),
    "absent": (unknown(never_arrived, seconds=(1, 2, 4, 8)), [S.SUBMITTING, S.UNKNOWN, S.NOT_FOUND]),
    "filled later": (rests(fill("1")), [S.SUBMITTING, S.OPEN, S.FILLED]),
    "cancelled by the venue": (rests(end(V.CANCELED)), [S.SUBMITTING, S.OPEN, S.CANCELLED]),
    "expired at the venue": (rests(end(V.EXPIRED)), [S.SUBMITTING, S.OPEN, S.EXPIRED]),
    "rejected later": (rests(end(V.REJECTED)), [S.SUBMITTING, S.OPEN, S.REJECTED]),
    "more and more": (rests(fill("0.3"), "0.3"), [S.SUBMITTING, S.OPEN, S.PARTIAL, S.PARTIAL]),
    "in two parts": (rests(fill("0.7"), "0.3"), [S.SUBMITTING, S.OPEN, S.PARTIAL, S.FILLED]),
    "partly, then cancelled": (rests(end(V.CANCELED), "0.3"), [S.SUBMITTING, S.OPEN, S.PARTIAL, S.CANCELLED]),
    "partly, then expired": (rests(end(V.EXPIRED), "0.3"), [S.SUBMITTING, S.OPEN, S.PARTIAL, S.EXPIRED]),
    "partly, then its time is up": (
        rests(expire, "0.3"),
        [S.SUBMITTING, S.OPEN, S.PARTIAL, S.CANCEL_REQUESTED, S.CANCELLED],
    ),
    "its time is up": (cancels(end(V.CANCELED)), [S.SUBMITTING, S.OPEN, S.CANCEL_REQUESTED, S.CANCELLED]),
    "filled while it is cancelled": (
        cancels(fill("0.4")),
        [S.SUBMITTING, S.OPEN, S.CANCEL_REQUESTED, S.CANCEL_REQUESTED],
    ),
    "filled before it is cancelled": (cancels(fill("1")), [S.SUBMITTING, S.OPEN, S.CANCEL_REQUESTED, S.FILLED]),
    "expired before it is cancelled": (cancels(end(V.EXPIRED)), [S.SUBMITTING, S.OPEN, S.CANCEL_REQUESTED, S.EXPIRED]),
    "cancel refused": (cancels(refuse_cancels), [S.SUBMITTING, S.OPEN, S.CANCEL_REQUESTED, S.OPEN]),
    "cancel refused, partly filled": (
        cancels(refuse_cancels, "0.4"),
        [S.SUBMITTING, S.OPEN, S.PARTIAL, S.CANCEL_REQUESTED, S.PARTIAL],
    ),
}


@pytest.mark.parametrize(("story", "path"), STORIES.values(), ids=list(STORIES))
def test_each_story_goes_its_way(desk: Desk, story: Story, path: list[OrderState]) -> None:
    order_id = story(desk)
    assert desk.path(order_id) == [S.INTENT, *path]
    assert len(desk.fake.creates) <= 1
    # what was filled is booked once, and the ledger holds it less the fee of 10 bps
    booked = desk.select("select coalesce(sum(qty), 0), count(*) from fills")
    assert booked == [(sum(trade.qty for trade in desk.fake.trades), len(desk.fake.trades))]
    assert desk.select("select count(*) from outbox where kind = 'SUBMIT' and done_at is null") == [(0,)]
    still_leaving = desk.state(order_id) is S.CANCEL_REQUESTED
    assert desk.select("select count(*) from outbox where kind = 'CANCEL' and done_at is null") == [(int(still_leaving),)]


def test_the_stories_make_every_step_but_those_of_the_reconciler() -> None:
    made = {step for _, path in STORIES.values() for step in zip([S.INTENT, *path], path, strict=False)}
    lost_sight = {(old, S.UNKNOWN) for old in (S.OPEN, S.PARTIAL, S.CANCEL_REQUESTED)}
    surfaced = {step for step, guards in EDGES.items() if Guard.BY_RECONCILER in guards}
    assert made == set(EDGES) - lost_sight - surfaced
    assert len(lost_sight | surfaced) == 9


def test_an_ioc_that_finds_nothing_expires_at_once(desk: Desk) -> None:
    order_id = desk.intend(Leg.SL, tif=TimeInForce.IOC, type=OrderType.LIMIT, origin="risk")
    desk.execute()
    assert desk.path(order_id) == [S.INTENT, S.SUBMITTING, S.EXPIRED]
