"""Ctrl-C and SIGTERM: the exit code of the signal, one sentence that is true, no child left, and the work goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hubquant.cli.line import farewell
from hubquant.models.tiny import build
from tests.support.cli import hubquant

Start = Callable[..., "subprocess.Popen[str]"]
CONTINUES = "it continues where it stopped"
SLOW_TYPES = "IQ2_S,IQ1_M"


def heed_signals() -> None:
    """Also where the tests themselves run under nohup, or in the background of a shell."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def start() -> Iterator[Start]:
    """``hubquant`` in a session of its own, ended with all its children after the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "hubquant", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=heed_signals,
            env={**os.environ, "OMP_NUM_THREADS": "2"},
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def stop(process: subprocess.Popen[str], number: int) -> str:
    """What it says on stderr after the signal. Everything that it started has ended."""
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert out == ""
    assert "Traceback" not in err
    assert "ignored" not in err
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    return err


def wait_for(process: subprocess.Popen[str], event: str) -> None:
    assert process.stderr
    for line in process.stderr:
        if json.loads(line)["event"] == event:
            return
    raise AssertionError(f"no {event} came")


def children(process: subprocess.Popen[str]) -> str:
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()


def catches(process: subprocess.Popen[str], number: int) -> bool:
    [caught] = re.findall(r"SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())
    return bool(int(caught, 16) >> (number - 1) & 1)


@pytest.fixture(scope="module")
def wide_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a second of work in it."""
    folder = tmp_path_factory.mktemp("models") / "wide-llama"
    return build("llama", folder, hidden_size=512, intermediate_size=1536, num_attention_heads=4, num_hidden_layers=2)


def tokenizing(start: Start, line: list[str], text: Path) -> subprocess.Popen[str]:
    """A command that is at work on a long ``text``."""
    text.write_text("a text without an end, " * 150_000)
    process = start(*line, "-f", str(text), "--chunks", "100000")
    assert process.stderr
    assert any("tokenizing" in line for line in process.stderr)
    return process


def test_while_a_text_to_collect_from_is_tokenized(start: Start, tiny_llama: Path, tmp_path: Path) -> None:
    line = ["imatrix", "collect", str(tiny_llama), "-o", str(tmp_path / "out.gguf")]
    err = stop(tokenizing(start, line, tmp_path / "text.txt"), signal.SIGHUP)
    assert f"Interrupted. Run the same line again: {CONTINUES}." in err


def test_while_a_text_to_measure_is_tokenized(start: Start, tiny_llama: Path, tmp_path: Path) -> None:
    err = stop(tokenizing(start, ["evaluate", "ppl", str(tiny_llama)], tmp_path / "text.txt"), signal.SIGTERM)
    assert "nothing was written" in err


def test_while_a_matrix_is_collected(start: Start, tiny_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    process = start("imatrix", "collect", str(tiny_llama), "--chunks", "2000", "-o", str(out), "--json")
    wait_for(process, "progress")
    [event] = [json.loads(line) for line in stop(process, signal.SIGINT).splitlines() if "interrupted" in line]
    assert event == {"event": "interrupted", "hint": f"run the same line again: {CONTINUES}"}
    assert not out.exists()


def test_while_threads_quantize(start: Start, wide_llama: Path, tmp_path: Path, store: Path) -> None:
    matrix = tmp_path / "imatrix.gguf"
    small = ["--chunks", "2", "--chunk-size", "32", "--quiet"]
    assert hubquant("imatrix", "collect", str(wide_llama), "-o", str(matrix), *small).code == 0
    line = ["quantize", str(wide_llama), "--imatrix", str(matrix), "-t", SLOW_TYPES, "-o", str(tmp_path / "out")]
    process = start(*line)
    while process.poll() is None and not list(store.glob("building/file-*/*")):
        time.sleep(0.01)
    assert CONTINUES in stop(process, signal.SIGTERM)
    assert not (tmp_path / "out").exists()
    assert hubquant(*line, "--quiet").code == 0
    assert len(list((tmp_path / "out").iterdir())) == len(SLOW_TYPES.split(","))


def test_while_llama_cpp_works(start: Start, tiny_llama: Path, tmp_path: Path) -> None:
    process = start("convert", str(tiny_llama), "-o", str(tmp_path / "out.gguf"))
    while process.poll() is None and not children(process):
        time.sleep(0.01)
    assert CONTINUES in stop(process, signal.SIGINT)
    assert not list(tmp_path.glob("*.gguf"))


def test_as_soon_as_it_starts(start: Start) -> None:
    process = start("run", "quickstart")
    while process.poll() is None and not catches(process, signal.SIGTERM):
        time.sleep(0.001)
    assert CONTINUES in stop(process, signal.SIGTERM)


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("run org/model", f"Run the same line again: {CONTINUES}."),
        ("run org/model --fresh", f"Run the same line again without --fresh: {CONTINUES}."),
        ("run org/model --dry-run", "Run the same line again: nothing was written."),
        ("plan org/model", "Run the same line again: nothing was written."),
        ("evaluate baseline org/model -o x", f"Run the same line again: {CONTINUES}."),
        ("evaluate run x.gguf -b y.h5", f"Run the same line again: {CONTINUES}."),
        ("evaluate ppl org/model", "Run the same line again: nothing was written."),
    ],
)
def test_the_advice_is_true_for_the_command(line: str, advice: str) -> None:
    assert farewell(line.split()) == f"\nInterrupted. {advice}"


SWALLOWED = """
import os, signal, time
from hubquant.signals import stopping

with stopping("Interrupted.", grace=0.1):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(600)
    except BaseException:
        {then}
"""


@pytest.mark.parametrize(
    ("then", "code", "said"),
    [("time.sleep(600)", 143, "Interrupted.\n"), ("raise SystemError('NULL without an error')", 1, "Stopped: 15\n")],
)
def test_a_library_cannot_keep_the_process_from_ending(then: str, code: int, said: str) -> None:
    line = [sys.executable, "-c", SWALLOWED.format(then=then)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code
    assert done.stderr.endswith(said)


LOST = """
import signal, time
from hubquant.signals import stopping

class Interrupted:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)

with stopping("Interrupted.", grace=0.1):
    Interrupted()
    time.sleep(600)
"""


def test_nothing_is_told_of_a_stop_that_python_cannot_raise() -> None:
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (143, "Interrupted.\n")
