"""Gather what a tick is decided on: positions, records, levers' channels, money, and what forbids entries; one snapshot, no effect."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.portfolio.actions import Action
from regime_pipeline.portfolio.documents import read_position, tidy, write_position
from regime_pipeline.portfolio.episodes import Block, Episodes
from regime_pipeline.portfolio.money import QUANTUM, ZERO, floor_to, precise, to_decimal
from regime_pipeline.portfolio.plan import Book
from regime_pipeline.portfolio.position import Position, VenueLimits
from regime_pipeline.portfolio.reasons import ReasonCode
from regime_pipeline.portfolio.tick import LineInputs, TickInputs
from regime_pipeline.portfolio.trade import fold_trade
from regime_pipeline.ports import EngineRecord, HoldingRow, LiveRow, PositionRow, Transition, Work
from regime_pipeline.regime.drivers import CHANNEL_TIMEFRAMES
from regime_pipeline.regime.levers import MIN_VALIDITY
from regime_pipeline.risk.checks import RECON_MAX_AGE_S
from regime_pipeline.risk.instrument import InstrumentRules
from regime_pipeline.risk.kill_switch import Level, worst_level
from regime_pipeline.risk.purpose import Purpose, Side
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.read_account import judge_recon
from regime_pipeline.services.trading.tick_market import TickMarket

UNTRADEABLE = VenueLimits(Decimal("1e-18"))
"""Limits of an instrument whose rules nobody has read; the gate refuses every order in it."""


@dataclass(frozen=True, slots=True)
class TickTerms:
    """What a strategy decides with besides the terms of its account, as in `regime.levers.LeverInput`."""

    timeframes: tuple[Timeframe, ...] = CHANNEL_TIMEFRAMES
    min_validity: float = MIN_VALIDITY
    regime_strength: float = 1.0
    allow_immature_entries: bool = False


@dataclass(frozen=True, slots=True)
class TickSnapshot:
    """What was gathered: the inputs of the decision, and what orders are made with.

    Parameters
    ----------
    rows : mapping of int to PositionRow
        By position number.
    rules : mapping of str to InstrumentRules
        By symbol.
    marks : mapping of str to Decimal
        Newest close by symbol, of what is planned for and of what is held.
    holdings : tuple of HoldingRow
        Of the account, by strategy.
    """

    inputs: TickInputs
    rows: Mapping[int, PositionRow]
    rules: Mapping[str, InstrumentRules]
    marks: Mapping[str, Decimal]
    holdings: tuple[HoldingRow, ...] = ()

    @property
    def clusters(self) -> dict[str, str]:
        """Bucket by symbol, where it is known."""
        return {line.symbol: line.bucket for line in self.inputs.lines if line.bucket is not None}


def strategy_of(book_id: str, timeframe: Timeframe) -> str:
    """Name the strategy that trades a book on a timeframe."""
    return f"{book_id}-{timeframe.value}"


def spell_symbol(contract: str, quote: str, market_type: str) -> str:
    """Spell the unified symbol of a token: `AAVE/USDT`, or `AAVE/USDT:USDT` for a linear perpetual."""
    return f"{contract}/{quote}" if market_type == "spot" else f"{contract}/{quote}:{quote}"


def load_tick(
    work: Work,
    trading: Trading,
    market: TickMarket,
    timeframe: Timeframe,
    bar_close_s: int,
    terms: TickTerms,
    *,
    is_reconciled: bool = False,
) -> TickSnapshot:
    """Gather everything for the tick of a strategy on a closed bar.

    Parameters
    ----------
    work : Work
        A transaction that sees one instant (`freeze`), so that no two inputs contradict each other.
    bar_close_s : int
        Close of the decided bar, epoch seconds.
    is_reconciled : bool
        Whether the caller knows that nothing has happened since a clean reconciliation, as a replay does; else its age is read and judged.
    """
    account, book_id, traits = trading.terms.account, trading.terms.book_id, trading.broker.traits
    strategy, bar_ts_s = strategy_of(book_id, timeframe), bar_close_s - timeframe.seconds
    rows = work.portfolio.load_positions(book_id, timeframe)
    actions = work.portfolio.load_trade_actions(book_id, timeframe)
    holdings, live = work.safety.load_holdings(account), work.safety.load_live(account)
    rules, buckets, records = market.rules(), market.buckets(bar_close_s), market.records(bar_ts_s)
    missed = market.transitions(bar_ts_s)
    symbols = {row.contract: spell_symbol(row.contract, traits.quote, traits.market_type) for row in rows}
    rows.sort(key=lambda row: symbols[row.contract])  # the order in which buys share the cash, the same wherever it is computed
    held = _held_by(holdings, strategy)
    limits: dict[str, VenueLimits] = {}
    lines: list[LineInputs] = []
    due: list[tuple[int, str]] = []
    for row in rows:
        symbol = symbols[row.contract]
        if symbol not in limits:
            limits[symbol] = _limits_of(rules.get(symbol))
        quantity = held.get(row.contract if traits.market_type == "spot" else symbol, ZERO)
        position = _build_position(
            row, timeframe, limits[symbol], quantity, actions.get(row.position_id, ()), missed.get(row.position_id, ())
        )
        record = records.get(row.series)
        if record is None and position.trade is not None and position.trade.exit_due is not None:
            due.append((len(lines), row.series))
        facts, revision = (None, 0) if record is None else (record.facts, record.revision)
        lines.append(LineInputs(symbol, buckets.get(row.series), position, facts, revision))
    _add_older_records(lines, due, market, bar_ts_s)
    marks = _load_marks(market, lines, holdings, traits.quote, traits.market_type, bar_close_s)
    equity, unpriced = _value(holdings, marks, traits.quote)
    inputs = TickInputs(
        account=account,
        strategy=strategy,
        book_id=book_id,
        timeframe=timeframe,
        bar_ts_s=bar_ts_s,
        book=_build_book(trading, work, strategy, equity, holdings, live, terms),
        channels=market.channels(bar_close_s),
        lines=tuple(lines),
        watermarks=market.watermarks(bar_close_s),
        timeframes=terms.timeframes,
        min_validity=terms.min_validity,
        regime_strength=terms.regime_strength,
        entries_off=(*([] if is_reconciled else _judge_recon(work, account, trading.clock.now_s())), *_judge_equity(unpriced)),
        opposed=_find_opposed(live),
    )
    return TickSnapshot(inputs, {row.position_id: row for row in rows}, rules, marks, tuple(holdings))


def _held_by(holdings: Iterable[HoldingRow], strategy: str) -> dict[str, Decimal]:
    """What a strategy holds by the ledger; nothing of an asset that is owed, which reconciliation has to explain first."""
    return {row.asset: max(row.qty, ZERO) for row in holdings if row.strategy == strategy}


def _limits_of(rules: InstrumentRules | None) -> VenueLimits:
    return UNTRADEABLE if rules is None else _tidy_limits(rules.step, rules.min_qty, rules.min_cost_quote)


@lru_cache(maxsize=1024)
def _tidy_limits(step: Decimal, min_qty: Decimal, min_cost: Decimal) -> VenueLimits:
    """Limits as they read back; many instruments share theirs."""
    return VenueLimits(tidy(step), tidy(min_qty), tidy(min_cost))


def _build_position(
    row: PositionRow,
    timeframe: Timeframe,
    limits: VenueLimits,
    quantity: Decimal,
    actions: Sequence[Action],
    missed: Sequence[Transition],
) -> Position:
    episodes, block = _catch_up(row.episodes, row.block, missed, timeframe)
    trade = None if row.trade_id is None else fold_trade(row.trade_id, actions)
    position = Position(row.position_id, row.status, timeframe, limits, quantity, trade, episodes, block, row.last_action_s)
    # Only these hold money: what is decided on must be what is stored, to the last zero.
    return read_position(write_position(position), timeframe) if trade is not None or quantity else position


def _catch_up(episodes: Episodes, block: Block, missed: Sequence[Transition], timeframe: Timeframe) -> tuple[Episodes, Block]:
    """Take in the changes of state of bars that no tick has seen; a failed attempt among them is judged with the next bar."""
    if missed and episodes.state is None:
        episodes = episodes.after(missed[0].ts_s - timeframe.seconds, missed[0].old)
    for change in missed:
        episodes = episodes.after(change.ts_s, change.new)
        block = block.after(episodes)
    return episodes, block


def _add_older_records(lines: list[LineInputs], due: Sequence[tuple[int, str]], market: TickMarket, bar_ts_s: int) -> None:
    """Give positions whose exit is under way and whose bar is missing the newest record there is."""
    older: Mapping[str, EngineRecord] = market.last_records(bar_ts_s, [series for _, series in due]) if due else {}
    for at, series in due:
        if series in older:
            line = lines[at]
            lines[at] = LineInputs(line.symbol, line.bucket, line.position, older[series].facts, older[series].revision)


def _load_marks(
    market: TickMarket, lines: Sequence[LineInputs], holdings: Sequence[HoldingRow], quote: str, market_type: str, at_s: int
) -> dict[str, Decimal]:
    marks = {line.symbol: to_decimal(line.facts.price) for line in lines if line.facts is not None}
    contracts = {row.asset.partition("/")[0] for row in holdings if row.asset != quote}
    missing = {contract for contract in contracts if spell_symbol(contract, quote, market_type) not in marks}
    for contract, close in market.marks(missing, at_s).items():
        marks[spell_symbol(contract, quote, market_type)] = to_decimal(close)
    return marks


@precise
def _value(holdings: Sequence[HoldingRow], marks: Mapping[str, Decimal], quote: str) -> tuple[Decimal, tuple[str, ...]]:
    """Equity as far as it can be priced, and the symbols that cannot."""
    total, unpriced = ZERO, []
    for row in holdings:
        symbol = row.asset if row.is_contract else f"{row.asset}/{quote}"
        if row.asset == quote:
            total += row.qty
        elif symbol in marks:
            total += row.qty * marks[symbol]
        elif row.qty:
            unpriced.append(symbol)
    return total, tuple(sorted(unpriced))


@precise
def _build_book(
    trading: Trading,
    work: Work,
    strategy: str,
    equity: Decimal,
    holdings: Sequence[HoldingRow],
    live: Sequence[LiveRow],
    terms: TickTerms,
) -> Book:
    """Money and switches; free cash is what live buys and the reserve leave."""
    account, quote = trading.terms.account, trading.broker.traits.quote
    cash = sum((row.qty for row in holdings if not row.is_contract and row.asset == quote), ZERO)
    locked = sum(((row.qty - row.filled) * row.price for row in live if row.side is Side.BUY), ZERO)
    free = max(ZERO, cash - locked - trading.limits.cash_reserve_frac * max(equity, ZERO))
    # a level of one symbol is for the gate to see
    switches = [each for each in (*trading.latch.read(), *work.safety.load_switches(account)) if each.scope.symbol is None]
    return Book(
        equity_usd=tidy(equity),
        free_cash_usd=tidy(floor_to(free, QUANTUM)),
        allocation=trading.allocation,
        trading_enabled=trading.terms.trading_enabled,
        is_killed=worst_level(switches, account, strategy, "") is not Level.NORMAL,
        allow_immature_entries=terms.allow_immature_entries,
    )


def _judge_recon(work: Work, account: str, now_s: int) -> list[tuple[ReasonCode, str]]:
    """Say why reconciliation stops entries; nothing when the newest pass is young and clean."""
    age_s, is_clean = judge_recon(work.safety.load_recon(account, now_s), now_s)
    if age_s is None:
        return [(ReasonCode.RECON_UNKNOWN, "the account was never reconciled")]
    if age_s > RECON_MAX_AGE_S or is_clean is None:
        return [(ReasonCode.RECON_UNKNOWN, f"the newest reconciliation is {age_s} s old, at most {RECON_MAX_AGE_S}, or could not read")]
    return [] if is_clean else [(ReasonCode.RECON_OPEN, "the newest reconciliation has findings")]


def _judge_equity(unpriced: Sequence[str]) -> list[tuple[ReasonCode, str]]:
    return [(ReasonCode.EQUITY_UNKNOWN, f"no price is known of {', '.join(unpriced)}")] if unpriced else []


def _find_opposed(live: Sequence[LiveRow]) -> tuple[str, ...]:
    """Symbols that are being sold; a protective stop rests for as long as there is a position and says nothing."""
    return tuple(sorted({row.symbol for row in live if row.side is Side.SELL and row.purpose is not Purpose.STOP}))
