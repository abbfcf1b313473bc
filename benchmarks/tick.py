"""The portfolio tick: 10,000 positions against a bare COPY of the journal rows it writes, and 100 positions in process."""

import gc
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from uuid import uuid4

import psycopg
from psycopg.types.json import Jsonb

from benchmarks.database import make_database
from benchmarks.measure import Measure
from regime_pipeline.adapters.brokers.paper import PaperBroker, PaperTerms
from regime_pipeline.adapters.brokers.paper_market import StoredMarket as PaperBars
from regime_pipeline.adapters.latch_file import LatchFile
from regime_pipeline.adapters.postgres.embedded import ServerAddress
from regime_pipeline.adapters.postgres.journal_store import copy_lines
from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import Universe
from regime_pipeline.ports import LineRow
from regime_pipeline.regime.drivers import CHANNEL_TIMEFRAMES, DRIVER_NAMES
from regime_pipeline.risk.arm import Mode
from regime_pipeline.risk.limits import ProtectionSettings, RiskSettings
from regime_pipeline.services.trading.context import Trading, TradingTerms, VenueClock
from regime_pipeline.services.trading.open_account import open_account
from regime_pipeline.services.trading.replay_trading import ReplayClock
from regime_pipeline.services.trading.run_pm_tick import run_pm_tick

MANY: Final = 10_000
FEW: Final = 100
FEW_LIMIT_S: Final = 0.3
START_S: Final = 1_780_272_000 + 12 * 3600
HOUR_S: Final = 3600


def measure_tick(server: ServerAddress, universe: Universe, repeats: int) -> list[Measure]:
    """Measure ticks without orders: every position is planned and journaled, none is bought."""
    with TemporaryDirectory() as folder:
        many, few = (Book(server, universe, n, Path(folder)) for n in (MANY, FEW))
        gc.collect()
        gc.disable()
        try:
            turns = [(many.tick(), many.copy()) for _ in range(1 + repeats)][1:]
            few_s = [few.tick() for _ in range(1 + 5 * repeats)][1:]
        finally:
            gc.enable()
    ours_s, theirs_s = zip(*turns, strict=True)
    ours, theirs, short = (sorted(times)[len(times) // 2] for times in (ours_s, theirs_s, few_s))
    rate = {"positions/s": f"{MANY / ours:,.0f}", "journal": f"{many.journal_bytes() / MANY:,.0f} bytes a line"}
    fixed = f"{1000 * FEW_LIMIT_S:.0f} ms"
    return [
        Measure("t", f"tick of {MANY:,} positions", ours, "bare COPY of its journal rows", theirs, 5.0, rate),
        Measure("t", f"tick of {FEW} positions", short, fixed, FEW_LIMIT_S, 1.0, {}),
    ]


class Book:
    """A database with positions that have a record on each bar to come."""

    def __init__(self, server: ServerAddress, universe: Universe, n_positions: int, folder: Path) -> None:
        self.url = make_database(server, f"tick_{n_positions}")
        self.universe, self.n = universe, n_positions
        self.clock = ReplayClock(START_S)
        self.close_s = START_S
        self.trading = Trading(
            stores=PostgresStores(self.url),
            broker=PaperBroker(self.url, PaperBars("USDT", "spot"), PaperTerms(), self.clock),
            terms=TradingTerms("paper-main", Mode.PAPER, "onchain_crypto", trading_enabled=True, holder="bench"),
            limits=RiskSettings.model_validate({}),
            protections=ProtectionSettings.model_validate({}),
            latch=LatchFile(folder / f"{n_positions}.latch"),
            clock=VenueClock(self.clock, 0),
        )
        open_account(self.trading)
        with psycopg.connect(self.url) as conn:
            self._fill(conn)

    def _fill(self, conn: psycopg.Connection) -> None:
        conn.execute(
            "insert into lowcap_positions (token_contract, token_chain, timeframe, token_ticker, status, book_id, bars_count)"
            " select 'T' || n, 'bench', '1h', 'T' || n, 'watchlist', 'onchain_crypto', 2000 from generate_series(1, %s) as n",
            (self.n,),
        )
        conn.execute(
            "insert into instrument_rules (venue, symbol, tick, step, min_qty, min_cost, maker_bps, taker_bps, is_active, read_at)"
            " select 'paper', token_contract || '/USDT', 0.01, 0.001, 0.001, 5, 10, 10, true, now() from lowcap_positions"
        )
        conn.execute(
            "insert into token_cap_bucket (token_contract, chain, valid_from, bucket, as_of)"
            " select token_contract, token_chain, to_timestamp(0), (array['nano', 'small', 'mid', 'big'])[1 + mod(id, 4)], to_timestamp(0)"
            " from lowcap_positions"
        )

    def tick(self) -> float:
        """Write the records of the next bar, then tick it; seconds of the tick."""
        self.close_s += HOUR_S
        with psycopg.connect(self.url) as conn:
            self._write_bar(conn)
        self.clock.go_to(self.close_s + 10)
        began = time.perf_counter()
        summary = run_pm_tick(self.trading, self.universe, Timeframe.H1, self.close_s)
        spent = time.perf_counter() - began
        if summary.counts.get("held") != self.n:
            raise RuntimeError(f"the tick was {summary.outcome} with {dict(summary.counts)}, {self.n} holds were to be measured")
        return spent

    def _write_bar(self, conn: psycopg.Connection) -> None:
        columns = conn.execute(
            "select column_name, data_type from information_schema.columns where table_name = 'uptrend_states' and is_nullable = 'NO'"
        ).fetchall()
        blank: dict[str, Any] = {name: False if kind == "boolean" else 0 for name, kind in columns}
        for series, timeframe in [(f"regime:{driver}", each) for driver in DRIVER_NAMES for each in CHANNEL_TIMEFRAMES]:
            self._write_states(conn, blank, timeframe, [series])
        self._write_states(conn, blank, Timeframe.H1, [f"token:T{n}:bench" for n in range(1, self.n + 1)])
        conn.execute(
            "insert into regime_deltas (driver, timeframe, ts, state, buy, rebuy, trim, emergency_exit, reclaimed_ema333, exit_position,"
            " delta_a_raw, delta_e_raw, immature, engine_version)"
            " select substr(series, 8), timeframe, ts, state, false, false, false, false, false, false, 0.2, -0.1, false, 'm2-v5'"
            " from uptrend_states where series like 'regime:%' on conflict do nothing"
        )
        for kind in ("orders", "full"):
            conn.execute(
                "insert into reconciliation_runs (account, kind, status, began_at, ended_at)"
                " values ('paper-main', %s, 'ok', to_timestamp(%s), to_timestamp(%s))",
                (kind, self.close_s, self.close_s),
            )

    def _write_states(self, conn: psycopg.Connection, blank: dict[str, Any], timeframe: Timeframe, series: list[str]) -> None:
        opened = datetime.fromtimestamp(timeframe.floor(self.close_s) - timeframe.seconds, UTC).isoformat()
        record = {**blank, "engine_version": "m2-v5", "state": "S3", "price": 101.25, "latest_price": 101.25, "atr": 1.875}
        record |= {"ema144": 99.0625, "ema333": 97.3125, "bars_seen": 2000, "nearest_level_price": 104.5}
        record |= {"series": "", "timeframe": timeframe.value, "ts": opened, "state_since_ts": opened, "computed_at": opened}
        conn.execute(
            "insert into uptrend_states select (jsonb_populate_record(null::uptrend_states, %s || jsonb_build_object('series', s))).*"
            " from unnest(%s::text[]) as s on conflict do nothing",
            (Jsonb(record), series),
        )

    def copy(self) -> float:
        """Copy the journal rows of the newest decision into the same table under a new decision; seconds of the COPY and its commit."""
        with psycopg.connect(self.url) as conn:
            lines = [_read_line(row) for row in conn.execute(_NEWEST_LINES)]
            decision_id = uuid4()
            conn.execute(_COPY_HEAD, (decision_id, self.close_s + int(10 * time.perf_counter())))
            conn.commit()
            began = time.perf_counter()
            copy_lines(conn, decision_id, lines)
            conn.commit()
            return time.perf_counter() - began

    def journal_bytes(self) -> int:
        """Size of the journal of one tick, as text."""
        with psycopg.connect(self.url) as conn:
            return sum(len(row[8]) + len(row[9]) for row in conn.execute(_NEWEST_LINES))


_NEWEST_LINES: Final = (
    "select symbol, position_id, outcome, rule, a_value, e_value, bucket, codes, inputs::text as inputs, plan::text as plan, gate::text,"
    " client_order_id from decision_lines where decision_id = (select decision_id from decisions where account = 'paper-main'"
    " order by seq desc limit 1)"
)
_COPY_HEAD: Final = (
    "insert into decisions (decision_id, account, strategy, bar_close, inputs_hash, inputs, levers, plan, plan_hash, config_hash,"
    " code_version, lease_token) values (%s, 'bench', 'copy', to_timestamp(%s), '', '{}', '{}', '{}', '', '', '', 0)"
)


def _read_line(row: tuple[Any, ...]) -> LineRow:
    symbol, position_id, outcome, rule, a_value, e_value, bucket, codes, *texts = row
    return LineRow(symbol, position_id, outcome, rule, a_value, e_value, bucket, tuple(codes), *texts)
