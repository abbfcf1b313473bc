"""A signed request as it came, and how a profile reads its parameters."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl


class BadParameterError(Exception):
    """A parameter is missing or malformed; carries its name and what was given."""

    def __init__(self, name: str, given: str | None) -> None:
        super().__init__(f"{name} was {given!r}")
        self.name, self.given = name, given


@dataclass(frozen=True)
class HttpCall:
    """A request below the venue's prefix: `/api/v3/order`, raw query, raw body, headers in lower case."""

    method: str
    path: str
    query: str = ""
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        """Method and path, as scripts name them."""
        return f"{self.method} {self.path}"

    @cached_property
    def params(self) -> dict[str, str]:
        """Parameters of query and body, form or JSON; nested values stay JSON."""
        found = dict(parse_qsl(self.query, keep_blank_values=True))
        if self.body.lstrip().startswith("{"):
            try:
                found |= {name: _text(value) for name, value in json.loads(self.body).items()}
            except ValueError:
                return found
        else:
            found |= dict(parse_qsl(self.body, keep_blank_values=True))
        return found

    def text(self, name: str) -> str:
        """Give a parameter that must be there.

        Raises
        ------
        BadParameterError
            When it is missing or empty.
        """
        value = self.params.get(name)
        if not value:
            raise BadParameterError(name, value)
        return value

    def decimal(self, name: str) -> Decimal:
        """Give a number that must be there and be finite and above 0.

        Raises
        ------
        BadParameterError
            When it is not.
        """
        text = self.text(name)
        try:
            value = Decimal(text)
        except InvalidOperation:
            raise BadParameterError(name, text) from None
        if not value.is_finite() or value <= 0:
            raise BadParameterError(name, text)
        return value

    def whole(self, name: str, default: int) -> int:
        """Give a whole number of at least 0, or the default.

        Raises
        ------
        BadParameterError
            When it is anything else.
        """
        text = self.params.get(name)
        if text is None or text == "":
            return default
        if not text.isdecimal():
            raise BadParameterError(name, text)
        return int(text)


def _text(value: Any) -> str:  # noqa: ANN401 - any JSON
    return value if isinstance(value, str) else json.dumps(value)
