"""Questions about health to Postgres: few rows each, over indexes, since they are asked every minute."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, LiteralString

from psycopg import sql
from psycopg.rows import dict_row

from regime_pipeline.adapters.postgres.alert_store import translate_errors
from regime_pipeline.adapters.postgres.connect import open_connection
from regime_pipeline.adapters.postgres.feed_store import PostgresFeeds
from regime_pipeline.adapters.postgres.venue_ledger import PostgresVenueLedger
from regime_pipeline.market.timeframe import REGIME_TIMEFRAMES, Timeframe
from regime_pipeline.ports import CallBudget, DriverAge, Halt, Heartbeat, OpenGaps, Refusals, SilentFlag
from regime_pipeline.regime.drivers import DRIVER_NAMES
from regime_pipeline.trend.record import FLAGS

DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class PostgresHealth:
    """`HealthStore` on the database at `url` (password included, so never printed)."""

    url: str = field(repr=False)

    def load_driver_ages(self) -> Sequence[DriverAge]:
        """Load how far all drivers are on all regime timeframes; a bar without a row of its own in bar_validity is flawless."""
        cells = [(driver, timeframe.value) for driver in DRIVER_NAMES for timeframe in REGIME_TIMEFRAMES]
        rows = self._ask(
            "select w.driver, w.timeframe, extract(epoch from bar.ts)::bigint as bar_s, extract(epoch from state.ts)::bigint as state_s,"
            " case when bar.ts is not null then coalesce(v.score, 1) end as validity"
            " from unnest(%s::text[], %s::text[]) as w (driver, timeframe)"
            " left join lateral (select b.timestamp as ts from regime_price_data_ohlc as b where b.driver = w.driver"
            " and b.timeframe = w.timeframe and b.is_final order by b.timestamp desc limit 1) as bar on true"
            " left join lateral (select u.ts from uptrend_states as u where u.series = 'regime:' || w.driver"
            " and u.timeframe = w.timeframe order by u.ts desc limit 1) as state on true"
            " left join bar_validity as v on v.series = 'regime:' || w.driver and v.timeframe = w.timeframe and v.timestamp = bar.ts",
            [list(column) for column in zip(*cells, strict=True)],
        )
        return [DriverAge(**{**row, "timeframe": Timeframe(row["timeframe"])}) for row in rows]

    def load_birth_s(self) -> int:
        """Load when this database got its first table."""
        return int(self._ask("select extract(epoch from min(applied_at))::bigint as born_s from schema_migrations")[0]["born_s"])

    def load_refusals(self, now_s: int) -> Sequence[Refusals]:
        """Load the venues of which bars were refused within the last hour."""
        rows = self._ask(
            "select source, (count(*) filter (where is_new))::int as last_hour,"
            " count(*) filter (where not is_new) / 23.0::float8 as usual_per_hour,"
            " mode() within group (order by case when is_new then reason end) as reason"
            " from (select source, reason, detected_at > to_timestamp(%(hour)s) as is_new from bar_quarantine"
            " where detected_at > to_timestamp(%(day)s) and resolved_at is null) as q group by source having bool_or(is_new)",
            {"hour": now_s - 3600, "day": now_s - DAY_S},
        )
        return [Refusals(**row) for row in rows]

    def load_open_gaps(self, seen_before_s: int) -> Sequence[OpenGaps]:
        """Load what is missing, seen before then, and not given up."""
        rows = self._ask(
            "select timeframe, sum(n)::int as n_bars, count(*)::int as n_series, (array_agg(series order by n desc, series))[1]"
            " as worst_series, extract(epoch from min(oldest))::bigint as oldest_s"
            " from (select timeframe, series, count(distinct timestamp) as n, min(timestamp) as oldest from bar_gaps"
            " where resolved_at is null and reason = 'missing' and detected_at < to_timestamp(%s) group by timeframe, series) as g"
            " group by timeframe",
            (seen_before_s,),
        )
        return [OpenGaps(**{**row, "timeframe": Timeframe(row["timeframe"])}) for row in rows]

    def load_budgets(self, now_s: int) -> Sequence[CallBudget]:
        """Load the calls of the month."""
        with translate_errors():
            return [CallBudget(vendor, used) for vendor, used in PostgresVenueLedger(self.url).load_calls(now_s).items()]

    def load_halts(self, now_s: int) -> Mapping[str, Halt]:
        """Load the venues that are halted at `now_s`."""
        with translate_errors():
            return PostgresVenueLedger(self.url).load_halts(now_s)

    def load_heartbeats(self, instance: str) -> Sequence[Heartbeat]:
        """Load the heartbeats of this instance's collector; none when none ever ran."""
        with translate_errors(), open_connection(self.url) as conn:
            return PostgresFeeds(conn).load_heartbeats().get(instance, [])

    def find_silent_flags(self, timeframe: Timeframe, n_bars: int) -> Sequence[SilentFlag]:
        """Find flags that the newest `n_bars` bars of a series lack; shorter series are not judged. Slow: not for every minute."""
        anys = sql.SQL(", ").join(sql.SQL("bool_or({0}) as {0}").format(sql.Identifier(flag)) for flag in FLAGS)
        rows = self._ask(
            sql.SQL(
                "with recursive names (series) as ("  # one index probe per series instead of a scan over all their rows
                " (select series from uptrend_states order by series limit 1) union all"
                " select (select u.series from uptrend_states as u where u.series > names.series order by u.series limit 1)"
                " from names where names.series is not null)"
                " select names.series, n, extract(epoch from since)::bigint as since_s, flags.* from names cross join lateral ("
                " select count(*)::int as n, min(ts) as since, {}"
                " from (select * from uptrend_states as u where u.series = names.series and u.timeframe = %s order by u.ts desc limit %s)"
                " as newest) as flags where names.series is not null and n = %s order by names.series"
            ).format(anys),
            (timeframe.value, n_bars, n_bars),
        )
        return [SilentFlag(row["series"], flag, row["n"], row["since_s"]) for row in rows for flag in FLAGS if not row[flag]]

    def _ask(self, query: LiteralString | sql.Composed, params: Sequence[object] | Mapping[str, object] = ()) -> list[dict[str, Any]]:
        with translate_errors(), open_connection(self.url) as conn:
            return conn.cursor(row_factory=dict_row).execute(query, params).fetchall()
