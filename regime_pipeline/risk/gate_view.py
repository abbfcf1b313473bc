"""What the gate looks at: the order that is asked for, and one consistent view of its account, instrument, data and venue.

None means unknown, and what is unknown refuses an entry. Instants are milliseconds since the epoch, UTC; money is in quote.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NamedTuple

from regime_pipeline.portfolio.money import ZERO
from regime_pipeline.portfolio.reasons import ReasonCode
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.kill_switch import Level
from regime_pipeline.risk.limits import RiskSettings
from regime_pipeline.risk.protections import Trip
from regime_pipeline.risk.purpose import Leg, Purpose, Side

ORIGINS: Final = ("strategy", "human", "risk")


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """An order that is asked for.

    Parameters
    ----------
    client_order_id, account, strategy, symbol, cluster : str
        Who, where and what; a cluster is a group of symbols that move together.
    leg, side, qty : Leg, Side, Decimal
        Part of the plan, direction, and quantity in base.
    price : Decimal
        The limit, or the price a market order was planned at.
    notional_quote : Decimal
        Worth of the order as the plan worked it out, a second way to `qty` times `price`.
    origin, mode, decide_by_ms : str, Mode, int
        Who asked, in which mode, and until when it may be sent.
    stop_price, gap_quote, cost_quote, expected_move_quote : Decimal or None
        Of an entry: its stop, what it may lose beyond the stop, its round-trip costs and what it is expected to earn.
    """

    client_order_id: str
    account: str
    strategy: str
    symbol: str
    cluster: str
    leg: Leg
    side: Side
    qty: Decimal
    price: Decimal
    notional_quote: Decimal
    origin: str
    mode: Mode
    decide_by_ms: int
    stop_price: Decimal | None = None
    gap_quote: Decimal | None = None
    cost_quote: Decimal | None = None
    expected_move_quote: Decimal | None = None

    @property
    def is_entry(self) -> bool:
        """Tell whether it raises exposure."""
        return self.leg.purpose is Purpose.ENTRY


@dataclass(frozen=True, slots=True)
class LiveOrder:
    """An order of the account that has not ended; it counts with its full remaining quantity."""

    symbol: str
    cluster: str
    side: Side
    purpose: Purpose
    remaining: Decimal
    price: Decimal
    is_unresolved: bool = False


@dataclass(frozen=True, slots=True)
class Holding:
    """A position of the account: signed quantity in base, and its mark."""

    symbol: str
    cluster: str
    qty: Decimal
    mark: Decimal


@dataclass(frozen=True, slots=True)
class SeriesHealth:
    """State of one series that a decision needs.

    Parameters
    ----------
    age_s, max_age_s : int or None, int
        Age of the end of the newest closed bar, and the limit for it.
    coverage_frac, min_coverage_frac : Decimal or None, Decimal
        Share of the bars of its warm-up that exist, and the least of it.
    has_gap, is_closed, is_quarantined : bool
        A hole in the warm-up; whether the newest bar used is closed; whether a bar used is in quarantine.
    is_model_fresh : bool
        Whether the model fed by it is young enough; True without one.
    """

    name: str
    age_s: int | None
    max_age_s: int
    coverage_frac: Decimal | None
    min_coverage_frac: Decimal
    has_gap: bool = False
    is_closed: bool = True
    is_quarantined: bool = False
    is_model_fresh: bool = True


@dataclass(frozen=True, slots=True)
class VenueHealth:
    """State of the venue for this symbol: status, circuit breaker, clock offset and spread."""

    is_up: bool
    is_breaker_open: bool
    clock_offset_ms: int | None
    spread_bps: Decimal | None


@dataclass(frozen=True, slots=True)
class GateView:
    """One consistent reading of everything the gate needs.

    Parameters
    ----------
    now_ms, mode, kill_level : int, Mode, Level
        Now on the venue-corrected clock, the mode we run in, and the worst latched level of the order's scopes.
    missing_arm_parts : tuple of str
        From `arm.missing_arm_parts`.
    arm_order_quote, arm_day_left_quote : Decimal or None
        Largest order and rest of the day under the arm; None without one.
    known_ids : frozenset of str
        Client order ids that exist.
    rules, is_major : InstrumentRules, bool
        Of the order's instrument.
    series, venue : sequence of SeriesHealth or None, VenueHealth or None
        None when they could not be read.
    recon_age_s, is_recon_clean : int or None, bool or None
        Age and result of the newest reconciliation; None where there is none or it is unknown.
    holdings, live_orders : tuples
        Of the account.
    trips : sequence of Trip or None
        Active protections; None when they could not be judged.
    equity_quote, cash_quote, allocation_left_quote : Decimal or None
        Of the account; the last is what the strategy may still put into the symbol.
    traded_today_quote : Decimal or None
        Turnover of the UTC day.
    day_loss_frac, week_loss_frac, open_risk_frac : Decimal or None
        Loss so far (negative when it is a profit) and the worst case of what is open, of equity.
    n_orders_last_min : int or None
        Orders of the account in the last 60 s.
    is_rate_budget_left : bool
        Whether the venue's request budget leaves the share kept for cancels.
    mid, mark : Decimal or None
        Prices of the symbol.
    is_margin, liq_distance_frac : bool, Decimal or None
        Whether it is traded on margin, and how far, of price, liquidation would be after this order.
    """

    now_ms: int
    mode: Mode
    kill_level: Level
    rules: InstrumentRules
    missing_arm_parts: tuple[str, ...] = ()
    arm_order_quote: Decimal | None = None
    arm_day_left_quote: Decimal | None = None
    known_ids: frozenset[str] = frozenset()
    is_major: bool = False
    series: Sequence[SeriesHealth] | None = None
    venue: VenueHealth | None = None
    recon_age_s: int | None = None
    is_recon_clean: bool | None = None
    holdings: tuple[Holding, ...] = ()
    live_orders: tuple[LiveOrder, ...] = ()
    trips: Sequence[Trip] | None = None
    equity_quote: Decimal | None = None
    cash_quote: Decimal | None = None
    allocation_left_quote: Decimal | None = None
    traded_today_quote: Decimal | None = None
    day_loss_frac: Decimal | None = None
    week_loss_frac: Decimal | None = None
    open_risk_frac: Decimal | None = None
    n_orders_last_min: int | None = None
    is_rate_budget_left: bool = False
    mid: Decimal | None = None
    mark: Decimal | None = None
    is_margin: bool = False
    liq_distance_frac: Decimal | None = None

    def position_qty(self, symbol: str) -> Decimal:
        """Signed quantity held of a symbol."""
        return sum((holding.qty for holding in self.holdings if holding.symbol == symbol), ZERO)


class Case(NamedTuple):
    """What each check is given."""

    order: OrderRequest
    view: GateView
    limits: RiskSettings


@dataclass(frozen=True, slots=True)
class Finding:
    """A check that failed: its code and, in words, the value and the rule."""

    code: ReasonCode
    detail: str


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """Every failing code of an order, what was only logged, and the quantity that may be sent.

    Parameters
    ----------
    findings : tuple of Finding
        What refuses the order, in the order of the checks; empty when it passes.
    logged : tuple of Finding
        What an exit does not care about.
    qty : Decimal
        The quantity asked for; of an exit at most what is free, on the step.
    headroom_quote : Decimal or None
        What the symbol cap would still allow, before this entry; None when it could not be worked out.
    needs_page : bool
        Whether an exit was refused because a check itself failed.
    """

    findings: tuple[Finding, ...]
    logged: tuple[Finding, ...]
    qty: Decimal
    headroom_quote: Decimal | None = None
    needs_page: bool = False

    @property
    def is_passed(self) -> bool:
        """Tell whether the order may become an intent."""
        return not self.findings

    @property
    def codes(self) -> tuple[ReasonCode, ...]:
        """Failing codes, each once."""
        return tuple(dict.fromkeys(finding.code for finding in self.findings))
