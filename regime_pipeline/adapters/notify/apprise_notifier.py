"""Alerts through Apprise: Telegram, Discord, Slack, e-mail and a hundred others, each by one address.

An address holds a token or a password. It is in no message, log line, error or `repr`; Apprise's own log lines name hosts, so they
are not let out either.
"""

import logging
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr

from regime_pipeline.errors import ConfigError, NotifyError
from regime_pipeline.ports import Message

if TYPE_CHECKING:
    from apprise import NotifyBase

TIMEOUT_S: Final = 10.0
"""A service that needs longer is asked again a minute later."""


class AppriseNotifier:
    """One address.

    Parameters
    ----------
    address : SecretStr
        As Apprise writes it: `tgram://token/chat`, `mailto://user:password@host`, `json://host/path`.
    place : int
        Its place in the setting, from 1: with the service's name it is the channel's.

    Raises
    ------
    ConfigError
        When Apprise does not understand the address.
    """

    def __init__(self, address: SecretStr, place: int) -> None:
        scheme = address.get_secret_value().partition("://")[0]
        self.channel = f"{scheme if scheme.isalnum() else 'address'}-{place}"
        self._service = _build_service(address, place)

    def send(self, message: Message) -> None:
        """Hand over one message; success is only what the service itself confirms.

        Raises
        ------
        NotifyError
            When the service refuses or does not answer.
        """
        from apprise import NotifyType

        event, severity = message.fields.get("event"), message.fields.get("severity")
        kind = NotifyType.FAILURE if severity == "critical" else NotifyType.WARNING
        if event == "resolved":
            kind = NotifyType.SUCCESS
        try:
            done = self._service.notify(body=message.body, title=message.title, notify_type=kind)
        except Exception as error:  # noqa: BLE001  # a plugin may raise anything, and its text may hold the address
            raise NotifyError(f"channel {self.channel} failed with {type(error).__name__}. See docs/runbook.md#notify_failed.") from None
        if not done:
            raise NotifyError(f"channel {self.channel} did not take the message. See docs/runbook.md#notify_failed.")


def _build_service(address: SecretStr, place: int) -> "NotifyBase":
    from apprise import Apprise

    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    service = Apprise.instantiate(address.get_secret_value(), suppress_exceptions=True)
    if service is None:
        raise ConfigError(
            f"REGIME_ALERT_URLS: address number {place} is none that Apprise understands. Correct it (not shown: it is a secret)."
        )
    service.socket_connect_timeout = service.socket_read_timeout = TIMEOUT_S
    return service
