"""Requests end in time and stay where they were sent."""

from time import monotonic

import pytest
import requests

from regime_pipeline.adapters.venues import http
from regime_pipeline.adapters.venues.http import BoundedSession
from tests.unit.adapters.venues.scripted import Reply, serve


def test_the_answer_is_kept_as_it_came() -> None:
    with serve(Reply("no JSON <html>", 503, {"Retry-After": "3"})) as venue:
        session = BoundedSession()
        response = session.get(venue.url, timeout=2)
        assert session.heard is not None
        assert (session.heard.status, session.heard.body) == (503, response.text) == (503, "no JSON <html>")
        assert session.heard.headers["retry-after"] == "3"


def test_a_redirect_is_an_answer_and_nobody_follows_it() -> None:
    with serve(Reply("{}")) as other, serve(Reply("", 302, {"Location": other.url})) as venue:
        session = BoundedSession()
        assert session.get(venue.url, timeout=2).status_code == 302
        assert not other.asked


@pytest.mark.parametrize("reply", [Reply("[" * 400, drip_s=0.05), Reply(is_silent=True), Reply("[1, 2, 3]", cut=4), Reply(is_reset=True)])
def test_a_body_that_drips_breaks_off_or_never_comes_is_no_answer(reply: Reply) -> None:
    with serve(reply, Reply("[]")) as venue:
        session, started_s = BoundedSession(), monotonic()
        session.heard = http.Answer(200, {}, "an older answer")
        with pytest.raises(requests.RequestException):
            session.get(venue.url, timeout=0.3)
        assert monotonic() - started_s < 2
        assert session.heard is None
        # what was left of that body must not be read as the next answer
        assert session.get(venue.url, timeout=2).text == "[]"


def test_a_body_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_BODY_BYTES", 100_000)
    with serve(Reply("x" * 100_001)) as venue, pytest.raises(requests.ConnectionError, match="longer than 100000 bytes"):
        BoundedSession().get(venue.url, timeout=2)


def test_proxy_variables_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    with serve(Reply("[]")) as venue:
        assert BoundedSession().get(venue.url, timeout=2).text == "[]"
