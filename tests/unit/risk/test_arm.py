"""The live arm: every partial combination leaves it unarmed; example W16's fingerprint."""

from dataclasses import replace
from decimal import Decimal

import pytest

from regime_pipeline.risk.arm import ArmRow, Mode, fingerprint_of, missing_arm_parts

NOW_S = 1_795_201_200
ROW = ArmRow("binance-main", "6e2cfe9e147db174", Decimal(1000), Decimal(5000), NOW_S - 60, NOW_S + 3600, "ann", "first day")


def missing(
    mode: Mode = Mode.LIVE, acknowledged: str | None = "binance-main", row: ArmRow | None = ROW, now_s: int = NOW_S
) -> tuple[str, ...]:
    return missing_arm_parts(
        mode=mode, account="binance-main", fingerprint="6e2cfe9e147db174", acknowledged_account=acknowledged, row=row, now_s=now_s
    )


def test_w16_a_fingerprint_tells_a_key_without_storing_it() -> None:
    assert fingerprint_of("salt-7f", "EXAMPLEKEY0001") == "6e2cfe9e147db174"


def test_all_three_parts_arm() -> None:
    assert missing() == ()


def test_paper_and_sandbox_need_no_arm() -> None:
    assert missing(Mode.PAPER, None, None) == missing(Mode.SANDBOX, None, None) == ()


@pytest.mark.parametrize(
    ("acknowledged", "row", "n_missing"),
    [
        (None, None, 2),
        (None, ROW, 1),
        ("other", ROW, 1),
        ("binance-main", None, 1),
        ("binance-main", replace(ROW, account="other"), 1),
        ("binance-main", replace(ROW, fingerprint="0"), 1),
        ("binance-main", replace(ROW, ended_at_s=NOW_S - 1), 1),
        ("binance-main", replace(ROW, started_at_s=NOW_S + 1), 1),
        ("binance-main", replace(ROW, expires_at_s=NOW_S), 1),  # expired in this very second
        ("binance-main", replace(ROW, expires_at_s=NOW_S - 60 + 86_401), 1),  # longer than a day
        ("binance-main", replace(ROW, actor=""), 1),
        ("binance-main", replace(ROW, reason=" "), 1),
        ("other", replace(ROW, account="other", fingerprint="0"), 3),
    ],
)
def test_any_part_that_is_missing_leaves_it_unarmed(acknowledged: str | None, row: ArmRow | None, n_missing: int) -> None:
    assert len(missing(acknowledged=acknowledged, row=row)) == n_missing


def test_a_day_exactly_is_allowed() -> None:
    assert missing(row=replace(ROW, expires_at_s=NOW_S - 60 + 86_400)) == ()
