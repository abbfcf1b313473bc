"""The money half of a full reconciliation: positions, the quote balance and funding, by our ledger and by the venue.

What could not be read is unknown: never empty, never flat, never a match. Nothing is booked here but funding that the venue's history
explains, and nothing is ever flattened.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from typing import Final

from regime_pipeline.errors import ReconciliationError
from regime_pipeline.execution.compare import Grade, Pair, judge_cash, judge_funding, judge_positions, sum_holdings
from regime_pipeline.execution.drift import AGREE_AFTER_S, Drift, Tier
from regime_pipeline.execution.ledger import LedgerAccount as Account
from regime_pipeline.portfolio.money import EXACT, QUOTIENT, ZERO
from regime_pipeline.ports import (
    Balance,
    BalanceKey,
    Failed,
    FundingPayment,
    Read,
    ReconFinding,
    Severity,
    VenuePosition,
    Work,
)
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.incidents import open_incident
from regime_pipeline.services.trading.open_account import book_funding_payments
from regime_pipeline.services.trading.post_fills import cost_asset
from regime_pipeline.services.trading.recon_verdict import Before

DAY_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class MoneyReading:
    """What the venue said of an account's money, and when the reading began; funding by symbol, over the last day."""

    began_ms: int
    balances: Read[Mapping[str, Balance]]
    positions: Read[Sequence[VenuePosition]]
    funding: Mapping[str, Read[Sequence[FundingPayment]]] = field(default_factory=dict)


@dataclass(slots=True)
class MoneyVerdict:
    """What the comparison came to; `unknown` says why something could not be judged."""

    findings: list[ReconFinding] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    needs_second: bool = False


def read_money(trading: Trading, contract_symbols: Iterable[str]) -> MoneyReading:
    """Ask the venue for balances, positions and, where contracts are traded, the funding of the last day."""
    began_ms = trading.clock.now_ms()
    broker = trading.broker
    funding = {symbol: broker.fetch_funding(symbol, began_ms - DAY_MS) for symbol in contract_symbols}
    return MoneyReading(began_ms, broker.fetch_balances(), broker.fetch_positions(), funding)


def check_money(
    work: Work,
    trading: Trading,
    reading: MoneyReading,
    prices: Mapping[str, Decimal],
    before: Before,
    before_ms: int | None,
) -> MoneyVerdict:
    """Compare a reading with the ledger.

    Parameters
    ----------
    prices : mapping of str to Decimal
        By symbol, of all that is held here or there; one that is missing leaves its difference unjudged.
    before, before_ms
        Findings of the pass before by (check, scope), and when its reading began: two that agree count.
    """
    verdict = MoneyVerdict()
    traits, account = trading.broker.traits, trading.terms.account
    _check_funding(work, trading, reading, verdict)
    balances = work.ledger.load_balances(account)
    wallet = sum_holdings((key.asset, qty) for key, qty in balances.items() if key.ledger_account is Account.WALLET)
    contracts = sum_holdings((key.asset, qty) for key, qty in balances.items() if key.ledger_account is Account.POSITION)
    in_flight = {order.symbol for order in work.orders.load_live(account)}
    equity = _equity_of(wallet, prices, traits.quote)
    if isinstance(reading.balances, Failed):
        verdict.unknown.append(f"balances: {reading.balances.reason}")
    elif not reading.balances.value and any(wallet.values()):
        verdict.unknown.append("balances were empty while the ledger holds something")
    else:
        venue = {asset: balance.total for asset, balance in reading.balances.value.items()}
        confirm = _Confirm(before, before_ms, reading.began_ms, in_flight)
        cash = _expect_cash(wallet.get(traits.quote, ZERO), balances, contracts, reading.positions)
        if cash is not None:
            _check_cash(verdict, confirm, cash, venue.get(traits.quote, ZERO), equity, traits.quote)
        spot = {
            f"{asset}/{traits.quote}": (wallet.get(asset, ZERO), venue.get(asset, ZERO)) for asset in {*wallet, *venue} - {traits.quote}
        }
        _check_positions(verdict, confirm, spot, work.safety.load_rules(traits.venue), prices, equity)
    if isinstance(reading.positions, Failed):
        verdict.unknown.append(f"positions: {reading.positions.reason}")
    elif traits.market_type != "spot":
        held = {position.symbol: position.qty for position in reading.positions.value}
        confirm = _Confirm(before, before_ms, reading.began_ms, in_flight)
        both = {symbol: (contracts.get(symbol, ZERO), held.get(symbol, ZERO)) for symbol in {*contracts, *held}}
        _check_positions(verdict, confirm, both, work.safety.load_rules(traits.venue), prices, equity)
    return verdict


def _check_funding(work: Work, trading: Trading, reading: MoneyReading, verdict: MoneyVerdict) -> None:
    """Book the payments that the venue's history has and the ledger has not, and compare what the day came to."""
    traits, account = trading.broker.traits, trading.terms.account
    for symbol, read in reading.funding.items():
        if isinstance(read, Failed):
            verdict.unknown.append(f"funding of {symbol}: {read.reason}")
            continue
        book_funding_payments(work, traits, read.value)
        source = f"funding:{traits.venue}:{account}:{symbol}:"
        flows = work.ledger.load_flows(account, reading.began_ms - DAY_MS - 1, reading.began_ms)
        booked = sum((flow.amount for flow in flows if flow.source.startswith(source)), ZERO)
        told = sum((payment.amount_quote for payment in read.value), ZERO)
        grade, diff = judge_funding(booked, told), abs(EXACT.subtract(told, booked))
        if grade is Grade.BAD:
            evidence = {"booked": str(booked), "venue": str(told)}
            open_incident(work, "FUNDING_OFF", Severity.WARNING, f"{account}|{symbol}", evidence, "funding-off")
        if grade is not Grade.FINE:
            action = "incident" if grade is Grade.BAD else ""
            verdict.findings.append(ReconFinding("funding", symbol, "warning", booked, told, diff, action=action))


@dataclass(frozen=True, slots=True)
class _Confirm:
    """Two readings that agree: the finding of the pass before, and whether an order was in flight."""

    before: Before
    before_ms: int | None
    now_ms: int
    in_flight: frozenset[str] | set[str]

    def repeats(self, check: str, scope: str, diff: Decimal) -> int:
        """Passes in a row with this very difference, this one included; 1 where the one before cannot vouch for it."""
        earlier = self.before.get((check, scope))
        if earlier is None or earlier.diff != diff or self.before_ms is None or self.is_in_flight(scope):
            return 1
        if earlier.evidence.get("in_flight") or self.now_ms - self.before_ms < 1000 * AGREE_AFTER_S:
            return 1
        return earlier.repeats + 1

    def is_in_flight(self, scope: str) -> bool:
        """Tell whether an order on the symbol has not ended; for cash, on any."""
        return scope in self.in_flight if "/" in scope else bool(self.in_flight)


def _expect_cash(
    wallet: Decimal, balances: Mapping[BalanceKey, Decimal], contracts: Mapping[str, Decimal], positions: Read[Sequence[VenuePosition]]
) -> Decimal | None:
    """Quote balance that the venue should show by our ledger; None while its positions are not known.

    Each strategy realises its contracts at its own average entry, the venue all of them at one. Cash less the cost of what is held is the
    same on both sides; a symbol whose quantity differs is a finding by itself and moves no cash.
    """
    if isinstance(positions, Failed):
        return None
    there = {position.symbol: position for position in positions.value}
    with localcontext(EXACT):
        for symbol, qty in contracts.items():
            position = there.get(symbol)
            if (ZERO if position is None else position.qty) != qty:
                continue
            entry = ZERO if position is None else position.entry_price
            if entry is None:
                return None
            ours = (cost for key, cost in balances.items() if key.ledger_account is Account.TRADE and key.asset == cost_asset(symbol))
            wallet += qty * entry - sum(ours, ZERO)
    return wallet


def _check_cash(verdict: MoneyVerdict, confirm: _Confirm, ledger: Decimal, venue: Decimal, equity: Decimal | None, quote: str) -> None:
    if ledger == venue:
        return
    if equity is None or not equity > 0:
        verdict.unknown.append(f"cash was {venue}, by the ledger {ledger}; equity is unknown, so it cannot be graded")
        return
    grade, diff = judge_cash(ledger, venue, equity), abs(EXACT.subtract(venue, ledger))
    if grade is Grade.FINE:
        return
    repeats = confirm.repeats("cash", quote, diff)
    is_sure = repeats > 1
    verdict.needs_second |= not is_sure
    tier = Tier.MEDIUM.value if grade is Grade.BAD else "warning"
    action = "entries off" if grade is Grade.BAD and is_sure else ""
    frac = QUOTIENT.divide(diff, equity)
    evidence = {"in_flight": confirm.is_in_flight(quote)}
    verdict.findings.append(ReconFinding("cash", quote, tier, ledger, venue, diff, frac, action, repeats, evidence))


def _check_positions(
    verdict: MoneyVerdict,
    confirm: _Confirm,
    held: Mapping[str, tuple[Decimal, Decimal]],
    rules: Mapping[str, InstrumentRules],
    prices: Mapping[str, Decimal],
    equity: Decimal | None,
) -> None:
    pairs = {}
    for symbol, (ledger, venue) in held.items():
        if ledger == venue:
            continue
        rule, price = rules.get(symbol), prices.get(symbol)
        if rule is None and ledger == 0:
            # Nothing that we trade: somebody's airdrop must not stop the account, but people are told.
            evidence = {"why": "the venue lists no such instrument in our quote", "owner": "_orphan"}
            verdict.findings.append(ReconFinding("position", symbol, "warning", ledger, venue, abs(venue), evidence=evidence))
        elif rule is None or price is None or equity is None:
            missing = "rules" if rule is None else "a price" if price is None else "equity"
            verdict.unknown.append(f"{symbol} was {venue}, by the ledger {ledger}; without {missing} it cannot be graded")
        else:
            pairs[symbol] = Pair(rule, ledger, venue, price)
    try:
        drifts = judge_positions(pairs, equity or ZERO)
    except ReconciliationError as error:
        verdict.unknown.append(str(error))
        return
    for symbol, drift in sorted(drifts.items()):
        verdict.findings.append(_position_finding(verdict, confirm, symbol, pairs[symbol], drift))


def _position_finding(verdict: MoneyVerdict, confirm: _Confirm, symbol: str, pair: Pair, drift: Drift) -> ReconFinding:
    repeats = confirm.repeats("position", symbol, drift.diff)
    action = ""
    if drift.tier is not Tier.DUST:
        verdict.needs_second |= repeats == 1
        if repeats > 1:
            action = "reduce only" if drift.tier is Tier.LARGE else "entries off"
    evidence = {"in_flight": confirm.is_in_flight(symbol), "price": str(pair.price)}
    if pair.ledger == 0:
        evidence["owner"] = "_orphan"
    return ReconFinding("position", symbol, drift.tier.value, pair.ledger, pair.venue, drift.diff, drift.frac, action, repeats, evidence)


def _equity_of(wallet: Mapping[str, Decimal], prices: Mapping[str, Decimal], quote: str) -> Decimal | None:
    """Worth of the wallet at the prices known; None where something held has none."""
    total = wallet.get(quote, ZERO)
    for asset, qty in wallet.items():
        if asset != quote and qty:
            price = prices.get(f"{asset}/{quote}")
            if price is None:
                return None
            total = EXACT.add(total, EXACT.multiply(qty, price))
    return total
