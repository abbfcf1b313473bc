"""Fixtures for every test; each kind lives in its own module."""

pytest_plugins = ["tests.fixtures_postgres", "tests.fault_rows", "tests.trading_desk"]
