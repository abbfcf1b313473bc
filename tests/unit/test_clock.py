from datetime import UTC, timedelta

from regime_pipeline.clock import monotonic_s, now_s, utc_now


def test_the_wall_clock_is_aware_and_utc() -> None:
    assert utc_now().tzinfo is UTC
    assert utc_now().utcoffset() == timedelta(0)


def test_whole_seconds_are_those_of_the_wall_clock() -> None:
    before, seconds, after = utc_now(), now_s(), utc_now()
    assert int(before.timestamp()) <= seconds <= int(after.timestamp())


def test_the_monotonic_clock_never_goes_back() -> None:
    readings = [monotonic_s() for _ in range(1000)]
    assert readings == sorted(readings)
