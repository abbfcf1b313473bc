"""One account at a real venue, through ccxt: ccxt signs and sends, and what was on the wire is all that is believed.

A create leaves once, exactly as decided, or not at all. A read says a value, that there is no such thing, or that it failed.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from regime_pipeline.adapters.brokers.dialect import Dialect, OrderId, Symbols
from regime_pipeline.adapters.brokers.lane import Lane
from regime_pipeline.adapters.brokers.rows import AbsentError, UnreadableError
from regime_pipeline.errors import BadInputError
from regime_pipeline.execution.fills import Fill
from regime_pipeline.execution.keys import spell_client_id
from regime_pipeline.ports import (
    Absent,
    Balance,
    BrokerTraits,
    CreateReply,
    Failed,
    Found,
    FundingPayment,
    Listing,
    Ok,
    OrderSpec,
    Quote,
    Read,
    VenueOrder,
    VenuePosition,
)

T = TypeVar("T")
MAX_PROBES: Final = 3


@dataclass(frozen=True, slots=True)
class Lanes:
    """A client for each kind of request, so that a cancel never waits behind a read that hangs."""

    create: Lane
    cancel: Lane
    read: Lane

    def all(self) -> tuple[Lane, Lane, Lane]:
        """List them."""
        return self.create, self.cancel, self.read


class CcxtBroker:
    """The port `Broker` over ccxt.

    Parameters
    ----------
    traits : BrokerTraits
        Who and what the account is.
    dialect : Dialect
        How its venue speaks.
    lanes : Lanes
        Clients that have passed `check_client`.
    now_ms : callable
        Venue-corrected epoch milliseconds.
    fingerprint : str
        Of the key in use, for the live arm.
    venue_account : str
        The venue's own id of the account; empty while it has not been read.
    correct : callable, optional
        Told once, before the first read or cancel, by how many milliseconds the venue's clock is ahead of `now_ms`: signed requests of
        a clock that is off are refused, those of a kill too.
    """

    def __init__(
        self,
        traits: BrokerTraits,
        dialect: Dialect,
        lanes: Lanes,
        now_ms: Callable[[], int],
        *,
        fingerprint: str = "",
        venue_account: str = "",
        correct: Callable[[int], None] | None = None,
    ) -> None:
        self._traits, self._dialect, self._lanes, self._now_ms = traits, dialect, lanes, now_ms
        self._symbols = Symbols()
        self._correct, self._n_probes = correct, 0
        self.fingerprint, self.venue_account = fingerprint, venue_account

    @property
    def traits(self) -> BrokerTraits:
        """Who and what it is."""
        return self._traits

    def close(self) -> None:
        """Close the connections that are kept alive; another request opens a new one."""
        for lane in self._lanes.all():
            lane.session.close()

    # ---- orders -------------------------------------------------------------------------------------------------------------------

    def create_order(self, spec: OrderSpec, sent_at_ms: int, window_ms: int) -> CreateReply:
        """Send one order, once: what ccxt returns or raises is ignored, and a request that differs from the order does not leave.

        Until the markets have been read (`fetch_listings`) every create is NOT_BUILT: ccxt would otherwise read them between the
        stamp and the order.
        """
        lane = self._lanes.create
        try:
            creation = self._dialect.create(spec, self._symbols.id_of(spec.symbol), sent_at_ms, window_ms)
        except UnreadableError as error:
            return lane.unsent(error.reason)
        return lane.reply(lane.ask(creation.question, creation.check, stamp_ms=sent_at_ms, window_ms=window_ms))

    def cancel_order(self, symbol: str, client_order_id: str, venue_order_id: str | None) -> CreateReply:
        """Ask for the cancel of one order; proves nothing."""
        return self._cancel(symbol, lambda venue_symbol: self._dialect.cancel(venue_symbol, self._named(client_order_id, venue_order_id)))

    def cancel_all(self, symbol: str) -> CreateReply:
        """Ask for the cancel of every order of a symbol, triggers included; proves nothing."""
        return self._cancel(symbol, self._dialect.cancel_all)

    def fetch_order(self, symbol: str, client_order_id: str, venue_order_id: str | None) -> Found[VenueOrder]:
        """Read one order by the venue's id, or by ours."""
        order = self._named(client_order_id, venue_order_id)
        try:
            return self._read(lambda lane: self._dialect.fetch_order(lane, self._symbols, symbol, order))
        except AbsentError:
            return Absent()

    def fetch_open_orders(self, symbol: str | None = None) -> Read[Sequence[VenueOrder]]:
        """Read open orders, triggers included; of all symbols where none is named."""
        return self._list(lambda lane: self._dialect.fetch_open_orders(lane, self._symbols, symbol, self._traits.quote))

    def fetch_closed_orders(self, symbol: str, since_ms: int) -> Read[Sequence[VenueOrder]]:
        """Read orders of a symbol since an instant, whatever their status."""
        return self._list(lambda lane: self._dialect.fetch_closed_orders(lane, self._symbols, symbol, since_ms, self._now_ms()))

    def fetch_fills(self, symbol: str, since_ms: int, venue_order_id: str | None = None) -> Read[Sequence[Fill]]:
        """Read own trades of a symbol since an instant, oldest first; of one order where it is named."""
        return self._list(
            lambda lane: self._dialect.fetch_fills(lane, self._symbols, self._traits, symbol, since_ms, self._now_ms(), venue_order_id)
        )

    # ---- the account --------------------------------------------------------------------------------------------------------------

    def fetch_balances(self) -> Read[Mapping[str, Balance]]:
        """Read all balances that are not zero."""
        return self._list(self._dialect.fetch_balances, with_names=False)

    def fetch_positions(self) -> Read[Sequence[VenuePosition]]:
        """Read all contract positions that are not flat; a spot account has none."""
        return self._list(lambda lane: self._dialect.fetch_positions(lane, self._symbols, self._traits.quote))

    def fetch_funding(self, symbol: str, since_ms: int) -> Read[Sequence[FundingPayment]]:
        """Read funding payments since an instant; a spot account has none."""
        return self._list(lambda lane: self._dialect.fetch_funding(lane, symbol, self._symbols.id_of(symbol), since_ms, self._now_ms()))

    def fetch_permissions(self) -> Read[frozenset[str]]:
        """Read what the key may do: read, trade, withdraw, transfer; and ip_bound where it works from our address alone."""
        return self._list(self._dialect.fetch_permissions, with_names=False)

    def fetch_account_id(self) -> Read[str]:
        """Read the venue's own id of the account."""
        return self._list(self._dialect.fetch_account_id, with_names=False)

    # ---- the venue ----------------------------------------------------------------------------------------------------------------

    def fetch_quote(self, symbol: str) -> Read[Quote]:
        """Read best bid and ask."""
        return self._list(lambda lane: self._dialect.fetch_quote(lane, self._symbols.id_of(symbol), self._now_ms()))

    def fetch_time_ms(self) -> Read[int]:
        """Read the venue's clock."""
        return self._list(self._dialect.fetch_time_ms, with_names=False)

    def fetch_listings(self) -> Read[Mapping[str, Listing]]:
        """Read rules and fees of every instrument by unified symbol, and let all clients know the markets."""
        return self._list(self._fetch_listings, with_names=False)

    def _fetch_listings(self, lane: Lane) -> dict[str, Listing]:
        asked = lane.ask(self._dialect.fetch_markets)
        lane.judge(asked, self._dialect.codes)
        markets = asked.result
        if asked.failure is not None or not isinstance(markets, list) or not markets:
            raise UnreadableError(f"NO_MARKETS {type(asked.failure).__name__ if asked.failure is not None else 'empty'}")
        try:
            fees_bps = self._dialect.fetch_fees(lane)
        except UnreadableError:
            fees_bps = self._dialect.fallback_fees_bps
        parsed = [self._dialect.parse_listing(market, fees_bps) for market in markets]
        listings = {each.rules.symbol: each for each in parsed if each is not None and each.quote == self._traits.quote}
        if not listings:
            raise UnreadableError(f"NO_MARKETS in {self._traits.quote}")
        for each in self._lanes.all():
            each.exchange.set_markets(markets)
        self._symbols.learn(markets)
        return listings

    def _correct_clock(self) -> None:
        """Measure how far the venue's clock is ahead; after three probes without an answer requests are stamped as they are."""
        if self._correct is None or self._n_probes >= MAX_PROBES:
            return
        self._n_probes += 1
        before_ms = self._now_ms()
        with suppress(UnreadableError, AbsentError):
            venue_ms = self._dialect.fetch_time_ms(self._lanes.read)
            self._correct(venue_ms - (before_ms + self._now_ms()) // 2)
            self._correct = None

    def _learn_markets(self) -> None:
        """Read the markets before the first read of a broker that was built without them; where that fails, names are the venue's."""
        if not self._symbols.ids:
            with suppress(UnreadableError, AbsentError):
                self._fetch_listings(self._lanes.read)

    # ---- below --------------------------------------------------------------------------------------------------------------------

    def _cancel(self, symbol: str, plan: Callable[[str], Callable[[object], object]]) -> CreateReply:
        """Ask for a cancel; before the markets are known the venue's name is derived, since a cancel of a wrong name does no harm."""
        self._correct_clock()
        lane, derived = self._lanes.cancel, symbol.partition(":")[0].replace("/", "")
        return lane.reply(lane.ask(plan(self._symbols.ids.get(symbol, derived))))

    def _named(self, client_order_id: str, venue_order_id: str | None) -> OrderId:
        return OrderId(spell_client_id(client_order_id, self._traits.profile.client_id_form), venue_order_id)

    def _list(self, work: Callable[[Lane], T], *, with_names: bool = True) -> Read[T]:
        """Read what cannot be absent as a whole: a venue that says so of a listing has said nothing."""
        try:
            return self._read(work, with_names=with_names)
        except AbsentError:
            return Failed("ABSENT where a list was asked for")

    def _read(self, work: Callable[[Lane], T], *, with_names: bool = True) -> Read[T]:
        """Read; whatever goes wrong, in ccxt or in our own parser, is a read that says nothing."""
        try:
            self._correct_clock()
            if with_names:
                self._learn_markets()
            return Ok(work(self._lanes.read))
        except UnreadableError as error:
            return Failed(error.reason, error.needs_rest_s)
        except AbsentError:
            raise
        except BadInputError:
            return Failed("BAD_FIELD fill without quantity or price")
        except Exception as error:  # noqa: BLE001 - a lying body may break a parser in its own way
            return Failed(f"UNREADABLE {type(error).__name__}")
