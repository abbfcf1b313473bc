"""The mirror of live orders: what was kept is read back, other accounts stay, and what cannot be read is nothing."""

import stat
from pathlib import Path

import pytest

from regime_pipeline.adapters.kill_mirror_file import MirrorFile
from regime_pipeline.ports.kill_mirror import MirroredAccount, MirroredOrder
from regime_pipeline.risk.purpose import Leg

ORDER = MirroredOrder("a" * 32, "AAVE/USDT", "core-1h", Leg.SL, by_person=True, venue_order_id="17")
ACCOUNT = MirroredAccount("binance-main", 1_790_000_000, ("AAVE/USDT", "UNI/USDT"), (ORDER,))


@pytest.fixture
def mirror(tmp_path: Path) -> MirrorFile:
    return MirrorFile(tmp_path / "state" / "kill_mirror.json")


def test_what_was_kept_is_read_back(mirror: MirrorFile) -> None:
    mirror.save(ACCOUNT)
    assert MirrorFile(mirror.path).load() == (ACCOUNT,)
    assert stat.S_IMODE(mirror.path.stat().st_mode) == 0o600


def test_accounts_are_replaced_one_by_one(mirror: MirrorFile) -> None:
    mirror.save(ACCOUNT)
    mirror.save(MirroredAccount("bybit-main", 1))
    later = MirroredAccount("binance-main", 1_790_000_060)
    mirror.save(later)
    assert mirror.load() == (MirroredAccount("bybit-main", 1), later)


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"accounts": 1}', '{"accounts": [{"account": "a"}]}', '{"accounts": [[]]}'])
def test_what_cannot_be_read_is_no_account(mirror: MirrorFile, text: str | None) -> None:
    mirror.path.parent.mkdir()
    if text is not None:
        mirror.path.write_text(text)
    assert mirror.load() == ()


def test_an_unreadable_mirror_is_written_anew(mirror: MirrorFile) -> None:
    mirror.path.parent.mkdir()
    mirror.path.write_bytes(b"\xff\xfe")
    mirror.save(ACCOUNT)
    assert mirror.load() == (ACCOUNT,)
