"""What an answer means before its numbers are read."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regime_pipeline.adapters.venues.answers import (
    StayAwayError,
    TryAgainError,
    check_status,
    find_page_fault,
    read_list,
    read_number,
    read_object,
    read_stamp_ms,
    retry_after_s,
)
from regime_pipeline.adapters.venues.http import Answer
from regime_pipeline.errors import SourceError, SourceUnavailableError
from regime_pipeline.market.timeframe import Timeframe

NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)
T0 = 1_748_779_200  # 2025-06-01T12:00Z


def answer(status: int, body: str = "", **headers: str) -> Answer:
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


@pytest.mark.parametrize("status", [200, 201, 204])
def test_a_success_passes(status: int) -> None:
    check_status("x", answer(status), NOW)


@pytest.mark.parametrize(
    ("given_answer", "halt_s"),
    [
        (answer(418, "{}", Retry_After="112"), 112),
        (answer(418, "{}"), 3600),
        (answer(418, "{}", Retry_After="99999999"), 86_400),
        (answer(451, '{"code":0,"msg":"restricted location"}'), None),
        (answer(403, "<!DOCTYPE HTML><H1>403 ERROR</H1>"), 3600),
        (answer(403, ""), 3600),
    ],
)
def test_a_venue_that_blocks_us_is_left_alone(given_answer: Answer, halt_s: int | None) -> None:
    with pytest.raises(StayAwayError) as caught:
        check_status("binance_um", given_answer, NOW)
    assert caught.value.halt_s == halt_s
    assert f"binance_um answered {given_answer.status}" in str(caught.value)


@pytest.mark.parametrize(
    ("given_answer", "wait_s", "is_slow_down"),
    [
        (answer(429), 60, True),
        (answer(429, retry_after="7"), 7, True),
        (answer(429, Retry_After="0"), 0, True),
        (answer(429, Retry_After="Sun, 01 Jun 2025 12:00:30 GMT"), 30, True),
        (answer(408), None, False),
        (answer(500), None, False),
        (answer(502, "<html>"), None, False),
        (answer(503, Retry_After="20"), 20, False),
        (answer(599), None, False),
    ],
)
def test_reads_are_repeated_after_what_may_pass(given_answer: Answer, wait_s: float | None, is_slow_down: bool) -> None:
    with pytest.raises(TryAgainError) as caught:
        check_status("x", given_answer, NOW)
    assert (caught.value.wait_s, caught.value.is_slow_down) == (wait_s, is_slow_down)


@pytest.mark.parametrize("status", [100, 301, 302, 304, 400, 401, 404, 422])
def test_a_question_that_would_be_refused_again_is_not_repeated(status: int) -> None:
    with pytest.raises(SourceError) as caught:
        check_status("x", answer(status, '{"code":-1121,"msg":"Invalid symbol."}'), NOW)
    assert not isinstance(caught.value, SourceUnavailableError)
    assert "Invalid symbol." in str(caught.value)


def test_a_403_in_the_vendors_own_words_is_about_the_question() -> None:
    with pytest.raises(SourceError) as caught:
        check_status("coingecko", answer(403, '{"status":{"error_code":10005}}'), NOW)
    assert not isinstance(caught.value, StayAwayError)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5),
        ("Sun, 01 Jun 2025 12:01:00 GMT", 60),
        ("Sun, 01 Jun 2025 11:00:00 GMT", 0),
        ("Sun, 01 Jun 2025 14:00:10 +0200", 10),
        ("soon", None),
        ("", None),
        ("-5", None),
        ("١٢", None),  # digits, but not those of HTTP
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, seconds: float | None) -> None:
    assert retry_after_s({"Retry-After": text}, NOW) == seconds


def test_no_retry_after_is_none() -> None:
    assert retry_after_s({"Content-Type": "5"}, NOW) is None


@pytest.mark.parametrize("body", ["", "null", "<html>", "[1, 2", "[NaN]", "[Infinity]", '"text"', "7", "[" * 100_000])
def test_what_is_not_the_expected_json_is_refused(body: str) -> None:
    for read in (read_list, read_object):
        with pytest.raises(TryAgainError, match="x: the answer to klines was not"):
            read("x", "klines", answer(200, body))


def test_a_list_is_no_object_and_an_object_no_list() -> None:
    assert read_list("x", "klines", answer(200, "[1]")) == [1]
    assert read_object("x", "klines", answer(200, '{"a": 1}')) == {"a": 1}
    with pytest.raises(TryAgainError):
        read_list("x", "klines", answer(200, "{}"))
    with pytest.raises(TryAgainError):
        read_object("x", "klines", answer(200, "[]"))


@pytest.mark.parametrize("value", [None, True, "", "nan", "inf", "1_000", " 1", "1e999", "0x10", "1,5", [], {}, float("nan"), 10**400])
def test_what_is_no_finite_number_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="a finite number"):
        read_number(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_the_same_as_text_and_as_json(value: float) -> None:
    assert read_number(repr(value)) == read_number(value) == value


@pytest.mark.parametrize("value", [None, True, "1748779200000", 1.5, -1, 10**30])
def test_what_is_no_instant_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="a time in milliseconds"):
        read_stamp_ms(value)


@given(st.sampled_from(list(Timeframe)), st.sets(st.integers(0, 99), min_size=1), st.data())
def test_any_bars_of_the_window_are_a_page_and_any_one_mistake_is_found(timeframe: Timeframe, rows: set[int], data: st.DataObject) -> None:
    step, start_s = timeframe.seconds, Timeframe.D1.floor(T0)
    end_s = start_s + 100 * step
    page = [(start_s + row * step) * 1000 for row in sorted(rows)]
    assert find_page_fault(page, timeframe, start_s, end_s, 100) is None
    at = data.draw(st.integers(0, len(page) - 1))
    mistakes = {
        "off the grid": [*page[:at], page[at] + 1, *page[at + 1 :]],
        "was asked for": [*page, end_s * 1000],
        "rows where at most": [*page, *page],
        "does not follow": [*page[: at + 1], page[at], *page[at + 1 :]],
    }
    for said, wrong in mistakes.items():
        assert said in str(find_page_fault(wrong, timeframe, start_s, end_s, len(page) if said == "rows where at most" else 101))


def test_a_page_that_is_not_about_the_window_is_refused_on_both_sides() -> None:
    assert "is not one that was asked for" in str(find_page_fault([(T0 - 60) * 1000], Timeframe.M1, T0, T0 + 60, 1))
    assert "is not one that was asked for" in str(find_page_fault([(T0 + 60) * 1000], Timeframe.M1, T0, T0 + 60, 1))
    assert "had 2 rows where at most 1" in str(find_page_fault([T0 * 1000] * 2, Timeframe.M1, T0, T0 + 60, 1))
    assert find_page_fault([], Timeframe.M1, T0, T0 + 60, 1) is None
