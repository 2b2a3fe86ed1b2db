"""Folders as older tools, copies and repeated saves leave them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import hubquant
from hubquant.gguf_file import GGUFFile
from hubquant.models.tiny import build
from tests.support.cli import hubquant as command

INDEX = "model.safetensors.index.json"
QUICK = ["quantize.types=[Q8_0]", "calibration.chunks=2", "calibration.chunk_size=64", "evaluate.chunks=2"]
QUICK += ["evaluate.chunk_size=64"]


@pytest.fixture
def model(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


def shard(folder: Path, **listed: str) -> None:
    """Put the same weights into two shards; the index lists ``listed`` too."""
    weights = load_file(folder / "model.safetensors")
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    file_of = {name: shards[number % 2] for number, name in enumerate(sorted(weights))}
    for file in shards:
        save_file({name: weights[name] for name in weights if file_of[name] == file}, folder / file, {"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 3}, "weight_map": file_of | listed}))


def converted(folder: Path, out: Path) -> GGUFFile:
    made = command("convert", str(folder), "-o", str(out), "-t", "F32", "-q")
    assert made.code == 0, made.err
    return GGUFFile.open(out)


def floats(file: GGUFFile, name: str) -> torch.Tensor:
    return file.data(name).contiguous().view(torch.float32).reshape(file.tensors[name].shape)


def test_a_new_save_beside_old_shards_is_the_model_for_every_step(model: Path, tmp_path: Path) -> None:
    shard(model)
    new = {name: x * 0.5 for name, x in load_file(model / "model.safetensors").items()}
    save_file(new, model / "model.safetensors", {"format": "pt"})
    report = hubquant.run(str(model), overrides=QUICK, out=tmp_path / "out")
    divergence = report.files[0].measured.divergence
    assert divergence is not None
    assert divergence.kld.mean < 0.01
    file = converted(model, tmp_path / "model.gguf")
    assert torch.equal(floats(file, "token_embd.weight"), new["model.embed_tokens.weight"])


def test_shards_whose_index_lists_what_no_file_holds(tmp_path: Path) -> None:
    folder = build("llama", tmp_path / "model", tie_word_embeddings=True)
    whole = converted(folder, tmp_path / "whole.gguf")
    shard(folder, **{"lm_head.weight": "model-00002-of-00002.safetensors"})
    (folder / "model.safetensors").unlink()
    file = converted(folder, tmp_path / "sharded.gguf")
    assert file.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(file.data(name), whole.data(name)) for name in file.tensors)


def test_a_snapshot_in_the_hubs_cache_has_its_repositorys_name(tiny_llama: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--acme--Tiny-1B"
    (repository / "blobs").mkdir(parents=True)
    snapshot = repository / "snapshots" / ("0af1" * 10)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(tiny_llama.iterdir())):
        shutil.copy(path, repository / "blobs" / str(number))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(number))
    made = command("quantize", f"{snapshot}/", "--type", "Q8_0", "--out", str(tmp_path / "out"))
    assert made.code == 0, made.err
    assert [path.name for path in (tmp_path / "out").glob("*.gguf")] == ["Tiny-1B-Q8_0.gguf"]
    refused = command("plan", str(repository), "--types", "Q8_0")
    assert f"name {snapshot}" in refused.err


def test_nothing_is_left_of_a_model_that_cannot_be_written(model: Path, tmp_path: Path, store: Path) -> None:
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][3] = torch.nan
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    made = command("convert", str(model), "-o", str(tmp_path / "out" / "x.gguf"), "-t", "F32", "-q")
    assert "model.norm.weight holds 1 values that are NaN" in made.err
    assert not (tmp_path / "out").exists()
    assert not [*store.glob("building/*/*"), *store.glob("file/*")]
