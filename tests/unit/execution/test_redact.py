"""What is kept of an answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regime_pipeline.execution.redact import MAX_RAW_CHARS, redact_answer


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (b'{"code":-2010,"msg":"Duplicate order sent."}', '{"code":-2010,"msg":"Duplicate order sent."}'),
        (b'{"apiKey": "abc", "orderId": 7}', '{"apiKey": ***, "orderId": 7}'),
        (b"https://venue/api?symbol=AAVEUSDT&signature=0af3&timestamp=1", "https://venue/api?symbol=AAVEUSDT&signature=***&timestamp=1"),
        (b"X-MBX-APIKEY: abc def", "X-MBX-APIKEY: *** def"),
        (b"Authorization: Bearer abc", "Authorization: Bearer ***"),
        (b"secretKey='abc', passphrase=def", "secretKey=***, passphrase=***"),
        (b"nul \x00 and \xff", "nul \ufffd and \ufffd"),
    ],
)
def test_secrets_are_starred_and_the_rest_is_kept(body: bytes, kept: str) -> None:
    assert redact_answer(body) == kept


@given(st.binary(max_size=30_000))
def test_any_answer_becomes_text_that_a_row_can_hold(body: bytes) -> None:
    kept = redact_answer(body)
    assert len(kept) <= MAX_RAW_CHARS
    assert "\x00" not in kept


@given(
    st.text("abcdefXYZ0123456789", min_size=12, max_size=40),
    st.sampled_from(["apiKey", "signature", "secret", "passphrase", "access_token"]),
)
def test_no_secret_survives_under_a_name_that_says_so(secret: str, name: str) -> None:
    assert secret not in redact_answer(f'{{"{name}":"{secret}"}}'.encode())
    assert secret not in redact_answer(f"GET /x?{name}={secret}&y=1".encode())
