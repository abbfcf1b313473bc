"""The trim pool: what trims brought and adds may put back (specification 8.4)."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

from regime_pipeline.portfolio.actions import Action, ActionKind, Funding, Signal
from regime_pipeline.portfolio.money import ZERO, precise, to_decimal

MAX_DX_BUYS: Final = 3
DX_ARM_ATRS: Final = 6
"""The next discount buy must lie this many ATR below the last one."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Proceeds of trims since the pool began, and how far they have been put back.

    `usd_basis` is what shares are taken of; discount buys do not reduce it. Prices are None before the first discount buy;
    `dx_next_arm` also where that buy's bar had no ATR, and then the next one may come at any price.
    """

    usd_basis: Decimal = ZERO
    recovery_started: bool = False
    dx_count: int = 0
    dx_last_price: Decimal | None = None
    dx_next_arm: Decimal | None = None

    @precise
    def after(self, action: Action) -> "Pool":
        """Apply one action with all its fills; one without fills, an exit or another purchase changes nothing."""
        if not action.is_filled:
            return self
        if action.kind is ActionKind.TRIM:
            if self.recovery_started:
                return Pool(usd_basis=action.net_usd)
            return replace(self, usd_basis=self.usd_basis + action.net_usd)
        if action.signal is Signal.S2_RETEST and action.funding is Funding.POOL:
            return Pool()  # the rest is locked profit
        if action.signal is not Signal.DX:
            return self
        if self.dx_count + 1 >= MAX_DX_BUYS:
            return Pool()
        return Pool(
            usd_basis=self.usd_basis,
            recovery_started=True,
            dx_count=self.dx_count + 1,
            dx_last_price=action.price,
            dx_next_arm=action.price - DX_ARM_ATRS * to_decimal(action.atr) if action.atr and action.atr > 0 else None,
        )


def fold_pool(actions: Iterable[Action]) -> Pool:
    """Derive the pool from a trade's actions, oldest first."""
    pool = Pool()
    for action in actions:
        pool = pool.after(action)
    return pool
