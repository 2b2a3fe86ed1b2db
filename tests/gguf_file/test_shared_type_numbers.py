"""Two types with one number: the size of a tensor tells which it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hubquant.errors import GGUFError
from hubquant.gguf_file import GGUFFile, GGUFWriter, Split, TensorEntry, shard, shard_paths
from hubquant.gguf_file.metadata import string, u32

ENTRIES = [
    TensorEntry("a.weight", (3, 512), "Q3_K_HIFI"),
    TensorEntry("b.weight", (1, 256), "Q2_0"),
    TensorEntry("c.weight", (1, 256), "Q3_K_HIFI"),
    TensorEntry("norm.weight", (5,), "F32"),
    TensorEntry("d.weight", (2, 192), "Q2_0"),
    TensorEntry("e.weight", (2, 3, 256), "Q3_K_HIFI"),
]


def write(path: Path, entries: list[TensorEntry], max_bytes: int = 1 << 30, alignment: int = 32) -> Path:
    metadata = {"general.architecture": string("llama"), "general.alignment": u32(alignment)}
    layouts = shard(metadata, entries, Split(max_bytes))
    paths = shard_paths(path, len(layouts))
    for each, layout in zip(paths, layouts, strict=True):
        with GGUFWriter(each, layout) as writer:
            for entry in layout.tensors.values():
                writer.write(entry.name, np.zeros((entry.rows, entry.row_bytes), np.uint8))
            writer.finish()
    return paths[0]


@pytest.mark.parametrize("max_bytes", [1 << 30, 500])
def test_types_are_told_apart(tmp_path: Path, max_bytes: int) -> None:
    path = write(tmp_path / "a.gguf", ENTRIES, max_bytes)
    assert list(GGUFFile.open(path).tensors.values()) == ENTRIES


@pytest.mark.parametrize("type", ["Q2_0", "Q3_K_HIFI"])
def test_a_last_tensor_without_padding(tmp_path: Path, type: str) -> None:
    entries = [TensorEntry("a.weight", (1, 256), type)]
    path = write(tmp_path / "a.gguf", entries)
    path.write_bytes(path.read_bytes()[: -(-entries[0].nbytes % 32)])
    assert list(GGUFFile.open(path).tensors.values()) == entries


def test_another_layout_of_the_fork_is_refused(tmp_path: Path) -> None:
    """134 bytes a block, as an earlier version had: 64 of them cannot be 64 of 136."""
    path = write(tmp_path / "a.gguf", [TensorEntry("a.weight", (64, 256), "Q3_K_HIFI")])
    path.write_bytes(path.read_bytes()[: -64 * 2])
    with pytest.raises(GGUFError, match=r"may be Q2_0 or geoffmunn/llama\.cpp's Q3_K_HIFI"):
        GGUFFile.open(path)


def test_a_size_that_both_could_have_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", [TensorEntry("a.weight", (1, 256), "Q2_0")], alignment=1024)
    with pytest.raises(GGUFError, match="do not tell which"):
        GGUFFile.open(path)


def test_a_file_that_was_cut_off(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", [TensorEntry("a.weight", (64, 256), "Q2_0")])
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(GGUFError, match="beyond the end of the file"):
        GGUFFile.open(path)
