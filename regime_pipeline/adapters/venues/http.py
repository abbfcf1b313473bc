"""HTTP as venues are asked: no redirects, no proxy variables, and an end in time, however slowly a body drips."""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import requests
import urllib3
from requests.adapters import HTTPAdapter

from regime_pipeline.clock import monotonic_s

MAX_BODY_BYTES: Final = 32 * 1024 * 1024
"""Some thirty times the largest answer we ask for; more is no answer of a venue."""
_CHUNK_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back over the wire: status, headers (any case) and the decoded body."""

    status: int
    headers: Mapping[str, str]
    body: str


class BoundedSession(requests.Session):
    """A session that remembers the last answer as it came, before any client has read a meaning into it."""

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False
        self.heard: Answer | None = None
        for scheme in ("http://", "https://"):
            self.mount(scheme, _BoundedAdapter())

    def forget(self) -> None:
        """Forget the last answer."""
        self.heard = None

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:  # noqa: ANN401 - as requests has it
        """Send a request and follow no redirect; `heard` is None until an answer is complete."""
        self.forget()
        response = super().send(request, **{**kwargs, "allow_redirects": False})
        response.encoding = "utf-8"
        self.heard = Answer(response.status_code, response.headers, response.text)
        return response


class _BoundedAdapter(HTTPAdapter):
    """Connects, waits and reads the body within one time-out: requests alone bounds each of them, not their sum."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:  # noqa: ANN401 - as requests has it
        """Send a request and read its whole body.

        Raises
        ------
        requests.ConnectionError, requests.ReadTimeout
            When the body breaks off, is too long, or is not complete in time.
        """
        timeout_s: float = kwargs["timeout"]
        until_s = monotonic_s() + timeout_s
        response = super().send(request, *args, **{**kwargs, "stream": True, "timeout": urllib3.Timeout(total=timeout_s)})
        try:
            body = _read_body(response.raw, timeout_s, until_s)
        except urllib3.exceptions.TimeoutError as error:
            raise requests.ReadTimeout(error, request=request) from error
        except urllib3.exceptions.HTTPError as error:
            raise requests.ConnectionError(error, request=request) from error
        response.raw = BytesIO(body)
        return response


def _read_body(raw: urllib3.HTTPResponse, timeout_s: float, until_s: float) -> bytes:
    """Read to the end, or close the connection: what is left of a body would be taken for the next answer."""
    body = bytearray()
    is_whole = False
    try:
        while chunk := raw.read1(_CHUNK_BYTES, decode_content=True):
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise urllib3.exceptions.HTTPError(f"the body is longer than {MAX_BODY_BYTES} bytes")
            if monotonic_s() > until_s:
                raise urllib3.exceptions.TimeoutError(f"the body was not complete after {timeout_s:g} s")
        is_whole = True
    finally:
        raw.release_conn() if is_whole else raw.close()
    return bytes(body)
