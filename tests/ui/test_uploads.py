"""Files that visitors bring along."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from hubquant.errors import UserError
from hubquant.ui.uploads import KEPT, Uploads

LARGEST = 1 << 20


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(tmp_path / "uploads", LARGEST)


def come(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "incoming"
    path.write_bytes(content)
    return path


def archive() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb.txt", b"0" * (50 << 20))
    return packed.getvalue()


def table(n: int) -> bytes:
    packed = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": ["0" * n]}), packed, use_dictionary=False, compression="zstd")
    return packed.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.zip", archive(), "not a kind of file"),
        ("a.txt", archive(), "not a text"),
        ("a.txt", b"\x7fELF\x00\x00", "not a text"),
        ("a.txt", b"caf\xe9", "not a text"),
        ("a.txt", b"", "empty"),
        ("a.txt", b"x" * (LARGEST + 1), "may be uploaded"),
        ("a.txt", b"  <!DOCTYPE html><script>alert(1)</script>", "web page"),
        ("a.html", b"<p>", "not a kind of file"),
        ("noending", b"text", "not a kind of file"),
        ("a.jsonl", b"not json\n", "no rows"),
        ("a.jsonl", b"[" * 100_000, "no rows"),
        ("a.parquet", b"PAR1 and nothing else", "not a Parquet"),
        ("a.parquet", table(40 << 20), "unpack to"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_text_is_refused_and_gone(
    uploads: Uploads, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = come(tmp_path, content)
    with pytest.raises(UserError, match=message):
        uploads.keep("me", path, name)
    assert not path.exists()
    assert not list((tmp_path / "uploads").rglob("*.*"))


@pytest.mark.parametrize(
    ("name", "content", "kept"),
    [
        ("my text.txt", "Grüße".encode(), "my_text.txt"),
        ("../../etc/passwd.md", b"# text", "passwd.md"),
        ("C:\\texts\\A.TXT", b"text", "A.txt"),
        (".txt.jsonl", b'{"text": "a"}\n', "txt.jsonl"),
        ("rows.parquet", table(10), "rows.parquet"),
    ],
)
def test_a_text_is_kept_under_a_plain_name(
    uploads: Uploads, tmp_path: Path, name: str, content: bytes, kept: str
) -> None:
    assert uploads.keep("me", come(tmp_path, content), name) == kept
    [path] = uploads.named("me", {kept}).values()
    assert path.read_bytes() == content


def test_files_are_their_owners_alone(uploads: Uploads, tmp_path: Path) -> None:
    uploads.keep("alice", come(tmp_path, b"hers"), "a.txt")
    assert uploads.named("bob", {"a.txt"}) == {}
    uploads.keep("bob", come(tmp_path, b"his"), "a.txt")
    assert uploads.named("alice", {"a.txt"})["a.txt"].read_bytes() == b"hers"


def test_what_came_first_goes_first(uploads: Uploads, tmp_path: Path) -> None:
    names = [f"{n}.txt" for n in range(KEPT + 2)]
    for name in names:
        uploads.keep("me", come(tmp_path, name.encode()), name)
    assert len(uploads.named("me", set(names))) == KEPT
    uploads.keep("me", come(tmp_path, b"x" * LARGEST), "large.txt")
    assert uploads.named("me", {*names, "large.txt"}).keys() == {"large.txt"}
