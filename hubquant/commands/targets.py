"""What -o may replace: a file of the kind that is written, and no other."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from hubquant.errors import HubquantError, OutputError

TargetKind = Literal["model", "imatrix", "baseline", "report", "picture", "text"]
NAMES: Mapping[TargetKind, str] = {
    "model": "a model in a GGUF file",
    "imatrix": "an importance matrix",
    "baseline": "a baseline",
    "report": "a report of a measurement",
    "picture": "a PNG picture",
    "text": "a text",
}
_BEGIN = 1 << 16  # bytes
PNG = b"\x89PNG\r\n\x1a\n"


def check_target(path: Path, kind: TargetKind) -> None:
    """Raise ``OutputError`` when the file to be written would replace one of another kind.

    To be asked before any work is done. An empty file is nobody's.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder", why="one file is written", hint=f"name the file: -o {path / 'NAME'}")
    if not path.exists():
        return
    if not path.is_file():
        raise OutputError(f"{path} is no regular file", hint="name a new file with -o")
    if path.stat().st_size and not _IS[kind](path):
        raise OutputError(
            f"{path} is not {NAMES[kind]}",
            why="only that is replaced",
            hint="name another file with -o, or move this one away",
        )


def _is_model(path: Path) -> bool:
    from hubquant.gguf_file.stored import read_stored

    try:
        kind = read_stored(path).value("general.type")
    except HubquantError:
        return False
    return kind is None or kind.value != "imatrix"


def _is_imatrix(path: Path) -> bool:
    from hubquant.imatrix import load_imatrix

    return _opens(lambda: load_imatrix(path))


def _is_baseline(path: Path) -> bool:
    from hubquant.evaluate import Baseline

    return _opens(lambda: Baseline.open(path).close())


def _is_report(path: Path) -> bool:
    from hubquant.evaluate.report_file import open_report

    def opened() -> None:
        with open_report(path):
            pass

    return _opens(opened)


def _is_picture(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(PNG)) == PNG


def _is_text(path: Path) -> bool:
    """By its beginning, the last character of which may be cut."""
    with path.open("rb") as file:
        begin = file.read(_BEGIN)
    try:
        return b"\0" not in begin and codecs.getincrementaldecoder("utf-8")().decode(begin) is not None
    except UnicodeDecodeError:
        return False


def _opens(open: Callable[[], object]) -> bool:
    try:
        open()
    except HubquantError:
        return False
    return True


_IS: Mapping[TargetKind, Callable[[Path], bool]] = {
    "model": _is_model,
    "imatrix": _is_imatrix,
    "baseline": _is_baseline,
    "report": _is_report,
    "picture": _is_picture,
    "text": _is_text,
}
