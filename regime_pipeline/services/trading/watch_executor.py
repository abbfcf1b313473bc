"""The watchdog over executors: ninety seconds of silence stop entries, whoever is still there to write it down."""

from typing import Final

from regime_pipeline.ports import Work
from regime_pipeline.risk.kill_switch import AUTOMATIC, Scope, Switch, Trigger, plan_release
from regime_pipeline.services.trading.kill_levels import write_raise

PROCESS: Final = "executor"
"""Name under which an executor beats."""
SILENT_S: Final = 90
"""Six beats in a row are missed by no garbage collection, and by no slow pass."""
WATCHDOG: Final = "watchdog"


def watch_executor(work: Work, account: str, now_s: int) -> int | None:
    """Raise L1 for an account whose executor has fallen silent, and lift it when it beats again.

    Meant for once a minute, in any number of processes, none of which needs the venue. Alerts are told by `watch_health`.

    Parameters
    ----------
    now_s : int
        Epoch seconds on the wall clock, as beats are.

    Returns
    -------
    int or None
        For how many seconds it has been silent; None while it beats, or never ran: then there is nothing to guard.
    """
    beats = [beat for beat in work.recon.load_beats() if (beat.process, beat.account) == (PROCESS, account)]
    if not beats:
        return None
    silent_s = now_s - beats[0].at_ms // 1000
    scope = Scope(account)
    if silent_s > SILENT_S:
        reason = f"the executor has given no sign of life for {silent_s} s"
        write_raise(work, Switch(scope, AUTOMATIC[Trigger.SILENCE], Trigger.SILENCE.value, WATCHDOG, reason, now_s))
        return silent_s
    for switch in work.safety.load_switches(account):
        if switch.scope == scope and switch.source == Trigger.SILENCE.value:
            work.safety.save_transition(plan_release(switch, WATCHDOG, "the executor beats again", now_s, work.safety.load_tip(scope)))
    return None
