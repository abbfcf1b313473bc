"""An open trade: everything its recorded actions say, derived by folding them in order (specification 8.2 to 8.5).

Gates read a `Trade` and nothing else of the past, so a new trade starts clean. `fold_trade` derives it from the stored rows;
`TradeBook` keeps it up to date fill by fill, which must give the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from uuid import UUID

from regime_pipeline.errors import CallerError
from regime_pipeline.portfolio.actions import Action, ActionKind, ActionStatus, Signal
from regime_pipeline.portfolio.money import ZERO, precise
from regime_pipeline.portfolio.pool import Pool


@dataclass(frozen=True, slots=True)
class Trade:
    """State of a trade after its newest action.

    Parameters
    ----------
    allocated_usd, extracted_usd : Decimal
        Buy cost with fees; sell proceeds net of fees.
    bought_qty, sold_qty : Decimal
        Tokens that came and went, fees in tokens counted. More may go than came: an exit sells the dust of earlier trades too.
    last_action_s : int or None
        Bar of the newest action, skips included.
    s1_bought : bool
        Whether an S1 buy was filled.
    last_trim : (bars_seen, level) or None
        Of the last filled trim.
    planned_level : float or None
        Level of the last planned trim, filled or not; a skipped one was never sent and does not count.
    exit_due : Action or None
        The newest action, if it is an exit: it stays due until flat.
    exit_usd : Decimal
        Proceeds of the latest emergency exit, all its bars together; 0 before one and after the buy that reclaims it.
    exit_runs : bool
        Whether the last fill was such an exit's, so that the next one belongs to it.
    buys : tuple of (int, str or None)
        Bar and state of every filled buy.
    """

    trade_id: UUID
    allocated_usd: Decimal = ZERO
    extracted_usd: Decimal = ZERO
    bought_qty: Decimal = ZERO
    sold_qty: Decimal = ZERO
    pool: Pool = field(default_factory=Pool)
    last_action_s: int | None = None
    s1_bought: bool = False
    last_trim: tuple[int, float] | None = None
    planned_level: float | None = None
    exit_due: Action | None = None
    exit_usd: Decimal = ZERO
    exit_runs: bool = False
    buys: tuple[tuple[int, str | None], ...] = ()

    def after(self, action: Action) -> "Trade":
        """Apply the next action with all its fills.

        Raises
        ------
        CallerError
            When the action is of another trade, or not on a later bar than the newest one, or a trim says no level.
        """
        if action.trade_id != self.trade_id:
            raise CallerError(f"action of bar {action.bar_ts_s} is of trade {action.trade_id}, not {self.trade_id}. Fold its own actions.")
        if self.last_action_s is not None and action.bar_ts_s <= self.last_action_s:
            raise CallerError(f"action of bar {action.bar_ts_s} came after that of bar {self.last_action_s}. Fold all again, in order.")
        is_sent_trim = action.kind is ActionKind.TRIM and action.status is not ActionStatus.SKIPPED
        trade = replace(
            self,
            last_action_s=action.bar_ts_s,
            planned_level=_trim_point(action)[1] if is_sent_trim else self.planned_level,
            exit_due=action if action.kind is ActionKind.EMERGENCY_EXIT else None,
        )
        if not action.is_filled:
            return trade
        return _book_buy(trade, action) if action.is_buy else _book_sale(trade, action)


@precise
def _book_buy(trade: Trade, action: Action) -> Trade:
    return replace(
        trade,
        allocated_usd=trade.allocated_usd + action.net_usd,
        bought_qty=trade.bought_qty + action.net_qty,
        pool=trade.pool.after(action),
        s1_bought=trade.s1_bought or action.signal is Signal.S1_BUY,
        exit_usd=ZERO if action.signal is Signal.RECLAIM else trade.exit_usd,
        exit_runs=False,
        buys=(*trade.buys, (action.bar_ts_s, action.state)),
    )


@precise
def _book_sale(trade: Trade, action: Action) -> Trade:
    is_exit = action.kind is ActionKind.EMERGENCY_EXIT
    exit_before_usd = trade.exit_usd if trade.exit_runs else ZERO
    return replace(
        trade,
        extracted_usd=trade.extracted_usd + action.net_usd,
        sold_qty=trade.sold_qty + action.net_qty,
        pool=trade.pool.after(action),
        last_trim=trade.last_trim if is_exit else _trim_point(action),
        exit_usd=exit_before_usd + action.net_usd if is_exit else trade.exit_usd,
        exit_runs=is_exit,
    )


def _trim_point(action: Action) -> tuple[int, float]:
    if action.bars_seen is None or action.level_price is None:
        raise CallerError(f"trim of bar {action.bar_ts_s} has no level or no bar count: its gates need both. Read its whole row.")
    return action.bars_seen, action.level_price


@dataclass(frozen=True, slots=True)
class TradeBook:
    """A trade kept fill by fill: as it is, and as it was before its newest action, whose fills may still come."""

    before: Trade
    trade: Trade

    @classmethod
    def open(cls, trade_id: UUID) -> "TradeBook":
        """Begin a trade without actions."""
        return cls(Trade(trade_id), Trade(trade_id))

    def book(self, action: Action) -> "TradeBook":
        """Take in an action as it is now: the newest one with more fills, or the next one.

        Raises
        ------
        CallerError
            When it is older than the newest one: a late fill changes all that came after it, so the trade must be folded again.
        """
        before = self.before if action.bar_ts_s == self.trade.last_action_s else self.trade
        return TradeBook(before, before.after(action))


def fold_trade(trade_id: UUID, actions: Iterable[Action]) -> Trade:
    """Derive a trade from recorded actions, oldest first; those of other trades are passed over."""
    trade = Trade(trade_id)
    for action in actions:
        if action.trade_id == trade_id:
            trade = trade.after(action)
    return trade
