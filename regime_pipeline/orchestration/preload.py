"""Runs start from a process that has imported everything already.

Dagster's code server starts each run in a fresh interpreter: seconds of imports, once a minute, on the machine that has to be on time.
Here its runs come from Python's own fork server instead, a small process without threads that holds what a run imports and forks a
child for each. All else stays Dagster's: the code server still owns the run's process, so that terminating a run, noticing that it
died and reloading the code (a new code server, hence a new fork server) work as before. One attribute of it that is not public is
replaced; a Dagster without that attribute starts its runs as it always did.
"""

import multiprocessing
import os
import sys
from typing import Final

PRELOADED: Final = (
    "dagster._cli",
    "dagster._core.execution.plan.active",
    "dagster._core.executor.in_process",
    "dagster._core.storage.local_compute_log_manager",
    "dagster._grpc.impl",
    "dagster_postgres",
    "psycopg2.extras",
    "upath.implementations.local",
    "regime_pipeline.definitions",
    "regime_pipeline.adapters.postgres.audit",
    "regime_pipeline.adapters.postgres.work",
    "regime_pipeline.services.read_board",
    "regime_pipeline.services.run_step",
    "regime_pipeline.orchestration.warm",
    "regime_pipeline.orchestration.trading",
    "regime_pipeline.adapters.brokers.paper",
    "regime_pipeline.adapters.postgres.journal_store",
    "regime_pipeline.adapters.postgres.ledger_store",
    "regime_pipeline.adapters.postgres.order_store",
    "regime_pipeline.adapters.postgres.portfolio_store",
    "regime_pipeline.adapters.postgres.recon_store",
    "regime_pipeline.adapters.postgres.safety_store",
    "regime_pipeline.services.trading.run_pm_tick",
    "regime_pipeline.services.trading.stand_in",
)
"""What a run of a spine job or of the portfolio tick imports, compiled kernels included; what only some runs need stays out."""

BACKFILL_NICENESS: Final = 10
"""About a tenth of a live run's share of a core when both want it."""

_CONTEXT: Final = "_mp_ctx"


def give_way() -> None:
    """Let the live runs of this machine go first; for the process of a backfill's run, and nobody's whose run is not its own process."""
    if multiprocessing.parent_process() is not None:
        os.setpriority(os.PRIO_PROCESS, 0, max(BACKFILL_NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))


def fork_runs() -> bool:
    """Let the code server of this process fork its runs; False when this process has none, or one that is built otherwise.

    To be called while the code server loads the definitions: its constructor has set the context by then and starts no run before
    it is done.
    """
    server = getattr(sys.modules.get("dagster._grpc.server"), "DagsterApiServer", None)
    if server is None or _CONTEXT not in server.__init__.__code__.co_names:
        return False
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    setattr(server, _CONTEXT, property(lambda _: context, lambda _, __: None))
    return True
