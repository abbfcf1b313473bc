"""Bounds of a decision and of an order's rest: examples W8 and W9."""

import itertools

import pytest

from regime_pipeline.execution.bounds import (
    SWEEP_EVERY_MS,
    SWEEP_GRACE_MS,
    compute_decide_by_ms,
    compute_rest_until_ms,
    compute_start_by_ms,
    is_cancel_stuck,
    is_sweep_due,
    next_cancel_ms,
    next_poll_ms,
)
from regime_pipeline.risk.limits import RiskSettings
from regime_pipeline.risk.purpose import Purpose

LIMITS = RiskSettings()
CLOSE_S = 1_795_201_200  # 2026-11-20T19:00:00Z
SENT_MS = 1000 * CLOSE_S + 72_000  # 19:01:12.0


@pytest.mark.parametrize(
    ("bar_s", "start_by_s", "decide_by_s"),
    [
        (3600, 300, 360),  # a quarter is 900, clamped to 300: 19:05:00; + 60: 19:06:00
        (900, 225, 285),  # a quarter is 225: 19:03:45; + 60: 19:04:45
        (60, 45, 60),  # a quarter is 15, clamped to 45: 19:00:45; + 15: 19:01:00
    ],
)
def test_w8_a_run_may_start_and_an_order_leave_for_so_long(bar_s: int, start_by_s: int, decide_by_s: int) -> None:
    assert compute_start_by_ms(CLOSE_S, bar_s, LIMITS) == 1000 * (CLOSE_S + start_by_s)
    assert compute_decide_by_ms(CLOSE_S, bar_s, LIMITS) == 1000 * (CLOSE_S + decide_by_s)


def test_w9_an_entry_of_sixty_seconds_is_swept_in_time() -> None:
    # W9 counts with 60 s to live: 19:01:12 + 60 is 19:02:12; a sweep each 15 s finds it by 19:02:27; + 30 s is the bound, 19:02:42.
    rest_until_ms = compute_rest_until_ms(SENT_MS, Purpose.ENTRY, is_target=False, limits=RiskSettings(entry_ttl_s=60))
    assert rest_until_ms == 1000 * (CLOSE_S + 132)
    assert rest_until_ms + SWEEP_EVERY_MS == 1000 * (CLOSE_S + 147)
    assert rest_until_ms + SWEEP_GRACE_MS == 1000 * (CLOSE_S + 162)


def test_an_entry_rests_90_seconds_by_default_an_exit_30_a_stop_and_a_target_for_ever() -> None:
    rests = [(purpose, compute_rest_until_ms(SENT_MS, purpose, is_target=False, limits=LIMITS)) for purpose in Purpose]
    assert rests == [
        (Purpose.ENTRY, SENT_MS + 90_000),
        (Purpose.REDUCE, SENT_MS + 30_000),
        (Purpose.EXIT, SENT_MS + 30_000),
        (Purpose.STOP, None),
    ]
    assert compute_rest_until_ms(SENT_MS, Purpose.REDUCE, is_target=True, limits=LIMITS) is None


def test_a_sweep_takes_what_is_past_its_time_and_never_what_has_none() -> None:
    assert is_sweep_due(SENT_MS, SENT_MS)
    assert not is_sweep_due(SENT_MS + 1, SENT_MS)
    assert not is_sweep_due(None, SENT_MS)


def test_a_cancel_is_asked_again_after_1_2_4_8_15_30_seconds_and_reported_after_60() -> None:
    asked = [0]
    while len(asked) < 8:
        asked.append(next_cancel_ms(asked[-1], len(asked)))
    assert [later - earlier for earlier, later in itertools.pairwise(asked)] == [
        1_000, 2_000, 4_000, 8_000, 15_000, 30_000, 30_000,
    ]  # fmt: skip
    assert not is_cancel_stuck(0, 59_999)
    assert is_cancel_stuck(0, 60_000)


def test_a_limit_is_polled_each_2_seconds_an_ioc_each_second_for_15() -> None:
    assert next_poll_ms(0, 100_000, is_resting=True) == 102_000
    assert next_poll_ms(0, 14_000, is_resting=False) == 15_000
    assert next_poll_ms(0, 15_000, is_resting=False) is None
