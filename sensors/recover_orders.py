"""Sensor `recover_orders`: on paper, orders go on without an executor. It starts no run: what is due is small and waits for nobody."""

import dagster as dg

from regime_pipeline.orchestration.policies import TRADING_TEAM
from regime_pipeline.orchestration.resources import Desk
from regime_pipeline.settings import load_settings


@dg.sensor(
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    owners=[TRADING_TEAM],
    tags={"tier": "1"},
    description="On paper and without a living executor: moves pending orders on, guards stops, compares book and broker.",
)
def recover_orders(_context: dg.SensorEvaluationContext, desk: Desk) -> dg.SkipReason:
    """Stand in for the executor where nobody else does; what fails here fails in sight and is tried again."""
    settings = load_settings()
    if settings.trading_mode != "paper" or not settings.trading_enabled:
        return dg.SkipReason(
            f"nothing to stand in for: mode {settings.trading_mode}, trading {'on' if settings.trading_enabled else 'off'}"
        )
    from regime_pipeline.services.trading.stand_in import stand_in

    done = stand_in(desk.open())
    if done is None:
        return dg.SkipReason("an executor is at it")
    passes = f", compared {', '.join(done.passes)}" if done.passes else ""
    return dg.SkipReason(
        f"{done.steps} steps, {done.sent} orders sent, {done.stops} stops{', recovered' if done.recovered else ''}{passes}"
    )
