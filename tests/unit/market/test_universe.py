"""The universe file: what is shipped, and how a wrong one is refused."""

import re
from pathlib import Path

import pytest

from regime_pipeline.errors import ConfigError
from regime_pipeline.market.timeframe import Timeframe
from regime_pipeline.market.universe import DRIVERS, load_universe

SHIPPED = Path(__file__).parents[3] / "config" / "universe.toml"


def refusal(tmp_path: Path, old: str, new: str) -> tuple[str, str]:
    """Load the shipped file with one text replaced; give the message and the line it points to ('' if none)."""
    text = SHIPPED.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "universe.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load_universe(path)
    message = str(refused.value)
    at = re.search(r"universe\.toml:(\d+)", message)
    return message, path.read_text(encoding="utf-8").splitlines()[int(at[1]) - 1] if at else ""


def test_shipped_universe_has_majors_drivers_and_six_tokens_a_bucket() -> None:
    universe = load_universe(SHIPPED)
    assert [major.contract for major in universe.majors] == ["BTC", "ETH", "SOL", "BNB", "HYPE"]
    assert tuple(driver.name for driver in universe.drivers) == DRIVERS
    assert {driver.name: driver.weight for driver in universe.drivers} == {
        "BTC": 1.0, "ALT": 1.5, "nano": 3.0, "small": 3.0, "mid": 3.0, "big": 3.0, "BTC.d": -1.0, "USDT.d": -3.0,
    }  # fmt: skip
    assert [driver.name for driver in universe.drivers if driver.required] == ["BTC", "ALT"]
    assert (universe.driver("ALT").hl_mode, universe.driver("ALT").min_components) == ("extreme", 3)
    for bucket in ("nano", "small", "mid", "big"):
        assert sum(token.bucket == bucket for token in universe.tokens) == 6
        assert (universe.driver(bucket).hl_mode, universe.driver(bucket).min_components) == ("mean", 1)
    assert {token.timeframes for token in universe.tokens} == {(Timeframe.H1,)}
    assert len(universe.instruments()) == 29
    assert universe.major("HYPE").series == "token:HYPE:hyperliquid"


def test_shipped_thresholds_are_those_of_the_spec() -> None:
    rule = load_universe(SHIPPED).buckets.rule
    assert (rule.bounds_usd, rule.hysteresis_pct, rule.min_cap_usd, rule.max_age_s) == ((10e6, 50e6, 200e6), 10.0, 10_000.0, 86_400)


@pytest.mark.parametrize(
    ("old", "new", "unknown", "allowed"),
    [
        ('contract = "AAVE"', 'contract = "AAVE"\ncolour = "red"', "colour", "bucket, chain, coingecko_id, contract, sources, timeframes"),
        ('hl_mode = "extreme"', 'hlmode = "extreme"', "hlmode", "components, hl_mode, kind"),
        ("hysteresis_pct", "hysteresis", "hysteresis", "hysteresis_pct"),
        ('description = "Binance spot"', 'about = "x"', "about", "description"),
        ('symbol = "HYPEUSDT"', 'symbl = "HYPEUSDT"', "symbl", "symbol, venue"),
        ('chain = "hyperliquid"', 'chian = "hyperliquid"', "chian", "chain, coingecko_id, contract, sources"),
        ("[venues]", "[venus]", "venus", "buckets, drivers, majors, tokens, venues"),
    ],
)
def test_an_unknown_key_is_refused_with_its_line_and_the_allowed_names(
    tmp_path: Path, old: str, new: str, unknown: str, allowed: str
) -> None:
    message, line = refusal(tmp_path, old, new)
    assert f"unknown key {unknown!r}" in message
    assert allowed in message
    assert unknown in line


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('bucket = "big"', 'bucket = "huge"', "tokens.bucket was 'huge'"),
        ('"HYPE"]', '"DOGE"]', "component 'DOGE'; the majors are BNB, BTC, ETH, HYPE, SOL"),
        ('contract = "UNI"', 'contract = "AAVE"', "instrument token:AAVE:binance is listed 2 times"),
        ('coingecko_id = "uniswap"', 'coingecko_id = "aave"', "coingecko_id aave is listed 2 times"),
        ('contract = "ETH"', 'contract = "BTC"', "major BTC is listed 2 times"),
        ('name = "ALT"', 'name = "BTC"', "driver BTC is listed 2 times"),
        ('venue = "binance_um", symbol = "TLMUSDT"', 'venue = "okx", symbol = "TLMUSDT"', "TLM names the venue 'okx'"),
        ("mid_from_usd = 50", "mid_from_usd = 5", "they must ascend"),
        ("min_components = 3", "min_components = 5", "could never have a bar"),
        ('components = ["BTC"]', "components = []", "must name exactly it, not 0"),
        ('name = "USDT.d"\nkind = "dominance"', 'name = "USDT.d"\nkind = "bucket"', "cannot be of kind bucket"),
        ('name = "nano"\n', 'name = "nano"\ncomponents = ["BTC"]\n', "its components are not listed here"),
        ("weight = 1.5\n", "", "drivers.weight is missing"),
        ("[[tokens]]\n", "[[tokens]]\n= 3\n", "is not TOML"),
    ],
)
def test_a_file_that_does_not_hang_together_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert said in refusal(tmp_path, old, new)[0]


def test_a_bad_value_points_to_its_line(tmp_path: Path) -> None:
    assert refusal(tmp_path, 'bucket = "big"', 'bucket = "huge"')[1] == 'bucket = "huge"'


def test_an_empty_universe_says_what_to_add(tmp_path: Path) -> None:
    path = tmp_path / "universe.toml"
    path.write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"no majors; add \[\[majors\]\]"):
        load_universe(path)


def test_a_missing_file_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="REGIME_UNIVERSE"):
        load_universe(tmp_path / "none.toml")


def test_an_unknown_driver_or_major_names_those_there_are() -> None:
    universe = load_universe(SHIPPED)
    with pytest.raises(ConfigError, match="'DOGE'; the universe has ALT, BTC"):
        universe.driver("DOGE")
    with pytest.raises(ConfigError, match="'DOGE'; the universe has BNB, BTC"):
        universe.major("DOGE")
