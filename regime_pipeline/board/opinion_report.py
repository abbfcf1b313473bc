"""The evaluation of the second opinions as a page: Markdown for documents and metadata, HTML for a browser; both say the same."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from importlib.resources import files

from regime_pipeline.regime.opinions.evaluation import SCORE, CalibrationBin, EvaluationRow
from regime_pipeline.services.evaluate_opinions import EvaluationReport

Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, what it says in words, and a table (empty: none)."""

    title: str
    words: str
    heads: tuple[str, ...] = ()
    rows: tuple[tuple[Cell, ...], ...] = ()


def describe_report(report: EvaluationReport) -> list[Section]:
    """Put a report into words and tables."""
    origin = "written live, minute by minute" if report.is_live else "filled in afterwards (backfill), not lived through"
    hours = ", ".join(f"{series} {n}" for series, n in report.hours.items()) or "none"
    head = (
        f"Evaluation {report.evaluation_id}, window {_day(report.first_s)} to {_day(report.end_s)}. Snapshots on full hours,"
        f" {origin}: {hours}. "
        "Returns are log returns, in basis points (bp)."
    )
    return [
        Section("Second opinions, judged", head),
        Section("Conclusion", _conclude(report)),
        _verdict(report),
        _classes(report),
        _scores(report),
        _rhythm(report),
        _calibration(report),
        _stability(report),
    ]


def _conclude(report: EvaluationReport) -> str:
    rows, bound = report.evaluation.rows, report.evaluation.bound
    tested = [row for row in rows if row.t is not None and row.label != SCORE]
    passed = [row for row in tested if row.passed]
    scores = [row for row in rows if row.label == SCORE and row.spearman is not None]
    beats = [row for row in scores if row.passed]
    if not tested or bound is None:
        return "Too few hours for any test: nothing is shown, for or against."
    strongest = max(tested, key=lambda row: abs(row.t or 0.0))
    direction = (
        f"Of {len(tested)} tests of forward returns {len(passed)} reach the Bonferroni bound of {bound:.2f} for {report.evaluation.m_tests}"
        f" tests; the strongest is {strongest.series} {strongest.opinion} {strongest.label} at {strongest.horizon_h} h with t ="
        f" {strongest.t:.2f}. "
    )
    meaning = "The labels describe, they do not predict direction. " if not passed else "See which ones passed before believing any. "
    volatility = (
        f"Of {len(scores)} rank correlations with the volatility ahead {len(beats)} pass the bound and beat trailing 24 h volatility. "
    )
    verdict = (
        "has earned its place by the rule; a person may switch it on" if report.verdict.earned else "has not earned its place and stays off"
    )
    return f"{direction}{meaning}{volatility}The risk throttle {verdict}."


def _verdict(report: EvaluationReport) -> Section:
    rows = tuple((each.name, each.asked, each.measured, "holds" if each.holds else "fails") for each in report.verdict.conditions)
    words = "The rule of decision 13, written before any data was looked at; every condition must hold."
    return Section("Has the risk throttle earned its place?", words, ("condition", "asked", "measured", ""), rows)


def _classes(report: EvaluationReport) -> Section:
    rows = [row for row in report.evaluation.rows if row.label != SCORE and row.n]
    return Section(
        "What followed each class",
        "Mean forward return against that of all hours of the series; t with n over the horizon as effective count, none below 30.",
        ("series", "opinion", "class", "h", "n", "mean diff bp", "t", "abs bp", "fwd vol bp", "past vol bp", "hits", "base", ""),
        tuple(_class_cells(row) for row in rows),
    )


def _class_cells(row: EvaluationRow) -> tuple[Cell, ...]:
    return (
        row.series,
        row.opinion,
        row.label,
        row.horizon_h,
        row.n,
        _bp(row.mean_diff),
        _round(row.t, 2),
        _bp(row.mean_abs),
        _bp(row.fwd_vol),
        _bp(row.trailing_vol),
        _percent(row.hit_rate),
        _percent(row.base_rate),
        "passes" if row.passed else "",
    )


def _scores(report: EvaluationReport) -> Section:
    rows = tuple(
        (
            row.series,
            row.opinion,
            row.horizon_h,
            row.n,
            _round(row.spearman, 2),
            _round(row.spearman_baseline, 2),
            _round(row.t, 1),
            "passes" if row.passed else "",
        )
        for row in report.evaluation.rows
        if row.label == SCORE
    )
    return Section(
        "Scores against the volatility ahead",
        "Rank correlation with the forward volatility, beside that of trailing 24 h volatility on the same hours: the null model.",
        ("series", "score", "h", "n", "Spearman", "trailing", "t", ""),
        rows,
    )


def _rhythm(report: EvaluationReport) -> Section:
    alarms = {each.series: each for each in report.evaluation.alarms}
    rows = []
    for each in report.evaluation.rhythms:
        alarm = alarms.get(each.series) if each.opinion == "cp_level_1h" else None
        counts = (None, None) if alarm is None else (_round(alarm.alerts_per_month, 1), _round(alarm.urgents_per_month, 1))
        rows.append((each.series, each.opinion, each.hours, _round(each.flips_per_day, 2), _percent(each.unknown_share), *counts))
    heads = ("series", "opinion", "hours", "flips a day", "unknown", "alerts a month", "urgent a month")
    return Section(
        "How often they change", "Flips between known neighbouring hours; alarms in runs per 30 days of known hours.", heads, tuple(rows)
    )


def _calibration(report: EvaluationReport) -> Section:
    rows = tuple(
        (each.series, each.forecast, each.n, _round(each.brier, 4), _round(each.brier_base, 4), _round(each.skill, 3), _bins(each.bins))
        for each in report.evaluation.calibrations
    )
    heads = ("series", "forecast", "n", "Brier", "base", "skill", "forecast to frequency")
    words = "A skill of 0 is no better than always saying how often it happens; below 0 is worse. A confident posterior is not a forecast."
    return Section("Calibration of the 1h posterior", words, heads, rows)


def _bins(bins: Iterable[CalibrationBin]) -> str:
    return ", ".join(f"{each.forecast:.2f} to {each.happened:.2f}" for each in bins if each.n >= 30)


def _stability(report: EvaluationReport) -> Section:
    rows = tuple(
        (timeframe, each.n, _percent(each.mean), _percent(each.worst), _percent(each.below_070), _percent(each.below_040))
        for timeframe, each in report.stability.items()
    )
    heads = ("timeframe", "refits", "mean kept", "worst", "below 70 %", "below 40 %")
    return Section("Labels kept by refits", "Share of the last 500 rows that a new model labels as the one before did.", heads, rows)


def render_markdown(sections: Sequence[Section]) -> str:
    """Write the sections as Markdown."""
    parts = []
    for at, section in enumerate(sections):
        lines = [f"{'#' if at == 0 else '##'} {section.title}", "", section.words]
        if section.rows:
            lines += ["", f"| {' | '.join(section.heads)} |", f"|{'---|' * len(section.heads)}"]
            lines += [f"| {' | '.join(_text(cell) for cell in row)} |" for row in section.rows]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def render_html(sections: Sequence[Section]) -> str:
    """Write the sections as one page that needs no network."""
    style = (files("regime_pipeline.board") / "page" / "report.css").read_text(encoding="utf-8")
    body = "\n".join(_html_section(section, is_first=at == 0) for at, section in enumerate(sections))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(sections[0].title)}</title><style>{style}\ntd.number{{text-align:right;white-space:nowrap}}</style></head>"
        f"\n<body>{body}</body></html>\n"
    )


def _html_section(section: Section, *, is_first: bool) -> str:
    heading = f"<header><h1>{escape(section.title)}</h1>" if is_first else f"<section><h2>{escape(section.title)}</h2>"
    table = ""
    if section.rows:
        head = "".join(f"<th>{escape(text)}</th>" for text in section.heads)
        rows = "".join("<tr>" + "".join(map(_html_cell, row)) + "</tr>" for row in section.rows)
        table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    return f"{heading}<p>{escape(section.words)}</p>{table}{'</header>' if is_first else '</section>'}"


def _html_cell(cell: Cell) -> str:
    kind = ' class="number"' if isinstance(cell, int | float) or (isinstance(cell, str) and cell.endswith(" %")) else ""
    return f"<td{kind}>{escape(_text(cell))}</td>"


def _text(cell: Cell) -> str:
    return "" if cell is None else str(cell)


def _bp(value: float | None) -> Cell:
    return None if value is None else round(1e4 * value, 1)


def _percent(value: float | None) -> Cell:
    return None if value is None else f"{100 * value:.0f} %"


def _round(value: float | None, digits: int) -> Cell:
    return None if value is None else round(value, digits)


def _day(at_s: int) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d}"
