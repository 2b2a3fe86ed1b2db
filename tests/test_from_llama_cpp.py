"""docs/from-llama-cpp.md: what it says is there is there, and what is not has its reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from hubquant.cli.app import app
from tests.support.cli import commands

DOCUMENT = (Path(__file__).parents[1] / "docs/from-llama-cpp.md").read_text("utf-8")
PROGRAMS = (
    "llama-quantize",
    "llama-imatrix",
    "llama-perplexity",
    "Options that all programs have",
    "convert_hf_to_gguf.py",
    "convert_lora_to_gguf.py",
    "llama-gguf-split",
    "gguf-py's scripts",
)
COMMANDS: dict[str, Any] = {**commands(), "": typer.main.get_command(app)}


def rows(program: str) -> list[list[str]]:
    """Of the table below the heading: cells."""
    section = DOCUMENT.split(f"\n## {program}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def missing(span: str) -> list[str]:
    """What the command line in ``span`` names and hubquant does not have."""
    words = span.split()
    n = next(i for i in range(len(words), -1, -1) if " ".join(words[:i]) in COMMANDS)
    known = {name for param in COMMANDS[" ".join(words[:n])].params for name in param.opts + param.secondary_opts}
    return [word for word in words[n:] if word not in known | {"--help"}]


@pytest.mark.parametrize("program", PROGRAMS)
def test_options_that_are_named_exist(program: str) -> None:
    found = rows(program)
    assert found
    for theirs, ours, why in found:
        spans = re.findall(r"`([^`]+)`", ours)
        assert re.sub(r"`[^`]+`|, ", "", ours) == "", ours
        assert spans or why, theirs
        for span in spans:
            assert not missing(span), span


def test_every_table_is_looked_at() -> None:
    assert re.findall(r"^## (.+)$", DOCUMENT, re.MULTILINE) == list(PROGRAMS)
    assert len(re.findall(r"^\|---", DOCUMENT, re.MULTILINE)) == len(PROGRAMS)


def test_what_is_not_there_is_found() -> None:
    assert missing("quantize --pure --purer") == ["--purer"]
    assert missing("quantise --pure") == ["quantise", "--pure"]
    assert missing("gguf shred") == ["gguf", "shred"]


def test_the_lines_at_the_beginning_are_commands() -> None:
    lines = re.findall(r"^    .*hubquant (.+)$", DOCUMENT, re.MULTILINE)
    assert len(lines) == 6
    for line in lines:
        assert not [word for word in missing(line) if word.startswith("-") or word == line.split()[0]]
