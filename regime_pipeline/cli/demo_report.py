"""What the demo shows at its end, read from the database: board, levers of sample positions and the report's histories."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from regime_pipeline.board.lever_history import DeltaTrack, compute_lever_history
from regime_pipeline.board.report import Sample, Track
from regime_pipeline.errors import BadInputError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Token, Universe
from regime_pipeline.ports import Work
from regime_pipeline.regime.drivers import BUCKETS, CHANNEL_TIMEFRAMES, DRIVER_NAMES
from regime_pipeline.services.read_board import BoardCell, load_board
from regime_pipeline.services.read_levers import bucket_at, levers_at
from regime_pipeline.trend.record import FLAGS

EVER: Final = (0, 32_503_680_000)


@dataclass(frozen=True, slots=True)
class Findings:
    """Board and samples as of two instants: the end of everything stored, and the last one that every timeframe reaches."""

    as_of_s: int
    levers_at_s: int
    cells: list[BoardCell]
    samples: list[Sample]
    tracks: list[Track]


def collect_findings(work: Work, universe: Universe) -> Findings:
    """Read what the demo shows.

    Raises
    ------
    BadInputError
        When the database holds no states: no data reached the engine.
    """
    cells = load_board(work, EVER[1])
    ends_s: dict[Timeframe, int] = {}
    for cell in cells:
        if cell.row is not None:
            end_s = cell.row.ts_s + cell.timeframe.seconds
            ends_s[cell.timeframe] = max(ends_s.get(cell.timeframe, 0), end_s)
    if not ends_s:
        raise BadInputError("no driver has a state: the data has fewer than 333 bars of each. Give a longer range.")
    tracks = list(_load_tracks(work))
    levers_at_s = min(ends_s.values())
    return Findings(max(ends_s.values()), levers_at_s, cells, _sample(work, universe, levers_at_s, tracks), tracks)


def _load_tracks(work: Work) -> Iterator[Track]:
    for driver in DRIVER_NAMES:
        for timeframe in CHANNEL_TIMEFRAMES:
            states = work.regime.load_history(f"regime:{driver}", timeframe, *EVER)
            deltas = work.regime.load_deltas(driver, timeframe, *EVER)
            if len(states.ts_s) and np.array_equal(states.ts_s, deltas.ts_s):
                flags = np.stack([states.flags[name] for name in FLAGS], axis=1)
                yield Track(driver, timeframe, states.ts_s, states.price, states.state, flags, deltas.delta_a_raw, deltas.delta_e_raw)


def _sample(work: Work, universe: Universe, at_s: int, tracks: list[Track]) -> list[Sample]:
    """Take the first token of each bucket as a position."""
    deltas = {(track.driver, track.timeframe): DeltaTrack(track.ts_s, track.delta_a, track.delta_e) for track in tracks}
    hours_s = np.unique(np.concatenate([[at_s], *(t.ts_s + t.timeframe.seconds for t in tracks if t.timeframe is Timeframe.H1)]))
    samples = []
    for bucket, token in _first_tokens(work, universe, at_s):
        exec_timeframe = token.timeframes[0]
        a_value, e_value = compute_lever_history(deltas, exec_timeframe, [bucket], hours_s)
        levers = levers_at(work, universe, token.contract, exec_timeframe, at_s)
        samples.append(Sample(token.contract, bucket, exec_timeframe, levers, hours_s, a_value[:, 0], e_value[:, 0]))
    return samples


def _first_tokens(work: Work, universe: Universe, at_s: int) -> Iterator[tuple[str, Token]]:
    found = {token.contract: bucket_at(work, universe, token.series, at_s) for token in universe.tokens}
    for bucket in BUCKETS:
        token = next((token for token in universe.tokens if found[token.contract] == bucket), None)
        if token is not None:
            yield bucket, token
