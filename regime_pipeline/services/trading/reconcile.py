"""Reconciliation: our book against the venue's, each minute for orders and fills, each five minutes for everything.

It reports and blocks. It invents no fill, flattens nothing, and cancels nobody else's order; what it pauses is keyed by its source and
lifted by it alone, after two passes that found nothing. A read that failed makes a pass unknown, which is never a match.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from regime_pipeline.execution.compare import Pause, pause_for, plan_lifts
from regime_pipeline.execution.drift import Tier
from regime_pipeline.execution.ladder import UnknownOrder, is_overdue
from regime_pipeline.execution.order_states import OrderState
from regime_pipeline.ports import Failed, PassKind, PassStatus, ReconFinding, ReconRun, Severity, Work
from regime_pipeline.risk.kill_switch import Level, Scope, Trigger
from regime_pipeline.services.trading.check_fills import check_fills
from regime_pipeline.services.trading.check_money import MoneyReading, MoneyVerdict, check_money, read_money
from regime_pipeline.services.trading.check_orders import RECONCILER, check_orders
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.incidents import close_incident, open_incident
from regime_pipeline.services.trading.kill_levels import lift_level, raise_level
from regime_pipeline.services.trading.recon_verdict import Before, OrderVerdict

ORDERS_EVERY_S: Final = 60
FULL_EVERY_S: Final = 300
SECOND_AFTER_S: Final = 6
"""A difference is looked at again after this: two readings must be five seconds apart."""
DRIFT: Final = "RECON_DRIFT"
TRADES_ASKED: Final = "trades_asked"
"""Key in the detail of a pass: one that did not ask for trades cannot vouch for what they would show."""
ACTIVE_BACK_MS: Final = 86_400_000
_SOURCES: Final = (Trigger.RECON_SMALL, Trigger.RECON_MEDIUM, Trigger.RECON_ORDER, Trigger.RECON_FOREIGN)
_ORDER_SOURCES: Final = frozenset({Trigger.RECON_ORDER, Trigger.RECON_FOREIGN})


@dataclass(frozen=True, slots=True)
class ReconSummary:
    """What a pass came to.

    Parameters
    ----------
    raised, lifted : tuple of Pause
        Pauses that this pass set and took back.
    needs_second : bool
        Whether a difference above dust waits for a second reading; ask again after `SECOND_AFTER_S`.
    """

    run: ReconRun
    raised: tuple[Pause, ...] = ()
    lifted: tuple[Pause, ...] = ()
    needs_second: bool = False

    @property
    def is_clean(self) -> bool:
        """Tell whether everything could be read and nothing above dust was found."""
        return self.run.status is PassStatus.OK


def reconcile_orders(trading: Trading, ingested: OrderVerdict | None = None) -> ReconSummary:
    """Compare orders and fills, settle what differs, record the pass; meant for each minute and after a reconnect.

    Parameters
    ----------
    ingested : OrderVerdict, optional
        What `ingest_fills` has just come to: it is part of this pass, and no trade is asked for again.
    """
    return _run_pass(trading, PassKind.ORDERS, with_fills=ingested is None, found=ingested)


def reconcile_full(trading: Trading, *, with_fills: bool = True) -> ReconSummary:
    """Compare orders, fills, positions, balances, cash and funding; meant for each five minutes, and as often as `needs_second` asks.

    Parameters
    ----------
    with_fills : bool
        False where every trade has just been asked for: one request per symbol less.
    """
    return _run_pass(trading, PassKind.FULL, with_fills=with_fills)


def ingest_fills(trading: Trading) -> OrderVerdict:
    """Book every trade that the venue has and we have not; what follows from it is for the pass that takes the verdict."""
    verdict = OrderVerdict()
    check_fills(trading, _active_symbols(trading, None), {}, verdict)
    return verdict


def _run_pass(trading: Trading, kind: PassKind, *, with_fills: bool, found: OrderVerdict | None = None) -> ReconSummary:
    began_ms, account = trading.clock.now_ms(), trading.terms.account
    is_full = kind is PassKind.FULL
    with trading.stores.open() as work:
        newest = _load_newest(work, account, full_only=is_full)
    before = {(found.check, found.scope): found for found in newest[0].findings} if newest else {}
    orders, money = found or OrderVerdict(), MoneyVerdict()
    check_orders(trading, _of_orders(trading, before, full=is_full), orders)
    reading = read_money(trading, _contract_symbols(trading)) if is_full else None
    if with_fills:
        check_fills(trading, _active_symbols(trading, reading), before, orders)
    if reading is not None:
        prices = _read_prices(trading, reading)
        with trading.stores.open() as work:
            money = check_money(work, trading, reading, prices, before, _began_reading_ms(newest))
    asked = orders.pauses | {pause for finding in money.findings if (pause := _pause_of(finding)) is not None}
    unknown = [*orders.unknown, *money.unknown]
    status = PassStatus.UNKNOWN if unknown else PassStatus.FINDINGS if any(map(_is_above_dust, money.findings)) else PassStatus.OK
    detail = {
        "orders": orders.n_orders,
        "fills": orders.n_fills,
        "unknown": unknown,
        "asked": [[pause.source.value, pause.symbol] for pause in sorted(orders.pauses | _asked_by(money.findings), key=str)],
        "read_ms": reading.began_ms if reading else began_ms,
        TRADES_ASKED: with_fills or found is not None,
    }
    run = ReconRun(account, kind, status, began_ms, trading.clock.now_ms(), (*orders.findings, *money.findings), detail)
    return _settle(trading, run, asked, needs_second=money.needs_second)


def _settle(trading: Trading, run: ReconRun, asked: Collection[Pause], *, needs_second: bool) -> ReconSummary:
    """Record a pass and set and lift its pauses, in one transaction."""
    account = trading.terms.account
    with trading.stores.open() as work:
        work.recon.add_run(run)
        raised = tuple(pause for pause in sorted(asked, key=str) if _raise(work, trading, pause, run))
        lifted = tuple(_plan_lifts(work, account, run))
        for pause in lifted:
            lift_level(work, trading, pause.source, "two clean passes", scope=_scope(account, pause), actor=RECONCILER)
            close_incident(work, DRIFT, _incident_scope(account, pause), RECONCILER)
        if run.kind is PassKind.FULL and run.status is PassStatus.OK and not _is_large(work, account):
            close_incident(work, DRIFT, account, RECONCILER)  # a person has released it
        _watch_unknown(work, trading)
    return ReconSummary(run, raised, lifted, needs_second)


def _is_large(work: Work, account: str) -> bool:
    return any(switch.source == Trigger.RECON_LARGE and switch.scope.account == account for switch in work.safety.load_switches(account))


def _raise(work: Work, trading: Trading, pause: Pause, run: ReconRun) -> bool:
    account = trading.terms.account
    if pause.level is Level.REDUCE_ONLY or pause.source is Trigger.RECON_MEDIUM:
        found = [each for each in run.findings if each.tier in {Tier.MEDIUM, Tier.LARGE} and each.action]
        evidence = {"findings": [[each.check, each.scope, str(each.expected), str(each.actual)] for each in found]}
        open_incident(work, DRIFT, Severity.CRITICAL, _incident_scope(account, pause), evidence, "recon-drift")
    reason = f"reconciliation pass of {account}: {', '.join(sorted({each.scope for each in run.findings if each.action})) or 'orders'}"
    return raise_level(work, trading, pause.source, reason, scope=_scope(account, pause), actor=RECONCILER)


def _watch_unknown(work: Work, trading: Trading) -> None:
    """An order that has been UNKNOWN for five minutes makes the account reduce-only."""
    now_ms, limits = trading.clock.now_ms(), trading.limits
    for order in work.orders.load_live(trading.terms.account):
        if order.state is OrderState.UNKNOWN and order.unknown_at_ms is not None:
            doubt = UnknownOrder(order.unknown_at_ms, order.request_expires_at_ms)
            if is_overdue(doubt, now_ms, limits.unknown_page_s):
                evidence = {"since_ms": order.unknown_at_ms, "symbol": order.symbol}
                open_incident(work, "ORDER_UNKNOWN", Severity.CRITICAL, order.client_order_id, evidence, "order-unknown")
                reason = f"order {order.client_order_id} has been UNKNOWN for more than {limits.unknown_page_s} s"
                raise_level(work, trading, Trigger.UNKNOWN_ORDER, reason, actor=RECONCILER)


def _pause_of(finding: ReconFinding) -> Pause | None:
    """Pause that a finding about money sets once it is confirmed."""
    if not finding.action or finding.tier == "warning":
        return None
    return pause_for(Tier(finding.tier), finding.scope if finding.check == "position" else None)


def _asked_by(findings: Iterable[ReconFinding]) -> set[Pause]:
    """Pauses that findings would set, confirmed or not: a pause stays while its cause may still be there."""
    judged = (each for each in findings if each.tier != "warning")
    return {pause for each in judged if (pause := pause_for(Tier(each.tier), each.scope if each.check == "position" else None)) is not None}


def _is_above_dust(finding: ReconFinding) -> bool:
    return finding.tier not in {"dust", "warning"}


def _plan_lifts(work: Work, account: str, run: ReconRun) -> list[Pause]:
    """Choose the pauses that are over: those of orders by any passes that asked for trades, those of money by full ones."""
    switches = [switch for switch in work.safety.load_switches(account) if switch.scope.account == account]
    held = [Pause(Trigger(switch.source), switch.scope.symbol) for switch in switches if switch.source in _SOURCES]
    of_orders = [pause for pause in held if pause.source in _ORDER_SOURCES]
    passes = [each for each in _load_newest(work, account, full_only=False, limit=3) if each.detail.get(TRADES_ASKED, True)]
    lifts = plan_lifts(of_orders, [_asked(each) for each in passes]) if run.detail[TRADES_ASKED] else []
    if run.kind is PassKind.FULL:
        of_money = [pause for pause in held if pause.source not in _ORDER_SOURCES]
        lifts += plan_lifts(of_money, [_asked(each) for each in _load_newest(work, account, full_only=True)])
    return lifts


def _asked(run: ReconRun) -> set[Pause] | None:
    """What a pass asked for, confirmed or not; None where it could not read everything."""
    if run.status is PassStatus.UNKNOWN:
        return None
    return {Pause(Trigger(source), symbol) for source, symbol in run.detail.get("asked", ())}


def _load_newest(work: Work, account: str, *, full_only: bool, limit: int = 2) -> list[ReconRun]:
    """The newest passes of orders and of everything, or of everything alone; a start-up is no pass, it consists of some."""
    kinds = (PassKind.FULL,) if full_only else (PassKind.FULL, PassKind.ORDERS)
    runs = [run for kind in kinds for run in work.recon.load_runs(account, kind, limit)]
    return sorted(runs, key=lambda run: run.run_id, reverse=True)[:limit]


def _of_orders(trading: Trading, before: Before, *, full: bool) -> Before:
    """Findings about orders of the newest pass of any kind: an order is missed by minutes, not by five of them."""
    if not full:
        return before
    with trading.stores.open() as work:
        newest = _load_newest(work, trading.terms.account, full_only=False)
    return {(found.check, found.scope): found for found in newest[0].findings} if newest else {}


def _began_reading_ms(newest: Sequence[ReconRun]) -> int | None:
    return int(newest[0].detail.get("read_ms", newest[0].began_ms)) if newest else None


def _contract_symbols(trading: Trading) -> list[str]:
    if trading.broker.traits.market_type == "spot":
        return []
    with trading.stores.open() as work:
        held = {row.asset for row in work.safety.load_holdings(trading.terms.account) if row.is_contract}
        return sorted(held | set(work.recon.load_symbols(trading.terms.account, trading.clock.now_ms() - ACTIVE_BACK_MS)))


def _active_symbols(trading: Trading, reading: MoneyReading | None) -> set[str]:
    """Symbols traded lately, and those of everything held here or there: what a person does by hand is seen by its trades."""
    account, quote = trading.terms.account, trading.broker.traits.quote
    with trading.stores.open() as work:
        rows = work.safety.load_holdings(account)
        known = set(work.safety.load_rules(trading.broker.traits.venue))
        active = set(work.recon.load_symbols(account, trading.clock.now_ms() - ACTIVE_BACK_MS))
    held = {row.asset if row.is_contract else f"{row.asset}/{quote}" for row in rows}
    return active | (known & (held | _held_there(reading, quote)))


def _held_there(reading: MoneyReading | None, quote: str) -> set[str]:
    """Symbols of what the venue says is held; none where it could not be read."""
    if reading is None:
        return set()
    balances = {} if isinstance(reading.balances, Failed) else reading.balances.value
    positions = () if isinstance(reading.positions, Failed) else reading.positions.value
    return {f"{asset}/{quote}" for asset in balances} | {position.symbol for position in positions}


def _read_prices(trading: Trading, reading: MoneyReading) -> dict[str, Decimal]:
    """Mid of every instrument that is held here or there; one that cannot be priced is left out, never worth nothing."""
    account, quote = trading.terms.account, trading.broker.traits.quote
    with trading.stores.open() as work:
        known = work.safety.load_rules(trading.broker.traits.venue)
        rows = work.safety.load_holdings(account)
    held = {row.asset if row.is_contract else f"{row.asset}/{quote}" for row in rows} | _held_there(reading, quote)
    quotes = {symbol: trading.broker.fetch_quote(symbol) for symbol in sorted(held & known.keys())}
    return {symbol: read.value.mid for symbol, read in quotes.items() if not isinstance(read, Failed)}


def _incident_scope(account: str, pause: Pause) -> str:
    """What an incident is about: two accounts with the same symbol have two of them."""
    return account if pause.symbol is None else f"{account}|{pause.symbol}"


def _scope(account: str, pause: Pause) -> Scope:
    return Scope(account, symbol=pause.symbol)
