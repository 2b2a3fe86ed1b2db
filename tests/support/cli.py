"""The command line, in this process and installed."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from hubquant.cli.app import app, run_app


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    def is_one_message(self) -> bool:
        """One error, perhaps with a next step, and nothing that only a programmer reads."""
        lines = [line for line in self.err.splitlines() if line]
        errors = [line for line in lines if line.startswith("Error: ")]
        return len(errors) == 1 and "Traceback" not in self.err and "does not know" not in self.err


def hubquant(*arguments: str) -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_app(list(arguments))
    return Outcome(code, out.getvalue(), err.getvalue())


def installed(*arguments: str) -> Outcome:
    """The command beside this Python, in a process of its own."""
    command = Path(sys.executable).with_name("hubquant")
    done = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)


def commands() -> dict[str, Any]:
    """Every command by the words that call it, as click has it."""

    def within(group: Any, above: str) -> Iterator[tuple[str, Any]]:
        for name, command in group.commands.items():
            words = f"{above} {name}".strip()
            yield from within(command, words) if hasattr(command, "commands") else [(words, command)]

    return dict(within(typer.main.get_command(app), ""))
