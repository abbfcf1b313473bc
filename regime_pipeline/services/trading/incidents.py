"""Incidents of the order path: opened by whoever sees one, counted when seen again, closed by a person or by a clean pass."""

from collections.abc import Mapping
from typing import Any

from regime_pipeline.errors import BadInputError
from regime_pipeline.ports import Incident, Severity, Work


def open_incident(
    work: Work, kind: str, severity: Severity | str, scope: str, evidence: Mapping[str, Any], runbook: str = "incidents"
) -> Incident:
    """Open an incident, or count a repetition of the one that is open for this kind and scope.

    Parameters
    ----------
    work : Work
        The transaction it belongs to: rolled back with the step that it is about.
    kind, scope : str
        What happened, as `ID_COLLISION`, and to which order, symbol or account.
    severity : Severity or str
        `warning` can wait for the day, `critical` cannot; an open incident becomes critical and never less.
    evidence : mapping
        What was seen, in JSON values; of a repetition only the count is kept.
    runbook : str
        Section of docs/runbook.md.
    """
    return work.recon.open_incident(kind, Severity(severity), scope, evidence, runbook)


def close_incident(work: Work, kind: str, scope: str, closed_by: str) -> bool:
    """Close what is open for a kind and scope; tells whether there was one."""
    return work.recon.close_incidents(kind, scope, closed_by) > 0


def ack_incident(work: Work, incident_id: int, by: str) -> None:
    """Record that a person knows; entries that wait for it open with the next clean pass.

    Raises
    ------
    BadInputError
        When no name is given, or there is no such incident.
    """
    if not by.strip():
        raise BadInputError(f"incident {incident_id} was acknowledged by {by!r}; give your name with --by")
    if not work.recon.ack_incident(incident_id, by.strip()):
        raise BadInputError(f"incident was {incident_id}, there is none with that number; list them with `regime incidents`")


def close_by_number(work: Work, incident_id: int, by: str) -> None:
    """Close an incident by hand; when what it is about is seen again, it is a new one.

    Raises
    ------
    BadInputError
        When no name is given, or no incident with that number is open.
    """
    if not by.strip():
        raise BadInputError(f"incident {incident_id} was closed by {by!r}; give your name with --by")
    found = next((each for each in work.recon.load_incidents(limit=10_000) if each.incident_id == incident_id), None)
    if found is None or not close_incident(work, found.kind, found.scope, by.strip()):
        raise BadInputError(f"incident was {incident_id}, no open one has that number; list them with `regime incidents`")
