"""The indicator record: one row per (series, timeframe, ts), and where each field stands in the kernels' row.

A row is a float64 vector of shape (N_FIELDS,); `FIELDS[i]` names column i. The same names are the columns of the table
`uptrend_states` and the only names readers may use: a missing field is an error, never a default.
"""

from typing import Final

EMA_PERIODS: Final = (20, 30, 50, 60, 144, 250, 333)

FIELDS: Final[tuple[str, ...]] = (
    *(f"ema{n}" for n in EMA_PERIODS),
    "ema20_slope",
    "ema60_slope",
    "ema144_slope",
    "ema250_slope",
    "ema333_slope",
    "d_ema60_slope",
    "d_ema144_slope",
    "d_ema250_slope",
    "d_ema333_slope",
    "sep_fast",
    "sep_mid",
    "dsep_fast_5",
    "dsep_mid_5",
    "atr",
    "atr_norm",
    "atr_mean_20",
    "atr_peak_10",
    "rsi",
    "rsi_slope_10",
    "adx",
    "adx_slope_10",
    "vo_z",
    "latest_price",
    "bars_seen",
    "immature",
    "gap_bars",
)
"""Column order of a record row. `bars_seen` and `gap_bars` are counts and `immature` is 0 or 1, kept as float64 in the row."""

N_FIELDS: Final = len(FIELDS)
INDEX: Final[dict[str, int]] = {name: i for i, name in enumerate(FIELDS)}

MIN_BARS: Final = 333
"""No record and no state below this many bars (specs: EMA333 would mostly remember the first price)."""
MATURE_BARS: Final = 1000
