"""The gate before every order: fifteen checks in order, all failing codes returned; an exit passes what only concerns entries."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from enum import Enum, auto
from typing import Final

from regime_pipeline.portfolio.money import QUOTIENT
from regime_pipeline.portfolio.reasons import ReasonCode
from regime_pipeline.risk import checks
from regime_pipeline.risk.gate_view import Case, Finding, GateVerdict, GateView, OrderRequest
from regime_pipeline.risk.limits import RiskSettings
from regime_pipeline.risk.purpose import Leg

CheckFunction = Callable[[Case], Iterable[Finding]]


class Use(Enum):
    """What a failing check does to an order."""

    REFUSES = auto()
    LOGGED = auto()
    SKIPPED = auto()


@dataclass(frozen=True, slots=True)
class Check:
    """A line of the gate: it refuses entries, and does this to exits and to the flatten of the kill switch."""

    number: int
    function: CheckFunction
    on_exit: Use
    on_flatten: Use = Use.SKIPPED

    def use_for(self, leg: Leg, *, is_entry: bool) -> Use:
        """What a failure does to an order of this leg."""
        if is_entry:
            return Use.REFUSES
        return self.on_flatten if leg is Leg.FLATTEN else self.on_exit


CHECKS: Final = (
    Check(1, checks.check_kill_level, Use.REFUSES),
    Check(2, checks.check_authority, Use.REFUSES, Use.REFUSES),
    Check(3, checks.check_key, Use.REFUSES),
    Check(4, checks.check_instrument, Use.REFUSES, Use.REFUSES),
    Check(5, checks.check_data, Use.LOGGED),
    Check(6, checks.check_venue, Use.LOGGED),
    Check(7, checks.check_reconciled, Use.SKIPPED),
    Check(8, checks.check_concurrency, Use.REFUSES, Use.REFUSES),
    Check(9, checks.check_protections, Use.SKIPPED),
    Check(10, checks.check_trade_risk, Use.SKIPPED),
    Check(11, checks.check_caps, Use.SKIPPED),
    Check(12, checks.check_allocation, Use.SKIPPED),
    Check(13, checks.check_loss_budget, Use.SKIPPED),
    Check(14, checks.check_rate, Use.SKIPPED),  # exits have the priority lane
    Check(15, checks.check_price, Use.REFUSES, Use.REFUSES),
)


def run_gate(order: OrderRequest, view: GateView, limits: RiskSettings, gate_checks: Iterable[Check] = CHECKS) -> GateVerdict:
    """Judge an order; never raises.

    Parameters
    ----------
    order, view : OrderRequest, GateView
        What is asked for and everything known, read in one snapshot.
    limits : RiskSettings
        The configured limits.
    gate_checks : iterable of Check
        The fifteen, in order.

    Returns
    -------
    GateVerdict
        An exit is cut to the free quantity before it is judged. A check that raises refuses with GATE_UNAVAILABLE where it would
        have refused; for an exit that also pages, and the exit is asked for again after 15 s.
    """
    with localcontext(QUOTIENT):
        judged = order if order.is_entry else _cut_to_free(order, view)
        refused: list[Finding] = []
        logged: list[Finding] = []
        needs_page = False
        for check in gate_checks:
            use = check.use_for(order.leg, is_entry=order.is_entry)
            if use is Use.SKIPPED:
                continue
            try:
                found = list(check.function(Case(judged, view, limits)))
            except Exception as error:  # noqa: BLE001 - whatever breaks a check must close the gate, not the process
                found = [Finding(ReasonCode.GATE_UNAVAILABLE, f"check {check.number} raised {error!r}")]
                needs_page = needs_page or (use is Use.REFUSES and not order.is_entry)
            (refused if use is Use.REFUSES else logged).extend(found)
        return GateVerdict(tuple(refused), tuple(logged), judged.qty, _headroom(order, view, limits), needs_page)


def _cut_to_free(order: OrderRequest, view: GateView) -> OrderRequest:
    try:
        free = checks.free_exit_qty(order, view)
        if 0 < free < order.qty:
            return replace(order, qty=free, notional_quote=order.notional_quote * free / order.qty)
    except ArithmeticError:
        pass  # the checks meet the same figure, raise on it and refuse
    return order


def _headroom(order: OrderRequest, view: GateView, limits: RiskSettings) -> Decimal | None:
    try:
        return checks.compute_headroom_quote(order, view, limits) if order.is_entry else None
    except ArithmeticError:
        return None
