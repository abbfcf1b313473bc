"""X40: an outage of days, and days that are not like others: nothing that was missed is replayed, and a day begins at 00:00 UTC.

The series of X39 are in test_closed_gate.py.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.services.trading.context import VenueClock
from regime_pipeline.services.trading.find_new_bars import find_new_bars, judge_bar
from regime_pipeline.settings import Settings
from regime_pipeline.simulation.clock import VirtualClock
from sensors.regime_bar import plan_ticks
from tests.safety_desk import DAY_S, SafetyDesk
from tests.tick_desk import ACCOUNT, CLOSE_S, HOUR_S, TickDesk, desk
from tests.ticking import keep_fresh

__all__ = ["desk"]
Cells = Callable[..., None]
H1 = Timeframe.H1
ZONES = ["America/New_York", "Europe/Berlin", "Pacific/Kiritimati"]
STEP_S = 3 * HOUR_S
DAYS = {
    "an ordinary day": "2026-06-02",
    "clocks go forward in Berlin": "2027-03-28",
    "clocks go back in New York": "2026-11-01",
    "leap day": "2028-02-29",
    "the day after": "2028-03-01",
    "new year": "2027-01-01",
}


@pytest.fixture(params=ZONES)
def zone(request: pytest.FixtureRequest) -> Iterator[str]:
    """The zone of this process."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = request.param
    time.tzset()
    yield request.param
    os.environ.pop("TZ", None)
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.fault_row("X40")
def test_x40_after_three_days_one_tick_is_made_and_none_replayed(desk: TickDesk, cells: Cells) -> None:
    """Three days of bars are there at once, as a backfill leaves them: the newest is decided, on data and books that are young again."""
    desk.buy_signal("AAVE", CLOSE_S)
    first = desk.tick()
    assert (first.outcome, len(desk.fake.creates)) == ("decided", 1)
    cursor = {H1: CLOSE_S}
    missed = [CLOSE_S + n * HOUR_S for n in range(1, 73)]
    desk.go_to(missed[-1] + 30)
    for close_s in missed:
        desk.buy_signal("AAVE", close_s)
    desk.regime(missed[-1])
    desk.execute("update leases set until = '-infinity'")
    with desk.stores.open() as work:
        bars = find_new_bars(work, desk.universe, "onchain_crypto")
    dues = {bar.timeframe: judge_bar(bar, desk.now_s, desk.trading.limits) for bar in bars}
    requests, seen = plan_ticks(cursor, bars, dues, Settings(trading_account=ACCOUNT))
    assert (len(requests), seen[H1]) == (1, missed[-1])
    # books not compared for three days: the tick is made, and buys nothing
    unclean = desk.tick()
    assert (unclean.outcome, unclean.bar_close_s, len(desk.fake.creates)) == ("decided", missed[-1], 1)
    assert desk.count("decisions") == 2
    # whoever asks for a bar in between is late
    late = [desk.tick(close_s).outcome for close_s in missed[:-1]]
    assert set(late) == {"SKIPPED_LATE"}
    assert (desk.count("decisions"), len(desk.fake.creates)) == (2, 1)
    # an hour later all is young and clean again: one fresh tick
    close_s = desk.to_next_bar()
    keep_fresh(desk)
    desk.feed()
    desk.buy_signal("AAVE", close_s)
    desk.regime(close_s)
    fresh = desk.tick()
    assert (fresh.outcome, fresh.bar_close_s, desk.count("decisions")) == ("decided", close_s, 3)
    assert len({spec.client_order_id for spec, _, _ in desk.fake.creates}) == len(desk.fake.creates)
    cells(run=len(missed), passed=len(missed))


def resets_of(desk: SafetyDesk, midnight_s: int) -> list[int]:
    """Lose 2.5 % at noon of two days running; at which instants do entries come back?"""
    account = desk.trading.terms.account
    desk.mark(midnight_s - 30 * DAY_S, 100_000, account=account)
    equity, is_off, resets = Decimal(100_000), False, []
    boundaries_s = [midnight_s + n * DAY_S + off_s for n in (1, 2) for off_s in (-1, 0)]
    steps_s = [midnight_s + n * STEP_S for n in range(2 * DAY_S // STEP_S + 2)]
    for at_s in sorted({*steps_s, *boundaries_s}):
        if at_s in {midnight_s + DAY_S // 2, midnight_s + DAY_S * 3 // 2}:
            equity *= Decimal("0.975")
        desk.go_to(at_s)
        desk.mark(at_s, str(equity), account=account)
        was_off, is_off = is_off, "daily_loss" in desk.judge_names()
        if was_off and not is_off:
            resets.append(at_s)
    return resets


@pytest.mark.fault_row("X40")
def test_x40_a_day_is_reset_once_and_at_midnight_utc(zone: str, lasting_database: str, tmp_path: Path, cells: Cells) -> None:
    """Whatever the wall clock of this machine says, and however many hours its day has."""
    run = 0
    for name, text in DAYS.items():
        midnight_s = int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())
        desk = SafetyDesk(lasting_database, tmp_path)
        desk.clock = VirtualClock(midnight_s, 0.0)
        terms = replace(desk.trading.terms, account=f"{zone}-{name}".replace(" ", "-"))
        desk.trading = replace(desk.trading, terms=terms, clock=VenueClock(desk.clock.now, 0))
        assert resets_of(desk, midnight_s) == [midnight_s + DAY_S, midnight_s + 2 * DAY_S], name
        desk.stores.close()
        run += 1
    cells(run=run, passed=run)
