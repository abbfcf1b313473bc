"""Send the posted messages, each channel for itself: one that refuses keeps its messages and holds back no other."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from regime_pipeline.clock import monotonic_s
from regime_pipeline.errors import NotifyError
from regime_pipeline.ports import AlertStore, Message, Notice, Notifier, Outbox

MAX_MESSAGES: Final = 10
"""Per channel and tick; the rest of a storm goes into one message that lists it."""
MAX_LINES: Final = 40
SEND_S: Final = 30.0
"""A slow channel may take so long per tick, which Dagster ends after a minute; the next one goes on."""


def send_notices(store: AlertStore, notifiers: Sequence[Notifier], now_s: int) -> dict[str, int | NotifyError]:
    """Empty every channel's box; tells per channel how many messages it took, or why it stopped taking them.

    A message is sent at least once: a process killed between sending and noting sends it again.
    """
    if not notifiers:
        return {}
    with ThreadPoolExecutor(len(notifiers)) as pool:  # side by side: what one waits for, the others do not
        outcomes = pool.map(lambda notifier: _serve(store, notifier, now_s), notifiers)
        return {notifier.channel: what for notifier, what in zip(notifiers, outcomes, strict=True) if what is not None}


def _serve(store: AlertStore, notifier: Notifier, now_s: int) -> int | NotifyError | None:
    with store.open_outbox(notifier.channel) as box:
        return None if box is None else _empty(box, notifier, now_s)  # None: another process is at it


def _empty(box: Outbox, notifier: Notifier, now_s: int) -> int | NotifyError:
    sent, deadline_s = 0, monotonic_s() + SEND_S
    for notices in bundle(box.load_unsent()):
        if monotonic_s() > deadline_s:
            break
        ids = [notice.notice_id for notice in notices]
        message = notices[0].message if len(notices) == 1 else summarise([notice.message for notice in notices])
        try:
            notifier.send(message)
        except NotifyError as error:
            # the first refusal ends the tick: a dead channel costs one time-out a minute, not one per message
            box.mark_failed(ids, str(error))
            return error
        box.mark_sent(ids, now_s)
        sent += 1
    return sent


def bundle(notices: Sequence[Notice]) -> list[Sequence[Notice]]:
    """Split what waits into messages: the oldest one by one, and what is too many as the last, together."""
    if len(notices) <= MAX_MESSAGES:
        return [[notice] for notice in notices]
    return [*([notice] for notice in notices[: MAX_MESSAGES - 1]), notices[MAX_MESSAGES - 1 :]]


def summarise(messages: Sequence[Message]) -> Message:
    """Put many messages into one, a line each."""
    first = messages[0].fields
    lines = [message.title for message in messages[:MAX_LINES]]
    if len(messages) > MAX_LINES:
        lines.append(f"and {len(messages) - MAX_LINES} more")
    lines.append("`regime alerts list` shows them all")
    fields: dict[str, str | int | None] = {"instance": first.get("instance"), "event": "summary", "messages": len(messages)}
    return Message(f"[{first.get('instance')}] {len(messages)} more messages about alerts", "\n".join(lines), fields)
