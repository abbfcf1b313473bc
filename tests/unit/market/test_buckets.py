"""The bucket classifier: the worked example 10.13, the property 11.13 and membership over time."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.market.buckets import BUCKETS, BucketRule, BucketSpan, CapObservation, build_spans
from tests.builders import T0

RULE = BucketRule()
DAY = 86_400


@pytest.mark.parametrize(
    ("current", "cap_usd", "expected"),
    [
        ("small", 52e6, "small"),
        ("small", 55e6, "mid"),
        ("small", 240e6, "big"),
        ("mid", 46e6, "mid"),
        ("mid", 45e6, "mid"),
        ("mid", 44.9e6, "small"),
        ("mid", 8e6, "nano"),
        (None, 10e6, "small"),
        (None, 9.99e6, "nano"),
        (None, 200e6, "big"),
        ("big", 180e6, "big"),
        ("big", 179e6, "mid"),
        ("nano", 11e6, "small"),
    ],
)
def test_worked_example_and_bounds(current: str | None, cap_usd: float, expected: str) -> None:
    assert RULE.classify(current, cap_usd) == expected


@pytest.mark.parametrize("cap_usd", [None, float("nan"), float("inf"), -1.0, 0.0, 9_999.0])
@pytest.mark.parametrize("current", [None, "mid"])
def test_a_cap_that_cannot_be_true_changes_nothing(current: str | None, cap_usd: float | None) -> None:
    assert RULE.classify(current, cap_usd) == current


def test_a_cap_older_than_a_day_changes_nothing() -> None:
    assert RULE.classify("nano", 1e9, age_s=DAY) == "big"
    assert RULE.classify("nano", 1e9, age_s=DAY + 1) == "nano"


@settings(max_examples=100)
@given(st.sampled_from(BUCKETS), st.sampled_from(RULE.bounds_usd), st.floats(0.901, 1.099))
def test_within_ten_percent_of_a_bound_nothing_moves_across_it(current: str, bound: float, factor: float) -> None:
    at = BUCKETS.index(current)
    own_bounds = RULE.bounds_usd[max(at - 1, 0) : at + 1]
    if bound in own_bounds:
        assert RULE.classify(current, bound * factor) == current


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.floats(1e5, 1e9) | st.none()), max_size=20, unique_by=lambda pair: pair[0]),
    st.integers(0, 40),
)
def test_spans_touch_are_open_ended_and_do_not_depend_on_the_batches(raw: list[tuple[int, float | None]], cut: int) -> None:
    seen = [CapObservation(T0 + DAY * day, T0 + DAY * day, cap) for day, cap in sorted(raw, key=lambda pair: pair[0])]
    spans = build_spans(seen, RULE)
    assert all(a.valid_to_s == b.valid_from_s and a.bucket != b.bucket for a, b in pairwise(spans))
    assert all(span.valid_to_s is None for span in spans[-1:])
    early = build_spans([o for o in seen if o.known_at_s < T0 + DAY * cut], RULE)
    late = build_spans([o for o in seen if o.known_at_s >= T0 + DAY * cut], RULE, early[-1] if early else None)
    assert early[:-1] + late == spans
    assert build_spans(seen, RULE, spans[-1] if spans else None) == spans[-1:]


def test_a_span_covers_its_start_and_not_its_end() -> None:
    span = BucketSpan(T0, T0 + 60, "mid", 6e7, T0)
    assert [span.covers(T0 - 1), span.covers(T0), span.covers(T0 + 59), span.covers(T0 + 60)] == [False, True, True, False]
