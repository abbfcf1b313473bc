"""Mapper: the rows of specification 6, the examples of 10.9 and the purity of property 9."""

from itertools import combinations, product
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.errors import BadInputError
from regime_pipeline.regime.mapper import map_state, map_states
from regime_pipeline.trend.record import FLAGS, NO_STATE, STATES

EXAMPLES = [
    ("S1", "S1", set(), 0.25, -0.15),
    ("S0", "S1", {"buy"}, 0.45, -0.25),
    ("S1", "S0", set(), -0.70, 0.70),
    ("S3", "S0", set(), -0.80, 0.80),
    ("S2", "S0", set(), -0.65, 0.65),
    ("S2", "S2", {"rebuy", "trim"}, 0.05, 0.20),
    ("S3", "S3", {"rebuy"}, 0.40, -0.15),
    ("S3", "S3", {"trim"}, -0.05, 0.25),
    ("S2", "S3", set(), 0.20, -0.05),
    ("S4", "S0", set(), -0.30, 0.30),
    ("S4", "S4", {"buy", "trim"}, 0.0, 0.0),
    ("S1", "S1", {"trim"}, 0.25, -0.15),
    # The rest of the table: flags that are off by default or unused, an uptrend read at the first bar, and flags without rows.
    ("S2", "S2", {"buy"}, 0.20, 0.0),
    ("S3", "S3", {"buy"}, 0.25, -0.10),
    (None, "S3", set(), 0.20, -0.05),
    ("S1", "S1", {"rebuy"}, 0.25, -0.15),
    ("S0", "S0", {"buy", "rebuy", "trim"}, -0.30, 0.30),
    ("S1", "S0", {"emergency_exit", "exit_position"}, -0.70, 0.70),
]
ALL_FLAG_SETS = [set(names) for n in range(len(FLAGS) + 1) for names in combinations(FLAGS, n)]

rows = st.tuples(st.sampled_from((None, *STATES)), st.sampled_from(STATES), st.sets(st.sampled_from(FLAGS)), st.booleans())


def as_arrays(bars: list[tuple[str | None, str, set[str], bool]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.array([NO_STATE if prev is None else STATES.index(prev) for prev, *_ in bars]),
        np.array([STATES.index(state) for _, state, *_ in bars]),
        np.array([[flag in flags for flag in FLAGS] for _, _, flags, _ in bars]).reshape(len(bars), len(FLAGS)),
        np.array([immature for *_, immature in bars], dtype=bool),
    )


@pytest.mark.parametrize(("prev_state", "state", "flags", "delta_a", "delta_e"), EXAMPLES)
def test_worked_examples(prev_state: str | None, state: str, flags: set[str], delta_a: float, delta_e: float) -> None:
    assert map_state(prev_state, state, flags, immature=False) == pytest.approx((delta_a, delta_e), abs=1e-12)


@pytest.mark.parametrize(("prev_state", "state", "flags"), [example[:3] for example in EXAMPLES])
def test_an_immature_bar_maps_to_zero(prev_state: str | None, state: str, flags: set[str]) -> None:
    assert map_state(prev_state, state, flags, immature=True) == (0.0, 0.0)


def test_vector_equals_scalar_bit_for_bit_on_the_whole_domain() -> None:
    bars = list(product((None, *STATES), STATES, ALL_FLAG_SETS, (False, True)))
    delta_a, delta_e = map_states(*as_arrays(bars))
    assert list(zip(delta_a.tolist(), delta_e.tolist(), strict=True)) == [map_state(*bar) for bar in bars]


def test_no_delta_leaves_plus_minus_one() -> None:
    bars = list(product((None, *STATES), STATES, ALL_FLAG_SETS, (False,)))
    assert np.abs(map_states(*as_arrays(bars))).max() == pytest.approx(0.80)  # S3->S0 is the strongest row


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, max_size=30), st.randoms())
def test_order_and_repetition_of_calls_change_nothing(bars: list[tuple[str | None, str, set[str], bool]], random: Random) -> None:
    expected = {i: map_state(*bar) for i, bar in enumerate(bars)}
    again = [*range(len(bars)), *range(len(bars))]
    random.shuffle(again)
    assert all(map_state(*bars[i]) == expected[i] for i in again)


def test_a_collapse_acts_for_one_bar_of_its_own_timeframe() -> None:
    states = ["S3", "S3", "S0", "S0", "S0"]
    deltas = [map_state(prev, state, set(), immature=False)[0] for prev, state in zip([None, *states], states, strict=False)]
    assert deltas == pytest.approx([0.20, 0.20, -0.80, -0.30, -0.30])


def test_a_record_row_of_floats_maps_as_its_codes() -> None:
    # The kernels' rows are float64: S3 -> S0 with emergency_exit set.
    delta_a, delta_e = map_states(np.array([3.0]), np.array([0.0]), np.array([[0.0, 0, 0, 1, 0, 1]]), np.array([False]))
    assert (delta_a[0], delta_e[0]) == map_state("S3", "S0", {"emergency_exit", "exit_position"}, immature=False)


def test_no_bars_map_to_no_deltas() -> None:
    delta_a, delta_e = map_states(*as_arrays([]))
    assert (len(delta_a), len(delta_e)) == (0, 0)


@pytest.mark.parametrize("immature", [False, True])
def test_a_missing_or_unknown_state_is_never_read_as_s0(immature: bool) -> None:
    for state in ("", "S5", "s0", None, 0):
        with pytest.raises(BadInputError, match="state was"):
            map_state("S1", state, set(), immature)  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match="prev_state was 'S9'"):
        map_state("S9", "S0", set(), immature)


def test_an_unknown_flag_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"flags were \['sell'\].*allowed: buy"):
        map_state("S1", "S1", {"buy", "sell"}, immature=False)


@pytest.mark.parametrize("code", [np.nan, -1, 5, 0.5, np.inf])
def test_a_code_that_is_no_state_is_refused_with_its_row(code: float) -> None:
    flags, immature = np.zeros((2, 6)), np.zeros(2, dtype=bool)
    with pytest.raises(BadInputError, match=r"state was .* in row 1, must be a whole code from 0 to 4"):
        map_states(np.array([0, 0]), np.array([0, code]), flags, immature)


def test_a_previous_code_below_no_state_is_refused() -> None:
    with pytest.raises(BadInputError, match="prev_state was -2"):
        map_states(np.array([-2]), np.array([0]), np.zeros((1, 6)), np.array([False]))


@pytest.mark.parametrize("mark", [2.0, -1.0, np.nan])
def test_a_flag_that_is_neither_0_nor_1_is_refused(mark: float) -> None:
    with pytest.raises(BadInputError, match="a flag was"):
        map_states(np.array([0]), np.array([1]), np.array([[mark, 0, 0, 0, 0, 0]]), np.array([False]))
