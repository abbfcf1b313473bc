"""The executor's secrets: who may hold them, who never sees them, and that no message shows one."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regime_pipeline.errors import ConfigError
from regime_pipeline.executor_secrets import FILE_VARIABLE, PREFIX, VARIABLES, ExecutorSecrets, KeyKind
from regime_pipeline.settings import Settings, child_environment, executor_environment, load_executor_secrets, load_settings

NAMES = sorted(ExecutorSecrets.model_fields)
SECRET_NAMES = [name for name in NAMES if name != "account"]
CANARY = "canary-{}-4f1d"


def as_variables(values: dict[str, str]) -> dict[str, str]:
    return {PREFIX + name.upper(): value for name, value in values.items()}


def write_private(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_without_anything_there_is_nothing_until_it_is_asked_for() -> None:
    secrets = load_executor_secrets({})
    assert secrets == ExecutorSecrets()
    assert (secrets.kinds(), secrets.values()) == ([], [])
    with pytest.raises(ConfigError, match="the kill key was not given; set REGIME_EXECUTOR_KILL_KEY and REGIME_EXECUTOR_KILL_SECRET"):
        secrets.credentials(KeyKind.KILL)
    with pytest.raises(ConfigError, match="REGIME_EXECUTOR_SALT"):
        secrets.require_salt()


def test_variables_give_keys_by_kind() -> None:
    secrets = load_executor_secrets(as_variables({name: CANARY.format(name) for name in NAMES}))
    assert secrets.credentials(KeyKind.TRADER) == ("canary-trader_key-4f1d", "canary-trader_secret-4f1d")
    assert secrets.credentials(KeyKind.SNAPSHOT) == ("canary-snapshot_key-4f1d", "canary-snapshot_secret-4f1d")
    assert secrets.require_salt() == "canary-salt-4f1d"
    assert secrets.account == "canary-account-4f1d"
    assert secrets.kinds() == list(KeyKind)
    assert len(secrets.values()) == len(SECRET_NAMES)


def test_a_private_file_gives_the_same_as_variables(tmp_path: Path) -> None:
    values = {name: CANARY.format(name) for name in NAMES}
    file = write_private(tmp_path / "executor.toml", "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
    assert load_executor_secrets({FILE_VARIABLE: str(file)}) == load_executor_secrets(as_variables(values))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601])
def test_a_file_that_others_could_open_is_refused(tmp_path: Path, mode: int) -> None:
    file = write_private(tmp_path / "executor.toml", 'salt = "canary-salt-4f1d"', mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o} .*chmod 600") as caught:
        load_executor_secrets({FILE_VARIABLE: str(file)})
    assert "canary" not in str(caught.value)


def test_a_file_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_private(tmp_path / "executor.toml", 'salt = "canary-salt-4f1d"')
    us = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: us + 1)
    with pytest.raises(ConfigError, match=f"of user {us}; it must be a plain file of user {us + 1}"):
        load_executor_secrets({FILE_VARIABLE: str(file)})


def test_a_link_a_folder_a_pipe_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    file = write_private(tmp_path / "executor.toml", 'salt = "canary-salt-4f1d"')
    (tmp_path / "link").symlink_to(file)
    (tmp_path / "folder").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "folder", "pipe", "missing"):
        with pytest.raises(ConfigError, match=f"REGIME_EXECUTOR_FILE was .*{name}"):
            load_executor_secrets({FILE_VARIABLE: str(tmp_path / name)})


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("trader_secret = canary-without-quotes", "not TOML"),
        ('trader_secret = "canary', "not TOML"),
        ('canary-as-a-name = "x"', "1 names that are unknown"),
        ("salt = 12345678", "salt is no text"),
        ('[salt]\ncanary = "x"', "salt is no text"),
        ('salt = "canary"', "salt of the executor has 6 characters, at least 8"),
    ],
)
def test_a_bad_file_is_refused_without_quoting_it(tmp_path: Path, text: str, rule: str) -> None:
    file = write_private(tmp_path / "executor.toml", text)
    with pytest.raises(ConfigError, match=rule) as caught:
        load_executor_secrets({FILE_VARIABLE: str(file)})
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "executor.toml"
    file.write_bytes(b'salt = "\xff\xfe canary"')
    file.chmod(0o600)
    with pytest.raises(ConfigError, match="not TOML in UTF-8"):
        load_executor_secrets({FILE_VARIABLE: str(file)})


def test_a_name_given_twice_is_refused(tmp_path: Path) -> None:
    file = write_private(tmp_path / "executor.toml", 'salt = "canary-salt-4f1d"')
    with pytest.raises(ConfigError, match=r"^salt came from REGIME_EXECUTOR_FILE and from a variable"):
        load_executor_secrets({FILE_VARIABLE: str(file), "REGIME_EXECUTOR_SALT": "canary-salt-4f1d"})


def test_the_settings_of_the_product_know_nothing_of_them() -> None:
    given_all = dict.fromkeys(VARIABLES, "canary-value-4f1d")
    assert load_settings(given_all) == Settings()
    assert VARIABLES & {f"REGIME_{name.upper()}" for name in Settings.model_fields} == frozenset()


def test_a_misspelt_name_of_a_secret_is_refused_by_name_alone() -> None:
    with pytest.raises(ConfigError, match="unknown setting REGIME_EXECUTOR_TRADER_SECERT") as caught:
        load_settings({"REGIME_EXECUTOR_TRADER_SECERT": "canary-value-4f1d"})
    assert "canary" not in str(caught.value)


def test_children_do_not_get_them_and_the_executor_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "canary-value-4f1d")
    monkeypatch.setenv("REGIME_HOME", "elsewhere")
    child = child_environment(EXTRA="1")
    assert (child["REGIME_HOME"], child["EXTRA"]) == ("elsewhere", "1")
    assert "canary" not in "".join([*child, *child.values()])
    assert executor_environment(EXTRA="1").items() >= {**dict.fromkeys(VARIABLES, "canary-value-4f1d"), "EXTRA": "1"}.items()


SECRETS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=8, max_size=40)


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({name: SECRETS.map(lambda text: f"canary{text}") for name in SECRET_NAMES}))
def test_no_secret_in_any_field_is_ever_shown(values: dict[str, str]) -> None:
    secrets = load_executor_secrets(as_variables(values))
    shown = [repr(secrets), str(secrets), secrets.model_dump_json(), f"{secrets.model_dump()}", repr(secrets.trader_key)]
    assert sorted(secrets.values()) == sorted(values.values())
    assert "canary" not in "".join(shown)
