"""Where files go: ``--out`` names a file or a folder, and never the model that is read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hubquant.cli.hints import fitted
from hubquant.gguf_file import GGUFFile
from hubquant.pipeline.plan import LESS_MEMORY
from tests.support.cli import hubquant


@pytest.fixture(scope="module")
def q8(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("q8") / "named.gguf"
    assert hubquant("quantize", str(tiny_llama), "-t", "q8_0", "-o", str(out)).code == 0
    return out


def test_one_type_and_a_file(q8: Path) -> None:
    assert GGUFFile.open(q8).metadata["general.file_type"].value == 7
    assert [path.name for path in q8.parent.iterdir()] == ["named.gguf"]


def test_hints_name_the_flags_of_the_command(q8: Path, tmp_path: Path) -> None:
    again = hubquant("quantize", str(q8), "-t", "Q4_0", "-o", str(tmp_path))
    assert "add --allow-requantize" in again.err
    assert "--set" not in again.err
    floats = hubquant("convert", str(q8), "-t", "F16", "-o", str(tmp_path))
    assert "use hubquant quantize with --allow-requantize" in floats.err
    matrix = hubquant("quantize", str(q8), "-t", "IQ2_XXS", "--allow-requantize", "-o", str(tmp_path))
    assert "add --imatrix FILE" in matrix.err
    assert "skip" not in matrix.err
    fork = hubquant("quantize", str(q8), "-t", "Q3_K_HIFI", "-o", str(tmp_path))
    assert "add --allow-fork-types" in fork.err
    offload = hubquant("imatrix", "collect", str(q8), "--offload", "disk", "-o", str(tmp_path / "x.gguf"))
    assert "leave --offload out" in offload.err
    assert {again.code, floats.code, matrix.code, fork.code, offload.code} == {2}
    assert fitted(LESS_MEMORY, "plan").startswith("leave --offload and evaluate.way at auto:")


def test_several_types_and_a_file(tiny_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "named.GGUF"
    outcome = hubquant("quantize", str(tiny_llama), "-t", "Q8_0,Q4_0", "-o", str(out))
    assert outcome.code == 2
    assert outcome.is_one_message()
    assert "is one file, and 2 types are asked for" in outcome.err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_named_like_a_file(tiny_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "folder.gguf"
    out.mkdir()
    assert hubquant("quantize", str(tiny_llama), "-t", "Q8_0,F16", "-o", str(out)).code == 0
    assert sorted(path.name for path in out.iterdir()) == ["tiny-llama-F16.gguf", "tiny-llama-Q8_0.gguf"]


def test_convert_into_a_folder(tiny_llama: Path, tmp_path: Path) -> None:
    assert hubquant("convert", str(tiny_llama), "-t", "f16", "-o", str(tmp_path)).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-llama-F16.gguf"]


def test_convert_to_what_is_neither(tiny_llama: Path, tmp_path: Path) -> None:
    outcome = hubquant("convert", str(tiny_llama), "-o", str(tmp_path / "model"))
    assert outcome.code == 2
    assert outcome.is_one_message()
    assert f"-o {tmp_path}/model.gguf" in outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "line", ["quantize {} -t Q4_0 --allow-requantize -o {}", "imatrix collect {} -o {}", "evaluate baseline {} -o {}"]
)
def test_the_model_is_never_written_over(line: str, q8: Path, tmp_path: Path) -> None:
    model = Path(shutil.copy(q8, tmp_path / "model.gguf"))
    (tmp_path / "link.gguf").symlink_to(model)
    before = model.read_bytes()
    for other in ("model.gguf", "x/../model.gguf", "link.gguf"):
        (tmp_path / "x").mkdir(exist_ok=True)
        outcome = hubquant(*line.format(model, tmp_path / other).split())
        assert outcome.code == 2
        assert outcome.is_one_message(), outcome.err
        assert "would be written over" in outcome.err
        assert model.read_bytes() == before
