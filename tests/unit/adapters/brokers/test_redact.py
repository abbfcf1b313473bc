"""Redaction: a secret in any field of anything that ccxt, a venue or a gateway may say is not handed on."""

import base64
import html
import json
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

import ccxt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.adapters.brokers.client_check import DIALECTS, build_order_client
from regime_pipeline.adapters.brokers.redact import HIDDEN, Redactor
from regime_pipeline.executor_secrets import MIN_SECRET_CHARS, ExecutorSecrets
from regime_pipeline.risk.arm import Mode
from tests.unit.adapters.venues.scripted import Reply, serve

SECRETS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=MIN_SECRET_CHARS, max_size=48)
NAMES = [name for name in ExecutorSecrets.model_fields if name != "account"]
FRAMES = [
    "binance GET https://api.binance.com/api/v3/order?symbol=BTCUSDT&signature={} 418",
    "RequestHeaders: {{'X-MBX-APIKEY': '{}', 'Accept-Encoding': 'gzip, deflate'}}",
    '{{"code":-2014,"msg":"API-key {} format invalid."}}',
    "<html><body>Request blocked: {}</body></html>",
    "{}",
]
SPELLINGS = [
    str,
    lambda text: quote(text, safe=""),
    quote_plus,
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    lambda text: repr(text)[1:-1],
    html.escape,
    lambda text: base64.b64encode(text.encode()).decode(),
]


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries(dict.fromkeys(NAMES, SECRETS)), st.sampled_from(FRAMES), st.sampled_from(SPELLINGS))
def test_a_secret_in_any_field_and_any_spelling_is_taken_out(values: dict[str, str], frame: str, spell: object) -> None:
    redactor = Redactor(values.values())
    for secret in values.values():
        spelt = spell(secret)  # type: ignore[operator]
        for cleaned in (redactor.clean(frame.format(spelt)), redactor.clean_bytes(frame.format(spelt).encode()).decode()):
            # A secret such as "Request blocked" is part of the frame's own words: what is left must at least not be whole.
            assert spelt not in cleaned.replace(HIDDEN, "\1")


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("signature=0a1b2c&x=1", f"signature={HIDDEN}&x=1"),
        ("{'X-BAPI-SIGN': '0a1b2c', 'Accept': '*'}", f"{{'X-BAPI-SIGN': '{HIDDEN}', 'Accept': '*'}}"),
        ('{"apiKey":"abc","note":"x"}', f'{{"apiKey":"{HIDDEN}","note":"x"}}'),
        ("Authorization: Bearer abc.def", f"Authorization: {HIDDEN}"),
        ("GET https://a.test/b?c=d&signature=1 failed", "GET https://a.test/b?[private] failed"),
        ("https://a.test/b failed", "https://a.test/b failed"),
        ("the design=1 of a resign: it assigned", "the design=1 of a resign: it assigned"),
        ('{"code":-1021,"msg":"Timestamp for this request is outside of the recvWindow."}',) * 2,
    ],
)
def test_names_that_hold_secrets_and_addresses_are_cut(text: str, cleaned: str) -> None:
    assert Redactor().clean(text) == cleaned


def test_the_longer_of_two_secrets_goes_whole() -> None:
    assert Redactor(["abcdefgh", "abcdefghijkl"]).clean("x abcdefghijkl y") == f"x {HIDDEN} y"


@given(st.binary(max_size=80).filter(lambda body: not set(body) & set(b"?=:")))
def test_a_body_without_secrets_is_handed_on_byte_for_byte(body: bytes) -> None:
    assert Redactor(["canary-key-0001"]).clean_bytes(body) == body


def ask_privately(exchange: Any) -> object:
    return exchange.private_get_account() if exchange.id == "binance" else exchange.private_get_v5_user_query_api()


@pytest.mark.parametrize(
    ("venue", "reply"),
    [(venue, reply) for venue in sorted(DIALECTS) for reply in (Reply("x", 403), Reply("{}", 418), Reply(is_reset=True))],
)
def test_what_ccxt_says_of_a_private_request_is_clean(venue: tuple[str, str], reply: Reply) -> None:
    """Its exceptions quote the address with the signature; taken through the redactor they do not."""
    key, secret = "canary-key-000000001", "canary-secret-0000001"
    with serve(reply) as peer:
        dialect = DIALECTS[venue]()
        exchange = build_order_client(dialect, Mode.SANDBOX, (key, secret), venue_url=peer.url)
        with pytest.raises(ccxt.BaseError) as caught, exchange.session.capturing():
            ask_privately(exchange)
        asked = peer.asked[-1]
    signature = asked.headers.get("X-BAPI-SIGN") or asked.params["signature"]
    # What was sent is said as a log of ccxt says it, or the page of a gateway.
    said = f"{caught.value} {caught.value.__cause__} RequestHeaders: {asked.headers} {peer.url}{asked.path}?{urlencode(asked.params)}"
    assert len(signature) == 64
    assert key in said
    assert signature in said
    cleaned = Redactor([key, secret]).clean(said)
    assert not any(each in cleaned for each in (key, secret, signature))


def test_it_does_not_show_what_it_knows() -> None:
    assert "canary" not in repr(Redactor(["canary-key-0001"]))
