"""`regime opinions` and `regime hmm`: what the second opinions say, said, and were worth."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from regime_pipeline.regime.opinions.snapshot import RegimeSnapshot

opinions_app = typer.Typer(no_args_is_help=True, help="Second opinions: HMM, change points, volatility. In shadow: they move nothing.")
hmm_app = typer.Typer(no_args_is_help=True, help="The hidden Markov models.")
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
At = Annotated[str | None, typer.Option(metavar="TIME", help="As of this time, with its zone; default: now.")]
DAY_S = 86_400
LABEL_STYLES = {"bearish": "red", "ranging": "yellow", "bullish": "green", "unknown": "bright_black"}


@opinions_app.command()
def now(as_json: Json = False, at: At = None) -> None:
    """Show the snapshot in force of each series; UNKNOWN when there is none or it is more than 180 s old."""
    from regime_pipeline.cli.session import open_stores, read_instant
    from regime_pipeline.services.read_opinions import latest_snapshots
    from regime_pipeline.settings import load_settings

    at_s = read_instant(at)
    with open_stores(load_settings()).open() as work:
        found = latest_snapshots(work, at_s)
    if as_json:
        typer.echo(json.dumps([snapshot_document(snapshot) for snapshot in found.values()], indent=2))
        return
    from rich.console import Console

    Console().print(build_board(found))


@opinions_app.command()
def history(
    series: Annotated[str, typer.Argument(metavar="SERIES", help="BTC, ETH, SOL, BNB, HYPE or ALT.")],
    hours: Annotated[int, typer.Option(min=1, max=24 * 400, help="Hours back from --at.")] = 24,
    every: Annotated[int, typer.Option(min=1, max=1440, help="Minutes between two rows.")] = 60,
    as_json: Json = False,
    at: At = None,
) -> None:
    """Show the stored snapshots of a series, newest last."""
    from regime_pipeline.cli.session import open_stores, read_instant, show_time
    from regime_pipeline.services.read_opinions import load_snapshots
    from regime_pipeline.settings import load_settings

    at_s = read_instant(at)
    with open_stores(load_settings()).open() as work:
        rows = load_snapshots(work, series, at_s - hours * 3600, at_s, every * 60)
    if as_json:
        documents = [snapshot_document(row.snapshot) | {"origin": "live" if row.is_live else "backfill"} for row in rows]
        typer.echo(json.dumps(documents, indent=2))
        return
    for row in rows:
        shot = row.snapshot
        typer.echo(
            f"{show_time(shot.ts_s)}  1m {shot.m1.label:8} 15m {shot.m15.label:8} 1h {shot.h1.label:8} {shot.consensus.agreement:12}"
            f" strategic {shot.strategic.label:8} {shot.volatility.regime:16} cp {shot.h1.cp_level:8} throttle {shot.throttle.value:.2f}"
            f"{'' if row.is_live else '  backfill'}"
        )
    if not rows:
        typer.echo(f"no snapshots of {series} in these {hours} hours")


@opinions_app.command()
def evaluate(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the page is written, as Markdown and as HTML.")],
    days: Annotated[int, typer.Option(min=1, max=3660, help="Days before --at to judge.")] = 365,
    backfill: Annotated[bool, typer.Option("--backfill", help="Judge rows filled in afterwards, not those written live.")] = False,
    as_json: Json = False,
    at: At = None,
) -> None:
    """Judge stored opinions by what followed, store the answer under its id, and write it as a page. It switches nothing."""
    from regime_pipeline.board.opinion_report import describe_report, render_html, render_markdown
    from regime_pipeline.cli.session import open_stores, read_instant
    from regime_pipeline.market.universe import load_universe
    from regime_pipeline.services.evaluate_opinions import evaluate_opinions, save_report
    from regime_pipeline.settings import load_settings

    settings = load_settings()
    stores = open_stores(settings)
    end_s = read_instant(at) // 3600 * 3600
    report = evaluate_opinions(stores, load_universe(settings.universe), "custom", end_s - days * DAY_S, end_s, is_live=not backfill)
    with stores.open() as work:
        save_report(work, report)
    sections = describe_report(report)
    out.mkdir(parents=True, exist_ok=True)
    name = f"opinions-{report.evaluation_id}"
    (out / f"{name}.md").write_text(render_markdown(sections), encoding="utf-8")
    (out / f"{name}.html").write_text(render_html(sections), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps({"evaluation_id": report.evaluation_id, **report.document()}, indent=2))
        return
    typer.echo(sections[1].words)
    typer.echo(f"wrote {out / name}.md and .html")


@hmm_app.callback()
def hmm() -> None:
    """Keep `regime hmm` a group of one command."""


@hmm_app.command()
def models(
    history_of: Annotated[bool, typer.Option("--history", help="Every fit, not only the newest of each series and timeframe.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Rows at most.")] = 100,
    as_json: Json = False,
) -> None:
    """Show the fits: accepted or why not, what they were trained on, how many labels they kept."""
    from regime_pipeline.cli.session import iso_time, open_stores, show_time
    from regime_pipeline.services.read_opinions import load_models
    from regime_pipeline.settings import load_settings

    with open_stores(load_settings()).open() as work:
        rows = load_models(work, limit, newest_only=not history_of)
    if as_json:
        documents = [
            {
                "model_id": row.model_id,
                "series": row.series,
                "timeframe": row.timeframe,
                "accepted": row.accepted,
                "reason": row.reason,
                "train_end": iso_time(row.train_end_s),
                "effective_from": None if row.effective_from_s is None else iso_time(row.effective_from_s),
                "n_rows": row.n_rows,
                "tier": row.tier,
                "log_likelihood": row.log_likelihood,
                "label_stability": row.stability,
                "one_sided_labels": row.one_sided_labels,
                "weak_labels": row.weak_labels,
            }
            for row in rows
        ]
        typer.echo(json.dumps(documents, indent=2))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("series", "tf", "model", "trained to", "rows", "tier", "kept", "", title="Hidden Markov models", box=box.SIMPLE)
    for row in rows:
        kept = "" if row.stability is None else f"{row.stability:.0%}"
        remarks = [row.reason or "", "weak labels" if row.weak_labels else "", "one-sided" if row.one_sided_labels else ""]
        cells = (row.series, row.timeframe.value, row.model_id, show_time(row.train_end_s), str(row.n_rows), row.tier or "", kept)
        table.add_row(*cells, " ".join(filter(None, remarks)))
    Console().print(table)


def snapshot_document(snapshot: "RegimeSnapshot") -> dict[str, Any]:
    """Write a snapshot as plain JSON values."""
    from regime_pipeline.cli.session import iso_time

    return {"series": snapshot.series, "snapshot_ts": iso_time(snapshot.ts_s), **snapshot.columns()}


def build_board(found: "Mapping[str, RegimeSnapshot]") -> "Table":
    """Draw one row per series."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    def word(label: str, confidence: float | None = None) -> Text:
        text = label if confidence is None or label == "unknown" else f"{label} {confidence:.2f}"
        return Text(text, style=LABEL_STYLES.get(label, ""))

    heads: Sequence[str] = ("series", "1m", "15m", "1h", "consensus", "strategic", "volatility", "change 1h", "trend 1h", "throttle")
    table = Table(*heads, title="Second opinions", caption="In shadow: they describe, and move no position.", box=box.SIMPLE)
    for series, shot in found.items():
        table.add_row(
            series,
            *(word(view.label, view.conf) for view in (shot.m1, shot.m15, shot.h1)),
            word(shot.consensus.label),
            word(shot.strategic.label),
            str(shot.volatility.regime),
            str(shot.h1.cp_level),
            shot.trend_1h or "",
            f"{shot.throttle.value:.2f}",
        )
    return table
