"""One error tree. Every message names the value, the rule it broke and what to do next."""

from typing import ClassVar, Literal

# What an error of the order path stops until it is dealt with, and when the step that raised it may be tried again.
Halt = Literal["nothing", "symbol", "entries", "account", "process", "as latched", "per pass"]
Retry = Literal[
    "no",
    "never",
    "once",
    "look-up only",
    "exits after 15 s",
    "after recovery",
    "after release",
    "after arming",
    "after repair",
    "by a person",
    "probe each 30 s",
    "1, 2, 4, 8 s",
]


class RegimeError(Exception):
    """Anything this product refuses or cannot do; the CLI prints it without a traceback."""


class ConfigError(RegimeError):
    """A setting or the universe file breaks a rule."""


class BadInputError(RegimeError):
    """Data given to us breaks a rule (a bar file, a levers request, a time without a zone)."""


class CallerError(BadInputError, ValueError):
    """A pure function was given what no caller may pass: arrays of unequal length, times off the grid, no distribution."""


class DatabaseError(RegimeError):
    """The database cannot be reached, started or is not the one we expect."""


class DatabaseBusyError(DatabaseError):
    """The database ended a transaction that got in another's way, or had no connection left: the same one may succeed a moment later."""


class MigrationError(DatabaseError):
    """The schema is not what the migrations say, or one of them failed."""


class SourceError(RegimeError):
    """A market data source failed or answered something that cannot be believed."""


class SourceUnavailableError(SourceError):
    """The source could not be read: an unreadable source is not an empty one. Safe to try again."""


class VenueHaltedError(SourceError):
    """The venue has told us to stay away (418, 451): it is left alone until the halt ends or a person ends it."""


class BudgetExhaustedError(SourceError):
    """The calls that a vendor allows us this month are spent."""


class NotifyError(RegimeError):
    """A message could not be handed to its channel; it is kept and tried again."""


class StepRefusedError(RegimeError):
    """An engine step whose `ts` does not advance, or whose inputs are not the ones it must step on."""


class OpinionError(RegimeError):
    """A second opinion could be given for no series at all; nothing else depends on it."""


class ExecutionError(RegimeError):
    """The order path refuses a step; each class says what it stops and whether the step may be tried again."""

    halts: ClassVar[Halt] = "nothing"
    retry: ClassVar[Retry] = "no"


class InvalidTransitionError(ExecutionError):
    """An order was asked for a step that is not in the registry; its state stays and the venue is asked again."""

    halts = "symbol"


class TerminalStateError(ExecutionError):
    """An order that has ended was asked to move; a quantity that differs is booked as a late fill."""


class BrokerConfirmationRequiredError(ExecutionError):
    """A step needs the venue's id or echo and has none: a SUBMITTING order becomes UNKNOWN and is looked up."""

    retry = "look-up only"


class TransitionConflictError(ExecutionError):
    """Somebody else moved the order first; it is read again."""

    retry = "once"


class DuplicateOrderError(ExecutionError):
    """The logical key of the order exists; the stored order stands and nothing is sent."""


class OrderValidationError(ExecutionError):
    """Tick, step, minimum, symbol or unit of an order breaks a rule of its instrument or of its key."""


class RiskGateError(ExecutionError):
    """A check of the gate could not be worked out; entries are refused, exits wait 15 s."""

    retry = "exits after 15 s"


class StaleDecisionError(ExecutionError):
    """A decision's `start_by` or `decide_by` has passed; what was not sent never will be."""

    retry = "never"


class LeaseLostError(ExecutionError):
    """The lease is not ours any more, or the connection that held it is gone."""

    halts = "process"
    retry = "after recovery"


class KillSwitchActiveError(ExecutionError):
    """The kill switch forbids it."""

    halts = "as latched"
    retry = "after release"


class LiveNotArmedError(ExecutionError):
    """A part of the live arm is missing, expired or for another account."""

    halts = "entries"
    retry = "after arming"


class UnauthorizedAIActionError(ExecutionError):
    """Neither strategy, nor person, nor risk rule asked for this order."""

    retry = "never"


class ReconciliationError(ExecutionError):
    """Venue and ledger differ by more than may pass, or a start-up step failed."""

    halts = "entries"
    retry = "by a person"


class LedgerImbalanceError(ExecutionError):
    """The lines of a batch do not sum to zero in every asset."""

    halts = "account"
    retry = "after repair"


class JournalIntegrityError(ExecutionError):
    """The journal cannot be written, or its chain of hashes is broken."""

    halts = "process"
    retry = "by a person"


class ClockOffsetError(ExecutionError):
    """The venue's clock and ours are too far apart; the venue is probed each 30 s."""

    halts = "entries"
    retry = "probe each 30 s"


class VenueReadError(ExecutionError):
    """A read of an account failed, lacks ids or is empty where it cannot be: unknown, never empty and never flat."""

    halts = "per pass"
    retry = "1, 2, 4, 8 s"
