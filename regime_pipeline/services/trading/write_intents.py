"""The end of tx1: what is to be ordered becomes rows, or is recognised as ordered already."""

from collections.abc import Sequence

from regime_pipeline.errors import OrderValidationError
from regime_pipeline.ports import IntentOutcome, NewIntent, Severity, Work, WrittenIntent
from regime_pipeline.services.trading.context import Trading
from regime_pipeline.services.trading.incidents import open_incident


def write_intents(work: Work, trading: Trading, intents: Sequence[NewIntent]) -> list[WrittenIntent]:
    """Write intents with their orders as INTENT; what has a row already is adopted, and nothing is ever ordered twice.

    Parameters
    ----------
    work : Work
        The transaction of the decision: without a journal row there is no order.
    trading : Trading
        Its broker's venue and account are the orders'.
    intents : sequence of NewIntent
        In the order of their claim to a place that only one live order may hold.

    Returns
    -------
    list of WrittenIntent
        One per intent, in order. CONFLICT (the key with another payload) opens an incident, the stored order stands.

    Raises
    ------
    OrderValidationError
        When an intent is of another account or mode than the broker.
    """
    traits = trading.broker.traits
    for intent in intents:
        if (intent.key.account, intent.mode) != (traits.account, traits.mode):
            msg = f"intent {intent.key.text} was for mode {intent.mode}, the broker trades {traits.account} in {traits.mode}"
            raise OrderValidationError(f"{msg}; nothing is written")
    results = work.orders.write_intents(traits.venue, intents)
    for result in results:
        if result.outcome is IntentOutcome.CONFLICT and result.order is not None:
            evidence = {"key": result.intent.key.text, "asked": result.intent.payload_hash, "stored": result.order.payload_hash}
            open_incident(work, "PAYLOAD_CONFLICT", Severity.CRITICAL, result.intent.client_order_id, evidence)
    trading.at("before_intent_commit")
    return results
