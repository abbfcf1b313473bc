"""One round of taking orders from the venue that a kill level ends: list, cancel, and say what is left. Needs no database."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from regime_pipeline.execution.answers import Transport
from regime_pipeline.ports import Broker, CreateReply, Failed, VenueOrder
from regime_pipeline.ports.kill_mirror import MirroredOrder
from regime_pipeline.risk.kill_switch import Level, Switch, ends_order, is_cancelled, worst_level
from regime_pipeline.risk.purpose import Purpose, Side

QUIET_S: Final = 2.0
"""Two listings without an order to cancel, so far apart, are the end: the second catches what was placed meanwhile."""
PARTIAL_S: Final = 60.0
ROUND_EVERY_S: Final = 1.0
LOOK_AGAIN_S: Final = 60.0
NOBODY: Final = "_external"


@dataclass(frozen=True, slots=True)
class CancelRound:
    """What a round did.

    Parameters
    ----------
    asked : tuple of str
        Orders whose cancel was requested: our ids, or the venue's where they are not ours.
    refused : int
        Requests without an answer of the venue; a cancel that finds nothing is none of them.
    failure : str
        Why the listing said nothing; empty when it did.
    """

    asked: tuple[str, ...] = ()
    refused: int = 0
    failure: str = ""

    @property
    def is_quiet(self) -> bool:
        """Tell whether the venue was read and shows nothing to cancel."""
        return not self.failure and not self.asked


@dataclass(slots=True)
class KillProgress:
    """Where the delivery of a level stands, kept by whoever repeats the rounds; seconds on the monotonic clock."""

    levels: frozenset[tuple[str, int]] = frozenset()
    began_s: float = 0.0
    quiet_s: float | None = None
    is_done: bool = False
    was_told: bool = False
    n_asked: int = 0
    looked_s: float = field(default=float("-inf"))

    def begin(self, switches: Iterable[Switch], now_s: float) -> None:
        """Start over when the levels are others than before."""
        levels = frozenset((switch.scope.text, switch.level.value) for switch in switches)
        if levels != self.levels:
            self.levels, self.began_s, self.quiet_s, self.is_done, self.was_told, self.n_asked = levels, now_s, None, False, False, 0
            self.looked_s = float("-inf")

    def is_due(self, now_s: float) -> bool:
        """Tell whether the venue is looked at now: each second until all is gone, then each minute while the level is in force."""
        return now_s - self.looked_s >= (LOOK_AGAIN_S if self.is_done else ROUND_EVERY_S)

    def note(self, done: CancelRound, now_s: float) -> None:
        """Take a round in: two quiet ones at least 2 s apart are the end."""
        self.looked_s = now_s
        self.n_asked += len(done.asked)
        if not done.is_quiet:
            self.quiet_s, self.is_done = None, False
        elif self.quiet_s is None:
            self.quiet_s = now_s
        elif now_s - self.quiet_s >= QUIET_S:
            self.is_done = True

    def is_partial(self, now_s: float) -> bool:
        """Tell whether it has taken too long."""
        return not self.is_done and now_s - self.began_s >= PARTIAL_S


def cancel_round(
    broker: Broker,
    switches: Sequence[Switch],
    ours: Mapping[str, MirroredOrder],
    *,
    in_doubt: Iterable[str] = (),
    symbols: Iterable[str] = (),
    is_dedicated: bool = True,
) -> CancelRound:
    """List what is open and request the cancel of everything that the levels end; proves nothing, so it is repeated.

    Parameters
    ----------
    broker : Broker
        Of the account.
    switches : sequence of Switch
        Levels in force; the worst of an order's scopes counts.
    ours : mapping of str to MirroredOrder
        Orders we know of by our id, by table or by mirror.
    in_doubt : iterable of str
        Of these the ones that no listing need show (UNKNOWN, or about to be sent): they are cancelled by our id, their state stays.
    symbols : iterable of str
        Where orders may be, for a venue whose listing fails.
    is_dedicated : bool
        Whether everything in the account is ours to cancel from L3 on.
    """
    account = broker.traits.account
    listing = broker.fetch_open_orders()
    if isinstance(listing, Failed):
        wanted = [order for order in ours.values() if is_ended(switches, account, order)]
        replies = [broker.cancel_order(order.symbol, order.client_order_id, order.venue_order_id) for order in wanted]
        everywhere = worst_level(switches, account, NOBODY, NOBODY)
        if is_dedicated and everywhere >= Level.HARD_STOP and not broker.traits.has_venue_stops:
            replies += [broker.cancel_all(symbol) for symbol in symbols]
        return CancelRound(tuple(order.client_order_id for order in wanted), _count_refused(replies), listing.reason)
    targets = [each for each in listing.value if _is_target(each, switches, account, ours, is_dedicated=is_dedicated)]
    replies = [broker.cancel_order(each.symbol, each.client_order_id or "", each.venue_order_id) for each in targets]
    shown = {each.client_order_id for each in listing.value}
    hidden = [ours[each] for each in in_doubt if each in ours and each not in shown and is_ended(switches, account, ours[each])]
    replies += [broker.cancel_order(order.symbol, order.client_order_id, order.venue_order_id) for order in hidden]
    asked = (*(each.client_order_id or each.venue_order_id for each in targets), *(order.client_order_id for order in hidden))
    return CancelRound(asked, _count_refused(replies))


def is_ended(switches: Sequence[Switch], account: str, order: MirroredOrder) -> bool:
    """Tell whether the levels end an order that we know, by the worst of its scopes."""
    level = worst_level(switches, account, order.strategy, order.symbol)
    return ends_order(level, order.leg, by_person=order.by_person)


def _is_target(
    shown: VenueOrder, switches: Sequence[Switch], account: str, ours: Mapping[str, MirroredOrder], *, is_dedicated: bool
) -> bool:
    known = ours.get(shown.client_order_id or "")
    if known is not None:
        return is_ended(switches, account, known)
    level = worst_level(switches, account, NOBODY, shown.symbol)
    # below a hard stop what is not ours is left alone: reconciliation stops entries for it
    return is_dedicated and level >= Level.HARD_STOP and is_cancelled(level, guess_purpose(shown))


def guess_purpose(shown: VenueOrder) -> Purpose:
    """What an order of nobody's does: a trigger that only reduces protects, what buys may be an entry."""
    if shown.stop_price is not None and (shown.reduce_only or shown.side is Side.SELL):
        return Purpose.STOP
    return Purpose.REDUCE if shown.reduce_only else Purpose.ENTRY


def _count_refused(replies: Iterable[CreateReply]) -> int:
    answers = [reply.answer for reply in replies]
    return sum(answer.transport is not Transport.ANSWERED or answer.status is None or answer.status >= 500 for answer in answers)
