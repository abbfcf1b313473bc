"""How often a read is repeated, and after which waits."""

from time import sleep

import pytest

from regime_pipeline.adapters.venues.answers import StayAwayError, TryAgainError
from regime_pipeline.adapters.venues.retry import BRIEF, PATIENT, Patience, ask_patiently
from regime_pipeline.errors import SourceError


class Questions:
    """Fails as told, then answers; remembers the waits."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.asked = 0
        self.waits: list[float] = []

    def ask(self) -> str:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return "bars"

    def run(self, patience: Patience, jitter: float = 0.0) -> str:
        return ask_patiently(self.ask, patience, self.waits.append, lambda: jitter)


def test_an_answer_is_asked_for_once() -> None:
    questions = Questions()
    assert questions.run(PATIENT) == "bars"
    assert (questions.asked, questions.waits) == (1, [])


def test_a_question_that_took_too_long_to_fail_is_not_repeated() -> None:
    questions = Questions(TryAgainError("no answer"))

    def ask() -> str:
        sleep(0.03)
        return questions.ask()

    with pytest.raises(TryAgainError):
        ask_patiently(ask, Patience((0.0,), 0.02), questions.waits.append, lambda: 0.0)
    assert (questions.asked, questions.waits) == (1, [])


def test_a_patient_caller_waits_5_15_and_60_seconds_then_gives_up() -> None:
    questions = Questions(*[TryAgainError("down")] * 5)
    with pytest.raises(TryAgainError):
        questions.run(PATIENT)
    assert (questions.asked, questions.waits) == (4, [5.0, 15.0, 60.0])


def test_jitter_adds_a_quarter_at_most() -> None:
    questions = Questions(TryAgainError("down"), TryAgainError("down"))
    questions.run(PATIENT, jitter=0.9999)
    assert questions.waits == pytest.approx([6.25, 18.75], rel=1e-3)


def test_a_live_minute_repeats_once_after_a_third_of_a_second() -> None:
    questions = Questions(TryAgainError("down"))
    assert questions.run(BRIEF) == "bars"
    assert questions.waits == [0.3]


def test_the_venues_own_wait_is_kept_to() -> None:
    questions = Questions(TryAgainError("busy", 33.0), TryAgainError("busy", 0.0))
    questions.run(PATIENT)
    assert questions.waits == [33.0, 15.0]


def test_a_wait_beyond_our_patience_is_not_waited_for() -> None:
    for patience, wait_s in ((BRIEF, 1.5), (PATIENT, 301.0)):
        questions = Questions(TryAgainError("busy", wait_s))
        with pytest.raises(TryAgainError):
            questions.run(patience)
        assert (questions.asked, questions.waits) == (1, [])


@pytest.mark.parametrize("error", [SourceError("no such symbol"), StayAwayError("banned", None)])
def test_what_would_fail_again_is_not_repeated(error: SourceError) -> None:
    questions = Questions(error)
    with pytest.raises(type(error)):
        questions.run(PATIENT)
    assert questions.asked == 1
