"""The command line `regime`. Each command group is a module here; what is slow to import is imported inside its commands."""

import sys

import typer

from regime_pipeline.cli.alerts import alerts_app
from regime_pipeline.cli.arm import arm, disarm
from regime_pipeline.cli.audit import audit
from regime_pipeline.cli.book import digest, equity, orders, positions
from regime_pipeline.cli.bootstrap import bootstrap
from regime_pipeline.cli.collect import collect
from regime_pipeline.cli.config import config_app
from regime_pipeline.cli.data import data_app
from regime_pipeline.cli.db import db_app
from regime_pipeline.cli.decisions import decisions, plan, replay_tick
from regime_pipeline.cli.demo import demo
from regime_pipeline.cli.doctor import doctor
from regime_pipeline.cli.drivers import drivers
from regime_pipeline.cli.executor import executor
from regime_pipeline.cli.kill import kill, release
from regime_pipeline.cli.levers import levers_app
from regime_pipeline.cli.opinions import hmm_app, opinions_app
from regime_pipeline.cli.protections import protections_app
from regime_pipeline.cli.recon import incidents, recon_app, reconcile, recover
from regime_pipeline.cli.replay import replay
from regime_pipeline.cli.sim import sim
from regime_pipeline.cli.soak import soak
from regime_pipeline.cli.status import status
from regime_pipeline.cli.trend import trend_app
from regime_pipeline.cli.up import up
from regime_pipeline.cli.venues import venues_app
from regime_pipeline.errors import RegimeError

app = typer.Typer(
    name="regime",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="The regime pipeline: from bars to levers, decisions and orders.",
)
app.add_typer(alerts_app, name="alerts")
app.add_typer(config_app, name="config")
app.add_typer(data_app, name="data")
app.add_typer(db_app, name="db")
app.add_typer(hmm_app, name="hmm")
app.add_typer(levers_app, name="levers")
app.add_typer(opinions_app, name="opinions")
app.add_typer(protections_app, name="protections")
app.add_typer(recon_app, name="recon")
app.add_typer(trend_app, name="trend")
app.add_typer(venues_app, name="venues")
app.command()(arm)
app.command()(audit)
app.command()(bootstrap)
app.command()(collect)
app.command()(decisions)
app.command()(demo)
app.command()(disarm)
app.command()(doctor)
app.command()(digest)
app.command()(drivers)
app.command()(equity)
app.command()(executor)
app.command()(incidents)
app.command()(orders)
app.command()(plan)
app.command()(positions)
app.command()(kill)
app.command()(reconcile)
app.command()(recover)
app.command()(release)
app.command()(replay)
app.command("replay-tick")(replay_tick)
app.command()(sim)
app.command()(soak)
app.command()(status)
app.command()(up)


@app.callback()
def regime() -> None:
    """The regime pipeline, from bars to levers."""


def main() -> None:
    """Run the command line; an error of ours is one red line on stderr and exit code 1, without a traceback."""
    try:
        app()
    except RegimeError as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        sys.exit(1)
