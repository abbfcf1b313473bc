"""The tape of a running uptrend: what one pass leaves behind for the decay windows to look back on.

One row of `TAPE_COLUMNS` doubles per bar since the S3 start bar (row 0), in chunks of `CHUNK_BARS`. `chunks[k]` is the row of `pool`
that holds chunk k, or -1 when it is not in memory: a live step loads only the few chunks it will read, and the number of a missing
one is returned instead of a guess. `extremes[k]` is (lowest, highest) close of chunk k, known for every chunk. `decay.py` fills it.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from regime_pipeline.jit import kernel

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int32]

CHUNK_BARS: Final = 32
T_CLOSE: Final = 0
T_HIGH: Final = 1
T_LOW: Final = 2
T_ATR: Final = 3  # ATR(14) over the bars since the S3 start
T_SUM_V: Final = 4  # running sums since the S3 start, this bar included; each of these two is followed by its rounding
T_SUM_CV: Final = 6
T_SUM_ATR: Final = 8  # of ATR/close
T_EMA144: Final = 9
T_EMA250: Final = 10
T_EMA333: Final = 11
T_GUIDE: Final = 12  # two blocks, for lambda 1.2 and 1.4: first bar of the newest guide, then its ZIGZAG_MARKS
GUIDE_COLUMNS: Final = 6
ZIGZAG_MARKS: Final = 5
M_CONFIRMED: Final = 0  # bar on which the newest pivot was confirmed, -1 before the first
M_LAST: Final = 1  # signed pivot: index + 1 for a high, -(index + 1) for a low, 0 for none
M_PREVIOUS: Final = 2
M_PIVOTS: Final = 3
M_RISES: Final = 4
TAPE_COLUMNS: Final = T_GUIDE + 2 * GUIDE_COLUMNS


@kernel
def tape_get(pool: FloatArray, chunks: IntArray, bar: int, column: int) -> float:
    """Value of one tape cell."""
    return pool[chunks[bar // CHUNK_BARS], bar % CHUNK_BARS, column]


@kernel
def has_bars(chunks: IntArray, first: int, last: int) -> int:
    """-1 when the chunks of bars first..last are in memory, else the first missing chunk."""
    for k in range(first // CHUNK_BARS, last // CHUNK_BARS + 1):
        if chunks[k] < 0:
            return k
    return -1
