"""`regime trend`: the trend engine on a file of bars. Its files are read and written in `trend_files.py`."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regime_pipeline.market.timeframe import Timeframe

if TYPE_CHECKING:
    from regime_pipeline.trend.engine import Advance
    from regime_pipeline.trend.profile import Profile

trend_app = typer.Typer(no_args_is_help=True, help="The trend engine on any bars.")


class ProfileName(StrEnum):
    """Parameter sets of the engine; a test keeps them equal to `trend.profile.PROFILES`, which is slow to import."""

    V5 = "v5"
    V4 = "v4"


class Kind(StrEnum):
    """What the bars belong to."""

    TOKEN = "token"  # noqa: S105 - a kind of series
    DRIVER = "driver"


@trend_app.callback()
def trend() -> None:
    """Keep `regime trend` a group of one command."""


@trend_app.command()
def run(
    bars_file: Annotated[Path, typer.Argument(metavar="BARS.csv", help="ts,open,high,low,close,volume; ts is the bar's open with a zone.")],
    timeframe: Annotated[Timeframe, typer.Option(help="Length of a bar.")],
    out: Annotated[Path, typer.Option(metavar="OUT.csv", help="File to write, one row per bar from the 333rd on.")],
    profile: Annotated[
        ProfileName, typer.Option(help="Parameter set; v4 gives the older engine's numbers, for comparison.")
    ] = ProfileName.V5,
    levels: Annotated[
        Path | None, typer.Option(metavar="LEVELS.jsonl", help="Level sets to use, one a line; without it levels are built.")
    ] = None,
    kind: Annotated[Kind, typer.Option(help="v4 clips the volume of tokens to quantiles, of drivers not.")] = Kind.TOKEN,
    bootstrap_s3: Annotated[bool, typer.Option(help="Start in S3 when the first bullish order is found before any other state.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Step the engine over a file of bars and write state, flags and scores of every bar; needs no database."""
    from regime_pipeline.cli.trend_files import read_bars, read_levels, write_states
    from regime_pipeline.trend.engine import SeriesEngine
    from regime_pipeline.trend.profile import profile_named

    chosen = profile_named(profile)
    if kind is Kind.DRIVER:
        chosen = chosen._replace(winsorised_volume=False)
    bars = read_bars(bars_file, timeframe)
    given = read_levels(levels) if levels else None
    advance = SeriesEngine(timeframe, chosen, bootstrap_s3=bootstrap_s3).advance(bars, given=given)
    write_states(out, advance)
    summary = _summarise(len(bars), advance, chosen) | {"out": str(out)}
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
        return
    typer.echo(f"{summary['bars']} bars, {summary['records']} rows to {out}")
    for name, counts in (("states", summary["states"]), ("flags", summary["flags"])):
        typer.echo(f"{name:6} " + "  ".join(f"{key} {count}" for key, count in counts.items()))


def _summarise(n_bars: int, advance: "Advance", profile: "Profile") -> dict[str, Any]:
    from regime_pipeline.trend.record import FLAGS, INDEX, STATES

    codes = advance.states[:, INDEX["state"]]
    return {
        "engine_version": profile.engine_version,
        "bars": n_bars,
        "records": len(advance.ts_s),
        "states": {name: int((codes == code).sum()) for code, name in enumerate(STATES)},
        "flags": {name: int(advance.states[:, INDEX[name]].sum()) for name in FLAGS},
    }
