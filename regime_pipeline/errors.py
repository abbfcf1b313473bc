"""One error tree. Every message names the value, the rule it broke and what to do next."""


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
