"""Escape codes and widths, as the environment and the terminal ask for them."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import threading

import pytest

fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))

ESCAPE = "\x1b["
COLOUR = re.compile(r"\x1b\[[\d;]*3\dm")
PROGRESS = """
from hubquant.cli.output import Output
progress = Output().progress()
progress.note("of a [file] " + "word " * 30)
with progress.bar("reading", 3, "rows") as advance:
    advance(3)
"""
TABLE = """
from hubquant.cli.output import Output
from hubquant.publish.table import Table, plain
row = ("Q4_K_M", "4.58 GB", "4.83", "0.0283 ± 0.0004", "98.22 ± 0.13 %", "1.0123 ± 0.0004")
Output().data(None, plain(Table(("Type", "Size", "bpw", "Mean KLD", "Same top token", "PPL ratio"), (row, row))))
"""
ASKED = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


def environment(**asked: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ASKED} | {"TERM": "xterm-256color"} | asked


def on_terminal(code: str, columns: int = 100, **asked: str) -> str:
    """What Python writes to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    taken: list[bytes] = []

    def take() -> None:
        try:
            while part := os.read(ours, 4096):
                taken.append(part)
        except OSError:  # the other end is closed
            return

    reader = threading.Thread(target=take)
    reader.start()
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs, env=environment(**asked), check=False
    )
    os.close(theirs)
    reader.join()
    os.close(ours)
    text = b"".join(taken).decode().replace("\r\n", "\n")
    assert done.returncode == 0, text
    return text


def piped(code: str, **asked: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment(**asked), check=True)
    return (done.stdout + done.stderr).decode()


def test_a_terminal_has_colours_and_bars() -> None:
    shown = on_terminal(PROGRESS)
    assert COLOUR.search(shown)
    assert "3 rows of 3 rows" in shown


def test_no_color_leaves_no_colour() -> None:
    shown = on_terminal(PROGRESS, NO_COLOR="1")
    assert not COLOUR.search(shown)
    assert "of a [file] word" in shown


def test_a_dumb_terminal_has_lines() -> None:
    assert on_terminal(PROGRESS, TERM="dumb").splitlines()[0] == "note: of a [file] " + "word " * 30
    assert ESCAPE not in on_terminal(PROGRESS, TERM="dumb")


@pytest.mark.parametrize("code", [PROGRESS, TABLE])
def test_a_pipe_has_no_escape_codes(code: str) -> None:
    assert ESCAPE not in piped(code)


def test_force_color_colours_a_pipe_and_moves_nothing_there() -> None:
    shown = piped(PROGRESS, FORCE_COLOR="1")
    assert COLOUR.search(shown)
    assert len(shown.splitlines()) == 1
    assert set(re.findall(r"\x1b\[[\d;?]*([a-zA-Z])", shown)) == {"m"}


@pytest.mark.parametrize("width", [{"columns": 60}, {"COLUMNS": "60"}])
def test_what_is_noted_goes_on_below_itself_on_a_narrow_terminal(width: dict[str, str]) -> None:
    shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", on_terminal(PROGRESS, **width))
    lines = [line.rstrip() for line in shown.splitlines() if "word" in line]
    assert len(lines) > 2
    assert lines[0].startswith("      note  of a [file] word")
    assert all(line.startswith(" " * 12 + "word") and len(line) <= 60 for line in lines[1:])


def test_a_table_goes_on_between_columns_on_a_narrow_terminal() -> None:
    lines = on_terminal(TABLE, 60).splitlines()
    assert all(len(line) <= 60 for line in lines)
    assert lines[2] == lines[4] == "Q4_K_M  4.58 GB  4.83  0.0283 ± 0.0004  98.22 ± 0.13 %"
    assert [line.strip() for line in lines[1::2]] == ["PPL ratio", "1.0123 ± 0.0004", "1.0123 ± 0.0004"]
    assert len({len(line) for line in lines[1::2]}) == 1


def test_text_goes_on_below_itself_and_a_long_word_stays_whole() -> None:
    path = "/home/" + "x" * 70
    text = f"output    {path}\n{path}\n   imatrix  {'word ' * 19}word"
    shown = on_terminal(f"from hubquant.cli.output import Output\nOutput().data(None, {text!r})", 60)
    words = " ".join(["word"] * 9)
    first, second, *rest = shown.splitlines()
    assert (first, second) == (f"output    {path}", path)
    assert rest == ["   imatrix  " + words, " " * 12 + words, " " * 12 + "word word"]


def test_a_pipe_has_whole_rows() -> None:
    assert len(piped(TABLE, COLUMNS="60").splitlines()) == 3
