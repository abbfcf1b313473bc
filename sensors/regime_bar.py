"""Sensor `regime_bar`: a new regime bar starts the portfolio tick of its strategy within a second or two.

It waits on the database's own word (LISTEN) and looks for itself when that fails. Dagster evaluates a sensor again only some seconds
after it has answered, so an evaluation stays where the minute's bars come: it ends in the quiet part of the minute. What it asks for
is a convenience; that a bar is decided once is seen to by the database.
"""

import json
from collections.abc import Mapping, Sequence
from time import sleep
from typing import Final

import dagster as dg

from jobs.pm_tick import pm_tick
from regime_pipeline.clock import monotonic_s, now_s
from regime_pipeline.errors import DatabaseError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.orchestration.policies import ACCOUNT_TAG, BAR_TAG, STRATEGY_TAG, TICK_PRIORITY, TIMEFRAME_TAG, TRADING_TEAM
from regime_pipeline.orchestration.resources import Desk, Market, Stores
from regime_pipeline.orchestration.window import spell_bar
from regime_pipeline.ports import Work
from regime_pipeline.services.trading.find_new_bars import BarDue, NewBar, execution_timeframes, find_new_bars, judge_bar
from regime_pipeline.settings import Settings, load_settings

AGAIN_S: Final = 60
"""So long after its close a bar should have been decided; then its tick is asked for again, once a minute."""
MAX_WAIT_S: Final = 45
"""Dagster gives an evaluation 60 seconds."""
QUIET_SECOND: Final = 45
"""Of the minute: its bars are through, the next ones not yet there."""
LOOK_S: Final = 1.0
"""How often bars are looked for while one waits for its regime, or while nothing can be heard."""
POLL_S: Final = 5.0
"""How often they are looked for anyway: a bar may come without a word, where nothing about the drivers has changed."""


def plan_wait_s(at_s: float) -> float:
    """Tell how long an evaluation that begins then may wait: until the quiet part of the minute, 45 seconds at most."""
    return min((QUIET_SECOND - at_s) % 60 or 60.0, MAX_WAIT_S)


def read_cursor(cursor: str | None) -> dict[Timeframe, int]:
    """Read which bar close was acted on last, by timeframe, epoch seconds."""
    return {Timeframe(name): int(close_s) for name, close_s in (json.loads(cursor) if cursor else {}).items()}


def plan_ticks(
    seen: Mapping[Timeframe, int], bars: Sequence[NewBar], dues: Mapping[Timeframe, BarDue], settings: Settings
) -> tuple[list[dg.RunRequest], dict[Timeframe, int]]:
    """Ask for a tick of each strategy whose newest bar is due, and say what has been seen then.

    A strategy that was not seen before begins at its newest bar without acting: a lost cursor replays nothing. Only the newest bar
    counts; what was missed in between is made up for by one tick, and a bar whose time is over by none.
    """
    requests, now_seen = [], dict(seen)
    for bar in bars:
        if bar.timeframe not in seen:
            now_seen[bar.timeframe] = bar.close_s
        elif bar.close_s > seen[bar.timeframe] and dues[bar.timeframe] is not BarDue.WAIT:
            now_seen[bar.timeframe] = bar.close_s
            if dues[bar.timeframe] is BarDue.NOW:
                requests.append(ask_for_tick(bar, settings))
    return requests, now_seen


def plan_again(
    seen: Mapping[Timeframe, int], undecided: Sequence[NewBar], dues: Mapping[Timeframe, BarDue], now_s: int, settings: Settings
) -> list[dg.RunRequest]:
    """Ask once a minute for the tick of a bar that was asked for and is not decided, while it may be: its run was lost on the way.

    A daemon that dies after the cursor moved and before the run was launched leaves nothing but that the bar has no decision. Where
    the run is only slow, the second one adopts what the first decided.
    """
    requests = []
    for bar in undecided:
        age_s = now_s - bar.close_s
        if (
            seen.get(bar.timeframe) == bar.close_s
            and dues[bar.timeframe] is BarDue.NOW
            and age_s >= min(AGAIN_S, bar.timeframe.seconds // 2)
        ):
            requests.append(ask_for_tick(bar, settings, f":again-{age_s // AGAIN_S}"))
    return requests


def ask_for_tick(bar: NewBar, settings: Settings, again: str = "") -> dg.RunRequest:
    """Ask for one tick; account, strategy and bar close name it, and `again` where the first run was lost."""
    strategy, close = f"{settings.trading_book}-{bar.timeframe}", spell_bar(bar.close_s)
    return dg.RunRequest(
        run_key=f"pm:{settings.trading_account}:{strategy}:{close}{again}",
        tags={
            ACCOUNT_TAG: settings.trading_account,
            STRATEGY_TAG: strategy,
            TIMEFRAME_TAG: bar.timeframe.value,
            BAR_TAG: spell_bar(bar.close_s - bar.timeframe.seconds),
            "dagster/priority": str(TICK_PRIORITY),
        },
    )


@dg.sensor(
    job=pm_tick,
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
    owners=[TRADING_TEAM],
    tags={"tier": "1"},
    description="Waits for new regime bars and asks for the portfolio tick of each strategy that has one; the newest bar only.",
)
def regime_bar(context: dg.SensorEvaluationContext, stores: Stores, market: Market, desk: Desk) -> dg.SensorResult | dg.SkipReason:
    """Wait for a bar until the quiet part of the minute; a failed read raises, so that the tick fails in sight."""
    settings, universe = load_settings(), market.universe()
    if not execution_timeframes(universe):
        return dg.SkipReason("the universe has no token to trade")
    limits = desk.limits()
    before = read_cursor(context.cursor)
    until_s = monotonic_s() + plan_wait_s(now_s() % 60)
    while True:
        with stores.open() as work:
            bars = find_new_bars(work, universe, settings.trading_book)
            undecided = [bar for bar in bars if not _is_decided(work, bar, settings)]
        dues = {bar.timeframe: judge_bar(bar, now_s(), limits) for bar in bars}
        requests, seen = plan_ticks(before, bars, dues, settings)
        requests += plan_again(before, undecided, dues, now_s(), settings)
        if requests or seen != before:
            cursor = json.dumps({timeframe.value: close_s for timeframe, close_s in seen.items()}, sort_keys=True)
            return dg.SensorResult(run_requests=requests, cursor=cursor, skip_reason=None if requests else "bars too old to decide on")
        left_s = until_s - monotonic_s()
        if left_s <= 0:
            return dg.SkipReason("no new bar")
        is_waiting = any(bar.close_s > before[bar.timeframe] for bar in bars)
        wait_for_word(stores, min(left_s, LOOK_S if is_waiting else POLL_S))


def _is_decided(work: Work, bar: NewBar, settings: Settings) -> bool:
    strategy = f"{settings.trading_book}-{bar.timeframe}"
    return work.journal.find_decision(settings.trading_account, strategy, bar.close_s) is not None


def wait_for_word(stores: Stores, timeout_s: float) -> None:
    """Wait until new bars are told; where nothing can be heard, the time of one look."""
    try:
        stores.bar_listener().wait(timeout_s)
    except DatabaseError:
        sleep(min(timeout_s, LOOK_S))
