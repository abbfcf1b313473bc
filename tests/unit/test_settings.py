from pathlib import Path

import pytest
from pydantic import ValidationError

from regime_pipeline.errors import ConfigError
from regime_pipeline.settings import Settings, export_settings, load_settings
from scripts.write_configuration import PAGE, render


def test_an_empty_environment_gives_the_defaults() -> None:
    assert load_settings({}) == Settings()


def test_variables_of_others_are_not_ours() -> None:
    assert load_settings({"PATH": "/bin", "HOME": "/home/someone", "MY_REGIME_HOME": "x"}) == Settings()


def test_values_are_read_and_typed() -> None:
    settings = load_settings({"REGIME_HOME": "/srv/regime", "REGIME_GENERATED_SEED": "11", "REGIME_SOURCE": "recorded"})
    assert (settings.home, settings.generated_seed, settings.source) == (Path("/srv/regime"), 11, "recorded")


def test_an_empty_value_means_unset() -> None:
    assert load_settings({"REGIME_DATABASE_URL": ""}).database_url is None


def test_an_unknown_name_is_refused_with_the_allowed_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting REGIME_HOEM; allowed: .*REGIME_HOME.*correct the name"):
        load_settings({"REGIME_HOEM": "x"})


@pytest.mark.parametrize(
    ("name", "value"), [("REGIME_GENERATED_SEED", "-1"), ("REGIME_GENERATED_SEED", "seven"), ("REGIME_SOURCE", "guessed")]
)
def test_a_bad_value_is_refused_by_name_and_value(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} was '{value}'.*Correct the variable"):
        load_settings({name: value})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().generated_seed = 8  # type: ignore[misc]


def test_every_setting_says_what_it_means() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGIME_GENERATED_SEED", "23")
    assert load_settings().generated_seed == 23


def test_the_configuration_page_is_current() -> None:
    assert PAGE.read_text() == render(), "run `make docs` and commit the page"


def test_a_secret_is_not_shown_but_reaches_the_processes_we_start(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {"REGIME_COINGECKO_KEY": "CG-canary"}
    monkeypatch.setattr("os.environ", ours)
    settings = load_settings()
    assert "canary" not in repr(settings)
    ours.clear()
    export_settings(settings)
    assert ours["REGIME_COINGECKO_KEY"] == "CG-canary"


def test_the_throttle_is_off_and_goes_on_only_with_an_evaluation_a_person_and_a_day() -> None:
    assert not load_settings({}).throttle_enabled
    given = {
        "REGIME_THROTTLE_ENABLED": "true",
        "REGIME_THROTTLE_EVALUATION": "1ca15682f952c75d",
        "REGIME_THROTTLE_APPROVER": "ada",
        "REGIME_THROTTLE_APPROVED_ON": "2026-01-31",
    }
    assert load_settings(given).throttle_enabled
    for name in list(given)[1:]:
        with pytest.raises(ConfigError, match=name.removeprefix("REGIME_").lower()):
            load_settings({key: value for key, value in given.items() if key != name})
    with pytest.raises(ConfigError, match="opinions_enabled"):
        load_settings({**given, "REGIME_OPINIONS_ENABLED": "false"})


def test_an_account_belongs_to_one_mode() -> None:
    with pytest.raises(ConfigError, match=r"trading_account was 'binance-main' with trading_mode paper: an account belongs to one mode"):
        load_settings({"REGIME_TRADING_ACCOUNT": "binance-main"})
    with pytest.raises(ConfigError, match="trading_account was 'paper-main' with trading_mode live"):
        load_settings({"REGIME_TRADING_MODE": "live", "REGIME_TRADING_EXCHANGE": "binance"})
    with pytest.raises(ConfigError, match="trading_mode was live without trading_exchange"):
        load_settings({"REGIME_TRADING_MODE": "live", "REGIME_TRADING_ACCOUNT": "binance-main"})


def test_an_executor_is_kept_on_paper_unless_asked_for_otherwise() -> None:
    real = {"REGIME_TRADING_MODE": "live", "REGIME_TRADING_ACCOUNT": "binance-main", "REGIME_TRADING_EXCHANGE": "binance"}
    enabled = {"REGIME_TRADING_ENABLED": "1"}
    assert not load_settings({}).with_executor
    assert load_settings(enabled).with_executor
    assert not load_settings({**enabled, **real}).with_executor
    assert load_settings({**enabled, **real, "REGIME_EXECUTOR_ENABLED": "yes"}).with_executor


def test_the_latch_lies_in_the_home_unless_told_otherwise() -> None:
    assert load_settings({"REGIME_HOME": "/srv/regime"}).kill_dir == Path("/srv/regime/state")
    assert load_settings({"REGIME_STATE_DIR": "/var/kill"}).kill_dir == Path("/var/kill")
