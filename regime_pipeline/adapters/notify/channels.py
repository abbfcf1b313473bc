"""The channels that the settings name."""

from pathlib import Path

from pydantic import SecretStr

from regime_pipeline.adapters.notify.apprise_notifier import AppriseNotifier
from regime_pipeline.adapters.notify.file_notifier import FileNotifier
from regime_pipeline.ports import Notifier


def build_notifiers(alert_file: Path | None, alert_urls: SecretStr | None) -> list[Notifier]:
    """Build one notifier for the file and one for each address.

    Raises
    ------
    ConfigError
        When an address is none that Apprise understands; the message names its place, not the address.
    """
    addresses = alert_urls.get_secret_value().split() if alert_urls is not None else []
    notifiers: list[Notifier] = [FileNotifier(alert_file)] if alert_file is not None else []
    return notifiers + [AppriseNotifier(SecretStr(address), at) for at, address in enumerate(addresses, start=1)]
