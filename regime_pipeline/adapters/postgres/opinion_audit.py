"""Questions about the stored opinions whose answers are faults; each row names its severity, none is good news."""

from collections.abc import Sequence
from typing import Any, Final, LiteralString

import psycopg
from psycopg.rows import dict_row

from regime_pipeline.adapters.postgres.series import split_series
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.opinions.terms import SO_VERSION, terms_of

LIMIT: Final = 20

Fault = dict[str, Any]


class OpinionAudit:
    """Audit queries on one connection, of the series of a group; `now_s` is the instant of the judgement, epoch seconds."""

    def __init__(self, conn: psycopg.Connection, series: Sequence[str], now_s: int) -> None:
        self._conn, self._series, self._now_s = conn, list(series), now_s

    def find_bad_posteriors(self, timeframe: Timeframe) -> list[Fault]:
        """Rows of the last day that are no distribution, or unknown and not exactly uniform."""
        return self._ask(
            "select 'ERROR' as severity, series, bar_ts, p_bear, p_range, p_bull, label, confidence from hmm_posteriors"
            " where series = any(%(series)s) and tf = %(tf)s and so_version = %(version)s and bar_ts > to_timestamp(%(now)s - 86400)"
            " and (not (abs(p_bear + p_range + p_bull - 1) <= 1e-9 and least(p_bear, p_range, p_bull) >= 0)"
            " or (label = 'unknown' and (p_bear, p_range, p_bull, confidence) is distinct from"
            " (1.0::float8 / 3, 1.0::float8 / 3, 1.0::float8 / 3, 0::float8)))",
            timeframe,
        )

    def find_stale(self, timeframe: Timeframe) -> list[Fault]:
        """Series whose newest posterior is older than the freshness limit; four times it, or none at all, is an error."""
        return self._ask(
            "select case when age_s is null or age_s > 4 * %(limit_s)s then 'ERROR' else 'WARN' end as severity, series, age_s from ("
            "select w.series, (%(now)s - extract(epoch from max(p.bar_ts)) - %(length)s)::bigint as age_s"
            " from unnest(%(series)s::text[]) as w (series) left join hmm_posteriors as p on p.series = w.series and p.tf = %(tf)s"
            " and p.so_version = %(version)s and p.bar_ts <= to_timestamp(%(now)s) group by w.series) as newest"
            " where age_s is null or age_s > %(limit_s)s",
            timeframe,
            limit_s=terms_of(timeframe).freshness_s,
        )

    def find_unstable_models(self, timeframe: Timeframe) -> list[Fault]:
        """Newest models that keep under 70 % of the labels of the one before; under 40 % is an error."""
        return self._ask(
            "select case when label_stability < 0.40 then 'ERROR' else 'WARN' end as severity, series, model_id, label_stability from ("
            "select distinct on (series) * from hmm_models where series = any(%(series)s) and tf = %(tf)s and so_version = %(version)s"
            " and status = 'accepted' order by series, effective_from desc) as newest where label_stability < 0.70",
            timeframe,
        )

    def find_poor_models(self, timeframe: Timeframe) -> list[Fault]:
        """Series without a model or with one past seven days; older than two days, weak, one-sided or rejected last is a warning."""
        return self._ask(
            "select case when m.train_end is null or age_s > 7 * 86400 then 'ERROR' else 'WARN' end as severity, w.series, m.model_id,"
            " age_s, m.weak_labels, m.one_sided_labels, n.reason as newest_attempt from unnest(%(series)s::text[]) as w (series)"
            " left join lateral (select * from hmm_models as m where m.series = w.series and m.tf = %(tf)s and m.so_version = %(version)s"
            " and m.status = 'accepted' order by m.effective_from desc limit 1) as m on true"
            " left join lateral (select * from hmm_models as n where n.series = w.series and n.tf = %(tf)s and n.so_version = %(version)s"
            " order by n.created_at desc limit 1) as n on true"
            " cross join lateral (select (%(now)s - extract(epoch from m.train_end))::bigint as age_s) as a"
            " where m.train_end is null or age_s > 2 * 86400 or m.weak_labels or m.one_sided_labels or n.reason is not null",
            timeframe,
        )

    def find_unknown(self, timeframe: Timeframe) -> list[Fault]:
        """Series of whose rows of the last day more than 5 % are unknown; more than half is an error."""
        return self._ask(
            "select case when share > 0.5 then 'ERROR' else 'WARN' end as severity, series, share from ("
            "select series, avg((label = 'unknown')::int)::float8 as share from hmm_posteriors where series = any(%(series)s)"
            " and tf = %(tf)s and so_version = %(version)s and bar_ts > to_timestamp(%(now)s - 86400) group by series) as shares"
            " where share > 0.05",
            timeframe,
        )

    def find_odd_shock_shares(self, timeframe: Timeframe) -> list[Fault]:
        """Series that were in shock on less than 2 % or more than 15 % of the known bars of 90 days."""
        return self._ask(
            "select 'WARN' as severity, series, share, n from (select series, avg((active = 'high_vol_shock')::int)::float8 as share,"
            " count(*) as n from volatility_regimes where series = any(%(series)s) and tf = %(tf)s and so_version = %(version)s"
            " and active <> 'unknown' and bar_ts > to_timestamp(%(now)s - 90 * 86400) group by series) as shares"
            " where share not between 0.02 and 0.15",
            timeframe,
        )

    def find_frequent_alerts(self, timeframe: Timeframe) -> list[Fault]:
        """Series at alert or above on more than 20 % of the bars of 7 days."""
        return self._ask(
            "select 'WARN' as severity, series, share from (select series, avg((level in ('alert', 'urgent'))::int)::float8 as share"
            " from changepoints where series = any(%(series)s) and tf = %(tf)s and so_version = %(version)s"
            " and bar_ts > to_timestamp(%(now)s - 7 * 86400) group by series) as shares where share > 0.20",
            timeframe,
        )

    def find_missing_minutes(self, start_s: int, end_s: int) -> list[Fault]:
        """Minutes in [start, end) from the first snapshot of a series on that have none; the key makes doubled ones impossible."""
        return self._ask(
            "select 'ERROR' as severity, w.series, minute from unnest(%(series)s::text[]) as w (series)"
            " cross join lateral (select min(snapshot_ts) as first from regime_snapshots as f where f.series = w.series"
            " and f.so_version = %(version)s) as f"
            " cross join lateral generate_series(greatest(to_timestamp(%(start)s), f.first), to_timestamp(%(end)s - 60), '1 minute')"
            " as minute"
            " where f.first is not null"
            " and not exists (select from regime_snapshots as s where s.series = w.series and s.so_version = %(version)s"
            " and s.snapshot_ts = minute)",
            Timeframe.M1,
            start=start_s,
            end=end_s,
        )

    def choose_live_rows(self, timeframe: Timeframe, n: int) -> list[tuple[str, int, float]]:
        """Choose live rows of the last day by hash, to be recomputed: series, slot and when each was written, epoch seconds."""
        rows = self._conn.execute(
            "select series, extract(epoch from bar_ts)::bigint, extract(epoch from written_at)::float8 from hmm_posteriors"
            " where series = any(%s) and tf = %s and so_version = %s and origin = 'live' and status <> 'error'"
            " and bar_ts > to_timestamp(%s - 86400) order by md5(series || bar_ts::text) limit %s",
            (self._series, timeframe.value, SO_VERSION, self._now_s, n),
        )
        return rows.fetchall()

    def has_late_bars(self, name: str, timeframe: Timeframe, first_s: int, last_s: int, written_s: float) -> bool:
        """Tell whether a bar of a stored series was written or revised after an instant: then what was said cannot be recomputed."""
        key = split_series(name)
        table, mine = (
            ("regime_price_data_ohlc", "driver = %(a)s")
            if len(key) == 1
            else ("majors_price_data_ohlc", "(token_contract, chain) = (%(a)s, %(b)s)")
        )
        span = "timeframe = any(%(tfs)s) and timestamp between to_timestamp(%(first)s) and to_timestamp(%(last)s)"
        query = (
            f"select exists (select from {table} where {mine} and {span} and created_at > to_timestamp(%(at)s))"  # noqa: S608 - literals
            f" or exists (select from bar_revisions where series = %(name)s and {span} and revised_at > to_timestamp(%(at)s))"
        )
        given = {
            "a": key[0],
            "b": key[-1],
            "name": name,
            "tfs": [timeframe.value, Timeframe.M15.value],
            "first": first_s,
            "last": last_s,
            "at": written_s,
        }
        row = self._conn.execute(query.encode(), given).fetchone()
        return bool(row and row[0])

    def _ask(self, query: LiteralString, timeframe: Timeframe, **params: object) -> list[Fault]:
        given = {
            "series": self._series,
            "tf": timeframe.value,
            "version": SO_VERSION,
            "now": self._now_s,
            "length": timeframe.seconds,
            **params,
        }
        with self._conn.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(f"{query} limit {LIMIT}".encode(), given).fetchall()
