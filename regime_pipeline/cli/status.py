"""`regime status`: how fresh and how good every series is, on one page."""

import json
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.table import Table

    from regime_pipeline.adapters.postgres.alert_store import AlertRow
    from regime_pipeline.ports import Halt
    from regime_pipeline.services.read_status import SeriesStatus, Status

MAX_ALERTS: Final = 1000
"""One is open per kind and scope: never near so many."""
WORST: Final = 3
"""Alerts told here; `regime alerts list` has all."""


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object with every series.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with code 1 when a driver is late or bad, or a venue is halted.")] = False,
    show_all: Annotated[bool, typer.Option("--all", help="List every series; default: drivers, and those with something to tell.")] = False,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="As of this time, with its zone; default: now.")] = None,
) -> None:
    """Show last bar, age, validity, gaps, source and quarantine of every series, and collectors, alerts, halts and the month's calls."""
    from regime_pipeline.adapters.postgres.alert_store import PostgresAlerts
    from regime_pipeline.adapters.postgres.venue_ledger import PostgresVenueLedger
    from regime_pipeline.cli.session import open_stores, read_instant
    from regime_pipeline.market.universe import load_universe
    from regime_pipeline.services.read_status import read_status
    from regime_pipeline.settings import load_settings

    settings, now_s = load_settings(), read_instant(at)
    universe, stores = load_universe(settings.universe), open_stores(settings)
    with stores.open() as work:
        found = read_status(work, universe, now_s)
    ledger = PostgresVenueLedger(stores.url)
    halts, calls = ledger.load_halts(now_s), ledger.load_calls(now_s)
    alerts = PostgresAlerts(stores.url, settings.instance_name).load_alerts(MAX_ALERTS, with_resolved=False)
    alerts.sort(key=lambda row: (row.known.alert.severity != "critical", row.known.opened_s))
    problems = found.problems(settings.min_validity) + [f"venue {name} is halted: {halt.reason}" for name, halt in halts.items()]
    if as_json:
        document = to_document(found, halts, calls, settings.coingecko_monthly_calls, alerts, problems)
        typer.echo(json.dumps({"instance": settings.instance_name, **document}, indent=2, allow_nan=False))
    else:
        from rich.console import Console

        rows = found.series if show_all else [row for row in found.series if row.is_driver or is_worth_telling(row, settings.min_validity)]
        Console().print(build_table(found, rows))
        budget = f"coingecko calls this month: {calls.get('coingecko', 0)} of {settings.coingecko_monthly_calls}"
        typer.echo("\n".join([*problems, *tell_feeds(found), *tell_alerts(alerts), budget]))
    raise typer.Exit(1 if check and problems else 0)


def is_worth_telling(row: "SeriesStatus", min_validity: float) -> bool:
    """Tell whether a series has gaps, refused bars, or a newest bar that is late or not to be trusted."""
    return row.is_late or bool(row.open_gaps or row.quarantined_24h) or (row.validity is not None and row.validity < min_validity)


def tell_feeds(found: "Status") -> "Iterator[str]":
    """Say of each collector and venue how long ago it was heard, and when dominance was last asked for."""
    from regime_pipeline.cli.session import show_time

    for instance, beats in found.collectors.items():
        for beat in beats:
            bar = "no bar yet" if beat.last_bar_s is None else f"newest bar {show_time(beat.last_bar_s)}"
            link = "connected" if beat.connected_s is not None else f"not connected: {beat.problem}"
            yield f"collector {instance}, {beat.venue}: heard {found.now_s - beat.beat_s} s ago, {bar}, {link}"
    if not found.collectors:
        yield "collector: none ever ran"
    if (question := found.question) is not None:
        trouble = f", {question.failures} in a row without an answer: {question.problem}" if question.failures else ""
        yield f"dominance asked {found.now_s - question.asked_s} s ago{trouble}"
    yield f"engine: {', '.join(found.engines) or 'no state yet'}"


def tell_alerts(alerts: "list[AlertRow]") -> "Iterator[str]":
    """Say how many alerts are open, and the worst of them."""
    yield f"open alerts: {len(alerts)}"
    for row in alerts[:WORST]:
        alert = row.known.alert
        yield f"  {alert.severity:8} {alert.kind} {alert.scope}: {alert.summary}"


def to_document(
    found: "Status",
    halts: "Mapping[str, Halt]",
    calls: "Mapping[str, int]",
    monthly_limit: int,
    alerts: "list[AlertRow]",
    problems: list[str],
) -> dict[str, Any]:
    """Write a status as plain JSON values."""
    from dataclasses import asdict

    from regime_pipeline.cli.alerts_watch import as_record
    from regime_pipeline.cli.session import iso_time

    series = []
    for row in found.series:
        values = asdict(row) | {"is_late": row.is_late}
        for name in ("last", "asked", "answered"):
            at_s = values.pop(f"{name}_s")
            values[f"{name}_bar" if name == "last" else f"{name}_at"] = None if at_s is None else iso_time(at_s)
        series.append(values)
    return {
        "at": iso_time(found.now_s),
        "problems": problems,
        "series": series,
        "newest_state": {timeframe.value: iso_time(at_s) for timeframe, at_s in found.newest_state_s.items()},
        "engines": list(found.engines),
        "collectors": {
            instance: [
                {
                    "venue": beat.venue,
                    "beat_at": iso_time(beat.beat_s),
                    "age_s": found.now_s - beat.beat_s,
                    "is_connected": beat.connected_s is not None,
                    "last_bar": None if beat.last_bar_s is None else iso_time(beat.last_bar_s),
                    "problem": beat.problem,
                }
                for beat in beats
            ]
            for instance, beats in found.collectors.items()
        },
        "dominance_question": None
        if (question := found.question) is None
        else {"asked_at": iso_time(question.asked_s), "failures": question.failures, "problem": question.problem},
        "alerts": {"open": len(alerts), "worst": [as_record(row) for row in alerts[:WORST]]},
        "halts": {
            name: {
                "reason": halt.reason,
                "since": iso_time(halt.since_s),
                "until": None if halt.until_s is None else iso_time(halt.until_s),
            }
            for name, halt in halts.items()
        },
        "coingecko": {"calls": calls.get("coingecko", 0), "monthly_limit": monthly_limit},
    }


def build_table(found: "Status", rows: "list[SeriesStatus] | tuple[SeriesStatus, ...]") -> "Table":
    """Draw the series for the terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from regime_pipeline.cli.session import show_time

    states = ", ".join(f"{timeframe} {show_time(at_s)}" for timeframe, at_s in found.newest_state_s.items()) or "none yet"
    table = Table(
        title=f"Status at {show_time(found.now_s)} UTC",
        caption=f"newest states: {states}; age in bar lengths since the bar's end; own: gaps that are the vendors'",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
    )
    for name in ("series", "tf", "last bar"):
        table.add_column(name)
    for name in ("age", "valid", "gaps", "own", "refused", "revised"):
        table.add_column(name, justify="right")
    table.add_column("source")
    for row in rows:
        age = "" if row.age_bars is None else f"{row.age_bars:.1f}"
        counts = [str(count) if count else "" for count in (row.open_gaps, row.vendor_gaps, row.quarantined_24h, row.revised_24h)]
        table.add_row(
            row.series.removeprefix("regime:").removeprefix("token:"),
            row.timeframe,
            "none" if row.last_s is None else show_time(row.last_s),
            Text(age, style="red" if row.is_late else ""),
            "" if row.validity is None else f"{row.validity:.2f}",
            *counts,
            row.source or "",
        )
    return table
