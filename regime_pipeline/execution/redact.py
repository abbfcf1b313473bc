"""An answer as it may be kept: readable, without what looks like a secret, and short."""

import re
from typing import Final

MAX_RAW_CHARS: Final = 4000

_SECRET: Final = re.compile(
    r"""(?ix) (
        ["']? \b (?:
            api[-_ ]?key | x-mbx-apikey | ok-access-[a-z]+ | x-bapi-[a-z-]+ | secret[a-z_]* | sign(?:ature)? | pass(?:phrase|word)
            | [a-z_]*token | authorization
        ) ["']? \s* [:=] \s* (?:(?:bearer|basic)\s+)?
    ) ( "[^"]*" | '[^']*' | [^\s,&}"']+ )"""
)


def redact_answer(body: bytes) -> str:
    """Write an answer down for the journal: UTF-8, no NUL, the values of names that say secret as ***, at most 4000 characters."""
    text = body[: 4 * MAX_RAW_CHARS].decode("utf-8", "replace").replace("\x00", "\ufffd")
    return _SECRET.sub(r"\1***", text)[:MAX_RAW_CHARS]
