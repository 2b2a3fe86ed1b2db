"""What a single command may replace with -o, and what it leaves beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubquant.gguf_file import GGUFFile
from hubquant.imatrix import load_imatrix
from tests.support.cli import hubquant

FEW = ["--chunks", "1", "--chunk-size", "16"]


@pytest.fixture(scope="module")
def made(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a matrix and a baseline, each by its kind."""
    folder = tmp_path_factory.mktemp("made")
    for line in (
        ["convert", str(tiny_llama), "-o", str(folder / "model.gguf"), "--type", "F16"],
        ["imatrix", "collect", str(tiny_llama), "-o", str(folder / "imatrix.gguf"), *FEW],
        ["evaluate", "baseline", str(tiny_llama), "-o", str(folder / "baseline.h5"), *FEW],
    ):
        outcome = hubquant(*line)
        assert outcome.code == 0, outcome.err
    (folder / "notes.txt").write_text("mine")
    (folder / "folder").mkdir()
    return folder


@pytest.mark.parametrize("kind", ["model", "imatrix", "merged", "baseline", "picture"])
def test_only_a_file_of_the_same_kind_is_replaced(kind: str, made: Path, tiny_llama: Path, tmp_path: Path) -> None:
    lines = {
        "model": ["convert", str(tiny_llama)],
        "imatrix": ["imatrix", "collect", str(tiny_llama), *FEW],
        "merged": ["imatrix", "merge", str(made / "imatrix.gguf"), str(made / "imatrix.gguf")],
        "baseline": ["evaluate", "baseline", str(tiny_llama), *FEW],
        "picture": ["imatrix", "show", str(made / "imatrix.gguf")],
    }
    own = {"model": "model.gguf", "imatrix": "imatrix.gguf", "merged": "imatrix.gguf", "baseline": "baseline.h5"}
    option = "--plot" if kind == "picture" else "-o"
    for name in ("model.gguf", "imatrix.gguf", "baseline.h5", "notes.txt"):
        if name == own.get(kind):
            continue
        target = tmp_path / (f"{name}.gguf" if kind == "model" else name)
        target.write_bytes((made / name).read_bytes())
        outcome = hubquant(*lines[kind], option, str(target))
        assert outcome.code == 2, outcome.err
        assert outcome.is_one_message(), outcome.err
        assert target.read_bytes() == (made / name).read_bytes()


def test_a_file_of_the_same_kind_is_replaced_and_none_beside_it(tiny_llama: Path, made: Path, tmp_path: Path) -> None:
    beside = (
        ".model.gguf.swp",
        ".model.gguf.0123456789ab.bak",
        ".model.gguf.notes",
        ".model.gguf.0123456789ab.partial",
        "imatrix.gguf.partial",
    )
    for name in beside:
        (tmp_path / name).write_text("mine")
    for name in ("model.gguf", "imatrix.gguf"):
        (tmp_path / name).write_bytes((made / name).read_bytes())
    assert hubquant("convert", str(tiny_llama), "-o", str(tmp_path / "model.gguf"), "--type", "F32").code == 0
    assert {tensor.type for tensor in GGUFFile.open(tmp_path / "model.gguf").tensors.values()} == {"F32"}
    twice = [str(made / "imatrix.gguf")] * 2
    assert hubquant("imatrix", "merge", *twice, "-o", str(tmp_path / "imatrix.gguf")).code == 0
    assert load_imatrix(tmp_path / "imatrix.gguf").chunk_count == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*beside, "model.gguf", "imatrix.gguf"])
    assert all((tmp_path / name).read_text() == "mine" for name in beside)


@pytest.mark.parametrize("target", ["folder", "/dev/null"])
def test_no_file_takes_the_place_of_a_folder_or_a_device(target: str, made: Path) -> None:
    outcome = hubquant("imatrix", "convert", str(made / "imatrix.gguf"), "-o", str(made / target))
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
    assert Path("/dev/null").is_char_device()
