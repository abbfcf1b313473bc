"""Positions in Postgres as the tick plans them: read a set at a time, written only where something changed."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from regime_pipeline.errors import BadInputError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.portfolio.actions import Action, ActionKind, ActionStatus, Funding, Signal
from regime_pipeline.portfolio.documents import NO_BLOCK, NO_EPISODES, write_plan
from regime_pipeline.portfolio.episodes import Block, Episodes, Failure
from regime_pipeline.portfolio.facts import BarFacts
from regime_pipeline.portfolio.plan import Outcome
from regime_pipeline.portfolio.position import PLANNED_STATUSES, Status
from regime_pipeline.ports import ChannelRow, EngineRecord, NewAction, PositionRow, Transition
from regime_pipeline.regime.drivers import DRIVER_NAMES
from regime_pipeline.trend.record import FLAGS

MIN_BARS: Final = 333
"""Bars from which a series has a record, and its position can be traded."""
_PLANNED: Final = sorted(status.value for status in PLANNED_STATUSES)
_SERIES: Final = sql.SQL("'token:' || p.token_contract || ':' || p.token_chain")
_FACTS: Final = sql.SQL(
    "s.series, s.revision, extract(epoch from s.ts)::bigint as ts_s, s.state, s.latest_price, s.atr, s.ema144, s.ema333, s.bars_seen,"
    " s.immature, s.buy, s.trim, s.emergency_exit, s.rebuy_s2_retest, s.rebuy_dx, s.rebuy_reclaim, s.nearest_level_price"
)


class PostgresPortfolio:
    """`PortfolioStore` on an open transaction."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self._conn = conn

    def promote(self, book_id: str, timeframe: Timeframe) -> int:
        """Make dormant positions with enough bars tradeable (watchlist); returns how many. Drivers never are."""
        return self._conn.execute(
            "update lowcap_positions set status = 'watchlist'"
            " where timeframe = %s and status = 'dormant' and book_id = %s and bars_count >= %s and token_chain <> 'regime'",
            (timeframe.value, book_id, MIN_BARS),
        ).rowcount

    def find_newest_bar(self, book_id: str, timeframe: Timeframe) -> int | None:
        """Open of the newest bar on which a token has an engine record; None without one, or when the book has no position."""
        row = self._conn.execute(
            "select extract(epoch from s.ts)::bigint from uptrend_states as s where s.timeframe = %s and s.series like 'token:%%'"
            " and exists (select from lowcap_positions where timeframe = %s and book_id = %s and status = any(%s))"
            " order by s.ts desc limit 1",
            (timeframe.value, timeframe.value, book_id, _PLANNED),
        ).fetchone()
        return None if row is None else row[0]

    def load_positions(self, book_id: str, timeframe: Timeframe) -> list[PositionRow]:
        """Load all that are planned for (watchlist and active), by contract and chain, each contract once; never a driver."""
        rows = self._conn.execute(
            "select p.id, p.token_contract, p.token_chain, p.status, p.current_trade_id,"
            " extract(epoch from (select max(a.bar_ts) from pm_actions as a where a.position_id = p.id))::bigint,"
            " extract(epoch from e.stepped_ts)::bigint, e.state, extract(epoch from e.attempt_ts)::bigint,"
            " extract(epoch from e.s2_ts)::bigint, extract(epoch from e.s1_ts)::bigint, extract(epoch from e.s3_ts)::bigint,"
            " extract(epoch from e.failure_begin_ts)::bigint, extract(epoch from e.failure_end_ts)::bigint,"
            " b.blocked_s1, b.blocked_s2, extract(epoch from b.last_s1_failure_ts)::bigint,"
            " extract(epoch from b.last_s2_failure_ts)::bigint, extract(epoch from b.last_success_ts)::bigint"
            " from lowcap_positions as p left join position_episodes as e on e.position_id = p.id"
            " left join token_timeframe_blocks as b on (b.token_contract, b.token_chain, b.timeframe, b.book_id)"
            " = (p.token_contract, p.token_chain, p.timeframe, p.book_id)"
            " where p.timeframe = %s and p.book_id = %s and p.status = any(%s) and p.token_chain <> 'regime'"
            " order by p.token_contract, p.token_chain",
            (timeframe.value, book_id, _PLANNED),
        ).fetchall()  # all at once: going from row to row through a cursor costs as much as the query
        found: list[PositionRow] = []
        for number, contract, chain, status, trade_id, last_action_s, stepped_s, *rest in rows:
            if found and found[-1].contract == contract:
                continue  # its symbol is taken: one instrument is traded under one position
            episodes = NO_EPISODES if stepped_s is None else _read_episodes(rest[:7])
            block = NO_BLOCK if rest[7] is None else Block(*rest[7:])
            found.append(PositionRow(number, contract, chain, Status(status), trade_id, episodes, stepped_s, block, last_action_s))
        return found

    def load_transitions(self, book_id: str, timeframe: Timeframe, before_s: int) -> dict[int, list[Transition]]:
        """Load by position the changes of state that its episodes have not taken in, on bars before one, oldest first."""
        query = sql.SQL(
            "select p.id, extract(epoch from v.ts)::bigint, v.from_state, v.to_state"
            " from lowcap_positions as p left join position_episodes as e on e.position_id = p.id"
            " cross join lateral (select v.ts, v.from_state, v.to_state from uptrend_state_events as v"
            " where v.series = {series} and v.timeframe = p.timeframe and v.ts < to_timestamp(%s)"
            # without episodes: from where the series last began anew
            " and v.ts >= coalesce(e.stepped_ts + interval '1 microsecond', (select max(u.ts) from uptrend_state_events as u"
            " where u.series = {series} and u.timeframe = p.timeframe and u.ts < to_timestamp(%s) and u.to_state in ('S0', 'S3')),"
            " '-infinity')) as v"
            " where p.timeframe = %s and p.book_id = %s and p.status = any(%s) order by p.id, v.ts"
        )
        rows = self._conn.execute(query.format(series=_SERIES), (before_s, before_s, timeframe.value, book_id, _PLANNED))
        found: dict[int, list[Transition]] = {}
        for number, ts_s, old, new in rows:
            found.setdefault(number, []).append(Transition(ts_s, old, new))
        return found

    def load_trade_actions(self, book_id: str, timeframe: Timeframe) -> dict[int, list[Action]]:
        """Load the actions of open trades by position, oldest first."""
        rows = self._conn.execute(
            "select a.position_id, extract(epoch from a.bar_ts)::bigint, a.trade_id, a.kind, a.signal, a.funding, a.status, a.state,"
            " a.level_price, a.atr, a.bars_seen, a.filled_qty, a.filled_usd, a.fee_qty, a.fee_usd"
            " from lowcap_positions as p join pm_actions as a on a.trade_id = p.current_trade_id"
            " where p.timeframe = %s and p.book_id = %s and p.status = any(%s) order by a.position_id, a.bar_ts",
            (timeframe.value, book_id, _PLANNED),
        )
        found: dict[int, list[Action]] = {}
        for number, *columns in rows:
            found.setdefault(number, []).append(_read_action(columns))
        return found

    def load_records(self, timeframe: Timeframe, ts_s: int) -> dict[str, EngineRecord]:
        """Load the engine records of exactly one bar, by token series."""
        query = sql.SQL(
            "select {} from uptrend_states as s where s.timeframe = %s and s.ts = to_timestamp(%s) and s.series like 'token:%%'"
        )
        return dict(_read_records(self._conn.execute(query.format(_FACTS), (timeframe.value, ts_s), binary=True)))

    def load_record_range(self, timeframe: Timeframe, start_s: int, end_s: int) -> dict[int, dict[str, EngineRecord]]:
        """Load the engine records of the bars that open in [start, end), by bar and token series."""
        query = sql.SQL(
            "select {} from uptrend_states as s where s.timeframe = %s and s.ts >= to_timestamp(%s) and s.ts < to_timestamp(%s)"
            " and s.series like 'token:%%'"
        )
        found: dict[int, dict[str, EngineRecord]] = {}
        rows = self._conn.execute(query.format(_FACTS), (timeframe.value, start_s, end_s), binary=True)
        for series, record in _read_records(rows):
            found.setdefault(record.facts.ts_s, {})[series] = record
        return found

    def load_channel_range(self, start_s: int, end_s: int) -> list[ChannelRow]:
        """Load what the regime's channels said, of bars that closed in [start, end), by time; and of each channel the newest before."""
        rows = self._conn.execute(
            "select w.driver, t.timeframe, extract(epoch from s.ts)::bigint, s.state, s.prev_state, s.buy, s.rebuy, s.trim,"
            " s.emergency_exit, s.reclaimed_ema333, s.exit_position, s.immature, d.delta_a_raw, d.delta_e_raw, d.revision,"
            " coalesce(v.score, 1.0) from unnest(%(drivers)s::text[]) as w (driver)"
            " cross join (values ('1m', 60), ('1h', 3600), ('1d', 86400)) as t (timeframe, length_s)"
            " cross join lateral (select coalesce((select u.ts from uptrend_states as u where u.series = 'regime:' || w.driver"
            " and u.timeframe = t.timeframe and u.ts < to_timestamp(%(start)s - t.length_s) order by u.ts desc limit 1),"
            " to_timestamp(%(start)s - t.length_s)) as ts) as f"
            " join uptrend_states as s on s.series = 'regime:' || w.driver and s.timeframe = t.timeframe and s.ts >= f.ts"
            " and s.ts < to_timestamp(%(end)s - t.length_s)"
            " left join regime_deltas as d on (d.driver, d.timeframe, d.ts) = (w.driver, t.timeframe, s.ts)"
            " left join bar_validity as v on (v.series, v.timeframe, v.timestamp) = (s.series, s.timeframe, s.ts)"
            " order by s.ts, w.driver, t.timeframe",
            {"drivers": list(DRIVER_NAMES), "start": start_s, "end": end_s},
        )
        return [_read_channel(row) for row in rows]

    def load_last_records(self, timeframe: Timeframe, before_s: int, series: Collection[str]) -> dict[str, EngineRecord]:
        """Load the newest record of each series on a bar before the given one."""
        query = sql.SQL(
            "select {} from unnest(%s::text[]) as w (series) cross join lateral (select * from uptrend_states as u"
            " where u.series = w.series and u.timeframe = %s and u.ts < to_timestamp(%s) order by u.ts desc limit 1) as s"
        )
        return dict(_read_records(self._conn.execute(query.format(_FACTS), (sorted(series), timeframe.value, before_s), binary=True)))

    def load_delta_revisions(self, at_s: int) -> dict[str, str]:
        """Load the watermark of each regime channel as of an instant: `BTC:1h` to `2026-11-20T18:00:00Z#r0`, its bar and revision."""
        rows = self._conn.execute(
            "select d.driver || ':' || d.timeframe, to_char(d.ts, 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') || '#r' || d.revision"
            " from (select distinct series from unnest(%s::text[]) as n (series)) as w"
            " cross join (values ('1m', 60), ('1h', 3600), ('1d', 86400)) as t (timeframe, length_s)"
            " cross join lateral (select * from regime_deltas as r where r.driver = w.series and r.timeframe = t.timeframe"
            " and r.ts <= to_timestamp(%s - t.length_s) order by r.ts desc limit 1) as d",
            (list(DRIVER_NAMES), at_s),
        )
        return dict(rows.fetchall())

    def load_closed_deltas(self, at_s: int, timeframes: Collection[Timeframe]) -> set[tuple[str, Timeframe]]:
        """Tell which (driver, regime timeframe) have deltas of the bar that closes exactly at an instant."""
        rows = self._conn.execute(
            "select d.driver, d.timeframe from unnest(%s::text[], %s::float8[]) as w (timeframe, ts_s)"
            " join regime_deltas as d on d.ts = to_timestamp(w.ts_s) and d.timeframe = w.timeframe",
            ([each.value for each in timeframes], [at_s - each.seconds for each in timeframes]),
        )
        return {(driver, Timeframe(timeframe)) for driver, timeframe in rows}

    def load_marks(self, contracts: Collection[str], at_s: int) -> dict[str, float]:
        """Load the newest close of each contract known at an instant, on whatever execution timeframe is newest."""
        query = sql.SQL(
            "select distinct on (p.token_contract) p.token_contract, s.latest_price from lowcap_positions as p"
            " join (values ('1m', 60), ('5m', 300), ('15m', 900), ('1h', 3600), ('4h', 14400), ('1d', 86400)) as t (timeframe, length_s)"
            " on t.timeframe = p.timeframe"
            " cross join lateral (select u.latest_price, u.ts from uptrend_states as u"
            " where u.series = {series} and u.timeframe = p.timeframe and u.ts <= to_timestamp(%s - t.length_s)"
            " order by u.ts desc limit 1) as s"
            " where p.token_contract = any(%s) and p.token_chain <> 'regime'"
            " order by p.token_contract, s.ts + t.length_s * interval '1 second' desc, t.length_s"
        )
        return dict(self._conn.execute(query.format(series=_SERIES), (at_s, sorted(contracts))).fetchall())

    def save_episodes(self, stepped: Mapping[int, tuple[int, Episodes]]) -> None:
        """Keep, by position, the bar taken in (its open) and the episodes after it."""
        if not stepped:
            return
        rows = [(number, ts_s, found.state, *_episode_times(found)) for number, (ts_s, found) in sorted(stepped.items())]
        self._conn.execute(
            "insert into position_episodes as t (position_id, stepped_ts, state, attempt_ts, s2_ts, s1_ts, s3_ts, failure_begin_ts,"
            " failure_end_ts) select id, to_timestamp(stepped_s), state, to_timestamp(attempt_s), to_timestamp(s2_s), to_timestamp(s1_s),"
            " to_timestamp(s3_s), to_timestamp(begin_s), to_timestamp(end_s)"
            " from unnest(%s::bigint[], %s::float8[], %s::text[], %s::float8[], %s::float8[], %s::float8[], %s::float8[], %s::float8[],"
            " %s::float8[]) as new (id, stepped_s, state, attempt_s, s2_s, s1_s, s3_s, begin_s, end_s)"
            " on conflict (position_id) do update set stepped_ts = excluded.stepped_ts, state = excluded.state,"
            " attempt_ts = excluded.attempt_ts, s2_ts = excluded.s2_ts, s1_ts = excluded.s1_ts, s3_ts = excluded.s3_ts,"
            " failure_begin_ts = excluded.failure_begin_ts, failure_end_ts = excluded.failure_end_ts",
            [list(column) for column in zip(*rows, strict=True)],
        )

    def save_blocks(self, book_id: str, timeframe: Timeframe, blocks: Mapping[tuple[str, str], Block]) -> None:
        """Keep blocks by (contract, chain)."""
        if not blocks:
            return
        rows = [
            (*key, each.blocked_s1, each.blocked_s2, each.last_s1_failure_s, each.last_s2_failure_s, each.last_success_s)
            for key, each in sorted(blocks.items())
        ]
        self._conn.execute(
            "insert into token_timeframe_blocks (token_contract, token_chain, timeframe, book_id, blocked_s1, blocked_s2,"
            " last_s1_failure_ts, last_s2_failure_ts, last_success_ts)"
            " select contract, chain, %s, %s, s1, s2, to_timestamp(f1), to_timestamp(f2), to_timestamp(won)"
            " from unnest(%s::text[], %s::text[], %s::boolean[], %s::boolean[], %s::float8[], %s::float8[], %s::float8[])"
            " as new (contract, chain, s1, s2, f1, f2, won)"
            " on conflict (token_contract, token_chain, timeframe, book_id) do update set blocked_s1 = excluded.blocked_s1,"
            " blocked_s2 = excluded.blocked_s2, last_s1_failure_ts = excluded.last_s1_failure_ts,"
            " last_s2_failure_ts = excluded.last_s2_failure_ts, last_success_ts = excluded.last_success_ts",
            [timeframe.value, book_id, *(list(column) for column in zip(*rows, strict=True))],
        )

    def write_actions(self, actions: Sequence[NewAction]) -> dict[int, int]:
        """Write actions; returns the action's number by position. One whose slot (position, bar) is taken is left as it is."""
        written: dict[int, int] = {}
        for action in actions:
            row = self._conn.execute(
                "insert into pm_actions (idempotency_key, position_id, bar_ts, trade_id, decision_id, kind, signal, funding, status, state,"
                " level_price, atr, bars_seen, planned_usd, planned_qty, a_value, e_value, reasons)"
                " values (%s, %s, to_timestamp(%s), %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
                " on conflict do nothing returning id",
                _action_values(action),
            ).fetchone()
            if row is not None:
                written[action.plan.position_id] = row[0]
        return written


_REASONS: Final = ("rule", "codes", "refusals", "size", "degraded", "price")


def _action_values(action: NewAction) -> list[Any]:
    plan = action.plan
    if plan.kind is None or plan.signal is None or plan.size is None:
        raise BadInputError(f"position {plan.position_id}, bar {plan.bar_ts_s}: a hold is no action. Journal it only.")
    reasons = {name: value for name, value in write_plan(plan).items() if name in _REASONS}
    status = ActionStatus.SKIPPED if plan.outcome is Outcome.SKIP else ActionStatus.PLANNED
    return [
        *(action.idempotency_key, plan.position_id, plan.bar_ts_s, plan.trade_id, action.decision_id),
        *(plan.kind.value, plan.signal.value, plan.size.funding.value, status.value, plan.state),
        *(plan.level_price, plan.atr, plan.bars_seen, plan.size.notional_usd, plan.size.quantity),
        *(plan.a_value, plan.e_value, Jsonb(reasons)),
    ]


def _read_records(rows: psycopg.Cursor[Any]) -> Iterator[tuple[str, EngineRecord]]:
    for series, revision, ts_s, state, price, atr, ema144, ema333, bars_seen, immature, *says in rows.fetchall():
        try:
            facts = BarFacts(ts_s, state, price, atr, ema144, ema333, bars_seen, immature, *says)
        except BadInputError:
            continue  # planned as a bar without a record, which holds and tells; the other positions go on
        yield series, EngineRecord(facts, revision)


def _read_channel(row: Sequence[Any]) -> ChannelRow:
    flags = tuple(name for name, is_set in zip(FLAGS, row[5:11], strict=True) if is_set)
    return ChannelRow(row[0], Timeframe(row[1]), row[2], row[3], row[4], flags, *row[11:])


def _read_action(columns: Sequence[Any]) -> Action:
    ts_s, trade_id, kind, signal, funding, status, *rest = columns
    return Action(ts_s, trade_id, ActionKind(kind), Signal(signal), Funding(funding), ActionStatus(status), *rest)


def _read_episodes(columns: Sequence[Any]) -> Episodes:
    state, attempt_s, s2_s, s1_s, s3_s, begin_s, end_s = columns
    return Episodes(state, attempt_s, s2_s, s1_s, s3_s, None if begin_s is None else Failure(begin_s, end_s))


def _episode_times(found: Episodes) -> tuple[int | None, ...]:
    failure = (found.failure.started_s, found.failure.failed_s) if found.failure else (None, None)
    return (found.attempt_s, found.s2_s, found.s1_s, found.s3_s, *failure)
