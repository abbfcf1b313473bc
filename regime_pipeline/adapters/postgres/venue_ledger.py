"""Halts of venues and calls to vendors in Postgres: what one process learns, all of them keep to."""

from collections.abc import Mapping
from datetime import UTC, date, datetime

from regime_pipeline.adapters.postgres.connect import open_session
from regime_pipeline.errors import BudgetExhaustedError
from regime_pipeline.ports import Halt


class PostgresVenueLedger:
    """`VenueLedger` on the database at `url` (password included, so never printed). It keeps no connection: it is asked seldom."""

    def __init__(self, url: str) -> None:
        self._url = url

    def load_halts(self, now_s: int) -> Mapping[str, Halt]:
        """Load the venues that are halted at `now_s`."""
        with open_session(self._url) as conn:
            rows = conn.execute(
                "select venue, reason, extract(epoch from since)::bigint, extract(epoch from until)::bigint from venue_halts"
                " where until is null or until > to_timestamp(%s) order by venue",
                (now_s,),
            ).fetchall()
        return {venue: Halt(reason, since_s, until_s) for venue, reason, since_s, until_s in rows}

    def halt(self, venue: str, halt: Halt) -> None:
        """Leave a venue alone; a halt that ends later, or not at all, is not shortened."""
        with open_session(self._url) as conn:
            conn.execute(
                "insert into venue_halts as t (venue, reason, since, until) values (%s, %s, to_timestamp(%s), to_timestamp(%s))"
                " on conflict (venue) do update set reason = excluded.reason, since = excluded.since, until = excluded.until"
                " where t.until is not null and (excluded.until is null or excluded.until > t.until)",
                (venue, halt.reason, halt.since_s, halt.until_s),
            )

    def resume(self, venue: str) -> bool:
        """End a venue's halt; False when there was none."""
        with open_session(self._url) as conn:
            return conn.execute("delete from venue_halts where venue = %s", (venue,)).rowcount > 0

    def spend_call(self, vendor: str, now_s: int, monthly_limit: int) -> int:
        """Count one call of a calendar month (UTC) before it is made; returns how many are left.

        Raises
        ------
        BudgetExhaustedError
            When the month's calls are spent; nothing is counted then.
        """
        month = _month_of(now_s)
        with open_session(self._url) as conn:
            row = conn.execute(
                "insert into vendor_calls as t (vendor, month, calls, last_call_at)"
                " select %(vendor)s, %(month)s, 1, to_timestamp(%(now)s) where %(limit)s > 0"
                " on conflict (vendor, month) do update set calls = t.calls + 1, last_call_at = excluded.last_call_at"
                " where t.calls < %(limit)s returning calls",
                {"vendor": vendor, "month": month, "now": now_s, "limit": monthly_limit},
            ).fetchone()
        if row is None:
            raise BudgetExhaustedError(
                f"{vendor} has had its {monthly_limit} calls of {month:%Y-%m}: it is asked again next month."
                " To ask now, raise REGIME_COINGECKO_MONTHLY_CALLS to what your plan allows."
            )
        return monthly_limit - int(row[0])

    def load_calls(self, now_s: int) -> Mapping[str, int]:
        """Load how many calls of the present calendar month (UTC) each vendor has had."""
        with open_session(self._url) as conn:
            rows = conn.execute("select vendor, calls from vendor_calls where month = %s order by vendor", (_month_of(now_s),)).fetchall()
        return dict(rows)


def _month_of(now_s: int) -> date:
    return datetime.fromtimestamp(now_s, UTC).date().replace(day=1)
