"""Bodies of refusals: recorded ones from a folder where there is one, otherwise worded here in the same form."""

from pathlib import Path
from typing import Final

from regime_pipeline.simulation.answers import Answer
from regime_pipeline.simulation.faults import Fault, FaultKind
from regime_pipeline.simulation.wire import Api

HTML: Final = "text/html"
_JSON: Final = "application/json"
_TEXT: Final = "text/plain"
_RETRY_AFTER: Final = {403, 418, 429}

_PAGE: Final = "<html><head><title>{title}</title></head><body><h1>{title}</h1><p>{text}</p></body></html>\n"
_BINANCE: Final = '{{"code":{code},"msg":"{text}"}}'


class Bodies:
    """Answers for the kinds of fault that are a status or a page."""

    def __init__(self, folder: Path | None) -> None:
        """Read from a folder of recorded bodies, named as in `_RECORDED`; what it lacks is worded here."""
        self._folder = folder

    def refusal(self, fault: Fault, api: Api) -> Answer:
        """Build the answer of an `http_...` or `html_200` fault."""
        status = 200 if fault.kind is FaultKind.HTML_200 else int(fault.kind.removeprefix("http_"))
        retry = {"Retry-After": f"{fault.amount:g}"} if status in _RETRY_AFTER and fault.amount > 0 else {}
        recorded, worded = _FORMS.get((status, api)) or _FORMS[status, None]
        path = self._folder / recorded if self._folder and recorded else None
        body = path.read_text(encoding="utf-8") if path and path.is_file() else worded
        kind = HTML if body.lstrip().startswith("<") else _JSON if body.lstrip().startswith("{") else _TEXT
        return Answer(body, status, {**retry, "Content-Type": f"{kind}; charset=utf-8"})


# (status, API; None: any other) -> name of a recorded body, body of our own.
_FORMS: Final[dict[tuple[int, Api | None], tuple[str | None, str]]] = {
    (200, None): (None, _PAGE.format(title="Please sign in", text="This network asks you to sign in before you go on.")),
    (403, None): ("binance_error_403_cloudfront.html", _PAGE.format(title="403 Forbidden", text="The request was blocked.")),
    (418, None): (
        "binance_error_418_klines.json",
        _BINANCE.format(code=-1003, text="Too many requests after a warning; this address is banned."),
    ),
    (429, None): ("binance_error_429.json", _BINANCE.format(code=-1003, text="Too many requests; the limit is per minute.")),
    (429, Api.HYPERLIQUID): ("hyperliquid_error_429_body.txt", "null"),
    (429, Api.COINGECKO): ("coingecko_error_429.json", '{"status":{"error_code":429,"error_message":"Too many requests for this plan."}}'),
    (451, None): ("binance_error_451_restricted.json", _BINANCE.format(code=0, text="This service is not offered where you are.")),
    (502, None): ("nginx_error_502.html", _PAGE.format(title="502 Bad Gateway", text="The server behind this one did not answer.")),
    (503, None): ("binance_error_503_internal.json", _BINANCE.format(code=-1001, text="Internal error; try again.")),
    (503, Api.COINGECKO): ("binance_error_503_cloudfront.html", _PAGE.format(title="503 Service Unavailable", text="Try again later.")),
}
