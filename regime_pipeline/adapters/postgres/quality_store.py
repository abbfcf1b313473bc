"""How good the bars are, in Postgres: suspects, watermarks, gaps that were asked for again, validity."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from regime_pipeline.adapters.postgres import bulk
from regime_pipeline.market.bars import RawBars
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.validity import Validity
from regime_pipeline.ports import FeedFacts, Gap, Watermark

_SUSPECT_REASONS: Final = ("outlier", "disagrees", "wrong_unit")
_PARTS: Final = ("score", "gaps", "flat", "outliers", "agreement", "parts")
_EVER: Final = (-1_000_000_000, 32_503_680_000)


class PostgresQuality:
    """`QualityStore` on an open transaction."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self._conn = conn

    def load_suspects(self, series: str, timeframe: Timeframe, first_s: int, last_s: int) -> dict[str, list[tuple[RawBars, int]]]:
        """Load the refused outliers of a span that nothing has taken the place of, by venue, each with when it was first said."""
        rows = self._conn.execute(
            "select source, extract(epoch from timestamp)::bigint, open, high, low, close, volume, extract(epoch from detected_at)::bigint"
            " from bar_quarantine where series = %s and timeframe = %s and timestamp between to_timestamp(%s) and to_timestamp(%s)"
            " and reason = any(%s) and resolved_at is null order by source, timestamp",
            (series, timeframe.value, first_s, last_s, list(_SUSPECT_REASONS)),
        )
        found: dict[str, list[tuple[RawBars, int]]] = {}
        for venue, ts_s, *values, detected_s in rows:
            bar = RawBars(*(np.array([value]) for value in (ts_s, *values)))
            found.setdefault(venue, []).append((bar, detected_s))
        return found

    def acquit(self, series: str, timeframe: Timeframe, venue: str, ts_s: NDArray[np.int64]) -> None:
        """Rename the reason of outliers that were confirmed after all."""
        if not len(ts_s):
            return
        self._conn.execute(
            "with freed as (delete from bar_quarantine where series = %s and timeframe = %s and source = %s and reason = any(%s)"
            " and timestamp in (select to_timestamp(t) from unnest(%s::float8[]) as t) returning *)"
            " insert into bar_quarantine (series, timeframe, timestamp, source, open, high, low, close, volume, reason, detected_at,"
            " resolved_at) select distinct on (timestamp) series, timeframe, timestamp, source, open, high, low, close, volume,"
            " 'confirmed', detected_at, now() from freed order by timestamp, detected_at on conflict do nothing",
            (series, timeframe.value, venue, list(_SUSPECT_REASONS), ts_s.tolist()),
        )

    def settle(self, timeframe: Timeframe, ts_s: Mapping[str, NDArray[np.int64]], now_s: int) -> None:
        """Resolve the gaps and the refused bars whose place a believed bar has taken."""
        names = [name for name, times in ts_s.items() if len(times)]
        if not names:
            return
        first_s, last_s = min(int(ts_s[name][0]) for name in names), max(int(ts_s[name][-1]) for name in names)
        for table in ("bar_gaps", "bar_quarantine"):
            rows = self._conn.execute(
                sql.SQL(
                    "select series, extract(epoch from timestamp)::bigint from {} where resolved_at is null and timeframe = %s"
                    " and series = any(%s) and timestamp between to_timestamp(%s) and to_timestamp(%s)"
                ).format(sql.Identifier(table)),
                (timeframe.value, names, first_s, last_s),
            ).fetchall()
            arrived = [(name, at_s) for name, at_s in rows if _has(ts_s[name], at_s)]
            if arrived:
                self._conn.execute(
                    sql.SQL(
                        "update {} as t set resolved_at = to_timestamp(%s) from unnest(%s::text[], %s::float8[]) as w (name, at_s) where"
                        " t.resolved_at is null and t.timeframe = %s and t.series = w.name and t.timestamp = to_timestamp(w.at_s)"
                    ).format(sql.Identifier(table)),
                    (now_s, [name for name, _ in arrived], [at_s for _, at_s in arrived], timeframe.value),
                )

    def save_watermarks(self, timeframe: Timeframe, marks: Mapping[str, Watermark], now_s: int) -> None:
        """Remember how far each series has come and that it was asked for; an older bar moves nothing back."""
        rows = sorted(marks.items())
        self._conn.execute(
            "insert into ingest_watermarks as t (series, timeframe, last_ts, source, last_asked_at, last_answered_at)"
            " select series, %s, to_timestamp(last_s), source, to_timestamp(%s), case when last_s is not null then to_timestamp(%s) end"
            " from unnest(%s::text[], %s::float8[], %s::text[]) as w (series, last_s, source)"
            " on conflict (series, timeframe) do update set last_ts = greatest(t.last_ts, excluded.last_ts),"
            " source = case when excluded.last_ts >= coalesce(t.last_ts, '-infinity') then excluded.source else t.source end,"
            " last_asked_at = greatest(t.last_asked_at, excluded.last_asked_at),"
            " last_answered_at = greatest(t.last_answered_at, excluded.last_answered_at)",
            (
                timeframe.value,
                now_s,
                now_s,
                [name for name, _ in rows],
                [mark.last_s for _, mark in rows],
                [mark.source for _, mark in rows],
            ),
        )

    def load_refused(self, timeframe: Timeframe, first_s: Mapping[str, int]) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Load the open times of refused outliers and of bars that another venue contradicted, ascending, from a time on."""
        rows = self._conn.execute(
            "select series, extract(epoch from timestamp)::bigint, reason = 'disagrees' from bar_quarantine"
            " join unnest(%s::text[], %s::float8[]) as w (name, first_s) on series = name and timestamp >= to_timestamp(first_s)"
            " where timeframe = %s and reason = any(%s) order by timestamp",
            (list(first_s), list(first_s.values()), timeframe.value, list(_SUSPECT_REASONS)),
        ).fetchall()
        times: dict[str, tuple[list[int], list[int]]] = {}
        for series, ts_s, is_contradicted in rows:
            times.setdefault(series, ([], []))[is_contradicted].append(ts_s)
        return {name: (np.array(lying, dtype=np.int64), np.array(wrong, dtype=np.int64)) for name, (lying, wrong) in times.items()}

    def save_validity(self, timeframe: Timeframe, scores: Mapping[str, Validity]) -> None:
        """Replace the scores of each series from its first to its last bar given; a score of 1 is kept as no row."""
        scores = {name: found for name, found in sorted(scores.items()) if len(found.ts_s)}
        if not scores:
            return
        bounds = [(name, int(found.ts_s[0]), int(found.ts_s[-1])) for name, found in scores.items()]
        self._conn.execute(
            "delete from bar_validity as t using unnest(%s::text[], %s::float8[], %s::float8[]) as w (name, first_s, last_s)"
            " where t.series = w.name and t.timeframe = %s and t.timestamp between to_timestamp(w.first_s) and to_timestamp(w.last_s)",
            (*([row[at] for row in bounds] for at in range(3)), timeframe.value),
        )
        weak = {name: found[found.score < 1.0] for name, found in scores.items()}
        code = np.repeat(np.arange(len(weak)), [len(found.ts_s) for found in weak.values()])
        if not len(code):
            return
        columns: dict[str, bulk.Column] = {
            "series": bulk.text(code, list(weak)),
            "timeframe": bulk.constant(timeframe.value, len(code)),
            "timestamp": bulk.timestamptz(np.concatenate([found.ts_s for found in weak.values()])),
        }
        for name in _PARTS:
            columns[name] = bulk.float8(np.concatenate([getattr(found, name) for found in weak.values()]))
        bulk.upsert(self._conn, "bar_validity", columns, ("series", "timeframe", "timestamp"))

    def load_weak(
        self, timeframe: Timeframe, series: Collection[str], from_s: int
    ) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Load the bars whose score is below 1, from a time on: open times, ascending, and scores."""
        columns = bulk.fetch_columns(
            self._conn,
            "select series, timestamp, score from bar_validity where series = any(%s) and timeframe = %s and timestamp >= to_timestamp(%s)"
            " order by series, timestamp",
            (list(series), timeframe.value, from_s),
        )
        names, starts = np.unique(columns["series"], return_index=True)
        ends = [*starts.tolist(), len(columns["series"])][1:]
        parts = zip(names.tolist(), starts.tolist(), ends, strict=True)
        return {name: (columns["timestamp"][start:end], columns["score"][start:end]) for name, start, end in parts}

    def load_scores(self, bars: Sequence[tuple[str, Timeframe, int]]) -> list[float]:
        """Load the score of each (series, timeframe, open time)."""
        rows = self._conn.execute(
            "select coalesce(v.score, 1.0) from unnest(%s::text[], %s::text[], %s::float8[]) with ordinality as w (name, length, at_s, n)"
            " left join bar_validity as v on v.series = w.name and v.timeframe = w.length and v.timestamp = to_timestamp(w.at_s)"
            " order by w.n",
            ([name for name, _, _ in bars], [timeframe.value for _, timeframe, _ in bars], [at_s for _, _, at_s in bars]),
        )
        return [score for (score,) in rows]

    def load_feeds(self, since_s: int) -> dict[tuple[str, Timeframe], FeedFacts]:
        """Load what is known of the feed of each series and timeframe; bars refused and revised are counted from `since_s` on."""
        rows = self._conn.execute(
            "with gap as (select series, timeframe, count(distinct timestamp) filter (where reason <> 'vendor_none') as open,"
            " count(distinct timestamp) filter (where reason = 'vendor_none') as own from bar_gaps where resolved_at is null"
            " group by 1, 2),"
            " refused as (select series, timeframe, count(*) as n from bar_quarantine where detected_at >= to_timestamp(%s)"
            " and reason <> 'confirmed' group by 1, 2),"
            " revised as (select series, timeframe, count(*) as n from bar_revisions where revised_at >= to_timestamp(%s) group by 1, 2)"
            " select series, timeframe, w.source, extract(epoch from w.last_asked_at)::bigint,"
            " extract(epoch from w.last_answered_at)::bigint, coalesce(gap.open, 0), coalesce(gap.own, 0), coalesce(refused.n, 0),"
            " coalesce(revised.n, 0) from ingest_watermarks as w full join gap using (series, timeframe)"
            " full join refused using (series, timeframe) full join revised using (series, timeframe)",
            (since_s, since_s),
        )
        return {(series, Timeframe(timeframe)): FeedFacts(*facts) for series, timeframe, *facts in rows}

    def load_gaps(
        self,
        timeframe: Timeframe,
        series: Collection[str] | None = None,
        span: tuple[int, int] | None = None,
        *,
        with_own: bool = True,
    ) -> list[Gap]:
        """Load the open gaps of some or all series in [start, end), by series and time; those that are the vendors' own only grow."""
        start_s, end_s = span or _EVER
        rows = self._conn.execute(
            "select series, extract(epoch from timestamp)::bigint, max(attempts), extract(epoch from min(detected_at))::bigint,"
            " extract(epoch from max(last_asked_at))::bigint, bool_and(reason = 'vendor_none') from bar_gaps where resolved_at is null"
            " and timeframe = %s and (%s::text[] is null or series = any(%s::text[])) and source <> 'composite'"
            " and timestamp >= to_timestamp(%s) and timestamp < to_timestamp(%s) and (%s or reason <> 'vendor_none')"
            " group by series, timestamp order by series, timestamp",
            (timeframe.value, *([None if series is None else list(series)] * 2), start_s, end_s, with_own),
        )
        return [Gap(*row) for row in rows]

    def save_attempts(
        self, series: str, timeframe: Timeframe, ts_s: NDArray[np.int64], is_vendors_own: NDArray[np.bool_], now_s: int
    ) -> None:
        """Count one more attempt for each gap, and say which are the vendors' own."""
        self._conn.execute(
            "update bar_gaps as t set attempts = attempts + 1, last_asked_at = to_timestamp(%s),"
            " reason = case when w.own then 'vendor_none' else t.reason end from unnest(%s::float8[], %s::bool[]) as w (at_s, own)"
            " where t.resolved_at is null and t.series = %s and t.timeframe = %s and t.timestamp = to_timestamp(w.at_s)"
            " and t.source <> 'composite'",
            (now_s, ts_s.tolist(), is_vendors_own.tolist(), series, timeframe.value),
        )

    def open_backfill(self, series: str, timeframe: Timeframe, span: tuple[int, int], now_s: int) -> None:
        """Note that bars in [start, end) are being asked for; a request that was abandoned ends here."""
        self._conn.execute(
            "update backfill_requests set ended_at = to_timestamp(%s), outcome = 'abandoned' where ended_at is null and series = %s"
            " and timeframe = %s and start_ts < to_timestamp(%s) and end_ts > to_timestamp(%s)",
            (now_s, series, timeframe.value, span[1], span[0]),
        )
        self._conn.execute(
            "insert into backfill_requests (series, timeframe, start_ts, end_ts, requested_at)"
            " values (%s, %s, to_timestamp(%s), to_timestamp(%s), to_timestamp(%s))",
            (series, timeframe.value, *span, now_s),
        )

    def close_backfill(self, series: str, timeframe: Timeframe, span: tuple[int, int], outcome: str, now_s: int) -> None:
        """Note how that ended: `data`, `none`, or why it failed."""
        self._conn.execute(
            "update backfill_requests set ended_at = to_timestamp(%s), outcome = %s where ended_at is null and series = %s"
            " and timeframe = %s and start_ts = to_timestamp(%s) and end_ts = to_timestamp(%s)",
            (now_s, outcome, series, timeframe.value, *span),
        )


def _has(times: NDArray[np.int64], at_s: int) -> bool:
    at = int(np.searchsorted(times, at_s))
    return at < len(times) and int(times[at]) == at_s
