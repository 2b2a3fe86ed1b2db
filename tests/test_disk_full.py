"""A disk that is really full, at any byte of any writer: one kind of error, and the same call goes on after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from hubquant.disk import place, write_at_once
from hubquant.engine.store import Store
from hubquant.errors import DiskFullError
from hubquant.evaluate import write_baseline
from hubquant.evaluate.forms import Form
from hubquant.evaluate.snapshot import FinishedChunks
from hubquant.gguf_file import GGUFWriter, TensorEntry, plan_layout
from hubquant.gguf_file.copying import write_files
from hubquant.gguf_file.splitting import Limit, split
from hubquant.gguf_file.stored import read_model
from hubquant.imatrix import ImportanceMatrix, save
from hubquant.imatrix.matrix import Entry
from hubquant.models.snapshot import Snapshot, write_snapshot
from hubquant.pipeline.output_folder import OutputFolder
from tests.support.disks import mounted
from tests.support.evaluation import random_chunks
from tests.support.gguf_bytes import write_sample
from tests.support.tasks import Text

PAGE = 4096
PAGES = 40


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", f"size={PAGES * PAGE}") as place:
        yield place


def gguf(folder: Path) -> None:
    names = [f"blk.{i}.weight" for i in range(120)]  # with a journal of more than a page
    layout = plan_layout({}, [TensorEntry(name, (4, 32), "F32") for name in names])
    with GGUFWriter(folder / "x.gguf", layout) as writer:
        for name in names:
            if name not in writer.completed:
                writer.write(name, np.zeros((4, 32), np.float32))
        writer.finish()


def matrix(folder: Path) -> None:
    entries = {f"blk.{i}.weight": Entry(torch.ones(1, 999), torch.tensor([4])) for i in range(5)}
    save(ImportanceMatrix(entries, ("x",), 512, 2, {}), folder / "imatrix.gguf")


def baseline(folder: Path, form: Form = "full") -> None:
    def model(ids: torch.Tensor, first: int = 0, /) -> torch.Tensor:
        return torch.zeros(len(ids) - first, 97)

    write_baseline(model, random_chunks(2, 32, 97), folder / "b.h5", name="m", revision="r", form=form).close()


def compact_baseline(folder: Path) -> None:
    baseline(folder, "compact")


def baseline_of_llama_cpp(folder: Path) -> None:
    baseline(folder, "llama.cpp")


def records(folder: Path) -> None:
    store = FinishedChunks(folder / "snapshot", b"k" * 32, 500)
    try:
        for _ in range(len(store), 5):
            store.append(np.zeros(500))
    finally:
        store.close()


def sums(folder: Path) -> None:
    write_snapshot(folder / "snapshot", Snapshot({"x": torch.zeros(3000)}, 1), "f")


def small_file(folder: Path) -> None:
    write_at_once(folder / "README.md", bytes(3 * PAGE))


def shards(folder: Path) -> None:
    source = write_sample(folder.parent.parent / "sample.gguf")  # on another disk
    files = split(read_model(source), Limit(max_tensors=2))
    write_files({folder / f"{n}.gguf": file for n, file in enumerate(files)})


def artifact(folder: Path) -> None:
    store, task = Store(folder / "store"), Text("x" * PAGE)
    with store.using([task]), store.locked([task], print):
        write_at_once(store.open_building(task) / "data", bytes(PAGE))
        place(store.complete(task) / "data", folder / "placed", folder / "arriving")


def page(folder: Path) -> None:
    output = OutputFolder(folder / "out")
    with output.locked():
        output.write("card", bytes(PAGE))


@pytest.mark.parametrize(
    "write",
    [
        gguf,
        matrix,
        baseline,
        compact_baseline,
        baseline_of_llama_cpp,
        records,
        sums,
        small_file,
        shards,
        artifact,
        page,
    ],
)
def test_a_full_disk_is_one_kind_of_error_and_not_the_end(write: Callable[[Path], None], disk: Path) -> None:
    ballast, n_full = disk / "ballast", 0
    for free in range(PAGES):
        folder = disk / str(free)
        try:
            folder.mkdir()
            ballast.write_bytes(bytes((PAGES - free) * PAGE))
        except OSError:
            pass  # this page is the folder's own
        try:
            write(folder)
            break
        except DiskFullError:
            n_full += 1
        ballast.unlink()
        write(folder)
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    assert n_full > 2
