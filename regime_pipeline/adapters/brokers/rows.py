"""JSON of a venue, field by field: what is missing, null or no number makes the whole read unreadable, and nothing is guessed."""

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final, NoReturn, TypeAlias

Json: TypeAlias = object

_NUMBER: Final = re.compile(r"-?\d{1,30}(\.\d{1,30})?([eE][+-]?\d{1,2})?\Z")
_FAR_MS: Final = 10**14  # the year 5138


class UnreadableError(Exception):
    """A read that says nothing: "failed" is never "absent", never empty, never flat."""

    def __init__(self, reason: str, needs_rest_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.needs_rest_s = reason, needs_rest_s


class AbsentError(Exception):
    """The venue said, with a code that is on its list, that there is no such thing."""


def parse_json(body: bytes) -> Json:
    """Parse a body; numbers with a point become Decimal, without going through a float.

    Raises
    ------
    UnreadableError
        When it is no JSON: a page, half a document, NaN.
    """
    try:
        return json.loads(body, parse_float=Decimal, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise UnreadableError("NO_JSON") from None


def rows_of(value: Json, what: str) -> "list[Row]":
    """Take a list of objects.

    Raises
    ------
    UnreadableError
        When it is anything else.
    """
    if not isinstance(value, list):
        raise UnreadableError(f"NO_LIST of {what}")
    return [Row.of(each, what) for each in value]


class Row:
    """One object of an answer."""

    def __init__(self, fields: Mapping[str, Json], what: str) -> None:
        self._fields, self._what = fields, what

    @classmethod
    def of(cls, value: Json, what: str) -> "Row":
        """Take an object.

        Raises
        ------
        UnreadableError
            When it is anything else.
        """
        if not isinstance(value, dict):
            raise UnreadableError(f"NO_OBJECT of {what}")
        return cls(value, what)

    def get(self, name: str) -> Json:
        """Give a field as it is; None when it is missing."""
        return self._fields.get(name)

    def row(self, name: str) -> "Row":
        """Give a field that is an object."""
        return Row.of(self.get(name), f"{self._what}.{name}")

    def rows(self, name: str) -> "list[Row]":
        """Give a field that is a list of objects."""
        return rows_of(self.get(name), f"{self._what}.{name}")

    def text(self, name: str) -> str:
        """Give an id or a word that must be there: text, or a whole number as text; never empty."""
        found = self.said(name)
        if found is None:
            self._refuse(name)
        return found

    def said(self, name: str) -> str | None:
        """Give an id or a word; None where the venue says none."""
        value = self.get(name)
        if isinstance(value, str) and value:
            return value
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else None

    def decimal(self, name: str) -> Decimal:
        """Give a number that must be there."""
        found = self.number(name)
        if found is None:
            self._refuse(name)
        return found

    def number(self, name: str) -> Decimal | None:
        """Give a number; None where the venue says none, with null, an empty text or no field at all."""
        value = self.get(name)
        if value is None or value == "":
            return None
        # A bool is an int to Python; as text it is no number.
        if not isinstance(value, str | int | Decimal) or not _NUMBER.match(str(value)):
            self._refuse(name)
        return Decimal(value)

    def above_zero(self, name: str) -> Decimal | None:
        """Give a price; None where the venue says none, or 0 for none."""
        value = self.number(name)
        return value if value is not None and value > 0 else None

    def at_ms(self, name: str) -> int:
        """Give an instant in epoch milliseconds that must be there."""
        value = self.decimal(name)
        if not (value == int(value) and 0 < value < _FAR_MS):
            self._refuse(name)
        return int(value)

    def flag(self, name: str) -> bool:
        """Give a truth that must be there."""
        value = self.get(name)
        if not isinstance(value, bool):
            self._refuse(name)
        return value

    def _refuse(self, name: str) -> NoReturn:
        kind = "MISSING" if name not in self._fields else "BAD"
        raise UnreadableError(f"{kind}_FIELD {self._what}.{name}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)
