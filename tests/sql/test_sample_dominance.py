"""Dominance on a real Postgres: asked when due, minutes closed from stored answers, an outage is a gap."""

from collections.abc import Mapping

import psycopg
import pytest

from regime_pipeline.adapters.postgres.work import PostgresStores
from regime_pipeline.errors import BudgetExhaustedError, SourceUnavailableError
from regime_pipeline.market.dominance import DominanceSample
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import Question, Stage
from regime_pipeline.services.sample_dominance import DominanceSummary, is_due, sample_dominance
from tests.builders import T0
from tests.markets import small_universe

UNIVERSE = small_universe()
EVERY_S = 300


class Vendor:
    """Answers by the minute it is asked in; what is not there is a failure."""

    def __init__(self, figures: Mapping[int, float], error: Exception | None = None) -> None:
        self.figures, self.error, self.asked = figures, error or SourceUnavailableError("no answer after 10 s"), list[int]()
        self.now_s = 0

    def fetch_samples(self) -> dict[str, DominanceSample]:
        at = (self.now_s - T0) // 60
        self.asked.append(at)
        if at not in self.figures:
            raise self.error
        return {
            "BTC.d": DominanceSample(self.now_s, self.now_s - 30, self.figures[at]),
            "USDT.d": DominanceSample(self.now_s, self.now_s - 30, self.figures[at] / 10),
        }


def run_minute(stores: PostgresStores, vendor: Vendor, at: int, late_s: int = 6) -> DominanceSummary:
    """The run of minute `at`, a few seconds after it began: minute at - 1 has just closed."""
    vendor.now_s = T0 + 60 * at + late_s
    return sample_dominance(stores, vendor, UNIVERSE, vendor.now_s, EVERY_S)


def closes(conn: psycopg.Connection, driver: str = "BTC.d") -> dict[int, float]:
    rows = conn.execute(
        "select (extract(epoch from timestamp)::bigint - %s) / 60, close_usd from regime_price_data_ohlc"
        " where driver = %s and timeframe = '1m' and is_final and source = 'coingecko' order by 1",
        (T0, driver),
    )
    return dict(rows.fetchall())


def test_a_question_every_five_minutes_closes_every_minute(database: str, conn: psycopg.Connection) -> None:
    stores, vendor = PostgresStores(database), Vendor({0: 57.0, 5: 57.5, 10: 57.2})
    for at in range(12):
        run_minute(stores, vendor, at, late_s=5 + at % 3)
    assert vendor.asked == [0, 5, 10]
    assert closes(conn) == {at: 57.0 if at < 5 else 57.5 if at < 10 else 57.2 for at in range(11)}
    assert closes(conn, "USDT.d") == pytest.approx({at: value / 10 for at, value in closes(conn).items()})
    assert conn.execute("select count(*) from dominance_samples where driver = 'BTC.d'").fetchone() == (3,)
    assert conn.execute("select count(*) from bar_gaps").fetchone() == (0,)


def test_what_follows_is_marked(database: str) -> None:
    stores, vendor = PostgresStores(database), Vendor({0: 57.0})
    for at in range(3):
        run_minute(stores, vendor, at)
    with stores.open() as work:
        assert work.marks.take(Stage.TREND, Timeframe.M1) == {"regime:BTC.d": T0, "regime:USDT.d": T0}
        assert work.marks.take(Stage.ROLLUP, Timeframe.H1) == {"regime:BTC.d": T0, "regime:USDT.d": T0}


def test_missed_runs_close_the_minutes_that_an_answer_still_covers_and_leave_the_others_as_gaps(
    database: str, conn: psycopg.Connection
) -> None:
    stores, vendor = PostgresStores(database), Vendor({0: 57.0, 20: 58.0})
    run_minute(stores, vendor, 0)
    run_minute(stores, vendor, 20)
    run_minute(stores, vendor, 21)
    # the answer of minute 0 closes minutes that end within 300 s and one minute of it: minute 5 ends after 354 s
    assert sorted(closes(conn)) == [0, 1, 2, 3, 4, 5, 20]
    assert conn.execute(
        "select open_usd from regime_price_data_ohlc where driver = 'BTC.d' order by timestamp desc limit 1"
    ).fetchone() == (58.0,)
    # the vendor only knows the present: nobody is asked for these minutes again
    gaps = conn.execute("select reason, count(*) from bar_gaps where series = 'regime:BTC.d' and resolved_at is null group by 1").fetchall()
    assert gaps == [("vendor_none", 14)]


def test_a_vendor_that_stays_away_costs_each_minute_only_its_own_gap(database: str, conn: psycopg.Connection) -> None:
    stores, vendor = PostgresStores(database), Vendor({0: 57.0})
    for at in (0, 30, 31, 32, 33):
        run_minute(stores, vendor, at)
    rows = conn.execute("select attempts, count(*), min(reason) from bar_gaps where series = 'regime:BTC.d' group by 1").fetchall()
    assert rows == [(2, 27, "vendor_none")]  # written once each, not once a minute


def test_running_again_changes_nothing(database: str, conn: psycopg.Connection) -> None:
    stores, vendor = PostgresStores(database), Vendor({0: 57.0})
    for at in range(4):
        run_minute(stores, vendor, at)
    again = run_minute(stores, vendor, 3)
    assert (again.asked, again.written, again.gaps) == (False, 0, 0)
    assert sorted(closes(conn)) == [0, 1, 2]


@pytest.mark.parametrize(
    "error", [SourceUnavailableError("no answer after 10 s"), BudgetExhaustedError("10,000 of 10,000 calls are spent")]
)
def test_a_vendor_that_does_not_answer_is_asked_less_and_less_and_the_run_goes_on(
    error: Exception, database: str, conn: psycopg.Connection
) -> None:
    stores, vendor = PostgresStores(database), Vendor({20: 58.0}, error)
    problems = [run_minute(stores, vendor, at).problem for at in range(22)]
    assert vendor.asked == [0, 1, 3, 7, 12, 17]
    assert problems[0] == str(error)
    assert closes(conn) == {}
    with stores.open() as work:
        assert work.feeds.load_question("coingecko") == Question(T0 + 17 * 60 + 6, 6, str(error))
    run_minute(stores, Vendor({22: 58.0}), 22)
    run_minute(stores, Vendor({}), 23)
    assert closes(conn) == {22: 58.0}


def test_an_answer_without_one_of_the_figures_is_asked_for_again(database: str, conn: psycopg.Connection) -> None:
    class Half(Vendor):
        def fetch_samples(self) -> dict[str, DominanceSample]:
            return {"BTC.d": super().fetch_samples()["BTC.d"]}

    stores, vendor = PostgresStores(database), Half({0: 57.0, 1: 57.1})
    summary = run_minute(stores, vendor, 0)
    assert "USDT.d" in (summary.problem or "")
    run_minute(stores, vendor, 1)
    assert vendor.asked == [0, 1]
    assert closes(conn) == {0: 57.0}
    assert closes(conn, "USDT.d") == {}


def test_when_a_question_is_due() -> None:
    assert is_due(None, T0, 300)
    late = Question(T0 + 7, 0, None)
    assert not is_due(late, T0 + 299, 300)
    assert is_due(late, T0 + 301, 300)  # 294 s later, but five minutes on the grid
    assert is_due(Question(T0 + 7, 1, "x"), T0 + 61, 300)
    assert not is_due(Question(T0 + 7, 3, "x"), T0 + 239, 300)
    assert is_due(Question(T0 + 7, 9, "x"), T0 + 300, 300)
