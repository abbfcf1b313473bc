"""The live market: pages, halts, rests and patience, over real sockets on a clock of the test's own."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from regime_pipeline.adapters.venues.door import HALTS_FRESH_S, REST_S
from regime_pipeline.adapters.venues.live import LiveMarket
from regime_pipeline.errors import BudgetExhaustedError, ConfigError, SourceError, SourceUnavailableError, VenueHaltedError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import load_universe
from regime_pipeline.ports import Halt
from tests.unit.adapters.venues.ledger import ListLedger
from tests.unit.adapters.venues.scripted import Asked, Reply, Scripted, serve

ROOT = Path(__file__).parents[4]
UNIVERSE = load_universe(ROOT / "config" / "universe.toml")
T0 = 1_748_736_000  # 2025-06-01T00:00Z
NOW_S = T0 + 43_200
M1, D1 = Timeframe.M1, Timeframe.D1


@dataclass
class Desk:
    """A live market with all that it remembers and does within reach."""

    venue: Scripted
    ledger: ListLedger = field(default_factory=ListLedger)
    now_s: int = NOW_S
    slept: list[float] = field(default_factory=list)
    plan: str = "keyless"
    calls: int = 1000

    def market(self) -> LiveMarket:
        market = LiveMarket(
            UNIVERSE,
            self.ledger,
            venue_url=self.venue.url,
            timeout_s=0.5,
            coingecko_plan=self.plan,  # type: ignore[arg-type]
            coingecko_key=None,
            coingecko_monthly_calls=self.calls,
            clock=lambda: datetime.fromtimestamp(self.now_s, UTC),
            sleep=self.slept.append,
        )
        for name in ("binance_um", "binance_spot", "hyperliquid"):
            market._feeds[name]._client.exchange.rateLimit = 0  # type: ignore[attr-defined]
        return market


def klines(first: int, last: int) -> list[list[Any]]:
    """Minutes first to last after T0, as Binance spells them."""
    opens_ms = [(T0 + 60 * at) * 1000 for at in range(first, last + 1)]
    return [[at, "1", "2", "1", "2", "3", at + 59_999, "6", 1, "1", "1", "0"] for at in opens_ms]


def listing(n_minutes: int) -> Callable[[Asked], Reply]:
    """A venue with minutes 0 to n - 1, obeying startTime, endTime and limit as the real one does."""
    everything = klines(0, n_minutes - 1)

    def answer(asked: Asked) -> Reply:
        low, high, limit = (int(asked.params[name]) for name in ("startTime", "endTime", "limit"))
        return Reply.of([row for row in everything if low <= row[0] <= high][:limit])

    return answer


def test_a_long_window_is_paged_and_every_bar_comes_once() -> None:
    with serve(listing(2500)) as venue:
        bars = Desk(venue).market().fetch_bars("binance_um", "BTCUSDT", M1, T0, T0 + 2500 * 60)
    assert bars.ts_s.tolist() == [T0 + 60 * at for at in range(2500)]
    assert [asked.params["limit"] for asked in venue.asked] == ["1000", "1000", "500"]


def test_history_before_the_listing_costs_no_requests() -> None:
    with serve(listing(10)) as venue:
        bars = Desk(venue).market().fetch_bars("binance_um", "BTCUSDT", M1, T0 - 500_000 * 60, T0 + 600)
    assert len(bars) == 10
    assert len(venue.asked) == 1


def test_a_list_cut_short_costs_a_page_and_no_bar() -> None:
    whole = listing(100)

    def short(asked: Asked) -> Reply:
        rows = whole(asked)
        return Reply.of(klines(0, 39)) if asked.params["startTime"] == f"{T0}000" else rows

    with serve(short) as venue:
        bars = Desk(venue).market().fetch_bars("binance_um", "BTCUSDT", M1, T0, T0 + 6000)
    assert len(bars) == 100
    assert len(venue.asked) == 2


def test_a_bar_that_is_not_there_is_asked_for_once_more_and_then_missing() -> None:
    with serve(listing(2)) as venue:
        bars = Desk(venue).market().fetch_bars("binance_um", "BTCUSDT", M1, T0, T0 + 180)
    assert bars.ts_s.tolist() == [T0, T0 + 60]
    assert len(venue.asked) == 2


def test_a_window_off_the_grid_means_the_bars_that_open_in_it() -> None:
    with serve(listing(10)) as venue:
        market = Desk(venue).market()
        assert market.fetch_bars("binance_um", "BTCUSDT", M1, T0 + 1, T0 + 119).ts_s.tolist() == [T0 + 60]
        assert len(market.fetch_bars("binance_um", "BTCUSDT", M1, T0 + 60, T0 + 60)) == 0


def test_a_wrong_second_page_gives_no_bar_of_the_first() -> None:
    with serve(Reply.of(klines(0, 999)), Reply("<html>"), Reply("<html>")) as venue, pytest.raises(SourceUnavailableError):
        Desk(venue).market().fetch_bars("binance_um", "BTCUSDT", M1, T0, T0 + 2000 * 60)


def test_a_live_minute_repeats_once_and_soon() -> None:
    with serve(Reply(is_reset=True), Reply.of(klines(0, 0))) as venue:
        desk = Desk(venue)
        assert len(desk.market().fetch_bars("binance_um", "BTCUSDT", M1, T0, T0 + 60)) == 1
    assert len(desk.slept) == 1
    assert desk.slept[0] <= 1


def test_bootstrap_repeats_after_5_15_and_60_seconds() -> None:
    with serve(Reply("", 502), Reply("<html>"), Reply("", 503), Reply.of(klines(0, 0))) as venue:
        desk = Desk(venue)
        assert len(desk.market().patient().fetch_bars("binance_um", "BTCUSDT", M1, T0, T0 + 60)) == 1
    assert [5 <= desk.slept[0] <= 6.25, 15 <= desk.slept[1] <= 18.75, 60 <= desk.slept[2] <= 75] == [True] * 3


@pytest.mark.parametrize(
    ("reply", "until_s"),
    [
        (Reply("{}", 418, {"Retry-After": "112"}), NOW_S + 112),
        (Reply("{}", 418), NOW_S + 3600),
        (Reply("<html>", 403), NOW_S + 3600),
        (Reply('{"code":0}', 451), None),
    ],
)
def test_a_venue_that_blocks_us_is_halted_for_everybody(reply: Reply, until_s: int | None) -> None:
    with serve(reply) as venue:
        desk = Desk(venue)
        market = desk.market()
        assert set(market.venues()) == {"binance_um", "binance_spot", "hyperliquid"}
        for _ in range(2):
            with pytest.raises(VenueHaltedError, match="regime venues resume binance_um"):
                market.fetch_bars("binance_um", "BTCUSDT", M1, T0, T0 + 60)
        # the second question was not put, and another process of ours does not put it either
        assert len(venue.asked) == 1
        assert desk.ledger.halts["binance_um"].until_s == until_s
        assert set(desk.market().venues()) == set(market.venues()) == {"binance_spot", "hyperliquid"}


def test_a_halt_ends_by_itself_or_by_a_person() -> None:
    with serve(listing(1)) as venue:
        desk = Desk(venue)
        desk.ledger.halts = {"binance_um": Halt("banned", NOW_S, NOW_S + 100), "hyperliquid": Halt("restricted", NOW_S, None)}
        market = desk.market()
        assert set(market.venues()) == {"binance_spot"}
        desk.now_s += 100
        assert set(market.venues()) == {"binance_spot", "binance_um"}
        desk.ledger.resume("hyperliquid")
        desk.now_s += HALTS_FRESH_S
        assert set(market.venues()) == {"binance_spot", "binance_um", "hyperliquid"}


def test_too_many_requests_stop_all_others_for_as_long_as_the_venue_said() -> None:
    with serve(Reply("{}", 429, {"Retry-After": "20"})) as venue:
        desk = Desk(venue)
        market = desk.market()
        with pytest.raises(SourceUnavailableError, match="answered 429"):
            market.fetch_bars("binance_um", "BTCUSDT", M1, T0, T0 + 60)
        assert desk.ledger.halts["binance_um"].until_s == NOW_S + 20
        with pytest.raises(VenueHaltedError):
            market.fetch_bars("binance_um", "ETHUSDT", M1, T0, T0 + 60)
    assert len(venue.asked) == 1


def test_too_many_requests_without_a_wait_are_failures_like_others() -> None:
    def busy(asked: Asked) -> Reply:
        return Reply("{}", 429, {"Retry-After": "0"})

    with serve(busy) as venue:
        desk = Desk(venue)
        market = desk.market()
        for symbol in ("BTCUSDT", "ETHUSDT"):
            with pytest.raises(SourceUnavailableError):
                market.fetch_bars("binance_um", symbol, M1, T0, T0 + 60)
        assert "binance_um" not in market.venues()
        assert not desk.ledger.halts


def test_bootstrap_waits_as_long_as_the_venue_said() -> None:
    with serve(Reply("{}", 429, {"Retry-After": "20"}), Reply.of(klines(0, 0))) as venue:
        desk = Desk(venue)
        assert len(desk.market().patient().fetch_bars("binance_um", "BTCUSDT", M1, T0, T0 + 60)) == 1
    assert desk.slept == [20.0]
    assert not desk.ledger.halts


def test_a_venue_that_fails_twice_in_a_row_rests_and_is_then_asked_again() -> None:
    def broken(asked: Asked) -> Reply:
        return Reply("<html>")

    with serve(broken) as venue:
        desk = Desk(venue)
        market = desk.market()
        for symbol in ("BTCUSDT", "ETHUSDT"):
            assert "binance_um" in market.venues()
            with pytest.raises(SourceUnavailableError, match="was not JSON"):
                market.fetch_bars("binance_um", symbol, M1, T0, T0 + 60)
        n_asked = len(venue.asked)
        assert "binance_um" not in market.venues()
        with pytest.raises(SourceUnavailableError, match="2 times in a row"):
            market.fetch_bars("binance_um", "SOLUSDT", M1, T0, T0 + 60)
        assert len(venue.asked) == n_asked == 4
        desk.now_s += REST_S
        assert "binance_um" in market.venues()
        venue.replies.clear()
        venue.replies.append(listing(1))
        assert len(market.fetch_bars("binance_um", "SOLUSDT", M1, T0, T0 + 60)) == 1
    assert not desk.ledger.halts


def test_an_answer_in_between_forgives_a_failure() -> None:
    bad, good = Reply("<html>"), Reply.of(klines(0, 0))
    with serve(bad, bad, good, bad, bad) as venue:
        market = Desk(venue).market()
        for is_good in (False, True, False):
            if is_good:
                market.fetch_bars("binance_um", "BTCUSDT", M1, T0, T0 + 60)
            else:
                with pytest.raises(SourceUnavailableError):
                    market.fetch_bars("binance_um", "BTCUSDT", M1, T0, T0 + 60)
        assert "binance_um" in market.venues()


def test_a_refused_symbol_is_no_failure_of_the_venue() -> None:
    def unknown(asked: Asked) -> Reply:
        return Reply.of({"code": -1121, "msg": "Invalid symbol."}, 400)

    with serve(unknown) as venue:
        market = Desk(venue).market()
        for _ in range(3):
            with pytest.raises(SourceError, match="Invalid symbol"):
                market.fetch_bars("binance_um", "NOPE", M1, T0, T0 + 60)
        assert "binance_um" in market.venues()
    assert len(venue.asked) == 3


def test_a_venue_that_is_not_live_cannot_be_asked() -> None:
    with serve() as venue, pytest.raises(SourceError, match="venue was 'okx'; live ones"):
        Desk(venue).market().fetch_bars("okx", "BTC-USDT", M1, T0, T0 + 60)


def test_ranges_are_told_without_asking() -> None:
    with serve() as venue:
        market = Desk(venue, plan="pro").market()
        ranges = {name: market.time_range(name, "BTC", M1) for name in ("binance_um", "binance_spot", "hyperliquid", "okx")}
        assert market.dominance_range("BTC.d", D1) is not None
        hours = market.dominance_range("USDT.d", Timeframe.H1)
    assert [None if each is None else (each.last_s, each.is_exact) for each in ranges.values()] == [(None, False)] * 3 + [None]
    assert ranges["hyperliquid"] is not None
    assert ranges["hyperliquid"].first_s == NOW_S - 4999 * 60
    assert hours is not None
    assert hours.first_s == NOW_S - 86_400
    assert market.dominance_range("BTC.d", M1) is None
    assert market.dominance_range("ALT", D1) is None
    assert not venue.asked


@pytest.mark.parametrize("plan", ["keyless", "demo"])
def test_without_a_paid_plan_there_is_no_history_of_dominance(plan: str) -> None:
    with serve() as venue:
        market = Desk(venue, plan=plan).market()
        assert market.dominance_range("BTC.d", D1) is None
        assert len(market.fetch_dominance("BTC.d", D1, T0, NOW_S)) == 0
    assert not venue.asked


def charts(asked: Asked) -> Reply:
    """Chart of 30 days up to T0: Bitcoin is half of the market, Tether a tenth."""
    days_ms = [(T0 - 86_400 * at) * 1000 for at in range(30, -1, -1)]
    if asked.path.endswith("/global/market_cap_chart"):
        return Reply.of({"market_cap_chart": {"market_cap": [[at, 2e12] for at in days_ms]}})
    return Reply.of({"market_caps": [[at, 1e12 if "bitcoin" in asked.path else 2e11] for at in days_ms]})


def test_both_dominances_share_the_chart_of_the_whole_market() -> None:
    with serve(charts) as venue:
        desk = Desk(venue, plan="pro")
        market = desk.market()
        bitcoin = market.fetch_dominance("BTC.d", D1, T0 - 10 * 86_400, T0)
        tether = market.fetch_dominance("USDT.d", D1, T0 - 10 * 86_400, T0)
    assert bitcoin.ts_s.tolist() == tether.ts_s.tolist() == [T0 - 86_400 * at for at in range(10, 0, -1)]
    assert (set(bitcoin.close), set(tether.close)) == ({50.0}, {10.0})
    # 10 days back, the open before them, the day that is running, and one for the vendor's rounding
    assert [asked.params["days"] for asked in venue.asked] == ["13", "13", "13"]
    assert desk.ledger.calls == {"coingecko": 3}


def whole(**shares: float) -> Reply:
    return Reply.of({"data": {"total_market_cap": {"usd": 2e12}, "market_cap_percentage": shares, "updated_at": NOW_S - 60}})


def tether(cap: float | None) -> Reply:
    return Reply.of([{"id": "tether", "market_cap": cap, "last_updated": datetime.fromtimestamp(NOW_S - 30, UTC).isoformat()}])


def test_a_sample_is_one_call() -> None:
    with serve(whole(btc=58.0, usdt=5.0)) as venue:
        desk = Desk(venue)
        samples = desk.market().fetch_samples()
    assert {driver: sample.percent for driver, sample in samples.items()} == {"BTC.d": 58.0, "USDT.d": 5.0}
    assert desk.ledger.calls == {"coingecko": 1}


def test_tethers_share_is_worked_out_when_the_answer_lacks_it() -> None:
    with serve(whole(btc=58.0), tether(1e11), whole(btc=58.0), tether(None)) as venue:
        market = Desk(venue).market()
        # 0.1 of 2 trillion is 5 percent
        assert market.fetch_samples()["USDT.d"].percent == 5.0
        assert set(market.fetch_samples()) == {"BTC.d"}


def test_a_spent_budget_asks_nothing() -> None:
    with serve(whole(btc=58.0, usdt=5.0)) as venue:
        desk = Desk(venue, calls=1)
        market = desk.market()
        market.fetch_samples()
        with pytest.raises(BudgetExhaustedError):
            market.fetch_samples()
    assert len(venue.asked) == 1


def test_a_vendor_that_blocks_us_is_halted_like_a_venue() -> None:
    with serve(Reply("<html>", 403)) as venue:
        desk = Desk(venue)
        with pytest.raises(VenueHaltedError, match="regime venues resume coingecko"):
            desk.market().fetch_samples()
    assert set(desk.ledger.halts) == {"coingecko"}


def caps(asked: Asked) -> Reply:
    seen = datetime.fromtimestamp(NOW_S - 30, UTC).isoformat()
    return Reply.of([{"id": coin, "market_cap": 3e8, "last_updated": seen} for coin in asked.params["ids"].split(",")])


def test_caps_of_all_tokens_are_one_call_and_only_of_the_present() -> None:
    with serve(caps) as venue:
        desk = Desk(venue)
        market = desk.market()
        found = market.fetch_market_caps(T0, NOW_S)  # a run reads its clock before it asks
        assert set(found) == {token.contract for token in UNIVERSE.tokens}
        assert found["AAVE"][0].cap_usd == 3e8
        assert market.fetch_market_caps(T0 - 86_400, T0) == {}
        assert market.fetch_market_caps(NOW_S + 1, NOW_S + 86_400) == {}
    assert desk.ledger.calls == {"coingecko": 1}


def test_prices_tell_which_symbols_a_venue_lists() -> None:
    def answer(asked: Asked) -> Reply:
        if asked.path.endswith("/info"):
            meta = {"universe": [{"name": name} for name in ("BTC", "ETH", "SOL", "BNB")]}
            return Reply.of(
                meta if asked.body == {"type": "meta"} else {"BTC": "100000.5", "ETH": "1", "SOL": "1", "BNB": "1", "HYPE": "9"}
            )
        if asked.params["symbol"] == "SOLUSDT":
            return Reply.of({"code": -1121, "msg": "Invalid symbol."}, 400)
        opened_ms = int(asked.params["startTime"])
        day = [opened_ms, "1", "2", "1", "1.5", "3", opened_ms + 86_399_999, "6", 1, "1", "1", "0"]
        return Reply.of([] if asked.params["symbol"] == "BNBUSDT" else [day])

    with serve(answer) as venue:
        market = Desk(venue).market()
        assert market.fetch_prices("hyperliquid") == {"BTC": 100000.5, "ETH": 1.0, "SOL": 1.0, "BNB": 1.0, "HYPE": None}
        assert market.fetch_prices("binance_spot") == {"BTCUSDT": 1.5, "ETHUSDT": 1.5, "SOLUSDT": None, "BNBUSDT": None}


def test_prices_of_a_venue_that_cannot_be_read_are_not_none() -> None:
    def broken(asked: Asked) -> Reply:
        return Reply("<html>")

    with serve(broken) as venue, pytest.raises(SourceUnavailableError):
        Desk(venue).market().fetch_prices("binance_spot")


def test_a_paid_plan_without_a_key_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="REGIME_COINGECKO_KEY"):
        LiveMarket(UNIVERSE, ListLedger(), venue_url=None, timeout_s=1, coingecko_plan="pro", coingecko_key=None, coingecko_monthly_calls=1)


def test_ccxt_is_not_imported_before_something_is_asked() -> None:
    code = (
        "import sys; from pathlib import Path; from tests.unit.adapters.venues.ledger import ListLedger;"
        "from regime_pipeline.adapters.venues.live import LiveMarket; from regime_pipeline.market.timeframe import Timeframe;"
        "from regime_pipeline.market.universe import load_universe;"
        "market = LiveMarket(load_universe(Path('config/universe.toml')), ListLedger(), venue_url=None, timeout_s=1,"
        " coingecko_plan='keyless', coingecko_key=None, coingecko_monthly_calls=1);"
        "market.venues(); market.time_range('binance_um', 'BTCUSDT', Timeframe.M1); sys.exit('ccxt' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=60).returncode == 0
