"""The runbook is complete, and what it tells to type exists."""

import re
from pathlib import Path

import pytest
import typer.core
import typer.main

from regime_pipeline.cli import app
from regime_pipeline.ports import AlertKind
from regime_pipeline.services.alert_kinds import KINDS, RUNBOOK
from regime_pipeline.settings import ENV_PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / RUNBOOK).read_text()
ADVICE = "\n".join(f"{note.cost}\n{note.cure}" for note in KINDS.values())


def commands(text: str) -> set[str]:
    """Every `regime ...` in code: between backticks, in a shell block, or in "$(...)"."""
    code = re.findall(r"```\n(.*?)```", text, re.DOTALL) + re.findall(r"`([^`\n]+)`", re.sub(r"```\n.*?```", "", text, flags=re.DOTALL))
    return {found.strip() for part in code for found in re.findall(r"(?:^|\$\()(regime [a-z][^\n)#|]*)", part, re.MULTILINE)}


def section(kind: AlertKind) -> str:
    found = re.search(rf"^## {kind}\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


@pytest.mark.parametrize("kind", AlertKind)
def test_every_kind_has_a_section_with_meaning_check_cure_and_how_it_was_tried(kind: AlertKind) -> None:
    heads = re.findall(r"^\*\*(\w+)\.\*\* \S", section(kind), re.MULTILINE)
    assert heads == ["Meaning", "Check", "Cure", "Tried"]


def test_no_section_is_about_a_kind_that_does_not_exist() -> None:
    heads = set(re.findall(r"^## (\w+)$", PAGE, re.MULTILINE))
    assert heads == set(AlertKind)


@pytest.mark.parametrize("line", sorted(commands(PAGE) | commands(ADVICE)))
def test_every_command_exists_with_its_options(line: str) -> None:
    command = typer.main.get_command(app)
    words = line.split()[1:]
    while words and isinstance(command, typer.core.TyperGroup):
        name = words.pop(0)
        assert name in command.commands, f"{line}: no command {name}"
        command = command.commands[name]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= known


def test_commands_are_found_wherever_the_page_has_them() -> None:
    found = commands('see `regime status`, not regime away\n```\nregime alerts test all   # try\nx "$(regime db url)"\n```\n')
    assert found == {"regime status", "regime alerts test all", "regime db url"}


def test_every_setting_named_exists() -> None:
    named = set(re.findall(rf"\b{ENV_PREFIX}([A-Z_]+)", PAGE + ADVICE))
    assert {name.lower() for name in named} <= set(Settings.model_fields)
