"""What a use-case needs from the outside, as protocols and the rows they carry; adapters implement them.

Import every name from here: how the modules share them out is not their users' concern.
"""

from regime_pipeline.ports.alerts import (
    Alert,
    AlertBook,
    AlertKind,
    AlertStore,
    Backlog,
    DeadMan,
    Message,
    Notice,
    Notifier,
    OpenAlert,
    Outbox,
    Severity,
)
from regime_pipeline.ports.bars import BarRows, BarStore, BarTable, Coverage, Saved
from regime_pipeline.ports.feeds import FeedStore, Halt, Heartbeat, Question, VenueLedger
from regime_pipeline.ports.health import (
    CallBudget,
    DriverAge,
    FailedCheck,
    HealthStore,
    JobOutcome,
    OpenGaps,
    Refusals,
    Scheduler,
    SilentFlag,
)
from regime_pipeline.ports.opinions import Attempt, AttemptRow, OpinionStore, OpinionTable, SnapshotRow, SnapshotStore
from regime_pipeline.ports.quality import FeedFacts, Gap, QualityStore, Watermark
from regime_pipeline.ports.regime import BoardRow, DeltaHistory, RegimeStore, StateHistory, StateRows
from regime_pipeline.ports.sources import BarSource, CandleStream, DominanceSampler, TimeRange
from regime_pipeline.ports.trend import Checkpoint, TrendStore
from regime_pipeline.ports.work import MarkStore, Stage, Stores, Upkeep, Work

__all__ = [
    "Alert",
    "AlertBook",
    "AlertKind",
    "AlertStore",
    "Attempt",
    "AttemptRow",
    "Backlog",
    "BarRows",
    "BarSource",
    "BarStore",
    "BarTable",
    "BoardRow",
    "CallBudget",
    "CandleStream",
    "Checkpoint",
    "Coverage",
    "DeadMan",
    "DeltaHistory",
    "DominanceSampler",
    "DriverAge",
    "FailedCheck",
    "FeedFacts",
    "FeedStore",
    "Gap",
    "Halt",
    "HealthStore",
    "Heartbeat",
    "JobOutcome",
    "MarkStore",
    "Message",
    "Notice",
    "Notifier",
    "OpenAlert",
    "OpenGaps",
    "OpinionStore",
    "OpinionTable",
    "Outbox",
    "QualityStore",
    "Question",
    "Refusals",
    "RegimeStore",
    "Saved",
    "Scheduler",
    "Severity",
    "SilentFlag",
    "SnapshotRow",
    "SnapshotStore",
    "Stage",
    "StateHistory",
    "StateRows",
    "Stores",
    "TimeRange",
    "TrendStore",
    "Upkeep",
    "VenueLedger",
    "Watermark",
    "Work",
]
