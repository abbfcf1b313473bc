"""A stored decision computed again from its stored inputs: it must come out the same to the last byte, on any machine."""

from dataclasses import dataclass
from uuid import UUID

from regime_pipeline.errors import BadInputError
from regime_pipeline.portfolio.decide import decide, group_of, lever_input
from regime_pipeline.portfolio.documents import write_plan
from regime_pipeline.portfolio.tick import TickInputs, read_tick_inputs
from regime_pipeline.ports import StoredDecision, Work
from regime_pipeline.regime.levers import LeverInput, LeverResult, compute_levers
from regime_pipeline.regime.levers_document import describe_levers
from regime_pipeline.services.trading.describe_tick import describe_tick


@dataclass(frozen=True, slots=True)
class TickReplay:
    """A decision beside what it comes out as now.

    Parameters
    ----------
    stored, inputs_hash, plan_hash : StoredDecision, str, str
        As written, and the hashes as computed now.
    differing_plans, differing_levers : tuple of str
        Symbols and buckets that come out otherwise than they are stored.
    """

    stored: StoredDecision
    inputs_hash: str
    plan_hash: str
    differing_plans: tuple[str, ...]
    differing_levers: tuple[str, ...]

    @property
    def is_equal(self) -> bool:
        """Whether inputs, plans and levers are what was written."""
        hashes = (self.inputs_hash, self.plan_hash) == (self.stored.inputs_hash, self.stored.plan_hash)
        return hashes and not self.differing_plans and not self.differing_levers


def replay_tick(work: Work, decision_id: UUID) -> TickReplay:
    """Recompute a decision from what is stored of it, and from nothing else.

    Raises
    ------
    BadInputError
        When there is no such decision.
    """
    stored = load_stored(work, decision_id)
    inputs = restore_inputs(stored)
    decision = decide(inputs)
    texts = describe_tick(inputs, decision)
    plans = {line.symbol: line.plan for line in stored.lines}
    levers = {group: describe_levers(given, found) for group, (given, found) in decision.levers.items()}
    groups = sorted(levers.keys() | stored.levers.keys())
    return TickReplay(
        stored=stored,
        inputs_hash=texts.inputs_hash,
        plan_hash=texts.plan_hash,
        differing_plans=tuple(line.symbol for line in decision.lines if plans[line.symbol] != write_plan(line.plan)),
        differing_levers=tuple(group for group in groups if levers.get(group) != stored.levers.get(group)),
    )


def load_stored(work: Work, decision_id: UUID) -> StoredDecision:
    """Load a decision with its lines.

    Raises
    ------
    BadInputError
        When there is no such decision.
    """
    stored = work.journal.load_decision(decision_id)
    if stored is None:
        raise BadInputError(f"decision was {decision_id}; the journal has none of that id. `regime decisions` lists the newest.")
    return stored


def restore_inputs(stored: StoredDecision) -> TickInputs:
    """Put the inputs of a stored decision together again."""
    return read_tick_inputs({"shared": stored.inputs, "lines": [line.inputs for line in stored.lines]})


@dataclass(frozen=True, slots=True)
class ExplainedLevers:
    """Levers of a position as of a stored decision: computed again, and whether the journal says the same."""

    decision_id: UUID
    bar_close_s: int
    symbol: str
    given: LeverInput
    found: LeverResult
    journal_a: float
    journal_e: float
    is_equal: bool


def explain_levers(work: Work, symbol: str, decision_id: UUID | None = None, bar_close_s: int | None = None) -> ExplainedLevers:
    """Explain A and E of a symbol as they were decided on, from the stored inputs of a decision, of that of a bar close, or of its newest.

    Raises
    ------
    BadInputError
        When there is no such decision, or it has no line of the symbol.
    """
    if decision_id is None:
        decision_id = _find_decision(work, symbol, bar_close_s)
    stored = load_stored(work, decision_id)
    line = next((each for each in stored.lines if each.symbol == symbol), None)
    if line is None:
        known = ", ".join(each.symbol for each in stored.lines) or "none"
        raise BadInputError(f"symbol was {symbol}; decision {decision_id} has lines of {known}. Name one of these.")
    group = group_of(line.bucket)
    given = lever_input(restore_inputs(stored), group)
    found = compute_levers(given)
    same_levers = (found.A_value, found.E_value) == (line.a_value, line.e_value)
    is_equal = same_levers and describe_levers(given, found) == stored.levers.get(group)
    return ExplainedLevers(stored.decision_id, stored.bar_close_s, symbol, given, found, line.a_value, line.e_value, is_equal)


def _find_decision(work: Work, symbol: str, bar_close_s: int | None) -> UUID:
    if bar_close_s is None:
        found = [line.decision_id for line in work.journal.list_lines(symbol, 1)]
    else:
        found = work.journal.find_at(symbol, bar_close_s)
    if not found:
        which = "no bar" if bar_close_s is None else "no bar that closed then"
        raise BadInputError(f"{which} was decided for {symbol}. `regime decisions --symbol {symbol}` lists those that were.")
    return found[0]
