"""The orders of one tick before the gate: what the venue was asked, how each is drafted, and the view it is judged on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal

from regime_pipeline.execution.paper import PERP_TARIFF, SPOT_TARIFF
from regime_pipeline.market.universe import Universe
from regime_pipeline.portfolio.actions import BUYS
from regime_pipeline.portfolio.capital import compute_cap_usd, compute_remaining_usd
from regime_pipeline.portfolio.decide import LineDecision, TickDecision
from regime_pipeline.portfolio.money import ZERO
from regime_pipeline.portfolio.plan import Outcome
from regime_pipeline.portfolio.reasons import ReasonCode
from regime_pipeline.ports import Ok, Quote, Work
from regime_pipeline.risk.gate import run_gate
from regime_pipeline.risk.gate_view import Finding, GateVerdict, OrderRequest, SeriesHealth
from regime_pipeline.services.trading.build_gate_view import Series, SymbolView, build_gate_view, pick_series, required_series
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.draft_order import Draft, Instrument, draft_order
from regime_pipeline.services.trading.load_tick import TickSnapshot
from regime_pipeline.services.trading.read_account import AccountView
from regime_pipeline.services.trading.tick_market import Tariff


@dataclass(frozen=True, slots=True)
class VenueSide:
    """What was asked of the venue for a tick, before any lock is held: quotes by symbol, and what it holds by asset or symbol."""

    quotes: Mapping[str, Quote] = field(default_factory=dict)
    held: Mapping[str, Decimal] | None = None


def ask_venue(trading: Trading, decision: TickDecision) -> VenueSide:
    """Ask quotes of what is to be traded, and holdings where something is to be sold; what cannot be read is left out."""
    acting = [line for line in decision.lines if line.plan.outcome is Outcome.ACT]
    answers = {line.symbol: trading.broker.fetch_quote(line.symbol) for line in acting}
    quotes = {symbol: answer.value for symbol, answer in answers.items() if isinstance(answer, Ok)}
    if all(line.plan.kind in BUYS for line in acting):
        return VenueSide(quotes)
    if trading.broker.traits.market_type == "spot":
        balances = trading.broker.fetch_balances()
        return VenueSide(quotes, {asset: each.total for asset, each in balances.value.items()} if isinstance(balances, Ok) else None)
    positions = trading.broker.fetch_positions()
    return VenueSide(quotes, {each.symbol: max(each.qty, ZERO) for each in positions.value} if isinstance(positions, Ok) else None)


@dataclass(slots=True)
class Placing:
    """The orders of one tick on their way; `account` counts those that have passed."""

    work: Work
    trading: Trading
    universe: Universe
    snapshot: TickSnapshot
    account: AccountView
    venue: VenueSide
    health: Mapping[Series, SeriesHealth]
    tariffs: Mapping[str, Tariff]

    @property
    def is_spot(self) -> bool:
        """Whether assets are bought, and not contracts."""
        return self.trading.broker.traits.market_type == "spot"

    def find_instrument(self, line: LineDecision) -> Instrument | None:
        """Find what an order is priced with; None for an instrument whose rules nobody has read."""
        symbol, contract = line.symbol, line.symbol.partition("/")[0]
        rules = self.snapshot.rules.get(symbol)
        if rules is None:
            return None
        fallback = SPOT_TARIFF if self.is_spot else PERP_TARIFF
        return Instrument(
            rules=rules,
            mark=self.snapshot.marks.get(symbol),
            taker_bps=self.tariffs[symbol][1] if symbol in self.tariffs else fallback.taker_bps,
            is_major=contract in {major.contract for major in self.universe.majors},
            cluster=line.bucket or "unknown",
            held_qty=None if self.venue.held is None else self.venue.held.get(contract if self.is_spot else symbol, ZERO),
        )

    def draft(self, line: LineDecision, instrument: Instrument) -> Draft:
        """Draft the order of a line."""
        inputs = self.snapshot.inputs
        return draft_order(
            line.plan,
            line.symbol,
            inputs.strategy,
            inputs.bar_close_s,
            inputs.timeframe.seconds,
            line.position.quantity,
            instrument,
            self.trading.terms,
            self.trading.limits,
        )

    def judge(self, request: OrderRequest, line: LineDecision, instrument: Instrument) -> GateVerdict:
        """Run the gate on one order; an entry that it takes too long over is refused."""
        limits, began_s = self.trading.limits, self.trading.monotonic()
        known = self.work.safety.load_known_ids([request.client_order_id])
        view = build_gate_view(self.account, request, self._view_symbol(line, instrument), known)
        verdict = run_gate(request, view, limits)
        took_s = self.trading.monotonic() - began_s
        if took_s <= limits.gate_timeout_s or not request.is_entry:
            return verdict
        late = Finding(ReasonCode.GATE_UNAVAILABLE, f"the gate took {took_s:.1f} s, at most {limits.gate_timeout_s} are allowed")
        return replace(verdict, findings=(*verdict.findings, late))

    def _view_symbol(self, line: LineDecision, instrument: Instrument) -> SymbolView:
        inputs = self.snapshot.inputs
        own, *drivers = required_series(self.snapshot.rows[line.plan.position_id].series, inputs.timeframe)
        wanted = [own, *(key for key in drivers if key[1] in inputs.timeframes)]
        cap = compute_cap_usd(inputs.book.equity_usd, inputs.timeframe, inputs.book.allocation)
        return SymbolView(
            rules=instrument.rules,
            series=pick_series(self.health, wanted, inputs.bar_close_s, self.account.now_ms // 1000),
            quote=self.venue.quotes.get(line.symbol),
            mark=instrument.mark,
            allocation_left_quote=compute_remaining_usd(cap, line.position.allocated_usd, line.position.extracted_usd),
            is_major=instrument.is_major,
            is_margin=not self.is_spot,
        )
