"""Levers as JSON values: every field of a contribution and of the diagnostics is there, and comes back as it was."""

import json
from dataclasses import fields

from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.regime.levers import Channel, Contribution, Diagnostics, LeverInput, compute_levers
from regime_pipeline.regime.levers_document import describe_levers


def test_nothing_is_left_out_and_json_changes_nothing() -> None:
    channel = Channel("BTC", Timeframe.H1, 0.0, 0.25, -0.15, ts_s=0, state="S1", prev_state="S0", flags=("buy",), validity=1.0)
    given = LeverInput("1h", "mid", (channel,), intents={"sell": 0.5})
    found = describe_levers(given, compute_levers(given))
    diagnostics = found["diagnostics"]
    assert diagnostics.keys() == {field.name for field in fields(Diagnostics)}
    assert all(row.keys() == {field.name for field in fields(Contribution)} - {"ts_s"} | {"ts"} for row in diagnostics["channels"])
    assert diagnostics["channels"][1]["ts"] == "1970-01-01T00:00:00+00:00"
    assert json.loads(json.dumps(found)) == found
