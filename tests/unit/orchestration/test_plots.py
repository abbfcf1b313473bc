"""The picture of a materialization stays small, however ragged the market."""

import numpy as np

from regime_pipeline.orchestration.plots import MAX_BYTES, MAX_POINTS, STATE_COLOURS, draw_states


def test_eight_dense_panels_fit_the_event_log() -> None:
    rng = np.random.default_rng(1)
    states = list(STATE_COLOURS)
    panels = {
        f"driver {panel}": [
            (1_735_689_600 + 3600 * at, float(price), states[at // 7 % 5])
            for at, price in enumerate(100 * np.exp(np.cumsum(rng.normal(0, 0.02, MAX_POINTS))))
        ]
        for panel in range(8)
    }
    png = draw_states("1h", panels)
    assert png.startswith(b"\x89PNG")
    assert 10_000 < len(png) < MAX_BYTES


def test_a_series_without_states_gets_an_empty_panel() -> None:
    assert draw_states("1d", {"BTC": []}).startswith(b"\x89PNG")
