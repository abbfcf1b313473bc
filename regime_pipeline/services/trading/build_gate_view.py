"""The view that the gate judges one planned order on: the account, read once per tick, and what concerns its symbol."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.portfolio.money import BPS, ONE, QUOTIENT, ZERO
from regime_pipeline.ports import Quote, SeriesFacts, Work
from regime_pipeline.regime.drivers import CHANNEL_TIMEFRAMES, DRIVERS
from regime_pipeline.regime.levers import MIN_VALIDITY
from regime_pipeline.risk.gate_view import GateView, OrderRequest, SeriesHealth, VenueHealth
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.kill_switch import worst_level
from regime_pipeline.risk.limits import ProtectionSettings
from regime_pipeline.risk.protections import compute_max_age_s
from regime_pipeline.services.trading.read_account import AccountView

WARMUP_BARS: Final = 333
"""Bars that the engine needs before it says anything (trend specification)."""
Series = tuple[str, Timeframe]


@dataclass(frozen=True, slots=True)
class SymbolView:
    """What the gate is told about the instrument of an order.

    Parameters
    ----------
    rules : InstrumentRules or None
        None: the venue has no such instrument, or was never read.
    series : sequence of SeriesHealth or None
        Of every series that the decision needs; None when they could not be read.
    quote, mark : Quote or None, Decimal or None
        Best prices of the venue, and the price the plan was made at.
    allocation_left_quote : Decimal or None
        What the strategy may still put into it.
    """

    rules: InstrumentRules | None
    series: Sequence[SeriesHealth] | None
    quote: Quote | None
    mark: Decimal | None
    allocation_left_quote: Decimal | None = None
    is_major: bool = False
    is_margin: bool = False
    liq_distance_frac: Decimal | None = None


def build_gate_view(account: AccountView, order: OrderRequest, symbol: SymbolView, known_ids: Collection[str] = ()) -> GateView:
    """Put together what the gate judges an order on; computes nothing that costs anything, so it may be called for every plan.

    Parameters
    ----------
    account : AccountView
        Of `read_account`; after an order has passed, `account.with_order(...)` for the next one.
    known_ids : collection of str
        Client order ids that exist, of those asked for.
    """
    rules = symbol.rules or InstrumentRules(order.symbol, tick=ONE, step=ONE, is_active=False)
    return GateView(
        now_ms=account.now_ms,
        mode=account.mode,
        kill_level=worst_level(account.switches, order.account, order.strategy, order.symbol),
        rules=rules,
        missing_arm_parts=account.missing_arm_parts,
        arm_order_quote=account.arm_order_quote,
        arm_day_left_quote=account.arm_day_left_quote,
        known_ids=frozenset(known_ids),
        is_major=symbol.is_major,
        series=symbol.series,
        venue=_judge_venue(account, symbol.quote),
        recon_age_s=account.recon_age_s,
        is_recon_clean=account.is_recon_clean,
        holdings=account.holdings,
        live_orders=account.live_orders,
        trips=account.trips,
        equity_quote=account.equity_quote,
        cash_quote=account.cash_quote,
        allocation_left_quote=symbol.allocation_left_quote,
        traded_today_quote=account.traded_today_quote,
        day_loss_frac=account.day_loss_frac,
        week_loss_frac=account.week_loss_frac,
        open_risk_frac=account.open_risk_frac,
        n_orders_last_min=account.n_orders_last_min,
        is_rate_budget_left=account.venue is not None and account.venue.is_rate_budget_left,
        mid=None if symbol.quote is None else symbol.quote.mid,
        mark=symbol.mark,
        is_margin=symbol.is_margin,
        liq_distance_frac=symbol.liq_distance_frac,
    )


def required_series(token_series: str, timeframe: Timeframe) -> tuple[Series, ...]:
    """Every series that the decision on a position needs: its own, and the required drivers on the regime timeframes."""
    drivers = ((driver.series, regime) for driver in DRIVERS if driver.required for regime in CHANNEL_TIMEFRAMES)
    return ((token_series, timeframe), *drivers)


def read_series_health(work: Work, series: Iterable[Series], now_s: int, settings: ProtectionSettings) -> dict[Series, SeriesHealth]:
    """Read how good series are at an instant; ask once for all orders of a tick.

    A young series is measured from its first bar on: that it is young is for the engine to say, which is silent until it is warm.
    """
    facts = work.safety.load_series(series, now_s, WARMUP_BARS)
    return {key: judge_facts(key, found, now_s, settings) for key, found in facts.items()}


def judge_facts(key: Series, facts: SeriesFacts, now_s: int, settings: ProtectionSettings) -> SeriesHealth:
    """Turn counts into the health that the gate judges; a bar of low validity counts as quarantined, since nobody believes it."""
    name, timeframe = key
    age_s, coverage = None, None
    if facts.newest_s is not None and facts.oldest_s is not None:
        age_s = now_s - facts.newest_s - timeframe.seconds
        n_slots = (facts.newest_s - facts.oldest_s) // timeframe.seconds + 1
        coverage = QUOTIENT.divide(Decimal(facts.n_bars), Decimal(n_slots))
    return SeriesHealth(
        f"{name} {timeframe}",
        age_s,
        compute_max_age_s(timeframe.seconds, settings),
        coverage,
        settings.min_coverage_frac,
        has_gap=facts.n_gaps > 0,
        is_quarantined=facts.n_refused > 0 or not facts.score >= MIN_VALIDITY,
    )


def pick_series(
    health: Mapping[Series, SeriesHealth], wanted: Iterable[Series], bar_close_s: int, now_s: int
) -> tuple[SeriesHealth, ...] | None:
    """Pick the health of what one decision needs; None when a series was not read at all.

    Parameters
    ----------
    bar_close_s : int
        Close of the decided bar: the first series wanted, the position's own, must have it as a closed bar.
    """
    picked = [health.get(key) for key in wanted]
    if not picked or None in picked:
        return None
    own, *drivers = (each for each in picked if each is not None)
    is_closed = own.age_s is not None and now_s - own.age_s >= bar_close_s
    return (replace(own, is_closed=is_closed), *drivers)


def _judge_venue(account: AccountView, quote: Quote | None) -> VenueHealth | None:
    venue = account.venue
    if venue is None:
        return None
    spread = None
    if quote is not None and quote.mid > ZERO:
        spread = QUOTIENT.divide((quote.ask - quote.bid) * BPS, quote.mid)
    return VenueHealth(venue.is_up, venue.is_breaker_open, venue.clock_offset_ms, spread)
