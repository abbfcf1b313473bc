"""The engine record: what one step of the trend engine says, and where each field stands in the kernels' row.

A row is a float64 vector of shape (N_FIELDS,). States are codes 0..4 for S0..S4 (`NO_STATE` = -1), flags are 0 or 1, times are
epoch seconds, and NaN means undefined (NULL in the table). `to_columns` in `engine.py` turns rows into typed table columns.
"""

from typing import Final

STATES: Final = ("S0", "S1", "S2", "S3", "S4")
NO_STATE: Final = -1
FLAGS: Final = ("buy", "rebuy", "trim", "emergency_exit", "reclaimed_ema333", "exit_position")
REBUY_SOURCES: Final = ("rebuy_s2_retest", "rebuy_dx", "rebuy_reclaim")
EXIT_REASONS: Final = ("s1_to_s0_bearish_order", "all_emas_below_333")
"""Code 0 and 1 in the row's `exit_reason`."""

SCORES: Final = (
    "ts_score",
    "ts_with_boost",
    "sr_boost",
    "ox",
    "dx",
    "edx",
    "edx_slow",
    "edx_struct",
    "edx_part",
    "edx_comp",
    "dx_threshold",
)
DIAGNOSTICS: Final = ("anchor", "halo", "entry_zone_ok", "slope_ok", "ts_ok", "near_sr", "nearest_level_price", "nearest_level_strength")

FIELDS: Final[tuple[str, ...]] = (
    "state",
    "prev_state",
    "state_since_ts",
    "s3_start_ts",
    "bars_since_s3",
    *FLAGS,
    *REBUY_SOURCES,
    "exit_reason",
    *SCORES,
    *DIAGNOSTICS,
)
N_FIELDS: Final = len(FIELDS)
INDEX: Final[dict[str, int]] = {name: i for i, name in enumerate(FIELDS)}
