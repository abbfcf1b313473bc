"""The latch file: what is in it counts, what cannot be read counts as L3, and a crash leaves the old levels or the new."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest

from regime_pipeline.adapters.latch_file import LatchFile, write_whole
from regime_pipeline.risk.kill_switch import EVERYBODY, Level, Scope, Switch

BY_HAND = Switch(Scope("paper-main"), Level.HARD_STOP, "manual", "ada", "looks wrong", 1_790_000_000)


@pytest.fixture
def latch(tmp_path: Path) -> LatchFile:
    return LatchFile(tmp_path / "state" / "kill.latch")


def test_no_file_is_no_level_and_a_level_outlives_the_process(latch: LatchFile) -> None:
    assert latch.read() == ()
    assert latch.change(lambda levels: (*levels, BY_HAND)) == (BY_HAND,)
    assert LatchFile(latch.path).read() == (BY_HAND,)


def test_only_its_owner_may_read_the_file(latch: LatchFile) -> None:
    latch.change(lambda levels: (*levels, BY_HAND))
    assert stat.S_IMODE(latch.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(latch.path.parent.stat().st_mode) == 0o700


def test_without_a_latched_level_there_is_no_file(latch: LatchFile) -> None:
    passing = Switch(EVERYBODY, Level.ENTRIES_OFF, "breaker", "executor", "open", 1_790_000_000)
    assert latch.change(lambda levels: (*levels, passing)) == ()
    assert not latch.path.exists()
    latch.change(lambda levels: (*levels, BY_HAND))
    assert latch.change(lambda _levels: ()) == ()
    assert not latch.path.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"level": "L2"}', "L3", "\x00", BY_HAND.reason])
def test_what_cannot_be_parsed_is_l3_for_everybody(latch: LatchFile, text: str) -> None:
    latch.path.parent.mkdir()
    latch.path.write_text(text)
    (level,) = latch.read()
    assert (level.scope, level.level) == (EVERYBODY, Level.HARD_STOP)


def test_what_is_no_text_or_no_file_is_l3_for_everybody(latch: LatchFile) -> None:
    latch.path.parent.mkdir()
    latch.path.write_bytes(b"\xff\xfe\xfa")
    assert [level.level for level in latch.read()] == [Level.HARD_STOP]
    latch.path.unlink()
    latch.path.mkdir()
    assert [level.level for level in latch.read()] == [Level.HARD_STOP]


def test_a_folder_that_is_a_file_is_l3_for_everybody(latch: LatchFile) -> None:
    latch.path.parent.write_text("not a folder")
    assert [level.level for level in latch.read()] == [Level.HARD_STOP]


def replace_by(switch: Switch) -> Callable[[tuple[Switch, ...]], tuple[Switch, ...]]:
    return lambda _levels: (switch,)


def test_a_change_by_another_process_is_seen_at_the_next_read(latch: LatchFile) -> None:
    assert latch.read() == ()
    other = LatchFile(latch.path)
    for level in (Level.REDUCE_ONLY, Level.HARD_STOP, Level.PROCESS_STOP):
        switch = Switch(EVERYBODY, level, "manual", "ada", "why", 1_790_000_000)
        other.change(replace_by(switch))
        assert latch.read() == (switch,)
    other.change(lambda _levels: ())
    assert latch.read() == ()


def test_levels_written_at_once_are_all_kept(latch: LatchFile) -> None:
    def add(n: int) -> None:
        switch = Switch(Scope(f"paper-{n}"), Level.HARD_STOP, "manual", "ada", "why", 1_790_000_000)
        LatchFile(latch.path).change(lambda levels: (*levels, switch))

    threads = [Thread(target=add, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {level.scope.account for level in latch.read()} == {f"paper-{n}" for n in range(16)}


def test_a_write_that_fails_leaves_the_old_levels_and_no_rest(latch: LatchFile, monkeypatch: pytest.MonkeyPatch) -> None:
    latch.change(lambda levels: (*levels, BY_HAND))

    def fail(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_whole(latch.path, "torn")
    monkeypatch.undo()
    assert latch.read() == (BY_HAND,)
    assert sorted(path.name for path in latch.path.parent.iterdir()) == ["kill.latch", "kill.lock"]
