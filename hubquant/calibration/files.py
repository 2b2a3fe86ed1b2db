"""Readers of local files: plain text, JSON lines, Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hubquant.disk import check_ends
from hubquant.errors import CalibrationError

Row = Mapping[str, Any]


def read_text_file(path: Path) -> str:
    """The whole file, strictly UTF-8, newlines as they are. Raises ``CalibrationError``."""
    return "".join(_pieces(path, lines=False))


def _pieces(path: Path, *, lines: bool) -> Iterator[str]:
    """The lines of a file with their ends, or the whole as one."""
    place = 0
    try:
        check_ends(path)
        with path.open("rb") as file:
            for piece in file if lines else [file.read()]:
                yield piece.decode("utf-8")
                place += len(piece)
    except UnicodeDecodeError as error:
        raise CalibrationError(
            f"{path} is not UTF-8",
            why=f"byte {place + error.start:,} is 0x{error.object[error.start]:02x}",
            hint=f"convert it first, for example: iconv -f latin1 -t utf-8 {path} -o {path.stem}.utf8{path.suffix}",
        ) from None
    except OSError as error:
        raise CalibrationError(
            f"{path} cannot be read", why=error.strerror or str(error), hint="check the path"
        ) from None


# By hand: load_dataset("json") names no line in its errors, and writes into the user's cache even where it streams.
def read_jsonl(path: Path) -> Iterator[Row]:
    """One JSON object per line; empty lines are skipped. Raises ``CalibrationError`` with the line that is none."""
    for number, line in enumerate(_pieces(path, lines=True), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CalibrationError(
                f"line {number:,} of {path} is not JSON",
                why=str(error).split(": line ")[0],
                hint="write one JSON object per line, or name a file of plain text .txt",
            ) from None
        if not isinstance(row, dict):
            raise CalibrationError(
                f"line {number:,} of {path} is not a JSON object",
                why=f"it is {line.strip()[:40]}",
                hint='write objects such as {"text": "…"}, one per line',
            )
        yield row


# By hand: load_dataset("parquet") fails where a column is not there, and writes into the user's cache.
def read_parquet(path: Path, field: str) -> Iterator[Row]:
    """Rows with ``field`` alone, or with every field when there is none of that name. Raises ``CalibrationError``."""
    from pyarrow import ArrowException, parquet

    try:
        check_ends(path)
        with parquet.ParquetFile(path) as file:
            columns = [field] if field in file.schema_arrow.names else None
            for batch in file.iter_batches(columns=columns):
                yield from batch.to_pylist()
    except (ArrowException, OSError, ValueError, NotImplementedError, OverflowError) as error:  # also of its texts
        raise CalibrationError(
            f"{path} cannot be read",
            why=(str(error).strip() or type(error).__name__).splitlines()[0],
            hint="check the path, and that it is a Parquet file",
        ) from None
