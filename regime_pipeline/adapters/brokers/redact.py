"""Takes secrets out of text: what a venue, a gateway or ccxt says may quote a header, a signature or a private address."""

import base64
import html
import json
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, quote_plus

HIDDEN: Final = "[secret]"
_NAMES: Final = r"signature|x-bapi-sign|sign|x-mbx-apikey|x-bapi-api-key|api[_-]?key|api[_-]?secret|secret|authorization|listen[_-]?key"
# A name, an equals sign or colon with quotes around either, and a value: the quotes stay, so that JSON stays JSON.
_NAMED: Final = re.compile(rf"""((?<![A-Za-z])(?:{_NAMES})\\?["']?\s*[:=]\s*\\?["']?)(?:bearer\s+)?[^\s"'&,}})\]\\<>]+""", re.IGNORECASE)
_QUERY: Final = re.compile(r"""(https?://[^\s"'?<>]+\?)[^\s"'<>]*""", re.IGNORECASE)


class Redactor:
    """Knows the secrets of one account, in every spelling in which they travel."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        spelt = {each for secret in secrets if secret for each in _spellings(secret)}
        # The longest first: a part of a secret that was taken out would leave the rest of it standing.
        self._known = re.compile("|".join(map(re.escape, sorted(spelt, key=len, reverse=True)))) if spelt else None

    def __repr__(self) -> str:
        return "Redactor()"

    def clean(self, text: str) -> str:
        """Give the text without secrets, without signatures, and with the queries of addresses cut off."""
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        return _NAMED.sub(rf"\1{HIDDEN}", _QUERY.sub(r"\1[private]", text))

    def clean_bytes(self, body: bytes) -> bytes:
        """Give a body without secrets; one that holds none is given back as it is."""
        return self.clean(body.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def _spellings(secret: str) -> set[str]:
    quoted = json.dumps(secret)[1:-1]
    plain = {secret, quoted, json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1], html.escape(secret), secret.strip()}
    coded = {quote(secret, safe=""), quote(secret), quote_plus(secret), base64.b64encode(secret.encode()).decode()}
    return {each for each in plain | coded if each}
