"""stdout and stderr that are closed, full, cut off, or of an encoding without most characters."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest

from hubquant.cli.output import Output
from tests.support.cli import Outcome, hubquant
from tests.support.localhub import LocalHub

ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def shell(line: str, *arguments: str, env: Mapping[str, str] = {}) -> Outcome:
    """``line`` in a shell, where "$@" is ``hubquant`` with ``arguments``."""
    command = ["bash", "-c", f"set -o pipefail; {line}", "bash", sys.executable, "-m", "hubquant", *arguments]
    import os

    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, check=False)
    return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())


def is_quiet(outcome: Outcome) -> bool:
    return "Traceback" not in outcome.err and "ignored" not in outcome.err and "does not know" not in outcome.err


def test_ascii_is_enough(hostile_gguf: Path) -> None:
    outcome = shell('"$@"', "inspect", str(hostile_gguf), env=ASCII)
    assert (outcome.code, outcome.err) == (0, "")
    assert "mod\\xe8le +- \\x1b[31mred" in outcome.out
    assert "x" * 40 in outcome.out


@pytest.mark.parametrize(("place", "why"), [(">&-", "stdout is closed"), (">/dev/full", "No space left on device")])
@pytest.mark.parametrize("arguments", [["--help"], ["inspect"]])
def test_a_result_that_cannot_be_written(place: str, why: str, arguments: list[str], hostile_gguf: Path) -> None:
    files = [str(hostile_gguf)] if arguments == ["inspect"] else []
    outcome = shell(f'"$@" {place}', *arguments, *files)
    assert outcome.code == 1
    assert outcome.err == f"Error: the result cannot be written to stdout: {why}\n"


@pytest.mark.parametrize("place", ["2>&-", "2>/dev/full", "2> >(true)"])
def test_work_goes_on_without_a_place_for_messages(place: str, hostile_gguf: Path) -> None:
    outcome = shell(f'"$@" {place}', "inspect", str(hostile_gguf), "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert json.loads(outcome.out)
    assert shell(f'"$@" {place}', "inspect", "none.gguf").code == 2


def test_a_reader_that_has_enough(hostile_gguf: Path) -> None:
    outcome = shell('"$@" | head -1', "inspect", str(hostile_gguf))
    assert outcome.code in (0, 141)
    assert outcome.err == ""
    assert len(outcome.out.splitlines()) == 1


def test_a_closed_descriptor_is_no_place_for_a_file(hostile_gguf: Path, tmp_path: Path) -> None:
    """A file that is opened where stdout was would be given what belongs on a terminal."""
    out = tmp_path / "out.dat"
    code = f"import sys, os; sys.argv = ['hubquant', 'inspect', {str(hostile_gguf)!r}]\nfrom hubquant.cli import main\n"
    code += f"try: main()\nexcept SystemExit: pass\nfile = open({str(out)!r}, 'w'); sys.exit(file.fileno() < 3)"
    done = subprocess.run(["bash", "-c", '"$@" <&- >&- 2>&-', "bash", sys.executable, "-c", code], check=False)
    assert done.returncode == 0


def test_names_from_files_cannot_act_on_a_terminal(hostile_gguf: Path) -> None:
    for flags in ([], ["--tensors"], ["--json"]):
        outcome = hubquant("inspect", str(hostile_gguf), *flags)
        assert outcome.code == 0
        assert all(line.isprintable() for line in outcome.out.splitlines())
        assert not any(line.startswith("faked") for line in outcome.out.splitlines())


def test_numbers_that_json_does_not_have_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True).data({"a": [float("nan"), 1.5], "b": {"c": float("-inf")}, "d": (float("inf"),)}, "")
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5], "b": {"c": None}, "d": [None]}


def test_with_json_whatever_a_library_says_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    from hubquant.cli.streams import guarded

    output = Output(as_json=True)
    with guarded(as_json=True), output.warnings():
        warnings.warn("of Python\nin two lines", RuntimeWarning, stacklevel=1)
        logging.getLogger("some.library").warning("of a \x1b[31mlogger")
        print("\rbar 10%\rbar 20%", end="", file=sys.stderr)
        output.progress().note("ours")
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    texts = [event["text"] for event in events]
    assert {"of Python in two lines", "of a \\x1b[31mlogger", "bar 10%", "bar 20%"} < set(texts)
    assert all(text.isprintable() for text in texts)


def test_with_json_retries_are_json(hub: LocalHub, tiny_llama: Path) -> None:
    hub.add("org/tiny", tiny_llama)
    hub.fail("GET /api/models", status=503, times=1)
    outcome = hubquant("plan", "org/tiny", "--types", "Q8_0", "--set", "imatrix.skip=true", "--json")
    assert outcome.code == 0, outcome.err
    events = [json.loads(line) for line in outcome.err.splitlines()]
    assert any("trying again" in event.get("text", "") for event in events)
    json.loads(outcome.out)


def test_quiet_means_errors_only(hub: LocalHub, tiny_llama: Path, tmp_path: Path) -> None:
    hub.add("org/tiny", tiny_llama)
    hub.fail("GET /api/models", status=503, times=1)
    outcome = hubquant("convert", "org/tiny", "-o", str(tmp_path / "x.gguf"), "--quiet")
    assert (outcome.code, outcome.err) == (0, "")
