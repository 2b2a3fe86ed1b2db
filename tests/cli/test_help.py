"""What ``--help`` says of every command and of each of its options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hubquant.cli.line import GROUPS
from tests.support.cli import commands, hubquant

COMMANDS = commands()
README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


def words(text: str) -> str:
    """Without line breaks and columns, and without breaks after hyphens."""
    return re.sub(r"-\s+", "-", " ".join(text.split()))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_the_command_and_each_option_mean(command: str) -> None:
    shown = words(hubquant(*command.split(), "--help").out)
    assert COMMANDS[command].help
    assert words(COMMANDS[command].help) in shown
    for param in COMMANDS[command].params:
        assert param.help, param.name
        assert words(param.help) in shown
        assert all(name in shown for name in param.opts) or param.metavar in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_json_and_quiet(command: str) -> None:
    options = {name for param in COMMANDS[command].params for name in param.opts}
    assert {"--json", "--quiet"} <= options


@pytest.mark.parametrize("command", COMMANDS)
def test_the_readme_has_every_command(command: str) -> None:
    group, _, name = command.partition(" ")
    pattern = rf"`hubquant {group}[ `]" if not name else rf"`hubquant {group} ([\w|\\]+\|)?{name}[ `\\|]"
    assert re.search(pattern, README)


def test_the_groups_are_known_before_anything_is_parsed() -> None:
    assert {*GROUPS} == {command.split()[0] for command in COMMANDS if " " in command}
