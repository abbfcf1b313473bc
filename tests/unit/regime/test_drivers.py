import pytest

from regime_pipeline.errors import BadInputError
from regime_pipeline.regime.drivers import BUCKETS, CHANNEL_TIMEFRAMES, DRIVERS, get_driver


def test_weights_and_required_drivers_are_those_of_the_specification() -> None:
    assert {driver.name: (driver.kind.value, driver.weight, driver.required) for driver in DRIVERS} == {
        "BTC": ("global", 1.0, True),
        "ALT": ("global", 1.5, True),
        "nano": ("bucket", 3.0, False),
        "small": ("bucket", 3.0, False),
        "mid": ("bucket", 3.0, False),
        "big": ("bucket", 3.0, False),
        "BTC.d": ("dominance", -1.0, False),
        "USDT.d": ("dominance", -3.0, False),
    }


def test_buckets_and_channel_timeframes_keep_their_order() -> None:
    assert BUCKETS == ("nano", "small", "mid", "big")
    assert CHANNEL_TIMEFRAMES == ("1d", "1h", "1m")


def test_a_driver_knows_its_series() -> None:
    assert get_driver("USDT.d").series == "regime:USDT.d"


@pytest.mark.parametrize("name", ["btc", "BTC.D", "", "ETH"])
def test_an_unknown_driver_is_refused_by_name(name: str) -> None:
    with pytest.raises(BadInputError, match=f"driver was {name!r}.*USDT.d"):
        get_driver(name)
