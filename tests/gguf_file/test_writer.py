"""A file appears complete or not at all, and a killed writer goes on."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from hubquant.errors import DiskFullError, OutputError
from hubquant.gguf_file import GGUFWriter, Layout, TensorEntry, plan_layout
from hubquant.gguf_file.metadata import string

ENTRIES = [TensorEntry(f"blk.{i}.weight", (8, 32 * (i + 1)), "Q8_0") for i in range(6)]


def plan(name: str = "a") -> Layout:
    return plan_layout({"general.name": string(name)}, ENTRIES)


def data(entry: TensorEntry) -> np.ndarray:
    rng = np.random.default_rng(entry.n_elements)
    return rng.integers(0, 256, (entry.rows, entry.row_bytes), dtype=np.uint8)


def write_all(path: Path, layout: Layout) -> bytes:
    with GGUFWriter(path, layout) as writer:
        for entry in ENTRIES:
            if entry.name not in writer.completed:
                writer.write(entry.name, data(entry))
        return writer.finish().read_bytes()


def write_until_killed(path: Path, n: int) -> None:
    """Write ``n`` more tensors and die with half of another one on the disk."""
    writer = GGUFWriter(path, plan())
    left = [entry for entry in ENTRIES if entry.name not in writer.completed]
    for entry in left[:n]:
        writer.write(entry.name, data(entry))
    with open(path.with_name(path.name + ".partial"), "r+b") as file:
        file.seek(writer.layout.offsets[left[n].name])
        file.write(data(left[n]).tobytes()[:100])
    os.kill(os.getpid(), signal.SIGKILL)


def test_any_order_gives_the_same_bytes(tmp_path: Path) -> None:
    expected = write_all(tmp_path / "a.gguf", plan())
    shuffled = random.Random(0).sample(ENTRIES, len(ENTRIES))
    with GGUFWriter(tmp_path / "b.gguf", plan()) as writer:
        for entry in shuffled:
            assert not (tmp_path / "b.gguf").exists()
            writer.write(entry.name, torch.from_numpy(data(entry)))
        writer.finish()
    assert (tmp_path / "b.gguf").read_bytes() == expected
    assert len(expected) == plan().size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf", "b.gguf"]


def test_killed_writer_goes_on(tmp_path: Path) -> None:
    expected = write_all(tmp_path / "whole.gguf", plan())
    path = tmp_path / "killed.gguf"
    for n in (2, 1, 0):
        child = multiprocessing.get_context("fork").Process(target=write_until_killed, args=(path, n))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        assert not path.exists()
    with GGUFWriter(path, plan()) as writer:
        assert writer.completed == {entry.name for entry in ENTRIES[:3]}
    assert write_all(path, plan()) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.gguf", "whole.gguf"]


def test_other_header_starts_over(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    with GGUFWriter(path, plan("one")) as writer:
        writer.write(ENTRIES[0].name, data(ENTRIES[0]))
    with GGUFWriter(path, plan("two")) as writer:
        assert writer.completed == frozenset()
    assert write_all(path, plan("two")) == write_all(tmp_path / "b.gguf", plan("two"))


def test_damaged_tensor_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    with GGUFWriter(path, plan()) as writer:
        for entry in ENTRIES[:3]:
            writer.write(entry.name, data(entry))
    with open(tmp_path / "a.gguf.partial", "r+b") as file:
        file.seek(plan().offsets[ENTRIES[1].name] + 5)
        file.write(b"lost")
    with open(tmp_path / "a.gguf.partial.journal", "a") as journal:
        journal.write("0000")  # a line cut short
    with GGUFWriter(path, plan()) as writer:
        assert writer.completed == {ENTRIES[0].name, ENTRIES[2].name}
    assert write_all(path, plan()) == write_all(tmp_path / "b.gguf", plan())


def test_an_old_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    old = write_all(path, plan("old"))
    with GGUFWriter(path, plan("new")) as writer:
        writer.write(ENTRIES[0].name, data(ENTRIES[0]))
        with pytest.raises(ValueError, match="5 tensors"):
            writer.finish()
    assert path.read_bytes() == old


def test_wrong_number_of_bytes(tmp_path: Path) -> None:
    with GGUFWriter(tmp_path / "a.gguf", plan()) as writer, pytest.raises(ValueError, match="takes 272 bytes"):
        writer.write(ENTRIES[0].name, np.zeros(3, np.uint8))


def test_discard_leaves_nothing(tmp_path: Path) -> None:
    with GGUFWriter(tmp_path / "a.gguf", plan()) as writer:
        writer.write(ENTRIES[0].name, data(ENTRIES[0]))
        writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_known_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DiskFullError, match=r"a\.gguf"):
        GGUFWriter(tmp_path / "a.gguf", plan())
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="cannot write"):
        GGUFWriter(tmp_path / "file" / "a.gguf", plan())


def test_target_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        write_all(tmp_path / "a.gguf", plan())
