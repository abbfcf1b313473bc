from tests.fixtures_orchestration import regime_env

__all__ = ["regime_env"]
