"""What live feeds leave in Postgres besides bars: heartbeats of collectors, the last question for dominance, its answers."""

from collections.abc import Collection, Mapping, Sequence

import psycopg

from regime_pipeline.market.dominance import DominanceSample
from regime_pipeline.ports import Heartbeat, Question


class PostgresFeeds:
    """`FeedStore` on an open transaction."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self._conn = conn

    def save_heartbeats(self, instance: str, beats: Sequence[Heartbeat]) -> None:
        """Upsert the heartbeats of a collector; rows of venues that it no longer listens to go."""
        self._conn.execute(
            "delete from collector_heartbeats where instance = %s and venue <> all(%s)", (instance, [beat.venue for beat in beats])
        )
        with self._conn.cursor() as cursor:
            cursor.executemany(
                "insert into collector_heartbeats values (%s, %s, to_timestamp(%s), to_timestamp(%s), to_timestamp(%s), to_timestamp(%s),"
                " to_timestamp(%s), to_timestamp(%s), %s, %s, %s) on conflict (instance, venue) do update set beat_at = excluded.beat_at,"
                " started_at = excluded.started_at, connected_at = excluded.connected_at, last_message_at = excluded.last_message_at,"
                " last_flush_at = excluded.last_flush_at, last_bar_ts = excluded.last_bar_ts, connects = excluded.connects,"
                " bars_written = excluded.bars_written, problem = excluded.problem",
                [
                    (
                        instance,
                        beat.venue,
                        *(beat.beat_s, beat.started_s, beat.connected_s, beat.last_message_s, beat.last_flush_s, beat.last_bar_s),
                        *(beat.connects, beat.bars_written, beat.problem),
                    )
                    for beat in beats
                ],
            )

    def load_heartbeats(self) -> dict[str, list[Heartbeat]]:
        """Load the heartbeats of every collector, by instance."""
        rows = self._conn.execute(
            "select instance, venue, extract(epoch from beat_at)::bigint, extract(epoch from started_at)::bigint,"
            " extract(epoch from connected_at)::bigint, extract(epoch from last_message_at)::bigint,"
            " extract(epoch from last_flush_at)::bigint, extract(epoch from last_bar_ts)::bigint, connects, bars_written, problem"
            " from collector_heartbeats order by instance, venue"
        )
        found: dict[str, list[Heartbeat]] = {}
        for instance, *values in rows:
            found.setdefault(instance, []).append(Heartbeat(*values))
        return found

    def load_question(self, source: str) -> Question | None:
        """Load the last question for dominance to a vendor; None when there was none."""
        row = self._conn.execute(
            "select extract(epoch from asked_at)::bigint, failures, problem from dominance_questions where source = %s", (source,)
        ).fetchone()
        return None if row is None else Question(*row)

    def save_question(self, source: str, question: Question) -> None:
        """Save the last question for dominance to a vendor."""
        self._conn.execute(
            "insert into dominance_questions values (%s, to_timestamp(%s), %s, %s) on conflict (source) do update set"
            " asked_at = excluded.asked_at, failures = excluded.failures, problem = excluded.problem",
            (source, question.asked_s, question.failures, question.problem),
        )

    def save_samples(self, source: str, samples: Mapping[str, DominanceSample]) -> int:
        """Keep answers by driver, as received; returns how many are new."""
        n_new = 0
        for driver, sample in samples.items():
            n_new += self._conn.execute(
                "insert into dominance_samples (driver, fetched_at, vendor_updated_at, percent, source)"
                " values (%s, to_timestamp(%s), to_timestamp(%s), %s, %s) on conflict do nothing",
                (driver, sample.fetched_at_s, sample.updated_at_s, sample.percent, source),
            ).rowcount
        return n_new

    def load_samples(self, drivers: Collection[str], from_s: int) -> dict[str, list[DominanceSample]]:
        """Load the answers received from an instant on, by driver, in the order received."""
        rows = self._conn.execute(
            "select driver, extract(epoch from fetched_at)::bigint, extract(epoch from vendor_updated_at)::bigint, percent"
            " from dominance_samples where driver = any(%s) and fetched_at >= to_timestamp(%s) order by driver, fetched_at",
            (sorted(drivers), from_s),
        )
        found: dict[str, list[DominanceSample]] = {driver: [] for driver in drivers}
        for driver, fetched_s, updated_s, percent in rows:
            found[driver].append(DominanceSample(fetched_s, updated_s, percent))
        return found
