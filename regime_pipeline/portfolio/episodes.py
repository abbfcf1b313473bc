"""Attempts, their episodes, and the blocks that failed attempts leave behind (specification 8.6)."""

from dataclasses import dataclass, replace
from decimal import Decimal

from regime_pipeline.portfolio.trade import Trade


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that ended in S0 and is not judged yet: the bar it began on, and the bar that ended it."""

    started_s: int
    failed_s: int


@dataclass(frozen=True, slots=True)
class Episodes:
    """Where a series stands in its attempt at an uptrend; times are opens of bars, None while there is no such episode.

    An attempt runs from the bar that leaves S0 to S3 (success) or back to S0 (failure).

    Parameters
    ----------
    state : str or None
        After the last bar.
    attempt_s : int or None
        Begin of the attempt that runs.
    s2_s : int or None
        First S2 of the attempt.
    s1_s : int or None
        Newest return to S1 after it.
    s3_s : int or None
        Begin of the S3 that runs.
    failure : Failure or None
        Failed attempts that nobody has judged: from the first one's begin to the last one's end.
    """

    state: str | None = None
    attempt_s: int | None = None
    s2_s: int | None = None
    s1_s: int | None = None
    s3_s: int | None = None
    failure: Failure | None = None

    def after(self, ts_s: int, state: str) -> "Episodes":
        """Step by one bar of the series; a bar without a change of state changes nothing."""
        if state == self.state:
            return self
        if state == "S3":  # whatever failed before is forgiven
            return Episodes(state, s3_s=ts_s)
        if state == "S0" and self.attempt_s is not None:
            started_s = self.failure.started_s if self.failure else self.attempt_s
            return Episodes(state, failure=Failure(started_s, ts_s))
        if state == "S1" and self.state == "S0":
            return Episodes(state, attempt_s=ts_s, failure=self.failure)
        if state == "S1" and self.s2_s is not None:
            return replace(self, state=state, s1_s=ts_s)
        if state == "S2" and self.attempt_s is not None and self.s2_s is None:
            return replace(self, state=state, s2_s=ts_s)
        if state in ("S1", "S2"):
            return replace(self, state=state, s3_s=None)
        return Episodes(state, failure=self.failure)


@dataclass(frozen=True, slots=True)
class Block:
    """What failed attempts forbid a token, timeframe and book, with the bars that ended them; `last_success_s` is the last begin of S3."""

    blocked_s1: bool = False
    blocked_s2: bool = False
    last_s1_failure_s: int | None = None
    last_s2_failure_s: int | None = None
    last_success_s: int | None = None

    def after(self, episodes: Episodes) -> "Block":
        """Lift both in S3, whether or not anything was traded in it."""
        if episodes.s3_s is None:
            return self
        return replace(self, blocked_s1=False, blocked_s2=False, last_success_s=episodes.s3_s)


def entered_states(trade: Trade, since_s: int, before_s: int) -> frozenset[str | None]:
    """Name the states in which a trade's filled buys were decided, on bars in [since_s, before_s)."""
    return frozenset(state for ts_s, state in trade.buys if since_s <= ts_s < before_s)


def judge_failure(episodes: Episodes, block: Block, trade: Trade, total_usd: Decimal) -> tuple[Episodes, Block]:
    """Judge the failed attempt of a trade that is flat: one that bought and lost money blocks what it bought in.

    Parameters
    ----------
    total_usd : what the trade has made, with what little is left of it.

    Returns
    -------
    (Episodes, Block)
        Without the failure, which is judged once; a block on S1 includes S2.
    """
    failure = episodes.failure
    if failure is None:
        return episodes, block
    entered = entered_states(trade, failure.started_s, failure.failed_s) if total_usd < 0 else frozenset()
    if "S1" in entered:
        block = replace(block, blocked_s1=True, last_s1_failure_s=failure.failed_s)
    if entered & {"S1", "S2"}:
        block = replace(block, blocked_s2=True, last_s2_failure_s=failure.failed_s)
    return replace(episodes, failure=None), block
