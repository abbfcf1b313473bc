"""`regime arm` and `regime disarm`: a person's permission to trade an account with real money, for a day at most."""

import json
from decimal import Decimal, InvalidOperation
from typing import Annotated

import typer

from regime_pipeline.clock import now_s as read_now_s
from regime_pipeline.errors import BadInputError
from regime_pipeline.settings import load_executor_secrets, load_settings

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def arm(
    by: Annotated[str, typer.Option(help="Your name.")],
    reason: Annotated[str, typer.Option(help="Why; kept for ever.")],
    max_order: Annotated[str, typer.Option(help="Largest order, in the quote asset.")],
    max_day: Annotated[str, typer.Option(help="Most that may be traded in a UTC day, in the quote asset.")],
    hours: Annotated[float, typer.Option(help="For how long; 24 at most.")] = 24.0,
    as_json: Json = False,
) -> None:
    """Arm the account of these settings for the key in the executor's environment; run it there. One of the three parts of the live arm."""
    from regime_pipeline.cli.session import open_stores
    from regime_pipeline.executor_secrets import KeyKind
    from regime_pipeline.risk.arm import fingerprint_of
    from regime_pipeline.services.trading.arm_account import ArmOrder, arm_account

    settings, secrets = load_settings(), load_executor_secrets()
    fingerprint = fingerprint_of(secrets.require_salt(), secrets.credentials(KeyKind.TRADER)[0])
    order = ArmOrder(
        settings.trading_account, fingerprint, read_amount("max-order", max_order), read_amount("max-day", max_day), by, reason, hours
    )
    with open_stores(settings).open() as work:
        row = arm_account(work, order, read_now_s())
    if as_json:
        document = {"account": row.account, "fingerprint": row.fingerprint, "expires_at_s": row.expires_at_s}
        typer.echo(json.dumps({**document, "max_order": str(row.max_order_quote), "max_day": str(row.max_day_quote)}))
    else:
        limits = f"{row.max_order_quote} per order, {row.max_day_quote} per day"
        typer.echo(f"{row.account} is armed for key {row.fingerprint} for {hours:g} h: {limits} {settings.trading_quote}")


def disarm(
    by: Annotated[str, typer.Option(help="Your name.")],
    reason: Annotated[str, typer.Option(help="Why.")],
    as_json: Json = False,
) -> None:
    """Take the permission back: entries are refused from the next gate on, exits are not."""
    from regime_pipeline.cli.session import open_stores
    from regime_pipeline.services.trading.arm_account import disarm_account

    settings = load_settings()
    with open_stores(settings).open() as work:
        was_armed = disarm_account(work, settings.trading_account, by, reason, read_now_s())
    if as_json:
        typer.echo(json.dumps({"account": settings.trading_account, "was_armed": was_armed}))
    else:
        typer.echo(f"{settings.trading_account} is disarmed" if was_armed else f"{settings.trading_account} was not armed")


def read_amount(name: str, text: str) -> Decimal:
    """Read an amount of money.

    Raises
    ------
    BadInputError
        When it is no number above 0.
    """
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal(0)
    if not (amount.is_finite() and amount > 0):
        raise BadInputError(f"{name} was {text!r}, must be a number above 0, as 250")
    return amount
