"""Secrets of the executor: API keys by kind, the account it may trade for real, and the salt of fingerprints.

They are no settings of the product: `load_settings` passes over their variables, and no run, table, log or child process sees them.
They come from variables of the executor's own environment, or from a file that nobody but its user can read.
"""

import os
import stat
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from regime_pipeline.errors import ConfigError

PREFIX: Final = "REGIME_EXECUTOR_"
MIN_SECRET_CHARS: Final = 8
"""A shorter one could not be taken out of a text without tearing it apart."""
_MAX_FILE_BYTES: Final = 65_536


class KeyKind(StrEnum):
    """What a key is for."""

    TRADER = "trader"  # trade, read orders
    KILL = "kill"  # cancel, read orders and positions: its own, so that revoking the trader's does not disarm it
    SNAPSHOT = "snapshot"  # read


class ExecutorSecrets(BaseModel):
    """What the executor holds; every part may be missing until it is asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    trader_key: SecretStr | None = Field(None, description="API key that sends orders: trade and read, no withdrawal, bound to our IP.")
    trader_secret: SecretStr | None = Field(None, description="Its secret.")
    kill_key: SecretStr | None = Field(None, description="API key that only the kill worker uses.")
    kill_secret: SecretStr | None = Field(None, description="Its secret.")
    snapshot_key: SecretStr | None = Field(None, description="API key that reads.")
    snapshot_secret: SecretStr | None = Field(None, description="Its secret.")
    account: str | None = Field(None, description="Account that may be traded with real money: one of the three parts of the live arm.")
    salt: SecretStr | None = Field(None, description="Salt of the fingerprints of keys; the same for ever.")

    def credentials(self, kind: KeyKind) -> tuple[str, str]:
        """Give key and secret of a kind in plain text.

        Raises
        ------
        ConfigError
            When either is missing.
        """
        key, secret = getattr(self, f"{kind}_key"), getattr(self, f"{kind}_secret")
        if key is None or secret is None:
            names = f"{PREFIX}{kind.upper()}_KEY and {PREFIX}{kind.upper()}_SECRET"
            raise ConfigError(f"the {kind} key was not given; set {names}, or {kind}_key and {kind}_secret in {PREFIX}FILE.")
        return key.get_secret_value(), secret.get_secret_value()

    def require_salt(self) -> str:
        """Give the salt in plain text.

        Raises
        ------
        ConfigError
            When it is missing.
        """
        if self.salt is None:
            raise ConfigError(f"the salt of key fingerprints was not given; set {PREFIX}SALT, or salt in {PREFIX}FILE, once and for ever.")
        return self.salt.get_secret_value()

    def kinds(self) -> list[KeyKind]:
        """Name the kinds of which there is a key."""
        return [kind for kind in KeyKind if getattr(self, f"{kind}_key") is not None]

    def values(self) -> list[str]:
        """List every secret in plain text, for whoever must take them out of a text."""
        found = [getattr(self, name) for name in type(self).model_fields]
        return [value.get_secret_value() for value in found if isinstance(value, SecretStr)]


FILE_VARIABLE: Final = f"{PREFIX}FILE"
VARIABLES: Final = frozenset({FILE_VARIABLE, *(PREFIX + name.upper() for name in ExecutorSecrets.model_fields)})
"""Names that belong to the executor alone."""


def read_secrets(env: Mapping[str, str]) -> ExecutorSecrets:
    """Read the secrets from variables and, where one names it, from a file; no message of an error ever holds a value.

    Raises
    ------
    ConfigError
        When the file is not the executor's alone or not TOML, or a name is unknown, given twice, or too short to be a secret.
    """
    given = {key.removeprefix(PREFIX).lower(): env[key] for key in VARIABLES - {FILE_VARIABLE} if env.get(key)}
    path = env.get(FILE_VARIABLE)
    filed = _read_file(Path(path)) if path else {}
    if twice := sorted(given.keys() & filed.keys()):
        raise ConfigError(f"{', '.join(twice)} came from {FILE_VARIABLE} and from a variable; keep one of the two.")
    merged = {**filed, **given}
    for name, value in merged.items():
        if name != "account" and len(value) < MIN_SECRET_CHARS:
            raise ConfigError(f"{name} of the executor has {len(value)} characters, at least {MIN_SECRET_CHARS} are needed; correct it.")
    try:
        return ExecutorSecrets.model_validate(merged)
    except ValidationError:
        raise ConfigError(f"a secret of the executor was no text; give text for {', '.join(sorted(merged))}.") from None


def _read_file(path: Path) -> dict[str, str]:
    try:
        content = tomllib.loads(_read_private(path))
    except OSError as error:
        raise ConfigError(f"{FILE_VARIABLE} was {path}: {error.strerror}. Name a plain file that the executor's user owns.") from None
    except ValueError:  # its message could quote a line of the file
        raise ConfigError(f'{FILE_VARIABLE} was {path}, which is not TOML in UTF-8; write lines such as trader_key = "...".') from None
    allowed = ", ".join(ExecutorSecrets.model_fields)
    if unknown := len(content.keys() - ExecutorSecrets.model_fields.keys()):
        raise ConfigError(f"{FILE_VARIABLE} was {path}, with {unknown} names that are unknown; allowed: {allowed}. Remove the others.")
    if wrong := [name for name, value in content.items() if not isinstance(value, str)]:
        raise ConfigError(f"{FILE_VARIABLE} was {path}, where {', '.join(wrong)} is no text; put it in quotes.")
    return content


def _read_private(path: Path) -> str:
    """Read a file after its owner and mode were judged on the very file that is read, so that it cannot be exchanged in between."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        mode = stat.S_IMODE(found.st_mode)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or mode & 0o077:
            raise ConfigError(
                f"{FILE_VARIABLE} was {path}, mode {mode:04o} of user {found.st_uid}; it must be a plain file of user {os.geteuid()}"
                f" that nobody else can open. Run `chmod 600` on it, as that user."
            )
        return file.read(_MAX_FILE_BYTES).decode()
