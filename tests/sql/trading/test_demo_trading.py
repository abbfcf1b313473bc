"""What of a history the demo trades: where tokens and the regime have states, on the regime timeframes that reach over it."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from regime_pipeline.cli.demo_trading import Stretch, describe_stretch, find_stretch
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.settings import Settings
from tests.tick_desk import CLOSE_S, HOUR_S, TickDesk

D1, H1, M1 = Timeframe.D1, Timeframe.H1, Timeframe.M1
DAY_S = 86_400


@pytest.fixture
def desk(database: str, tmp_path: Path) -> TickDesk:
    return TickDesk(database, tmp_path)


def add_records(desk: TickDesk, n_hours: int) -> None:
    """Records of AAVE on every hour up to noon."""
    desk.position("AAVE")
    for hour in range(n_hours):
        desk.bar("AAVE", CLOSE_S - hour * HOUR_S)


def add_deltas(desk: TickDesk, timeframe: Timeframe, n_bars: int, drivers: Sequence[str] = ("BTC", "ALT")) -> None:
    """Deltas of drivers on the newest bars closed by noon."""
    newest_s = timeframe.floor(CLOSE_S) - timeframe.seconds
    desk.execute(
        "insert into regime_deltas (driver, timeframe, ts, state, buy, rebuy, trim, emergency_exit, reclaimed_ema333, exit_position,"
        " delta_a_raw, delta_e_raw, immature, engine_version) select driver, %s, to_timestamp(%s - n * %s::bigint), 'S1', false, false,"
        " false, false, false, false, 0, 0, false, 'v' from unnest(%s::text[]) as driver, generate_series(0, %s) as n",
        timeframe.value,
        newest_s,
        timeframe.seconds,
        list(drivers),
        n_bars - 1,
    )


def test_minutes_that_do_not_reach_back_are_no_part_of_the_regime(desk: TickDesk) -> None:
    add_records(desk, 100)
    add_deltas(desk, H1, 100)
    add_deltas(desk, D1, 30)
    add_deltas(desk, M1, 60)
    found = find_stretch(Settings(), desk.stores, H1, None)
    assert found == Stretch(CLOSE_S - 99 * HOUR_S, CLOSE_S + 1, (D1, H1), None)


def test_minutes_that_do_are(desk: TickDesk) -> None:
    add_records(desk, 20)
    for timeframe, n_bars in ((D1, 30), (H1, 20), (M1, 20 * 60)):
        add_deltas(desk, timeframe, n_bars)
    found = find_stretch(Settings(), desk.stores, H1, None)
    assert found is not None
    assert found.regime == (D1, H1, M1)


def test_only_the_newest_days_are_traded_and_not_before_the_regime_begins(desk: TickDesk) -> None:
    add_records(desk, 100)
    add_deltas(desk, D1, 30)
    add_deltas(desk, H1, 95)
    newest = find_stretch(Settings(), desk.stores, H1, 2)
    assert newest is not None
    assert newest.start_s == CLOSE_S + 1 - 2 * DAY_S
    whole = find_stretch(Settings(), desk.stores, H1, None)
    assert whole is not None
    assert whole.start_s == CLOSE_S - 94 * HOUR_S


def test_a_regime_without_its_required_drivers_is_none(desk: TickDesk) -> None:
    add_records(desk, 10)
    add_deltas(desk, H1, 10, drivers=("BTC",))
    found = find_stretch(Settings(), desk.stores, H1, None)
    assert found is not None
    assert found.regime == ()
    assert describe_stretch("onchain_crypto-1h", found).endswith("on the regime of no timeframe")


def test_without_a_record_nothing_is_traded(desk: TickDesk) -> None:
    assert find_stretch(Settings(), desk.stores, H1, None) is None
