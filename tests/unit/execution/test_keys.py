"""Keys: examples W1 to W3, the spelling of each venue, and ids as pure functions of the key (property I14)."""

import time
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.errors import CallerError, OrderValidationError
from regime_pipeline.execution.keys import (
    ClientIdForm,
    LogicalKey,
    compute_decision_id,
    compute_hash,
    find_keys,
    spell_client_id,
    spell_time,
    write_canonical,
)
from regime_pipeline.risk.purpose import Leg, Purpose, Side

BAR_CLOSE_S = 1_795_201_200  # 2026-11-20T19:00:00Z
W1 = LogicalKey("binance-main", "core-1h", "BTC/USDT", BAR_CLOSE_S, Leg.ENTRY)
W1_ID = "c579c12d0ce182e98a99629fd09bb09e"
W3 = {
    "account": "binance-main",
    "strategy": "core-1h",
    "bar_close": "2026-11-20T19:00:00Z",
    "equity_quote": Decimal("100000.00"),
    "config_hash": "9f2c",
    "levers": {"E": 0.35, "A": 0.6125},
    "positions": {"BTC/USDT": Decimal("0.3")},
    "watermarks": {"BTC/USDT:1h": "2026-11-20T19:00:00Z#r1"},
}


def test_w1_the_key_and_its_id() -> None:
    assert W1.text == "binance-main|core-1h|BTC/USDT|2026-11-20T19:00:00Z|entry|0"
    assert W1.client_order_id == W1_ID


@pytest.mark.parametrize(
    ("form", "spelt"),
    [
        (ClientIdForm.HEX, W1_ID),
        (ClientIdForm.GATE, "t-yv44clim4gbotcuzmkp5bg5qty"),
        (ClientIdForm.HYPERLIQUID, "0xc579c12d0ce182e98a99629fd09bb09e"),
        (ClientIdForm.UUID, "c579c12d-0ce1-82e9-8a99-629fd09bb09e"),
    ],
)
def test_w1_each_venue_spells_the_id_its_own_way(form: ClientIdForm, spelt: str) -> None:
    assert spell_client_id(W1_ID, form) == spelt
    assert len(spelt) == {"hex": 32, "gate": 28, "hyperliquid": 34, "uuid": 36}[form]


def test_w2_sequence_leg_and_account_make_other_orders() -> None:
    assert W1.next_child().client_order_id == "7802132a8c6f225df2fe7db4478daed0"
    assert replace(W1, leg=Leg.SL).client_order_id == "bc7dddf2840ca0426ce350260c92bfe5"
    assert replace(W1, account="paper-main").client_order_id == "a06aadc35b6cb2e7f590be3e9ae53602"


def test_w3_inputs_make_the_decision_and_leave_the_orders_alone() -> None:
    assert write_canonical(W3).decode() == (
        '{"account":"binance-main","bar_close":"2026-11-20T19:00:00Z","config_hash":"9f2c","equity_quote":"100000.00",'
        '"levers":{"A":0.6125,"E":0.35},"positions":{"BTC/USDT":"0.3"},"strategy":"core-1h",'
        '"watermarks":{"BTC/USDT:1h":"2026-11-20T19:00:00Z#r1"}}'
    )
    inputs_hash = compute_hash(W3)
    assert inputs_hash == "90ca300ce9fe0a55ac26f1a62063e09c041385b11b3d4bfb9a4d9083f19ea37a"
    assert str(compute_decision_id("binance-main", "core-1h", BAR_CLOSE_S, inputs_hash)) == "aa3ae3c5-5da4-557e-85df-2f342023cb96"
    revised = compute_hash(W3 | {"watermarks": {"BTC/USDT:1h": "2026-11-20T19:00:00Z#r2"}})
    assert str(compute_decision_id("binance-main", "core-1h", BAR_CLOSE_S, revised)) == "33b9ea39-11c4-5e1b-8bf8-d1c4a7e37173"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), Decimal("NaN"), {1: "a"}, {"a": {2}}, b"raw", [object()]])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(CallerError, match="journal entry was"):
        write_canonical({"x": value})


def test_canonical_json_keeps_text_decimals_and_shortest_floats() -> None:
    assert write_canonical({"b": [0.1, True, None], "a": "Ü", "c": Decimal("1E+3")}) == '{"a":"Ü","b":[0.1,true,null],"c":"1000"}'.encode()


@pytest.mark.parametrize("field", ["account", "strategy", "symbol"])
@pytest.mark.parametrize("value", ["", "a b", "a|b", "ü", "x" * 65, "a\n"])
def test_a_field_that_could_blur_two_keys_is_refused(field: str, value: str) -> None:
    with pytest.raises(OrderValidationError, match=f"{field} of an order key was"):
        replace(W1, **{field: value})


def test_a_sequence_below_zero_is_refused() -> None:
    with pytest.raises(OrderValidationError, match="seq of an order key was -1"):
        replace(W1, seq=-1)


FIELDS = st.text("AZaz09_.:/-", min_size=1, max_size=64)
KEYS = st.builds(LogicalKey, FIELDS, FIELDS, FIELDS, st.integers(0, 4_000_000_000), st.sampled_from(Leg), st.integers(0, 12))


@settings(max_examples=100)
@given(KEYS, KEYS)
def test_ids_are_pure_functions_of_the_key_and_differ_between_keys(one: LogicalKey, other: LogicalKey) -> None:
    assert one.client_order_id == replace(one).client_order_id
    assert (one.client_order_id == other.client_order_id) == (one == other)
    assert len({spell_client_id(one.client_order_id, form) for form in ClientIdForm}) == 4


def test_foreign_ids_of_the_last_week_are_found_again_in_a_second() -> None:
    # 168 hourly closes x 50 symbols x 8 legs x 4 sequences are 268,800 keys.
    closes = [BAR_CLOSE_S - 3600 * hours for hours in range(168)]
    symbols = [f"T{n}/USDT" for n in range(49)] + ["BTC/USDT"]
    lost = replace(W1, bar_close_s=closes[-1], leg=Leg.SL, seq=3)
    started_s = time.perf_counter()
    found = find_keys([lost.client_order_id, "0" * 32], ["binance-main"], ["core-1h"], symbols, closes)
    assert found == {lost.client_order_id: lost}
    assert time.perf_counter() - started_s < 3  # under 1 s on a machine of one's own


def test_times_are_spelt_in_utc_seconds() -> None:
    assert spell_time(BAR_CLOSE_S) == "2026-11-20T19:00:00Z"


def test_each_leg_serves_its_purpose() -> None:
    assert {leg.value: leg.purpose.value for leg in Leg} == {
        "entry": "entry", "add": "entry", "trim": "reduce", "tp": "reduce", "exit": "exit", "flatten": "exit", "dust": "exit", "sl": "stop",
    }  # fmt: skip
    assert {leg for leg in Leg if leg.purpose is Purpose.ENTRY} == {Leg.ENTRY, Leg.ADD}


def test_a_buy_is_plus_one_and_a_sell_minus_one() -> None:
    assert [(side.sign, side.opposite) for side in Side] == [(1, Side.SELL), (-1, Side.BUY)]
