"""What stops orders, as rows: kill levels, arm, protections, and the facts that they and the gate are judged on.

Instants are epoch seconds by the venue-corrected clock, so that a replay on an older clock asks about its own time; money is in quote.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.risk.arm import ArmRow
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.kill_switch import KillTransition, Scope, Switch
from regime_pipeline.risk.protections import Close, EquityPoint, Flow, Trip
from regime_pipeline.risk.purpose import Leg, Purpose, Side


@dataclass(frozen=True, slots=True)
class ClosedTrade:
    """A closed trade as protections see it."""

    strategy: str
    symbol: str
    close: Close


@dataclass(frozen=True, slots=True)
class AcceptedEntry:
    """An intent that raised exposure: when its bar closed, and when it was sent (None: not yet)."""

    strategy: str
    symbol: str
    side: Side
    bar_close_s: int
    sent_s: int | None


@dataclass(frozen=True, slots=True)
class LiveRow:
    """An order that has not ended; `filled` is the sum of its fills here, `price` its limit, trigger or decided mid."""

    client_order_id: str
    strategy: str
    symbol: str
    side: Side
    purpose: Purpose
    leg: Leg
    state: str
    qty: Decimal
    filled: Decimal
    price: Decimal


@dataclass(frozen=True, slots=True)
class HoldingRow:
    """What a strategy holds by the ledger: an asset of the wallet, or the symbol of a contract."""

    strategy: str
    asset: str
    is_contract: bool
    qty: Decimal


@dataclass(frozen=True, slots=True)
class ReconFact:
    """A comparison with the venue: whether of everything or of orders and fills only, when it ended, and ok, findings or unknown."""

    is_full: bool
    ended_s: int
    status: str


@dataclass(frozen=True, slots=True)
class SeriesFacts:
    """How good a series is at an instant.

    Parameters
    ----------
    newest_s, oldest_s : int or None
        Opens of its newest closed bar and of the oldest within the warm-up before it; None when it has none.
    n_bars : int
        Bars of the warm-up that exist.
    n_gaps, n_refused : int
        Open gaps, without the vendors' own, and bars in quarantine within the warm-up.
    score : float
        Validity of the newest bar.
    """

    newest_s: int | None
    oldest_s: int | None
    n_bars: int
    n_gaps: int
    n_refused: int
    score: float


@dataclass(frozen=True, slots=True)
class EquityMark:
    """The newest marked equity of an account, with the mark of each symbol it held."""

    at_s: int
    equity_quote: Decimal
    cash_quote: Decimal
    marks: Mapping[str, Decimal]


@dataclass(frozen=True, slots=True)
class ChainFault:
    """The first row at which a chain of hashes does not hold."""

    table: str
    chain: str
    seq: int
    reason: str


class SafetyStore(Protocol):
    """What stops orders, on one open transaction."""

    def load_switches(self, account: str | None = None) -> list[Switch]:
        """Load the kill levels in force: of the newest row of each scope and source, where above 0; of an account, those for all too."""
        ...

    def has_seen(self, switch: Switch) -> bool:
        """Tell whether the newest row of a level's scope and source is as young as it, whatever became of it."""
        ...

    def load_tip(self, scope: Scope) -> str:
        """Load the newest transition id of a scope; empty before the first."""
        ...

    def save_transition(self, transition: KillTransition, second_actor: str = "", accounts: Sequence[str] = ()) -> bool:
        """Write a rise with its KILL notes for the executors, or a release; False when somebody else has written this very one.

        Parameters
        ----------
        accounts : sequence of str
            For a rise that is for everybody: whose executors are told. A scope with an account tells that one.
        """
        ...

    def has_notes(self, account: str) -> bool:
        """Tell whether KILL notes of an account are open."""
        ...

    def close_notes(self, account: str, error: str | None = None) -> None:
        """Mark the open KILL notes of an account done, or count a failed attempt at them."""
        ...

    def load_arm(self, account: str) -> ArmRow | None:
        """Load the newest arm row of an account, whether in force or not."""
        ...

    def save_arm(self, row: ArmRow) -> None:
        """Write an arm row; the one that stands ends."""
        ...

    def end_arm(self, account: str, now_s: int) -> bool:
        """End the arm row that stands; False when none does."""
        ...

    def load_trips(self, account: str, now_s: int) -> list[Trip]:
        """Load the protections that are active for an account."""
        ...

    def load_tripped(self, name: str, trigger_id: str) -> list[Trip]:
        """Load what one trigger tripped, in all scopes, active or not."""
        ...

    def add_trips(self, trips: Iterable[Trip], now_s: int) -> list[Trip]:
        """Write the trips whose trigger is new; returns those."""
        ...

    def end_trip(self, trip: Trip, reason: str) -> None:
        """Write a trip that a person ended (`release_trip`)."""
        ...

    def load_mark(self, account: str, until_s: int) -> EquityMark | None:
        """Load the newest marked equity at or before an instant."""
        ...

    def load_birth(self, account: str) -> EquityPoint | None:
        """Load the first marked equity above 0: what came in until then was no flow."""
        ...

    def load_peaks(self, account: str, since_s: int, until_s: int, cuts_s: Sequence[int]) -> list[EquityPoint]:
        """Load the highest marked equity of each stretch of [since, until] between cuts, each with the last instant of its stretch."""
        ...

    def load_flows(self, account: str, quote: str, since_s: int, until_s: int) -> list[Flow]:
        """Load money that came or went from outside in (since, until]; other assets are worth their next mark."""
        ...

    def load_closes(self, account: str, since_s: int, until_s: int) -> list[ClosedTrade]:
        """Load the trades closed in [since, until], oldest first."""
        ...

    def load_entries(self, account: str, since_s: int, until_s: int) -> list[AcceptedEntry]:
        """Load the entries accepted for bars that closed in [since, until], without those that ended unsent."""
        ...

    def load_live(self, account: str) -> list[LiveRow]:
        """Load the orders that have not ended."""
        ...

    def load_holdings(self, account: str) -> list[HoldingRow]:
        """Load what the ledger holds, per strategy, without zeros."""
        ...

    def load_symbols(self, account: str, since_s: int) -> list[str]:
        """Load the symbols of which an order was written since an instant, or is live."""
        ...

    def load_turnover(self, account: str, since_s: int, until_s: int) -> Decimal:
        """Load the worth of all fills in [since, until]."""
        ...

    def count_sent(self, account: str, since_s: int, until_s: int) -> int:
        """Count the orders sent in [since, until], and those about to be."""
        ...

    def count_unknown(self, account: str | None = None) -> int:
        """Count the orders that are UNKNOWN."""
        ...

    def load_known_ids(self, ids: Iterable[str]) -> frozenset[str]:
        """Load which of these client order ids exist."""
        ...

    def load_rules(self, venue: str) -> dict[str, InstrumentRules]:
        """Load the rules of every instrument of a venue."""
        ...

    def load_recon(self, account: str, until_s: int) -> list[ReconFact]:
        """Load the newest comparison of orders and the newest full one (start-up counts as full) that ended by an instant."""
        ...

    def load_first_sent_s(self, account: str, since_s: int, until_s: int) -> int | None:
        """Load when the first order of [since, until] was sent, or written where it is still to be sent."""
        ...

    def was_compared_since(self, account: str, since_s: int, until_s: int) -> bool:
        """Tell whether a full comparison that began after an instant and ended by another was clean."""
        ...

    def load_clean_pass_s(self, account: str | None) -> int | None:
        """Load when the newest full comparison without a finding ended; of all accounts, the oldest of theirs."""
        ...

    def load_accounts(self) -> list[str]:
        """Load every account that has ordered."""
        ...

    def load_series(
        self, series: Iterable[tuple[str, Timeframe]], now_s: int, warmup_bars: int
    ) -> dict[tuple[str, Timeframe], SeriesFacts]:
        """Load how good series are; bars that had not closed at `now_s` do not exist."""
        ...

    def verify_chains(self) -> list[ChainFault]:
        """Recompute the chains of decisions, order steps and kill levels; the first bad row of each, none when all hold."""
        ...
