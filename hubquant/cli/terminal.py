"""What a terminal can show: escape codes or none, and so many columns."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator

GAP = re.compile(r"(?<=\S) {2,}(?=\S)")  # between the columns of a table
HANGING = 4  # columns


def takes_escape_codes() -> bool:
    """Whether stderr is a terminal, or the environment says to write as if it were; rich knows the details."""
    return sys.stderr.isatty() or bool(os.environ.get("FORCE_COLOR")) or os.environ.get("TTY_COMPATIBLE") == "1"


def fitted_to_terminal(text: str) -> str:
    """Where stdout is a terminal, lines that are too long for it are broken between columns, or else words."""
    if not sys.stdout.isatty():
        return text
    columns = shutil.get_terminal_size().columns
    return "\n".join(part for line in text.split("\n") for part in _broken(line, columns))


def _broken(line: str, columns: int) -> Iterator[str]:
    """A row goes on at the column that does not fit, with its gap, so that rows stay aligned below one another.

    Text goes on below itself. One long word, such as a path, stays whole.
    """
    while len(line) > columns:
        gaps = [gap.span() for gap in GAP.finditer(line) if gap.start() <= columns]
        if gaps and gaps[-1][0] > columns // 2:
            end = gaps[-1][0]
            rest = line[end:]
        else:
            end = line.rfind(" ", 0, columns + 1)
            indent = gaps[-1][1] if gaps else len(line) - len(line.lstrip()) or HANGING
            rest = " " * indent + line[end + 1 :].lstrip()
        if end < 0 or not line[:end].strip() or len(rest) >= len(line):
            break
        yield line[:end].rstrip()
        line = rest
    yield line
