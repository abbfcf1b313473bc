"""The live arm: every partial combination leaves it unarmed; example W16's fingerprint."""

from dataclasses import replace
from decimal import Decimal

import pytest

from regime_pipeline.risk.arm import ArmRow, Identity, IdentityKind, Mode, fingerprint_of, identity_conflicts, missing_arm_parts

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


SEEN = [
    Identity(IdentityKind.KEY, "k1", Mode.LIVE, "binance-main"),
    Identity(IdentityKind.HOST, "api.binance.com", Mode.LIVE, "binance-main"),
    Identity(IdentityKind.VENUE_ACCOUNT, "binance:7", Mode.LIVE, "binance-main"),
    Identity(IdentityKind.ACCOUNT, "binance-main", Mode.LIVE, "binance-main"),
    Identity(IdentityKind.SALT, "s1", Mode.LIVE, "binance-main"),
]


@pytest.mark.parametrize("each", SEEN, ids=[each.kind.value for each in SEEN])
@pytest.mark.parametrize("mode", [Mode.PAPER, Mode.SANDBOX])
def test_what_was_seen_in_one_mode_is_a_conflict_in_every_other(each: Identity, mode: Mode) -> None:
    conflicts = identity_conflicts([replace(each, mode=mode)], SEEN)
    if each.kind is IdentityKind.SALT:
        assert conflicts == ()  # one salt for all modes, so that a key has one fingerprint
    else:
        assert conflicts == (f"{each.kind} {each.value} belongs to live mode, asked for in {mode}",)


def test_the_same_again_and_what_is_new_are_no_conflict() -> None:
    new = [replace(each, value="new", account="bybit-main", mode=Mode.SANDBOX) for each in SEEN[:4]]
    assert identity_conflicts([*SEEN, *new], SEEN) == ()
    assert identity_conflicts(SEEN, []) == ()


def test_another_salt_and_another_venue_account_behind_a_name_are_conflicts() -> None:
    asked = [replace(SEEN[4], value="s2"), replace(SEEN[2], value="binance:8")]
    assert identity_conflicts(asked, SEEN) == (
        "the salt is not the one that fingerprints were made with",
        "account binance-main is venue account binance:7, the key is of binance:8",
    )


def test_a_key_may_be_of_any_kind_of_thing_with_the_same_text() -> None:
    assert identity_conflicts([Identity(IdentityKind.HOST, "k1", Mode.SANDBOX, "a")], SEEN) == ()
