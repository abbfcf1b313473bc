"""The portfolio tick against a real database: decided once, journaled whole, ordered at most once."""

from tests.tick_desk import CLOSE_S, TickDesk, desk

__all__ = ["desk"]


def test_buys_what_the_plan_says(desk: TickDesk) -> None:
    desk.buy_signal("AAVE")
    desk.bar("LINK", state="S1")
    summary = desk.tick()
    assert summary.outcome == "decided", summary
    assert (summary.bar_close_s, summary.counts["orders"], summary.counts["held"]) == (CLOSE_S, 1, 1), desk.line().gate
