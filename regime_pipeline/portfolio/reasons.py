"""Why nothing was traded: the codes of a NO_TRADE line that planning can give (execution specification 7.1)."""

from enum import StrEnum


class ReasonCode(StrEnum):
    """One word per reason; what exactly held is told in words beside it."""

    CONDITION_NOT_MET = "CONDITION_NOT_MET"
    IN_POSITION = "IN_POSITION"
    BLOCKED_EPISODE = "BLOCKED_EPISODE"
    DATA_GAP = "DATA_GAP"
    DATA_STALE = "DATA_STALE"
    DUPLICATE_KEY = "DUPLICATE_KEY"
    KILLED = "KILLED"
    NOT_ARMED = "NOT_ARMED"
    ZERO_SIZE = "ZERO_SIZE"
    BELOW_MIN_QTY = "BELOW_MIN_QTY"
    BELOW_MIN_COST = "BELOW_MIN_COST"
