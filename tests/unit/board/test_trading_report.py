"""The part of the page about paper trading: every number of the book, and nothing of a name read as markup."""

import json
import re
from dataclasses import replace
from decimal import Decimal
from typing import Any

from regime_pipeline.board.report import render_report
from regime_pipeline.board.trading_report import MAX_ROWS, TradingPage
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.ports import ActionRow, CodeCount, EquityRow, PositionView, TradeRow
from regime_pipeline.services.trading.read_book import Equity, HeldPosition, ProfitAndLoss
from tests.builders import T0
from tests.unit.board.test_report import make_report

D = Decimal
CURVE = tuple(EquityRow(T0 + 3600 * at, D(value), D(value)) for at, value in enumerate((100_000, 101_000, 99_990, 100_500)))
STRATEGY = "onchain_crypto-1h"


def make_page(**changes: Any) -> TradingPage:
    equity = Equity(CURVE, D(100_000), D(101_000), D("0.005"), D("0.01"), ProfitAndLoss(D(500), D("500.004"), D("499.996")), 7)
    row = PositionView(
        1, "AAVE</script>", "binance", Timeframe.H1, STRATEGY, "active", "S3", D("1.5"), D(100), D(150), D(0), T0, T0, 0.7, 0.2, "hold",
        None, ("IN_POSITION",), T0,
    )  # fmt: skip
    page = TradingPage(
        account="paper-main",
        quote="USDT",
        traded=["onchain_crypto-1h decided 4 bars"],
        equity=equity,
        positions=[HeldPosition(row, D(110))],
        trades=[
            TradeRow(STRATEGY, "UNI/USDT", T0, T0 + 7200, D(100), D(112), D(12), 0.12, 7200),
            TradeRow(STRATEGY, "ZEC/USDT", T0, T0 + 3600, D(100), D(90), D(-10), -0.1, 3600),
        ],
        actions=[ActionRow(T0, STRATEGY, "AAVE", "entry", "s2_retest", "done", D("1.5"), D(150), 0.7, 0.2, "S2")],
        codes=[CodeCount(STRATEGY, "CONDITION_NOT_MET", 75, 100)],
        orders={"FILLED": 3, "REJECTED": 1},
    )
    return replace(page, **changes)


def render(page: TradingPage | None) -> str:
    return render_report(replace(make_report(200), trading=page))


def test_the_profit_is_told_three_ways_and_judged() -> None:
    page = render(make_page())
    assert "Three accounts of the same profit: equal to the cent" in page
    told = re.findall(r"<th>Profit by ([^<]*)</th><td>([^<]*)</td>", page)
    assert told == [("marked equity", "+500.00"), ("the ledger", "+500.00"), ("7 fills", "+500.00")]
    disagreeing = replace(make_page().equity, pnl=ProfitAndLoss(D(500), D("500.01"), D(500)))
    assert "THEY DISAGREE" in render(make_page(equity=disagreeing))


def test_positions_trades_actions_and_reasons_are_on_the_page() -> None:
    page = render(make_page())
    # 1.5 at 110 is worth 165, bought for 150
    assert '<td>165.00</td><td class="gain">+15.00</td><td>0.700</td><td>0.200</td><td>hold IN_POSITION</td>' in page
    assert '<td class="gain">+12.00</td><td>+12.00 %</td><td>2.0 h</td>' in page
    assert '<td class="loss">-10.00</td><td>-10.00 %</td><td>1.0 h</td>' in page
    assert "2, of them 1 with a profit" in page
    assert "<td>entry</td><td>s2_retest</td><td>0.700</td><td>0.200</td><td>1.5</td><td>150.00</td>" in page
    assert "<th>CONDITION_NOT_MET</th><td>75</td>" in page
    assert "75.0 %" in page
    assert "3 FILLED, 1 REJECTED" in page
    assert "AAVE&lt;/script&gt;" in page


def test_what_closed_trades_left_is_told_in_one_line() -> None:
    row = replace(make_page().positions[0].row, contract="DUSTY", quantity=D("0.001"), allocated=D(0))
    page = render(make_page(positions=[*make_page().positions, HeldPosition(row, D(110)), HeldPosition(row, D(120))]))
    assert "DUSTY" not in page
    assert "Closed trades left dust worth 0.23 USDT in 2 tokens." in page  # 0.11 and 0.12


def test_the_chart_has_equity_its_depth_and_every_trade() -> None:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', render(make_page()), re.DOTALL)
    assert found is not None
    drawn = json.loads(found[1])["equity"]
    assert drawn["v"] == [100_000, 101_000, 99_990, 100_500]
    assert drawn["d"] == [0, 0, -1.0, -0.495]  # 1,010 of 101,000 is 1 %
    assert [trade["n"] for trade in drawn["trades"]] == ["ZEC/USDT -10.00", "UNI/USDT +12.00"]


def test_long_lists_are_cut_and_say_so() -> None:
    trade = make_page().trades[0]
    page = render(make_page(trades=[trade] * (MAX_ROWS + 1)))
    assert f"The newest {MAX_ROWS} of {MAX_ROWS + 1}." in page


def test_an_account_that_was_never_marked_and_a_page_without_trading() -> None:
    empty = Equity((), D(0), None, None, None, None, 0)
    page = render(make_page(equity=empty, positions=[], trades=[], actions=[], codes=[]))
    assert "The account has not been marked yet." in page
    assert "Nothing is held." in page
    assert "No trade has been closed." in page
    assert "Paper trading" not in render(None)
