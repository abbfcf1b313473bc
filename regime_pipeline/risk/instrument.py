"""What a venue demands of an order in one instrument."""

from dataclasses import dataclass
from decimal import Decimal

from regime_pipeline.errors import OrderValidationError
from regime_pipeline.portfolio.money import ZERO


@dataclass(frozen=True, slots=True)
class InstrumentRules:
    """Grid and bounds of an instrument at one venue; prices in quote, quantities in base (contracts times `contract_size`).

    Raises
    ------
    OrderValidationError
        When tick, step or contract size is not above 0, a minimum is below 0, or the maximum quantity is below the minimum.
    """

    symbol: str
    tick: Decimal
    step: Decimal
    min_qty: Decimal = ZERO
    max_qty: Decimal | None = None
    min_cost_quote: Decimal = ZERO
    contract_size: Decimal = Decimal(1)
    is_active: bool = True

    def __post_init__(self) -> None:
        for name in ("tick", "step", "contract_size"):
            value: Decimal = getattr(self, name)
            if not (value.is_finite() and value > 0):
                raise OrderValidationError(f"{name} of {self.symbol} was {value}, must be above 0; read the venue's markets again")
        for name in ("min_qty", "min_cost_quote"):
            if (value := getattr(self, name)) < 0:
                raise OrderValidationError(f"{name} of {self.symbol} was {value}, must be 0 or more; read the venue's markets again")
        if self.max_qty is not None and self.max_qty < self.min_qty:
            msg = f"max_qty of {self.symbol} was {self.max_qty}, below min_qty {self.min_qty}; read the venue's markets again"
            raise OrderValidationError(msg)
