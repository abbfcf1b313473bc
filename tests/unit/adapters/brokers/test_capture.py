"""The capturing session, through real sockets: what it keeps, what it proves, and what it never lets out."""

import logging
import socket
from contextlib import suppress
from time import monotonic

import pytest
import requests
from urllib3.exceptions import MaxRetryError, NewConnectionError, ProtocolError

from regime_pipeline.adapters.brokers.capture import LOGGERS, BlockedRequestError, Capture, CapturingSession, prove_transport
from regime_pipeline.execution.answers import RawAnswer, Transport
from tests.trading import serve_trading
from tests.unit.adapters.venues.scripted import Reply, serve

LOOPBACK = frozenset({"127.0.0.1"})


def a_session(timeout_s: float = 2.0, hosts: frozenset[str] = LOOPBACK) -> CapturingSession:
    return CapturingSession(hosts, frozenset({"http", "https"}), timeout_s)


def post(session: CapturingSession, url: str) -> Capture:
    with session.capturing() as capture, suppress(requests.RequestException):
        session.post(url, data="1", timeout=99)
    return capture


def a_closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize("status", [200, 201, 400, 401, 404, 418, 429, 451, 500, 502, 504, 524, 529, 599])
def test_status_and_body_are_kept_byte_for_byte(status: int) -> None:
    body = b"\xef\xbb\xbf<html>\xff\x00 no JSON</html>"
    with serve(Reply(body, status, {"Retry-After": "17", "X-Odd": "1"})) as venue:
        capture = post(a_session(), venue.url)
    assert capture.answer == RawAnswer(Transport.ANSWERED, status, body)
    assert (capture.n_sent, capture.retry_after_s, capture.headers["x-odd"]) == (1, 17, "1")


@pytest.mark.parametrize("header", ["", "soon", "-1", "1.5", "Wed, 21 Oct 2026 07:28:00 GMT", "9" * 40])
def test_a_retry_after_that_gives_no_whole_seconds_is_none(header: str) -> None:
    with serve(Reply("", 429, {"Retry-After": header})) as venue:
        assert post(a_session(), venue.url).retry_after_s is None


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_kept_and_not_followed(status: int) -> None:
    with serve(Reply("{}")) as other, serve(Reply("", status, {"Location": other.url})) as venue:
        capture = post(a_session(), venue.url)
        assert capture.answer is not None
        assert (capture.answer.status, len(venue.asked), other.asked) == (status, 1, [])


@pytest.mark.parametrize(
    ("reply", "transport"),
    [
        (Reply("{}", is_silent=True), Transport.TIMED_OUT),
        (Reply("{" + " " * 400, drip_s=0.05), Transport.TIMED_OUT),
        (Reply("{}", is_reset=True), Transport.BROKEN),
        (Reply('{"orderId": 1}', cut=5), Transport.BROKEN),
        (Reply("", cut=0), Transport.ANSWERED),
    ],
)
def test_what_ends_without_a_whole_answer_says_how(reply: Reply, transport: Transport) -> None:
    with serve(reply) as venue:
        started_s = monotonic()
        capture = post(a_session(0.4), venue.url)
    assert capture.answer is not None
    assert (capture.answer.transport, capture.n_sent) == (transport, 1)
    assert monotonic() - started_s < 2


@pytest.mark.parametrize("is_tls", [False, True])
@pytest.mark.parametrize("cut", ["reset", "fin", "truncate", "tls"])
def test_a_cut_connection_is_broken_over_http_and_https(cut: str, is_tls: bool) -> None:
    with serve_trading(is_tls=is_tls) as venue:
        venue.script({"on": "GET /api/v3/time", "cut": cut})
        session = a_session()
        if venue.pem is not None:
            session.verify = str(venue.pem)
        with session.capturing() as capture, pytest.raises(requests.RequestException):
            session.get(f"{venue.url}/binance/api/v3/time")
    assert capture.answer == RawAnswer(Transport.BROKEN)


def test_a_certificate_that_nobody_vouches_for_is_no_proof_that_nothing_left() -> None:
    with serve_trading(is_tls=True) as venue:
        assert post(a_session(), f"{venue.url}/binance/api/v3/order").answer == RawAnswer(Transport.BROKEN)


def test_a_refused_connection_and_an_unknown_name_prove_that_nothing_left() -> None:
    refused = post(a_session(), f"http://127.0.0.1:{a_closed_port()}/")
    unknown = post(a_session(hosts=frozenset({"venue.invalid"})), "http://venue.invalid/")
    assert refused.answer == unknown.answer == RawAnswer(Transport.NOT_CONNECTED)


def test_an_older_error_that_is_being_handled_proves_nothing() -> None:
    """While a refused connection is handled, another request breaks: Python links the two, and the second one did leave."""
    with serve(Reply(is_reset=True)) as venue:
        session = a_session()
        try:
            with session.capturing():
                session.get(f"http://127.0.0.1:{a_closed_port()}/")
        except requests.RequestException:
            capture = post(session, venue.url)
    assert capture.answer == RawAnswer(Transport.BROKEN)


def test_only_the_reason_why_urllib3_gave_up_is_proof() -> None:
    no_connection = NewConnectionError(None, "refused")  # type: ignore[arg-type]
    broken = requests.ConnectionError(ProtocolError("reset"))
    broken.__context__ = broken.__cause__ = requests.ConnectionError(MaxRetryError(None, "/", no_connection))  # type: ignore[arg-type]
    assert prove_transport(broken) is Transport.BROKEN
    assert prove_transport(requests.ConnectionError(no_connection)) is Transport.BROKEN
    assert prove_transport(requests.ReadTimeout("late")) is Transport.TIMED_OUT
    assert prove_transport(requests.ConnectTimeout("late")) is Transport.TIMED_OUT
    assert prove_transport(ValueError("anything")) is Transport.BROKEN
    assert prove_transport(requests.ConnectionError()) is Transport.BROKEN


def test_an_announced_request_leaves_once_and_only_if_it_passes() -> None:
    with serve(Reply("{}"), Reply("{}")) as venue:
        session = a_session()
        with session.capturing(lambda request: None if request.body == "1" else "the quantity differs") as capture:
            with pytest.raises(BlockedRequestError, match="the quantity differs"):
                session.post(venue.url, data="2")
            assert (capture.n_sent, capture.answer, capture.blocked) == (0, None, "the quantity differs")
            assert session.post(venue.url, data="1").status_code == 200
            with pytest.raises(BlockedRequestError, match="another one had left already"):
                session.post(venue.url, data="1")
        assert (capture.n_sent, len(venue.asked)) == (1, 1)


@pytest.mark.parametrize("address", ["http://127.0.0.2:{port}/", "http://localhost:{port}/", "http://127.0.0.1.evil.test:{port}/"])
def test_no_other_host_is_asked(address: str) -> None:
    with serve(Reply("{}")) as venue:
        url = address.format(port=venue.url.rpartition(":")[2])
        capture = post(a_session(), url)
        assert (capture.n_sent, capture.answer, venue.asked) == (0, None, [])
        assert "allowed are http or https to 127.0.0.1" in capture.blocked


def test_plain_http_is_refused_where_only_https_is_allowed() -> None:
    with serve(Reply("{}")) as venue:
        capture = post(CapturingSession(LOOPBACK, frozenset({"https"}), 2), venue.url)
        assert (capture.n_sent, venue.asked) == (0, [])


def test_nothing_is_sent_outside_of_a_question() -> None:
    with serve(Reply("{}")) as venue:
        with pytest.raises(BlockedRequestError, match="asked for by nobody"):
            a_session().get(venue.url)
        assert not venue.asked


def test_an_answer_belongs_to_its_own_question() -> None:
    with serve(Reply("first"), Reply(is_reset=True)) as venue:
        session = a_session()
        assert post(session, venue.url).answer == RawAnswer(Transport.ANSWERED, 200, b"first")
        assert post(session, venue.url).answer == RawAnswer(Transport.BROKEN)


def test_a_connection_that_the_venue_closed_in_between_is_not_used_again() -> None:
    """Kept alive, closed by the venue, asked again: a fresh connection, no broken request that would be UNKNOWN."""
    with serve(Reply("{}", headers={"Connection": "close"}), Reply("{}")) as venue:
        session = a_session()
        assert [post(session, venue.url).answer for _ in range(2)] == [RawAnswer(Transport.ANSWERED, 200, b"{}")] * 2


def test_addresses_are_not_logged_at_any_level(caplog: pytest.LogCaptureFixture) -> None:
    with serve(Reply("{}")) as venue, caplog.at_level(logging.DEBUG):
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.DEBUG)
        post(a_session(), f"{venue.url}/private?signature=canary")
        logging.getLogger(LOGGERS[1]).debug("headers %s", {"X-MBX-APIKEY": "canary"})
    assert "canary" not in caplog.text
