"""Free text for the demo model: the Python standard library's sources, docstrings and help topics (PSF licence).

    python scripts/demo_text.py --out hubquant/data/texts

writes the bundled texts. Every document belongs to exactly one split, chosen by a hash of its module's path, so a
docstring never stands in another split than the source it was taken from.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import html
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MIX = {"code": 0.4, "prose": 0.5, "markup": 0.1}

Split = Literal["train", "calibration", "default", "test"]

LARGEST_DOCUMENT = 150_000  # bytes; larger files of the standard library are tables, not text
SKIPPED_FOLDERS = {"site-packages", "encodings", "__pycache__", "idle_test", "lib2to3"}


@dataclass(frozen=True)
class Document:
    key: str
    kind: Literal["code", "prose", "markup"]
    text: str

    @property
    def split(self) -> Split:
        bucket = int(hashlib.sha256(self.key.encode()).hexdigest(), 16) % 100
        if bucket < 5:
            return "test"
        if bucket < 13:
            return "calibration"
        if bucket < 33:
            return "default"
        return "train"


def documents() -> Iterator[Document]:
    """Every document of the running interpreter's standard library, in a fixed order."""
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*")):
        relative = path.relative_to(library)
        if SKIPPED_FOLDERS & set(relative.parts) or not path.is_file():
            continue
        if path.suffix not in {".py", ".txt", ".html", ".rst"} or path.stat().st_size > LARGEST_DOCUMENT:
            continue
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        if not text.isascii() and sum(not c.isascii() for c in text) > len(text) // 50:
            continue
        key = relative.as_posix()
        if path.suffix == ".py":
            yield Document(key, "code", text)
            prose = docstrings(text)
            if len(prose) > 400:
                yield Document(key, "prose", prose)
        else:
            yield Document(key, "markup" if path.suffix == ".html" else "prose", text)
    yield from help_topics()


def docstrings(source: str) -> str:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ""
    nodes = (n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef))
    found = (ast.get_docstring(n) for n in nodes)
    return "\n\n".join(text for text in found if text and len(text) > 80)


def help_topics() -> Iterator[Document]:
    from pydoc_data.topics import topics

    for name, text in sorted(topics.items()):
        yield Document(f"topics/{name}", "prose", text)
        yield Document(f"topics/{name}", "markup", as_html(name, text))


def as_html(title: str, text: str) -> str:
    paragraphs = "\n".join(f"<p>{html.escape(p.strip())}</p>" for p in text.split("\n\n") if p.strip())
    head = f"<!DOCTYPE html>\n<html>\n<head><title>{title}</title></head>\n<body>\n<h1>{title}</h1>\n"
    return f"{head}{paragraphs}\n</body>\n</html>\n"


def excerpt(split: Split, size: int) -> str:
    """About ``size`` bytes of a split, mixed by kind; every document gives at most 12 kB, so many voices fit."""
    parts: list[str] = []
    for kind, share in MIX.items():
        wanted = int(size * share)
        pool = [d for d in documents() if d.split == split and d.kind == kind]
        pool.sort(key=lambda d: hashlib.sha256((d.key + d.kind).encode()).digest())
        for document in pool:
            piece = document.text[: min(12_000, wanted)].rstrip()
            piece = piece[: piece.rfind("\n") + 1] or piece + "\n"
            parts.append(piece)
            wanted -= len(piece)
            if wanted < 400:
                break
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    (out / "calibration.txt").write_text(excerpt("default", 400_000), "utf-8")
    (out / "demo-calibration.txt").write_text(excerpt("calibration", 190_000), "utf-8")
    (out / "test.txt").write_text(excerpt("test", 100_000), "utf-8")


if __name__ == "__main__":
    main()
