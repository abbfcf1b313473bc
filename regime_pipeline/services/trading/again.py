"""A transaction that got in another's way is run again as a whole, a few times: only where nothing outside the database was done in it."""

import random
from collections.abc import Callable
from typing import Final, TypeVar

from regime_pipeline.errors import DatabaseBusyError
from regime_pipeline.services.trading.context import Trading

T = TypeVar("T")
ATTEMPTS: Final = 5
WAIT_S: Final = 0.05
"""Before the second attempt, at most; twice as long before each further one. Drawn, so that two who met do not meet again."""


def run_again(trading: Trading, transaction: Callable[[], T]) -> T:
    """Run a whole transaction; where the database ended it because of another one, again, five times in all.

    Parameters
    ----------
    transaction : callable
        Opens, fills and commits one transaction, from reads on; whatever it sends to somebody else, it sends never.

    Raises
    ------
    DatabaseBusyError
        When the fifth attempt was in the way too: given up, nothing was written.
    """
    for attempt in range(ATTEMPTS - 1):
        try:
            return transaction()
        except DatabaseBusyError:
            trading.sleep(WAIT_S * 2**attempt * (0.5 + random.random() / 2))  # noqa: S311  # spreads load, keeps no secret
    return transaction()
