"""From hourly labels to confirmed transitions: two votes for the same change, counted in bars (section 8.2 to 8.5)."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Self

from regime_pipeline.errors import CallerError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.opinions.hmm_filter import Opinion
from regime_pipeline.regime.opinions.terms import SO_VERSION, Label, Status, check_series, iso

VOTING_CONFIDENCE: Final = 0.20
CONFIRMATIONS: Final = 2
MAX_ABSTENTIONS: Final = 3
VALID_S: Final = 24 * 3600


@dataclass(frozen=True, slots=True)
class Transition:
    """A confirmed change of the strategic label; each consumer may use it once, and none that trades.

    Parameters
    ----------
    transition_id : str
        First 16 hex digits of SHA-256 over series, 1h, version, first bar, and both labels.
    series : str
        One of the six series.
    from_label, to_label : Label
        Different, never unknown.
    first_bar_s, confirmed_bar_s : int
        Opens of the first and of the confirming bar with the new label.
    confirmation_count : int
        Votes that confirmed it.
    confidence : float
        Of the confirming bar.
    model_id_before, model_id_after : str or None
        In force on the bar before `first_bar_s` and on the confirming one.
    refit_within : bool
        Whether the model changed anywhere between those two: then the refit may have made the change.
    expires_at_s : int
        Instant from which it must not be consumed, 24 hours after the confirming close.
    """

    transition_id: str
    series: str
    from_label: Label
    to_label: Label
    first_bar_s: int
    confirmed_bar_s: int
    confirmation_count: int
    confidence: float
    model_id_before: str | None
    model_id_after: str | None
    refit_within: bool
    expires_at_s: int

    def is_consumable(self, at_s: int) -> bool:
        """Tell whether a consumer may still use it at an instant, epoch seconds."""
        return not self.refit_within and at_s < self.expires_at_s


def transition_id(series: str, first_bar_s: int, from_label: Label, to_label: Label) -> str:
    """Name a transition: the same change has the same id in every replay."""
    text = "|".join((series, Timeframe.H1, SO_VERSION, iso(first_bar_s), from_label, to_label))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class TrackerState:
    """What the tracker remembers between two bars; stored with each hourly row.

    Parameters
    ----------
    current : Label
        The strategic label; unknown until the first vote.
    candidate : Label
        The label that may follow, unknown for none.
    count : int
        Votes for the candidate.
    first_bar_s : int or None
        Open of the candidate's first bar.
    abstentions : int
        Abstentions in a row, up to now.
    last_bar_s : int or None
        Open of the newest bar.
    model_id : str or None
        In force on the newest bar.
    model_before : str or None
        In force on the bar before the candidate's first.
    model_changed : bool
        Whether the model changed since that bar.
    """

    current: Label = Label.UNKNOWN
    candidate: Label = Label.UNKNOWN
    count: int = 0
    first_bar_s: int | None = None
    abstentions: int = 0
    last_bar_s: int | None = None
    model_id: str | None = None
    model_before: str | None = None
    model_changed: bool = False

    def step(self, series: str, opinion: Opinion) -> tuple["TrackerState", Transition | None]:
        """Take the next hourly row, known or not.

        Parameters
        ----------
        series : str
            One of the six series; enters the transition's id.
        opinion : Opinion
            Row of a later bar than the newest one. It votes with its label if its status is ok and its confidence at least 0.20.

        Returns
        -------
        TrackerState
            To be stored with the row.
        Transition or None
            The change that this row confirms.

        Raises
        ------
        CallerError
            When the bar is off the grid or does not follow the newest one, or the series is unknown.
        """
        check_series(series)
        if opinion.ts_s % Timeframe.H1.seconds or (self.last_bar_s is not None and opinion.ts_s <= self.last_bar_s):
            raise CallerError(
                f"tracker bar was {opinion.ts_s} after {self.last_bar_s}, must be a later hour. Resume from the newest stored row."
            )
        seen: TrackerState = replace(
            self,
            last_bar_s=opinion.ts_s,
            model_id=opinion.model_id,
            model_changed=self.count > 0 and (self.model_changed or opinion.model_id != self.model_id),
        )
        if opinion.status is not Status.OK or opinion.confidence < VOTING_CONFIDENCE:
            seen = replace(seen, abstentions=self.abstentions + 1)
            return (_drop_candidate(seen) if seen.abstentions > MAX_ABSTENTIONS else seen), None
        return _vote(seen, series, opinion, self.model_id)

    def to_document(self) -> dict[str, Any]:
        """Write the state as a JSON document."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read a state that `to_document` wrote.

        Raises
        ------
        CallerError
            When keys are missing or too many, or a label is unknown.
        """
        expected = {field.name for field in fields(cls)}
        if set(document) != expected:
            raise CallerError(f"tracker document had the keys {sorted(document)}, must have {sorted(expected)}. Replay the hourly rows.")
        try:
            labels = {name: Label(document[name]) for name in ("current", "candidate")}
        except ValueError as error:
            raise CallerError(f"tracker document is not readable: {error}. Replay the hourly rows.") from error
        return cls(**{**document, **labels})


def _vote(state: TrackerState, series: str, opinion: Opinion, model_before: str | None) -> tuple[TrackerState, Transition | None]:
    """Count the vote of a row that `state` has already taken note of; `model_before` was in force on the row before."""
    state = replace(state, abstentions=0)
    if state.current in {Label.UNKNOWN, opinion.label}:
        return replace(_drop_candidate(state), current=opinion.label), None
    if opinion.label is not state.candidate:
        return replace(
            state,
            candidate=opinion.label,
            count=1,
            first_bar_s=opinion.ts_s,
            model_before=model_before,
            model_changed=opinion.model_id != model_before,
        ), None
    state = replace(state, count=state.count + 1)
    if state.count < CONFIRMATIONS or state.first_bar_s is None:
        return state, None
    transition = Transition(
        transition_id=transition_id(series, state.first_bar_s, state.current, state.candidate),
        series=series,
        from_label=state.current,
        to_label=state.candidate,
        first_bar_s=state.first_bar_s,
        confirmed_bar_s=opinion.ts_s,
        confirmation_count=state.count,
        confidence=opinion.confidence,
        model_id_before=state.model_before,
        model_id_after=opinion.model_id,
        refit_within=state.model_changed,
        expires_at_s=opinion.ts_s + Timeframe.H1.seconds + VALID_S,
    )
    return replace(_drop_candidate(state), current=opinion.label), transition


def _drop_candidate(state: TrackerState) -> TrackerState:
    return replace(state, candidate=Label.UNKNOWN, count=0, first_bar_s=None, model_before=None, model_changed=False)
