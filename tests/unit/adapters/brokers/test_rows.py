"""Fields of a venue's JSON: given, said to be none, or the whole read is unreadable."""

from decimal import Decimal

import pytest

from regime_pipeline.adapters.brokers.dialect import MAX_PAGES, pages, windows
from regime_pipeline.adapters.brokers.rows import Row, UnreadableError, parse_json, rows_of


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"{", b"NaN", b'{"a": Infinity}', b"[" * 100_000, b"\xff\xfe", b'{"a": 1' + b"0" * 5_000 + b"}"]
)
def test_what_is_no_json_is_unreadable(body: bytes) -> None:
    with pytest.raises(UnreadableError, match="NO_JSON"):
        parse_json(body)


def test_numbers_do_not_pass_through_a_float() -> None:
    assert parse_json(b'{"a": 0.100000000000000000001}') == {"a": Decimal("0.100000000000000000001")}
    row = Row.of(parse_json(b'{"a": 0.1, "b": "0.10", "c": 123456789012345678901234567890}'), "row")
    assert [str(row.decimal(name)) for name in "abc"] == ["0.1", "0.10", "123456789012345678901234567890"]


@pytest.mark.parametrize("value", ["", None])
def test_a_number_that_is_not_said_is_none_and_one_that_must_be_is_refused(value: object) -> None:
    row = Row({"a": value}, "row")
    assert row.number("a") is None
    with pytest.raises(UnreadableError, match=r"BAD_FIELD row\.a"):
        row.decimal("a")
    with pytest.raises(UnreadableError, match=r"MISSING_FIELD row\.b"):
        row.decimal("b")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1_000", " 1", "1,5", "0x10", "1e999", "-", True, [], {}, "9" * 31, 10**40])
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(UnreadableError, match=r"BAD_FIELD row\.a"):
        Row({"a": value}, "row").number("a")


@pytest.mark.parametrize("value", ["", None, True, 1.5, [], {}])
def test_what_is_no_id_is_refused(value: object) -> None:
    with pytest.raises(UnreadableError):
        Row({"a": value}, "row").text("a")


def test_an_id_is_text_or_a_whole_number() -> None:
    row = Row({"a": "x-1", "b": 28, "c": 0}, "row")
    assert [row.text(name) for name in "abc"] == ["x-1", "28", "0"]


@pytest.mark.parametrize("value", ["0", "-5", "1.5", 10**14, "soon"])
def test_what_is_no_instant_is_refused(value: object) -> None:
    with pytest.raises(UnreadableError):
        Row({"a": value}, "row").at_ms("a")


@pytest.mark.parametrize(("value", "price"), [("1.5", Decimal("1.5")), ("0.000", None), ("-1", None), ("", None), (None, None)])
def test_a_price_of_nothing_is_none(value: object, price: Decimal | None) -> None:
    assert Row({"a": value}, "row").above_zero("a") == price


@pytest.mark.parametrize("value", ["true", 1, None])
def test_a_flag_is_true_or_false(value: object) -> None:
    with pytest.raises(UnreadableError):
        Row({"a": value}, "row").flag("a")


@pytest.mark.parametrize("value", [None, {}, "x", [1], [None], [[]]])
def test_a_list_of_anything_else_than_objects_is_refused(value: object) -> None:
    with pytest.raises(UnreadableError):
        rows_of(value, "rows")


def test_windows_leave_no_gap_and_reach_past_now() -> None:
    spans = windows(1_000, 3_500, 1_000)
    assert spans == [(1_000, 1_999), (2_000, 2_999), (3_000, 3_999)]
    assert windows(5_000, 4_000, 1_000) == [(5_000, 5_999)]
    with pytest.raises(UnreadableError, match="TOO_LONG"):
        windows(0, 10**9, 1_000)


def test_pages_without_end_are_no_answer() -> None:
    asked: list[str | None] = []

    def ask(cursor: str | None) -> tuple[list[Row], str | None]:
        asked.append(cursor)
        return [Row({}, "row")], str(len(asked))

    with pytest.raises(UnreadableError, match="TOO_LONG"):
        pages(ask)
    assert len(asked) == MAX_PAGES
