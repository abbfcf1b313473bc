"""Write docs/configuration.md from the settings' own descriptions; with `--check`, fail when the page is stale."""

import sys
from pathlib import Path

from regime_pipeline.executor_secrets import FILE_VARIABLE, PREFIX, ExecutorSecrets
from regime_pipeline.settings import ENV_PREFIX, Settings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
INTRO = """# Configuration

Generated from `regime_pipeline/settings.py` by `make docs`. Every setting is an environment variable; an unknown `REGIME_*`
name or a value outside its rule stops the program by name. Markets, tokens, buckets and venues are in the universe file.

| variable | default | meaning |
|---|---|---|
"""
SECRETS = f"""
## Secrets of the executor

No settings of the product: only the process that sends orders reads them, from its own environment or from a TOML file with the names in
lower case and without the prefix, such as `trader_key = "..."`. Name it with `{FILE_VARIABLE}`; it must belong to the executor's user
and be closed to everybody else (`chmod 600`). Other processes that `regime up` starts do not inherit them.

| variable | meaning |
|---|---|
"""


def render() -> str:
    """Render the page, one row a setting, in the order of the class."""
    settings = (
        f"| `{ENV_PREFIX}{name.upper()}` | {'unset' if field.default is None else f'`{field.default}`'} | {field.description} |\n"
        for name, field in Settings.model_fields.items()
    )
    secrets = (f"| `{PREFIX}{name.upper()}` | {field.description} |\n" for name, field in ExecutorSecrets.model_fields.items())
    return INTRO + "".join(settings) + SECRETS + "".join(secrets)


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text() != render():
            sys.exit(f"{PAGE.name} is stale: run `make docs` and commit the page")
    else:
        PAGE.write_text(render())
