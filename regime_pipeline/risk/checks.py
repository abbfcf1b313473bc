"""The fifteen checks of the gate, one function each: an order and a view in, what fails out."""

from collections.abc import Iterator
from decimal import Decimal

from regime_pipeline.portfolio.money import BPS, ZERO, floor_to, is_on_grid
from regime_pipeline.portfolio.reasons import ReasonCode as R
from regime_pipeline.risk.gate_view import ORIGINS, Case, Finding, GateView, Holding, LiveOrder, OrderRequest, SeriesHealth
from regime_pipeline.risk.kill_switch import is_allowed
from regime_pipeline.risk.limits import RiskSettings
from regime_pipeline.risk.purpose import Purpose, Side

UNIT_TOLERANCE_FRAC = Decimal("0.005")
RECON_MAX_AGE_S = 300
EXIT_BAND_FACTOR = 3


def check_kill_level(case: Case) -> Iterator[Finding]:
    """1: the latched kill level."""
    order, view, _ = case
    if not is_allowed(view.kill_level, order.leg, by_person=order.origin == "human"):
        yield Finding(R.KILLED, f"level was L{view.kill_level.value}")


def check_authority(case: Case) -> Iterator[Finding]:
    """2: who asked, in which mode, and the arm (entries only)."""
    order, view, _ = case
    if order.origin not in ORIGINS:
        yield Finding(R.UNAUTHORIZED_ORIGIN, f"origin was {order.origin!r}, allowed are {', '.join(ORIGINS)}")
    if order.mode is not view.mode:
        yield Finding(R.MODE_MISMATCH, f"order was {order.mode}, we run {view.mode}")
    if not order.is_entry:
        return
    if view.missing_arm_parts:
        yield Finding(R.NOT_ARMED, "; ".join(view.missing_arm_parts))
    for name, left in (("order", view.arm_order_quote), ("day", view.arm_day_left_quote)):
        if left is not None and order.qty * order.price > left:
            yield Finding(R.NOT_ARMED, f"notional was {order.qty * order.price}, the arm leaves {left} per {name}")


def check_key(case: Case) -> Iterator[Finding]:
    """3: the key is new and the decision still young."""
    order, view, _ = case
    if order.client_order_id in view.known_ids:
        yield Finding(R.DUPLICATE_KEY, f"order {order.client_order_id} exists")
    if view.now_ms >= order.decide_by_ms:
        yield Finding(R.DECISION_STALE, f"now was {view.now_ms - order.decide_by_ms} ms past decide_by")


def check_instrument(case: Case) -> Iterator[Finding]:
    """4: active, on the grid, within the minimums and maximums, and worth what the plan says."""
    order, view, limits = case
    rules, cost = view.rules, order.qty * order.price
    if rules.symbol != order.symbol or not rules.is_active:
        yield Finding(R.SYMBOL_INACTIVE, f"{order.symbol} was not active, rules are of {rules.symbol}")
    if not (order.price > 0 and is_on_grid(order.price, rules.tick)):
        yield Finding(R.BAD_TICK, f"price was {order.price}, tick is {rules.tick}")
    if not order.qty > 0 or order.qty < rules.min_qty or not is_on_grid(order.qty, rules.step):
        yield Finding(R.BELOW_MIN_QTY, f"quantity was {order.qty}, minimum {rules.min_qty}, step {rules.step}")
    least = max(rules.min_cost_quote, limits.min_order_quote) if order.is_entry else rules.min_cost_quote
    if cost < least:
        yield Finding(R.BELOW_MIN_COST, f"cost was {cost}, minimum {least}")
    if rules.max_qty is not None and order.qty > rules.max_qty:
        yield Finding(R.ABOVE_MAX_QTY, f"quantity was {order.qty}, maximum {rules.max_qty}")
    if abs(cost - order.notional_quote) > UNIT_TOLERANCE_FRAC * abs(order.notional_quote):
        yield Finding(R.UNIT_MISMATCH, f"quantity x price was {cost}, the plan says {order.notional_quote}")


def check_data(case: Case) -> Iterator[Finding]:
    """5: every series the decision needs is fresh, whole and believed."""
    _, view, _ = case
    if not view.series:
        yield Finding(R.DATA_STALE, "no required series could be read")
    for series in view.series or ():
        yield from judge_series(series)


def judge_series(series: SeriesHealth) -> Iterator[Finding]:
    """Everything wrong with one series."""
    if series.age_s is None or series.age_s > series.max_age_s:
        yield Finding(R.DATA_STALE, f"{series.name}: newest closed bar was {series.age_s} s old, limit {series.max_age_s}")
    if series.has_gap:
        yield Finding(R.DATA_GAP, f"{series.name}: a bar of the warm-up was missing")
    if not series.is_closed:
        yield Finding(R.DATA_UNCLOSED, f"{series.name}: the newest bar was still open")
    if series.is_quarantined:
        yield Finding(R.DATA_QUARANTINED, f"{series.name}: a bar was in quarantine")
    if series.coverage_frac is None or not series.coverage_frac >= series.min_coverage_frac:
        yield Finding(R.COVERAGE_LOW, f"{series.name}: coverage was {series.coverage_frac}, least {series.min_coverage_frac}")
    if not series.is_model_fresh:
        yield Finding(R.MODEL_STALE, f"{series.name}: its model was too old")


def check_venue(case: Case) -> Iterator[Finding]:
    """6: status, breaker, clock and spread of the venue."""
    _, view, limits = case
    venue = view.venue
    if venue is None or not venue.is_up:
        yield Finding(R.VENUE_DOWN, "the venue was down or unknown")
    if venue is None:
        return
    if venue.is_breaker_open:
        yield Finding(R.BREAKER_OPEN, "the breaker was open")
    if venue.clock_offset_ms is None or abs(venue.clock_offset_ms) > limits.clock_offset_max_ms:
        yield Finding(R.CLOCK_OFFSET, f"offset was {venue.clock_offset_ms} ms, limit {limits.clock_offset_max_ms}")
    if venue.spread_bps is None or not 0 <= venue.spread_bps <= limits.max_spread_bps:
        yield Finding(R.SPREAD_TOO_WIDE, f"spread was {venue.spread_bps} bps, limit {limits.max_spread_bps}")


def check_reconciled(case: Case) -> Iterator[Finding]:
    """7: a clean, young reconciliation and nothing unresolved on the symbol."""
    order, view, _ = case
    if view.is_recon_clean is None or view.recon_age_s is None or view.recon_age_s > RECON_MAX_AGE_S:
        yield Finding(R.RECON_UNKNOWN, f"newest reconciliation was {view.recon_age_s} s old, limit {RECON_MAX_AGE_S}")
    elif not view.is_recon_clean:
        yield Finding(R.RECON_OPEN, "the newest reconciliation has findings")
    unresolved = sum(live.is_unresolved for live in _live_on(order, view))
    if unresolved:
        yield Finding(R.ORDER_UNRESOLVED, f"{unresolved} orders on {order.symbol} were unresolved")


def check_concurrency(case: Case) -> Iterator[Finding]:
    """8: one live entry per symbol, no opposite side; an exit never exceeds what is free of the position."""
    order, view, _ = case
    if not order.is_entry:
        free = free_exit_qty(order, view)
        if not 0 < order.qty <= free:
            yield Finding(R.EXIT_EXCEEDS_POSITION, f"quantity was {order.qty}, free of the position {free}")
        return
    live = _live_on(order, view)
    if any(other.purpose is Purpose.ENTRY for other in live):
        yield Finding(R.LIVE_INTENT_EXISTS, f"an entry on {order.symbol} was live")
    held = order.side.sign * view.position_qty(order.symbol)
    # A protective stop rests on the other side for as long as there is a position; it says nothing.
    if held < 0 or any(other.side is not order.side and other.purpose is not Purpose.STOP for other in live):
        yield Finding(R.OPPOSITE_SIGNAL, f"{order.symbol} had a position or an order on the other side")


def check_protections(case: Case) -> Iterator[Finding]:
    """9: no active protection covers the entry."""
    order, view, _ = case
    if view.trips is None:
        yield Finding(R.PROT_ERROR, "protections could not be judged")
    for trip in view.trips or ():
        if trip.effect and 1000 * trip.until_s > view.now_ms and trip.covers(order.account, order.strategy, order.symbol, order.side):
            yield Finding(trip.code, f"{trip.name} until {trip.until_s}: {trip.evidence}")


def check_trade_risk(case: Case) -> Iterator[Finding]:
    """10: what this trade may lose, and what it costs against what it may earn."""
    order, view, limits = case
    risk = compute_trade_risk_quote(order)
    if risk is None or view.equity_quote is None or risk > limits.risk_per_trade_frac * view.equity_quote:
        yield Finding(R.RISK_PER_TRADE, f"risk was {risk}, limit {limits.risk_per_trade_frac} of equity {view.equity_quote}")
    cost, move = order.cost_quote, order.expected_move_quote
    if cost is None or move is None or not move > 0 or cost > limits.max_friction_frac * move:
        yield Finding(R.FRICTION_TOO_HIGH, f"costs were {cost} of an expected {move}, limit {limits.max_friction_frac}")


def check_caps(case: Case) -> Iterator[Finding]:
    """11: symbol, cluster, gross, net, leverage, liquidation and number of positions; live and UNKNOWN orders at full size."""
    order, view, limits = case
    entries = [live for live in view.live_orders if live.purpose is Purpose.ENTRY]
    if view.is_margin and (view.liq_distance_frac is None or view.liq_distance_frac < limits.min_liq_distance_frac):
        yield Finding(R.LIQUIDATION_NEAR, f"liquidation was {view.liq_distance_frac} away, least {limits.min_liq_distance_frac}")
    held = {holding.symbol for holding in view.holdings if not _is_dust(holding, limits)}
    symbols = held | {live.symbol for live in entries} | {order.symbol}
    if len(symbols) > limits.max_positions:
        yield Finding(R.POSITIONS_CAP, f"positions would be {len(symbols)}, limit {limits.max_positions}")
    if (equity := view.equity_quote) is None or not equity > 0:
        yield Finding(R.GROSS_CAP, f"equity was {equity}; no exposure can be judged")
        return
    new = order.qty * order.price
    gross = new + _exposure_quote(view)
    longs, shorts = _sides_quote(order, view)
    for code, name, exposure, limit in (
        (R.SYMBOL_CAP, "symbol", new + _exposure_quote(view, symbol=order.symbol), limits.max_weight_frac),
        (R.CLUSTER_CAP, "cluster", new + _exposure_quote(view, cluster=order.cluster), limits.max_cluster_frac),
        (R.GROSS_CAP, "gross", gross, limits.max_gross_frac),
        (R.NET_CAP, "net", max(abs(longs), abs(shorts)), limits.max_net_frac),
        (R.LEVERAGE_CAP, "leverage", gross, limits.max_leverage_x),
    ):
        if exposure > limit * equity:
            yield Finding(code, f"{name} would be {exposure}, limit {limit} of {equity}")


def _is_dust(holding: Holding, limits: RiskSettings) -> bool:
    """Tell whether what is left of a position is worth less than the smallest entry: it takes no place from another one."""
    worth = abs(holding.qty) * holding.mark
    return not holding.qty or 0 < worth < limits.min_order_quote


def check_allocation(case: Case) -> Iterator[Finding]:
    """12: allocation of the position, size of one order, turnover of the day, and the cash that stays."""
    order, view, limits = case
    new, equity = order.qty * order.price, view.equity_quote
    if view.allocation_left_quote is None or new > view.allocation_left_quote:
        yield Finding(R.ALLOCATION_CAP, f"notional was {new}, allocation left {view.allocation_left_quote}")
    if new > limits.max_order_quote:
        yield Finding(R.ALLOCATION_CAP, f"notional was {new}, one order may have {limits.max_order_quote}")
    traded = view.traded_today_quote
    if traded is None or equity is None or traded + new > limits.daily_turnover_x * equity:
        yield Finding(R.ALLOCATION_CAP, f"turnover of the day was {traded}, limit {limits.daily_turnover_x} times equity {equity}")
    buys = sum((live.remaining * live.price for live in view.live_orders if live.purpose is Purpose.ENTRY), ZERO)
    if view.cash_quote is None or equity is None or view.cash_quote - buys - new < limits.cash_reserve_frac * equity:
        yield Finding(R.CASH_RESERVE, f"cash was {view.cash_quote}, live entries {buys}, reserve {limits.cash_reserve_frac} of {equity}")


def check_loss_budget(case: Case) -> Iterator[Finding]:
    """13: loss so far, worst case of what is open, and this trade together stay within the soft daily and the weekly limit."""
    order, view, limits = case
    risk, equity = compute_trade_risk_quote(order), view.equity_quote
    day, week, open_risk = view.day_loss_frac, view.week_loss_frac, view.open_risk_frac
    if equity is None or not equity > 0 or day is None or week is None or open_risk is None or risk is None:
        yield Finding(R.EQUITY_UNKNOWN, f"equity {equity}, losses {day} and {week}, open risk {open_risk}, risk {risk}: all must be known")
        return
    for code, name, loss, limit in (
        (R.DAILY_LOSS_BUDGET, "day", day, limits.daily_loss_soft_frac),
        (R.WEEKLY_LOSS_BUDGET, "week", week, limits.weekly_loss_frac),
    ):
        # A profit so far is no budget to lose.
        worst = (max(loss, ZERO) + open_risk) * equity + risk
        if worst > limit * equity:
            yield Finding(code, f"worst case of the {name} was {worst}, limit {limit} of {equity}")


def check_rate(case: Case) -> Iterator[Finding]:
    """14: orders of the last minute and the venue's request budget."""
    _, view, limits = case
    if view.n_orders_last_min is None or view.n_orders_last_min >= limits.max_orders_per_min:
        yield Finding(R.RATE_LIMITED, f"orders in the last minute were {view.n_orders_last_min}, limit {limits.max_orders_per_min}")
    if not view.is_rate_budget_left:
        yield Finding(R.RATE_LIMITED, "the venue's request budget was down to the share kept for cancels")


def check_price(case: Case) -> Iterator[Finding]:
    """15: price against mid and mark; an exit may be three times as far off, and needs only what is known."""
    order, view, limits = case
    band = limits.price_band_bps if view.is_major else limits.price_band_other_bps
    band = band if order.is_entry else EXIT_BAND_FACTOR * band
    for name, reference in (("mid", view.mid), ("mark", view.mark)):
        if reference is None and not order.is_entry:
            continue
        if reference is None or not reference > 0 or abs(order.price - reference) * BPS > band * reference:
            yield Finding(R.PRICE_OUT_OF_BAND, f"price was {order.price}, {name} {reference}, band {band} bps")


def compute_trade_risk_quote(order: OrderRequest) -> Decimal | None:
    """Loss if the stop is hit: distance times quantity, gap and costs; None where one is unknown or the stop is on the wrong side."""
    if order.stop_price is None or order.gap_quote is None or order.cost_quote is None:
        return None
    distance = order.side.sign * (order.price - order.stop_price)
    return distance * order.qty + order.gap_quote + order.cost_quote if distance > 0 else None


def free_exit_qty(order: OrderRequest, view: GateView) -> Decimal:
    """What of the position no other exit, reduce or stop order claims, on the step; 0 where the order would not reduce."""
    held = -order.side.sign * view.position_qty(order.symbol)
    claimed = sum((o.remaining for o in _live_on(order, view) if o.purpose is not Purpose.ENTRY and o.side is order.side), ZERO)
    return floor_to(max(held - claimed, ZERO), view.rules.step)


def compute_headroom_quote(order: OrderRequest, view: GateView, limits: RiskSettings) -> Decimal | None:
    """What the symbol cap still allows before this order, 0 or more; None without equity."""
    if view.equity_quote is None:
        return None
    return max(limits.max_weight_frac * view.equity_quote - _exposure_quote(view, symbol=order.symbol), ZERO)


def _live_on(order: OrderRequest, view: GateView) -> list[LiveOrder]:
    return [live for live in view.live_orders if live.symbol == order.symbol]


def _exposure_quote(view: GateView, *, symbol: str | None = None, cluster: str | None = None) -> Decimal:
    """Worth of positions and live entries, without sign; of one symbol or cluster if it is named."""
    held = (
        abs(holding.qty) * holding.mark
        for holding in view.holdings
        if symbol in {None, holding.symbol} and cluster in {None, holding.cluster}
    )
    live = (
        order.remaining * order.price
        for order in view.live_orders
        if order.purpose is Purpose.ENTRY and symbol in {None, order.symbol} and cluster in {None, order.cluster}
    )
    return sum(held, ZERO) + sum(live, ZERO)


def _sides_quote(order: OrderRequest, view: GateView) -> tuple[Decimal, Decimal]:
    """Net exposure if every buy fills and no sell does, and the other way round."""
    net = sum((holding.qty * holding.mark for holding in view.holdings), ZERO)
    pending = [(live.side, live.remaining * live.price) for live in view.live_orders if live.purpose is Purpose.ENTRY]
    pending.append((order.side, order.qty * order.price))
    buys = sum((quote for side, quote in pending if side is Side.BUY), ZERO)
    sells = sum((quote for side, quote in pending if side is Side.SELL), ZERO)
    return net + buys, net - sells
