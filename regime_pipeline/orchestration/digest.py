"""Whose digest it is and where it goes, from the settings."""

from regime_pipeline.ports import Notifier
from regime_pipeline.services.trading.send_digest import DigestTerms
from regime_pipeline.settings import Settings


def digest_terms(settings: Settings) -> DigestTerms:
    """Tell whose day it is."""
    return DigestTerms(
        instance=settings.instance_name,
        account=settings.trading_account,
        book_id=settings.trading_book,
        quote=settings.trading_quote,
        is_trading=settings.trading_enabled,
    )


def build_channels(settings: Settings) -> list[Notifier]:
    """Build the channels of the alerts.

    Raises
    ------
    ConfigError
        When an address in `alert_urls` is none that Apprise understands.
    """
    from regime_pipeline.adapters.notify.channels import build_notifiers

    return list(build_notifiers(settings.alert_file, settings.alert_urls))
