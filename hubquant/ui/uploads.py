"""Files that visitors bring along: looked at before they are kept, and each visitor's own."""

from __future__ import annotations

import codecs
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from hubquant.disk import writing
from hubquant.errors import CalibrationError
from hubquant.units import size

TEXTS, ROWS, TABLES = (".txt", ".md"), (".jsonl", ".ndjson"), (".parquet",)
KEPT = 8  # files of one visitor
LARGEST_TABLE = 20  # times its size in the file: what a table may unpack to
_WEB_PAGE = ("<!doctype html", "<html")
_PART = 1 << 20  # bytes


class Uploads:
    """In ``folder``, in one folder for each owner. ``largest`` in bytes, of one file and of all of an owner's."""

    def __init__(self, folder: Path, largest: int) -> None:
        self._folder, self._largest = folder, largest

    def keep(self, owner: str, path: Path, name: str) -> str:
        """Move a file that has come to the others of its owner, and return what a recipe calls it.

        Raises ``UserError`` for what is no text to calibrate on; the file is gone then.
        """
        try:
            shown = _plain_name(name)
            _check(path, shown, self._largest)
            own = self._of(owner)
            self._make_room(own, path.stat().st_size)
            with writing(own):
                own.mkdir(parents=True, exist_ok=True, mode=0o700)
                shutil.move(path, own / shown)
        finally:
            path.unlink(missing_ok=True)
        return shown

    def named(self, owner: str, names: set[str]) -> Mapping[str, Path]:
        """Those of the owner's files that are called so."""
        own = self._of(owner)
        return {path.name: path for path in own.glob("*") if path.name in names} if own.is_dir() else {}

    def _of(self, owner: str) -> Path:
        return self._folder / hashlib.sha256(owner.encode()).hexdigest()[:24]

    def _make_room(self, own: Path, wanted: int) -> None:
        """What came first goes first."""
        kept = sorted(own.glob("*"), key=lambda path: path.stat().st_mtime) if own.is_dir() else []
        total = sum(path.stat().st_size for path in kept)
        while kept and (len(kept) >= KEPT or total + wanted > self._largest):
            total -= kept[0].stat().st_size
            kept.pop(0).unlink()


def _plain_name(name: str) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in path.stem).strip("._") or "text"
    suffix = path.suffix.lower()
    if suffix not in (*TEXTS, *ROWS, *TABLES):
        raise CalibrationError(
            f"{path.name[:80]!r} is not a kind of file that is read here",
            why="text is .txt or .md, rows are .jsonl, .ndjson or .parquet",
            hint="unpack archives, and save documents as plain text, before you upload them",
        )
    return stem[:60] + suffix


def _check(path: Path, name: str, largest: int) -> None:
    found = path.stat().st_size
    if found > largest:
        hint = "a few megabytes of text are enough"
        raise CalibrationError(f"{name} has {size(found)}", why=f"{size(largest)} may be uploaded", hint=hint)
    if not found:
        raise CalibrationError(f"{name} is empty", hint="choose another file")
    suffix = path.suffix if path.suffix in TABLES else Path(name).suffix
    if suffix in TABLES:
        _check_table(path, name, found)
    else:
        _check_text(path, name)
        if suffix in ROWS:
            _check_rows(path, name)


def _check_text(path: Path, name: str) -> None:
    decoder, first = codecs.getincrementaldecoder("utf-8")(), True
    with path.open("rb") as file:
        while part := file.read(_PART):
            try:
                text = decoder.decode(part, final=len(part) < _PART)
            except UnicodeDecodeError:
                text = "\0"
            if "\0" in text:
                why = "it holds bytes that are no text in UTF-8"
                raise CalibrationError(f"{name} is not a text", why=why, hint="save it as plain text in UTF-8")
            if first and text.lstrip().lower().startswith(_WEB_PAGE):
                hint = "save what it says as plain text"
                raise CalibrationError(f"{name} is a web page", why="its tags would be calibrated on", hint=hint)
            first = False


def _check_rows(path: Path, name: str) -> None:
    with path.open(encoding="utf-8", errors="replace") as file:
        line = file.readline(_PART)
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        hint = 'write rows like  {"text": "…"}'
        raise CalibrationError(f"{name} has no rows", why="its first line is no JSON object", hint=hint)


def _check_table(path: Path, name: str, found: int) -> None:
    import pyarrow.parquet

    try:
        metadata = pyarrow.parquet.read_metadata(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are these
        raise CalibrationError(f"{name} is not a Parquet file", hint="choose another file") from error
    unpacked = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    if unpacked > LARGEST_TABLE * found + _PART:
        raise CalibrationError(
            f"{name} would unpack to {size(unpacked)}", why=f"it has {size(found)}", hint="upload the text itself"
        )


def names_of_files(data: object) -> set[str]:
    """What a recipe's plain data says a text's file is."""
    found: set[str] = set()
    for part in ("calibration", "evaluate"):
        section = data.get(part) if isinstance(data, dict) else None
        sources = section.get("sources") if isinstance(section, dict) else None
        for source in sources if isinstance(sources, list) else ():
            if isinstance(source, dict) and isinstance(source.get("file"), str):
                found.add(source["file"])
    return found
