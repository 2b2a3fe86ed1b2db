"""Models whose weights are pickled only: read where it is allowed, and never run."""

from __future__ import annotations

import json
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hubquant.convert.conversion import stream
from hubquant.errors import CheckpointError
from hubquant.models.tiny import build
from hubquant.recipe.schema import ModelReference
from hubquant.sources.open import open_source
from hubquant.sources.source import SourceModel
from tests.sources.test_open import pulled
from tests.support.cli import hubquant
from tests.support.conversion import assert_same
from tests.support.localhub import LocalHub

SMALL: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "head_dim": 16}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("llama", tmp_path_factory.mktemp("llama"), dtype=torch.bfloat16, **SMALL)


@pytest.fixture
def folder(llama: Path, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(llama, tmp_path / "model"))
    (copy / "model.safetensors").unlink()
    return copy


def one(weights: dict[str, torch.Tensor], folder: Path) -> None:
    torch.save(OrderedDict(weights), folder / "pytorch_model.bin")


def older(weights: dict[str, torch.Tensor], folder: Path) -> None:
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def shared(weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Views of one storage, and one that is transposed in it."""
    names = [name for name in weights if name.endswith(("q_proj.weight", "o_proj.weight"))]
    whole = torch.stack([weights[name] for name in names])
    views = dict(zip(names, whole, strict=True))
    up = "model.layers.0.mlp.up_proj.weight"
    parameters = {name: torch.nn.Parameter(x) for name, x in (weights | views).items()}
    torch.save(parameters | {up: weights[up].T.contiguous().T}, folder / "pytorch_model.bin")


def sharded(weights: dict[str, torch.Tensor], folder: Path) -> None:
    files = {name: f"pytorch_model-0000{1 + ('layers.1' in name)}-of-00002.bin" for name in weights}
    for file in set(files.values()):
        torch.save({name: x for name, x in weights.items() if files[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


SAVED = {save.__name__: save for save in (one, older, shared, sharded)}


def assert_converts(source: SourceModel, llama: Path) -> None:
    expected = open_source(ModelReference(folder=str(llama)))
    assert_same(
        dict(stream(source.conversion(), source.checkpoint)), dict(stream(expected.conversion(), expected.checkpoint))
    )


@pytest.mark.parametrize("save", SAVED)
def test_they_are_the_same_model(save: str, folder: Path, llama: Path) -> None:
    SAVED[save](load_file(llama / "model.safetensors"), folder)
    source = open_source(ModelReference(folder=str(folder), allow_pickle=True))
    assert_converts(source, llama)
    assert "nothing but tensors was read" in source.conversion().notes[0]
    ids = torch.arange(3, 40)[None]
    expected = open_source(ModelReference(folder=str(llama))).load(device="cpu")(ids).logits
    assert torch.equal(source.load(device="cpu")(ids).logits, expected)


def test_the_switch_and_what_it_says(folder: Path, llama: Path, tmp_path: Path) -> None:
    one(load_file(llama / "model.safetensors"), folder)
    options = ("convert", str(folder), "-o", str(tmp_path))
    refused = hubquant(*options)
    assert refused.code == 2
    assert "pytorch_model.bin could run code" in refused.err
    assert "spaces/safetensors/convert" in refused.err
    assert "add --allow-pickle" in refused.err
    assert "hubquant convert --allow-pickle" in hubquant("evaluate", "ppl", str(folder)).err
    assert hubquant(*options, "--allow-pickle").code == 0


def test_safetensors_come_first(folder: Path, llama: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"nothing")
    shutil.copy(llama / "model.safetensors", folder)
    assert_converts(open_source(ModelReference(folder=str(folder), allow_pickle=True)), llama)


@pytest.mark.parametrize("save", ["one", "sharded", "shared"])
def test_a_repository_tells_what_it_holds_before_it_is_downloaded(
    save: str, folder: Path, llama: Path, hub: LocalHub, tmp_path: Path
) -> None:
    SAVED[save](load_file(llama / "model.safetensors"), folder)
    hub.add("org/old", folder)
    source = open_source(ModelReference(id="org/old", allow_pickle=True))
    assert source.conversion().shapes == open_source(ModelReference(folder=str(llama))).conversion().shapes
    assert source.download_bytes == sum(path.stat().st_size for path in folder.glob("*.bin"))
    assert_converts(pulled(source, tmp_path), llama)
    with pytest.raises(CheckpointError, match="pickled weights only"):
        open_source(ModelReference(id="org/old"))


class Code:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch ran",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_never_run(
    zipped: bool, folder: Path, llama: Path, hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = load_file(llama / "model.safetensors") | {"more": Code()}
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="cannot be read without running code"):
        open_source(ModelReference(folder=str(folder), allow_pickle=True))
    hub.add("org/bad", folder)
    with pytest.raises(CheckpointError, match="without running code" if zipped else "old versions of torch"):
        open_source(ModelReference(id="org/bad", allow_pickle=True))
    assert not (tmp_path / "ran").exists()


def test_a_link_out_of_the_folder(folder: Path, llama: Path, tmp_path: Path) -> None:
    one(load_file(llama / "model.safetensors"), tmp_path)
    (folder / "pytorch_model.bin").symlink_to(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="leads out of the model's folder"):
        open_source(ModelReference(folder=str(folder), allow_pickle=True))
