"""What a trade does to an account: spot balances with locks, or a wallet in quote with signed positions."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_UP, Decimal
from typing import Final, Protocol

from regime_pipeline.simulation.trading.rules import Rules
from regime_pipeline.simulation.trading.values import ZERO, Instrument, Reason, RefusalError, Side, VenueOrder

QUANTUM: Final = Decimal("1e-8")


class Wallet:
    """Free and locked amounts per asset. Only trades that a tester forces can take an amount below 0."""

    def __init__(self, balances: Mapping[str, Decimal]) -> None:
        self.free: dict[str, Decimal] = dict(balances)
        self.locked: dict[str, Decimal] = {}

    def add(self, asset: str, qty: Decimal) -> None:
        """Change the free amount; negative takes away."""
        self.free[asset] = self.free.get(asset, ZERO) + qty

    def lock(self, asset: str, qty: Decimal) -> None:
        """Move from free to locked; negative moves back."""
        self.add(asset, -qty)
        self.locked[asset] = self.locked.get(asset, ZERO) + qty

    def total(self, asset: str) -> Decimal:
        """Add up free and locked."""
        return self.free.get(asset, ZERO) + self.locked.get(asset, ZERO)

    def assets(self) -> list[str]:
        """Name every asset that was ever held, in order."""
        return sorted(self.free.keys() | self.locked.keys())


class Account(Protocol):
    """What a book needs of an account."""

    wallet: Wallet

    def reserve(self, order: VenueOrder, instrument: Instrument, price: Decimal, rules: Rules) -> None:
        """Lock what an order may cost at a price, or refuse."""
        ...

    def settle(self, order: VenueOrder, instrument: Instrument, qty: Decimal, price: Decimal, fee: Decimal, fee_asset: str) -> None:
        """Book a trade."""
        ...

    def reducible(self, order: VenueOrder) -> Decimal:
        """Give the quantity by which an order's side could make the position smaller."""
        ...


def release(wallet: Wallet, order: VenueOrder, qty: Decimal | None = None) -> None:
    """Unlock the share of a quantity, by default all that an order still holds."""
    share = order.reserved if qty is None else min(order.reserved, qty * order.reserve_per_unit)
    if share:
        wallet.lock(order.reserve_asset, -share)
        order.reserved -= share


def _hold(wallet: Wallet, order: VenueOrder, asset: str, per_unit: Decimal, qty: Decimal) -> None:
    order.reserve_asset, order.reserve_per_unit, order.reserved = asset, per_unit, per_unit * qty
    wallet.lock(asset, order.reserved)


class SpotAccount:
    """Coins."""

    def __init__(self, balances: Mapping[str, Decimal]) -> None:
        self.wallet = Wallet(balances)

    def reserve(self, order: VenueOrder, instrument: Instrument, price: Decimal, rules: Rules) -> None:  # noqa: ARG002 - as Account
        """Lock quote for a buy, base for a sell.

        Raises
        ------
        RefusalError
            BALANCE when less is free.
        """
        asset, per_unit = (instrument.quote, price) if order.side is Side.BUY else (instrument.base, Decimal(1))
        needed, free = per_unit * order.remaining, self.wallet.free.get(asset, ZERO)
        if needed > free:
            raise RefusalError(Reason.BALANCE, f"{needed} {asset} needed, {free} free")
        _hold(self.wallet, order, asset, per_unit, order.remaining)

    def settle(self, order: VenueOrder, instrument: Instrument, qty: Decimal, price: Decimal, fee: Decimal, fee_asset: str) -> None:
        """Move both coins and the commission."""
        release(self.wallet, order, qty)
        self.wallet.add(instrument.base, order.side.sign * qty)
        self.wallet.add(instrument.quote, -order.side.sign * qty * price)
        self.wallet.add(fee_asset, -fee)

    def reducible(self, order: VenueOrder) -> Decimal:
        """Give what is left of the order: coins have no position that could turn."""
        return order.remaining


@dataclass(slots=True)
class Position:
    """A perpetual position: signed size in base, its signed entry value and the profit taken so far, both in quote.

    The value of a closed part is rounded to 8 decimals and its rest stays in the position: once flat, the profits add up exactly.
    """

    size: Decimal = ZERO
    cost: Decimal = ZERO
    realised: Decimal = ZERO

    @property
    def avg_price(self) -> Decimal:
        """Average entry; 0 when flat."""
        return self.cost / self.size if self.size else ZERO

    def apply(self, signed_qty: Decimal, price: Decimal) -> Decimal:
        """Add a trade and give the profit that it took."""
        profit = ZERO
        if self.size * signed_qty >= 0:
            self.cost += signed_qty * price
        else:
            closed = min(abs(self.size), abs(signed_qty)) * (1 if self.size > 0 else -1)
            part = self.cost if closed == self.size else (self.cost * closed / self.size).quantize(QUANTUM)
            profit = closed * price - part
            self.cost += (signed_qty + closed) * price - part
        self.size += signed_qty
        self.realised += profit
        return profit


class LinearAccount:
    """A wallet in quote and one position per symbol (one-way mode)."""

    def __init__(self, balances: Mapping[str, Decimal], marks: Mapping[str, Decimal]) -> None:
        """Margin is judged at `marks`, the scripted prices by symbol."""
        self.wallet = Wallet(balances)
        self.positions: dict[str, Position] = {}
        self._marks = marks

    def position(self, symbol: str) -> Position:
        """Give the position of a symbol, flat if there never was one."""
        return self.positions.setdefault(symbol, Position())

    def unrealised(self) -> Decimal:
        """Add up the profit not taken yet, at the marks."""
        return sum((p.size * self._marks[symbol] - p.cost for symbol, p in self.positions.items()), ZERO)

    def margin(self, rules: Rules) -> Decimal:
        """Add up the margin that positions bind."""
        return sum((abs(p.cost) for p in self.positions.values()), ZERO) / rules.leverage

    def reserve(self, order: VenueOrder, instrument: Instrument, price: Decimal, rules: Rules) -> None:
        """Lock the margin of what would enlarge the position.

        Raises
        ------
        RefusalError
            BALANCE when less is available.
        """
        opening = ZERO if order.asked.is_reduce_only else max(order.remaining - self.reducible(order), ZERO)
        asset, needed = instrument.quote, opening * price / rules.leverage
        available = self.wallet.free.get(asset, ZERO) + self.unrealised() - self.margin(rules)
        if needed > available:
            raise RefusalError(Reason.BALANCE, f"{needed} {asset} margin needed, {available} available")
        # Rounded up to 8 decimals, so that locking and unlocking never loses a digit.
        _hold(self.wallet, order, asset, (needed / order.remaining).quantize(QUANTUM, ROUND_UP), order.remaining)

    def settle(self, order: VenueOrder, instrument: Instrument, qty: Decimal, price: Decimal, fee: Decimal, fee_asset: str) -> None:
        """Move the position, take its profit and pay the commission."""
        release(self.wallet, order, qty)
        profit = self.position(order.symbol).apply(order.side.sign * qty, price)
        self.wallet.add(instrument.quote, profit)
        self.wallet.add(fee_asset, -fee)

    def reducible(self, order: VenueOrder) -> Decimal:
        """Give the size of an opposite position, else 0."""
        size = self.position(order.symbol).size
        return abs(size) if size * order.side.sign < 0 else ZERO


def compute_liquidation_price(position: Position, rules: Rules) -> Decimal | None:
    """Price at which an isolated position of this leverage is lost; None when flat."""
    if not position.size:
        return None
    distance = (1 / rules.leverage - rules.maintenance_frac) * (1 if position.size > 0 else -1)
    return position.avg_price * (1 - distance)
