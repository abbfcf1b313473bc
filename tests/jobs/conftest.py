from tests.fixtures_orchestration import instance, regime_env

__all__ = ["instance", "regime_env"]
