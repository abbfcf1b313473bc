"""At most one action per position and bar: the rules in order, the first that matches decides (specification 8.2).

Exits come first and are level-triggered: they are planned again on every bar until the position is flat. Rules that buy are skipped
when the regime is not fully known; rules that sell never are. Every answer is a `Plan`, holds included, with what stood in the way.
"""

from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Final, NamedTuple

from regime_pipeline.errors import CallerError
from regime_pipeline.portfolio.actions import Action, ActionKind, Funding, Signal
from regime_pipeline.portfolio.capital import compute_cap_usd, compute_remaining_usd
from regime_pipeline.portfolio.facts import BarFacts
from regime_pipeline.portfolio.money import ONE, QUANTUM, ZERO, floor_to, precise, to_decimal
from regime_pipeline.portfolio.plan import Book, Bound, Levers, Outcome, Plan, Refusal, Rule, Size
from regime_pipeline.portfolio.pool import MAX_DX_BUYS, Pool
from regime_pipeline.portfolio.position import PLANNED_STATUSES, Position
from regime_pipeline.portfolio.reasons import ReasonCode
from regime_pipeline.portfolio.sizing import DX_SHARES, REBUY_SHARES, S1_SHARES, compute_retest_frac, compute_trim_frac, pick_share

TRIM_SPACING_BARS: Final = 3
SAME_LEVEL_FRAC: Final = Decimal("0.01")
"""Levels closer than this share of the price are one level."""


class _Case(NamedTuple):
    """What a rule looks at."""

    position: Position
    facts: BarFacts
    price: Decimal
    levers: Levers
    book: Book
    is_flat: bool

    @property
    def pool(self) -> Pool:
        return self.position.trade.pool if self.position.trade else Pool()


class _Choice(NamedTuple):
    """What the rules say; a plan is this and what it was taken on."""

    outcome: Outcome = Outcome.HOLD
    rule: Rule | None = None
    kind: ActionKind | None = None
    signal: Signal | None = None
    size: Size | None = None
    codes: tuple[ReasonCode, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    alert: str | None = None


_Refuse = Callable[[_Case], Iterator[Refusal]]


@precise
def plan_position(position: Position, facts: BarFacts | None, bar_ts_s: int, levers: Levers, book: Book) -> Plan:
    """Decide what to do with a position on a closed bar.

    Parameters
    ----------
    position : as after `step_position` of this bar.
    facts : of exactly this bar. None, or those of another bar: hold and tell, but carry on an exit that was planned and is not done.
    bar_ts_s : open of the bar, epoch seconds.

    Raises
    ------
    CallerError
        When the position is none to plan for (a driver, a paused one), or a lever lies outside [0, 1].
    """
    if position.status not in PLANNED_STATUSES:
        allowed = ", ".join(sorted(PLANNED_STATUSES))
        raise CallerError(f"position {position.position_id}: status was {position.status}, planned are {allowed}. Do not select it.")
    if not (0.0 <= levers.a_value <= 1.0 and 0.0 <= levers.e_value <= 1.0):
        raise CallerError(f"position {position.position_id}: levers were {levers.a_value} and {levers.e_value}, must lie in [0, 1].")
    due = position.trade.exit_due if position.trade else None
    current = facts if facts is not None and facts.ts_s == bar_ts_s else None
    if position.last_action_s is not None and position.last_action_s >= bar_ts_s:
        choice = _Choice(codes=(ReasonCode.DUPLICATE_KEY,))
    elif current is None:
        choice = _choose_without_record(position, due, facts, bar_ts_s)
    else:
        price = to_decimal(current.price)
        choice = _choose(_Case(position, current, price, levers, book, position.is_flat(price)))
    if not book.trading_enabled:
        choice = _withhold(choice)
    return Plan(
        position_id=position.position_id,
        bar_ts_s=bar_ts_s,
        trade_id=position.trade.trade_id if position.trade else None,
        a_value=levers.a_value,
        e_value=levers.e_value,
        degraded=levers.degraded,
        outcome=choice.outcome,
        rule=choice.rule,
        kind=choice.kind,
        signal=choice.signal,
        size=choice.size,
        codes=choice.codes,
        refusals=choice.refusals,
        alert=choice.alert,
        state=current.state if current else None,
        price=current.price if current else None,
        level_price=current.nearest_level if current else None,
        atr=current.atr if current else None,
        bars_seen=current.bars_seen if current else None,
    )


def _withhold(choice: _Choice) -> _Choice:
    """Keep what would have been done as a refusal: trading is off."""
    if choice.outcome is Outcome.HOLD or choice.rule is None:
        return choice
    refusal = Refusal(choice.rule, ReasonCode.NOT_ARMED, f"trading is not enabled, else: {choice.kind}")
    return _Choice(rule=choice.rule, codes=(ReasonCode.NOT_ARMED,), refusals=(*choice.refusals, refusal), alert=choice.alert)


def _choose_without_record(position: Position, due: Action | None, facts: BarFacts | None, bar_ts_s: int) -> _Choice:
    """Hold and tell, unless an exit is under way: its order may have failed, and nothing since has said that it is over."""
    code = ReasonCode.DATA_GAP if facts is None else ReasonCode.DATA_STALE
    found = "none" if facts is None else f"that of bar {facts.ts_s}"
    hold = _Choice(codes=(code,), alert=f"position {position.position_id}: no record of bar {bar_ts_s}, found {found}")
    past = facts if facts is not None and facts.ts_s < bar_ts_s else None  # a later record is not for this bar to see
    if due is None or position.is_flat(to_decimal(past.price) if past else None):
        return hold
    if past is not None and past.ts_s > due.bar_ts_s and not past.wants_exit:
        return hold
    rule = Rule.EXIT_S0 if due.signal is Signal.EXIT_POSITION else Rule.EXIT_S3
    return _exit(position, rule, due.signal)._replace(alert=hold.alert)


def _choose(case: _Case) -> _Choice:
    facts = case.facts
    if facts.state == "S0":
        return _hold(case) if case.is_flat else _exit(case.position, Rule.EXIT_S0, Signal.EXIT_POSITION)
    if facts.state == "S3" and facts.emergency_exit:
        if case.is_flat:
            return _hold(case)._replace(rule=Rule.FLAT_S3)
        return _exit(case.position, Rule.EXIT_S3, Signal.EMERGENCY_EXIT)
    refusals: list[Refusal] = []
    if facts.trim and facts.nearest_level is not None and not case.is_flat:
        blocked = list(_refuse_trim(case, to_decimal(facts.nearest_level)))
        if not blocked:
            return _trim(case)
        refusals += blocked
    for rule, signal, refuse in _buys_asked_for(facts):
        blocked = [*_refuse_any_buy(case, rule), *refuse(case)]
        if not blocked:
            return _buy(case, rule, signal)._replace(refusals=tuple(refusals))
        refusals += blocked
    return _hold(case, refusals)


def _hold(case: _Case, refusals: Sequence[Refusal] = ()) -> _Choice:
    if refusals:
        return _Choice(codes=tuple(dict.fromkeys(refusal.code for refusal in refusals)), refusals=tuple(refusals))
    return _Choice(codes=(ReasonCode.CONDITION_NOT_MET if case.is_flat else ReasonCode.IN_POSITION,))


def _exit(position: Position, rule: Rule, signal: Signal) -> _Choice:
    quantity = position.limits.sellable(position.quantity)
    size = Size(Funding.HOLDING, ONE, position.quantity, Bound.SHARE, quantity=quantity)
    return _Choice(Outcome.ACT, rule, ActionKind.EMERGENCY_EXIT, signal, size)


def _refuse_trim(case: _Case, level: Decimal) -> Iterator[Refusal]:
    """Gates T1 (spacing) and T2 (one trim per level)."""
    trade = case.position.trade
    if trade is None:
        return
    same = SAME_LEVEL_FRAC * case.price
    if trade.last_trim is not None:
        bars_since = case.facts.bars_seen - trade.last_trim[0]
        if bars_since < TRIM_SPACING_BARS and abs(level - to_decimal(trade.last_trim[1])) <= same:
            yield Refusal(Rule.TRIM, ReasonCode.CONDITION_NOT_MET, f"T1: the last trim is {bars_since} bars old, at {trade.last_trim[1]}")
    if trade.planned_level is not None and abs(level - to_decimal(trade.planned_level)) <= same:
        yield Refusal(Rule.TRIM, ReasonCode.CONDITION_NOT_MET, f"T2: level {level} was trimmed already, at {trade.planned_level}")


def _trim(case: _Case) -> _Choice:
    position = case.position
    share = compute_trim_frac(case.levers.e_value, position.allocated_usd, position.extracted_usd)
    quantity = position.limits.sellable(share * position.quantity)
    codes = _too_small(position, quantity, quantity * case.price)
    size = Size(Funding.HOLDING, share, position.quantity, Bound.SHARE, quantity=quantity)
    return _Choice(Outcome.SKIP if codes else Outcome.ACT, Rule.TRIM, ActionKind.TRIM, Signal.TRIM, size, codes)


def _refuse_any_buy(case: _Case, rule: Rule) -> Iterator[Refusal]:
    if case.book.is_killed:
        yield Refusal(rule, ReasonCode.KILLED, "the kill switch stops buys")
    if case.levers.degraded:
        yield Refusal(rule, ReasonCode.DATA_STALE, "degraded: a channel of BTC or ALT is absent or stale")
    if case.facts.immature and not case.book.allow_immature_entries:
        yield Refusal(rule, ReasonCode.CONDITION_NOT_MET, f"immature: {case.facts.bars_seen} bars seen")


def _refuse_s1_buy(case: _Case) -> Iterator[Refusal]:
    position, rule = case.position, Rule.S1_BUY
    if position.block.blocked_s1:
        yield Refusal(rule, ReasonCode.BLOCKED_EPISODE, f"the attempt that ended at {position.block.last_s1_failure_s} lost money")
    if position.episodes.s2_s is None:
        yield Refusal(rule, ReasonCode.CONDITION_NOT_MET, "this attempt has no S2 episode yet")
    if position.trade is not None and position.trade.s1_bought:
        yield Refusal(rule, ReasonCode.IN_POSITION, "this trade has its S1 buy")


def _refuse_retest(case: _Case) -> Iterator[Refusal]:
    position, rule = case.position, Rule.S2_RETEST
    if position.block.blocked_s2:
        yield Refusal(rule, ReasonCode.BLOCKED_EPISODE, f"the attempt that ended at {position.block.last_s2_failure_s} lost money")
    if case.is_flat or position.trade is None:
        return
    if case.pool.usd_basis <= 0:
        yield Refusal(rule, ReasonCode.IN_POSITION, "in a position without a pool")
    if case.pool.recovery_started:
        yield Refusal(rule, ReasonCode.CONDITION_NOT_MET, "the pool's recovery has started")


def _refuse_dx(case: _Case) -> Iterator[Refusal]:
    pool, facts, rule = case.pool, case.facts, Rule.DX
    if pool.usd_basis <= 0:
        yield Refusal(rule, ReasonCode.CONDITION_NOT_MET, "no pool")
    if pool.dx_count >= MAX_DX_BUYS:
        yield Refusal(rule, ReasonCode.CONDITION_NOT_MET, f"{pool.dx_count} discount buys already")
    if pool.dx_next_arm is not None and case.price > pool.dx_next_arm:
        yield Refusal(rule, ReasonCode.CONDITION_NOT_MET, f"price {facts.price} above the next arm {pool.dx_next_arm:f}")
    if not facts.ema333 <= facts.price <= facts.ema144:
        yield Refusal(rule, ReasonCode.CONDITION_NOT_MET, f"price {facts.price} outside {facts.ema333} to {facts.ema144}")


def _refuse_reclaim(case: _Case) -> Iterator[Refusal]:
    trade = case.position.trade
    if trade is None or trade.exit_usd <= 0:
        yield Refusal(Rule.RECLAIM, ReasonCode.CONDITION_NOT_MET, "no exit of this trade has proceeds to put back")


def _buys_asked_for(facts: BarFacts) -> Iterator[tuple[Rule, Signal, _Refuse]]:
    if facts.state == "S1" and facts.buy:
        yield Rule.S1_BUY, Signal.S1_BUY, _refuse_s1_buy
    if facts.state == "S2" and facts.is_retest:
        yield Rule.S2_RETEST, Signal.S2_RETEST, _refuse_retest
    if facts.state == "S3" and facts.dx:
        yield Rule.DX, Signal.DX, _refuse_dx
    if facts.state == "S3" and facts.reclaim:
        yield Rule.RECLAIM, Signal.RECLAIM, _refuse_reclaim


def _buy(case: _Case, rule: Rule, signal: Signal) -> _Choice:
    position, book = case.position, case.book
    cap_usd = compute_cap_usd(book.equity_usd, position.timeframe, book.allocation)
    remaining_usd = compute_remaining_usd(cap_usd, position.allocated_usd, position.extracted_usd)
    funding, share, basis_usd = _share_of(case, rule, remaining_usd)
    bounds = {Bound.SHARE: share * basis_usd, Bound.REMAINING: remaining_usd, Bound.FREE_CASH: max(ZERO, book.free_cash_usd)}
    bound = min(bounds, key=bounds.__getitem__)
    notional_usd = floor_to(bounds[bound], QUANTUM)
    codes = _too_small(position, position.limits.sellable(notional_usd / case.price), notional_usd)
    kind = ActionKind.ADD if position.trade else ActionKind.ENTRY
    size = Size(funding, share, basis_usd, bound, notional_usd=notional_usd)
    return _Choice(Outcome.SKIP if codes else Outcome.ACT, rule, kind, signal, size, codes)


def _share_of(case: _Case, rule: Rule, remaining_usd: Decimal) -> tuple[Funding, Decimal, Decimal]:
    """Find what a buy is a share of, and which share."""
    position, a_value = case.position, case.levers.a_value
    if rule is Rule.S1_BUY:
        return Funding.REMAINING, pick_share(S1_SHARES, a_value), remaining_usd
    if rule is Rule.DX:
        return Funding.POOL, pick_share(DX_SHARES, a_value), case.pool.usd_basis
    if rule is Rule.RECLAIM:
        return Funding.EXIT_PROCEEDS, pick_share(REBUY_SHARES, a_value), position.trade.exit_usd if position.trade else ZERO
    if case.is_flat or position.trade is None:
        return Funding.REMAINING, compute_retest_frac(a_value, position.allocated_usd, position.extracted_usd), remaining_usd
    return Funding.POOL, pick_share(REBUY_SHARES, a_value), case.pool.usd_basis


def _too_small(position: Position, quantity: Decimal, cost_usd: Decimal) -> tuple[ReasonCode, ...]:
    """Say what the venue would refuse an order of this size for; nothing when it would take it."""
    if cost_usd <= 0 or quantity <= 0:
        return (ReasonCode.ZERO_SIZE,)
    limits = position.limits
    below = {ReasonCode.BELOW_MIN_QTY: quantity < limits.min_qty, ReasonCode.BELOW_MIN_COST: cost_usd < limits.min_cost_usd}
    return tuple(code for code, is_below in below.items() if is_below)
