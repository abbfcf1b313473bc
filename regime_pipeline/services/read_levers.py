"""The levers of a position now, or as of any past moment, from what is stored."""

from regime_pipeline.errors import BadInputError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Token, Universe
from regime_pipeline.ports import Work
from regime_pipeline.regime.drivers import CHANNEL_TIMEFRAMES
from regime_pipeline.regime.levers import MIN_VALIDITY, Channel, LeverInput, LeverResult, compute_age_bars, compute_levers
from regime_pipeline.services.derivation import driver_series
from regime_pipeline.services.tag_buckets import load_memberships


def find_token(universe: Universe, name: str) -> Token:
    """Find a tradable token by its contract or by a venue's symbol of it.

    Raises
    ------
    BadInputError
        When the universe has no such token.
    """
    for token in universe.tokens:
        if name == token.contract or name in {source.symbol for source in token.sources}:
            return token
    known = ", ".join(token.contract for token in universe.tokens) or "none"
    raise BadInputError(f"token was {name!r}; the universe has {known}. Name one of these.")


def bucket_at(work: Work, universe: Universe, series: str, ts_s: int) -> str | None:
    """Market-cap bucket of a token as it was known at an instant; None when unknown."""
    for bucket, members in load_memberships(work, universe).items():
        for from_s, to_s in members.get(series, ()):
            if from_s <= ts_s and (to_s is None or ts_s < to_s):
                return bucket
    return None


def load_channels(work: Work, now_s: int) -> tuple[Channel, ...]:
    """The newest mapper row of every driver and regime timeframe whose bar has ended at `now_s`, with the validity of its bar."""
    board = work.regime.load_board(now_s)
    scores = work.quality.load_scores([(driver_series(row.driver), row.timeframe, row.ts_s) for row in board])
    return tuple(
        Channel(
            driver=row.driver,
            timeframe=row.timeframe,
            age_bars=compute_age_bars(row.ts_s, row.timeframe, now_s),
            delta_a_raw=row.delta_a_raw,
            delta_e_raw=row.delta_e_raw,
            ts_s=row.ts_s,
            state=row.state,
            prev_state=row.prev_state,
            flags=row.flags,
            immature=row.immature,
            validity=score,
        )
        for row, score in zip(board, scores, strict=True)
    )


def levers_at(
    work: Work,
    universe: Universe,
    contract: str,
    exec_timeframe: Timeframe,
    now_s: int,
    timeframes: tuple[Timeframe, ...] = CHANNEL_TIMEFRAMES,
    min_validity: float = MIN_VALIDITY,
) -> LeverResult:
    """Compute A and E of a token's position as of `now_s`, with every contribution."""
    token = find_token(universe, contract)
    given = LeverInput(
        exec_timeframe=exec_timeframe.value,
        bucket=bucket_at(work, universe, token.series, now_s),
        channels=load_channels(work, now_s),
        timeframes=timeframes,
        min_validity=min_validity,
    )
    return compute_levers(given)
