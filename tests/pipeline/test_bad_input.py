"""Every mistake of a user: one message, exit code 2, before any work, nothing written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hubquant.gguf_file import GGUFFile
from hubquant.models.tiny import build
from tests.support.cli import Outcome, hubquant
from tests.support.localhub import LocalHub
from tests.support.packing import gptq

Spoil = Callable[[Path], None]


@pytest.fixture
def model(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


def run(model: Path | str, tmp_path: Path, *more: str) -> Outcome:
    outcome = hubquant("run", str(model), "--types", "Q8_0,Q4_K_M", "--out", str(tmp_path / "out"), *more)
    assert not any(path.suffix == ".gguf" for path in tmp_path.rglob("*"))
    return outcome


def edit_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_weights(folder: Path, **tensors: torch.Tensor | None) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path) | tensors
    save_file({name: x for name, x in weights.items() if x is not None}, path, {"format": "pt"})


def header(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(content)) + content)


def test_an_encoder_is_converted(tmp_path: Path) -> None:
    sizes = dict.fromkeys(("head_dim", "num_key_value_heads", "tie_word_embeddings"), ...)
    folder = build("bert", tmp_path / "bert", pad_token_id=0, **sizes)
    made = hubquant("quantize", str(folder), "--type", "Q8_0", "--out", str(tmp_path / "files"))
    assert made.code == 0, made.err
    assert GGUFFile.open(next((tmp_path / "files").glob("*.gguf"))).metadata["bert.attention.causal"].value is False


def _pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04K\x01.")


def _missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}})
    )


def _quantized(folder: Path) -> None:
    edit_config(folder, quantization_config={"quant_method": "gptq"})
    name = "model.layers.0.mlp.up_proj"
    weight = load_file(folder / "model.safetensors")[f"{name}.weight"]
    parts = {f"{name}.{part}": x for part, x in gptq(weight, 4, 32)[0].items()}
    edit_weights(folder, **{f"{name}.weight": None, **parts})


def _unknown_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": r"\d+|\D+"}
    path.write_text(json.dumps(content))


NORM = "model.norm.weight"
CHECKPOINTS: dict[str, tuple[Spoil, str]] = {
    "unsupported architecture": (
        lambda f: edit_config(f, architectures=["BartForCausalLM"], model_type="bart"),
        "bart",
    ),
    "config is not JSON": (lambda f: (f / "config.json").write_text("{") and None, "config.json"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "header beyond the file": (
        lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 40)) and None,
        "safetensors",
    ),
    "header is not JSON": (lambda f: header(f, b"not json"), "safetensors"),
    "offsets beyond the file": (
        lambda f: header(f, json.dumps({NORM: {"dtype": "F32", "shape": [256], "data_offsets": [0, 1024]}}).encode()),
        "safetensors",
    ),
    "missing tensor": (lambda f: edit_weights(f, **{NORM: None}), NORM),
    "wrong shape": (lambda f: edit_weights(f, **{NORM: torch.ones(8)}), NORM),
    "missing shard": (_missing_shard, "model-00001-of-00002.safetensors"),
    "pickle only": (_pickle_only, "pytorch_model.bin"),
    "quantized already": (_quantized, "gptq"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer"),
    "unknown tokenizer": (_unknown_tokenizer, "pre-tokenizer"),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_models_that_cannot_be_used(name: str, model: Path, tmp_path: Path) -> None:
    spoil, named = CHECKPOINTS[name]
    spoil(model)
    outcome = run(model, tmp_path)
    assert outcome.code == 2, outcome.err
    assert outcome.is_one_message(), outcome.err
    assert named.lower() in outcome.err.lower()
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_numbers_stop_the_run(model: Path, tmp_path: Path) -> None:
    edit_weights(model, **{NORM: torch.full((256,), torch.nan)})
    outcome = run(model, tmp_path, "--set", "imatrix.skip=true", "--set", "evaluate.skip=true")
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
    assert NORM in outcome.err


@pytest.mark.parametrize("way", ["none", "stream"])
def test_infinite_weights_are_named_before_anything_is_measured(way: str, model: Path, tmp_path: Path) -> None:
    spoiled = load_file(model / "model.safetensors")["model.layers.1.mlp.down_proj.weight"].half()
    spoiled[3, 5] = torch.inf
    edit_weights(model, **{"model.layers.1.mlp.down_proj.weight": spoiled})
    small = ("calibration.chunks=2", "calibration.chunk_size=64", "evaluate.skip=true", f"imatrix.offload={way}")
    outcome = run(model, tmp_path, *(part for setting in small for part in ("--set", setting)))
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
    assert "model.layers.1.mlp.down_proj.weight holds 1 values that are NaN or infinite" in outcome.err
    assert not list((tmp_path / "out").rglob("imatrix.gguf"))


def test_a_head_of_its_own_beside_tied_embeddings_is_found_in_the_plan(model: Path) -> None:
    edit_config(model, tie_word_embeddings=True)
    outcome = hubquant("plan", str(model), "--types", "Q8_0")
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
    assert "lm_head.weight and model.embed_tokens.weight differ" in outcome.err
    assert '"tie_word_embeddings": false' in outcome.err
    edit_weights(model, **{"lm_head.weight": load_file(model / "model.safetensors")["model.embed_tokens.weight"]})
    assert hubquant("plan", str(model), "--types", "Q8_0").code == 0


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["--types", "Q9_X"], "Q9_X"),
        (["--types", "1bpw"], "as small as 1bpw"),
        (["--types", "Q2_K_S", "--set", "imatrix.skip=true"], "importance matrix"),
        (["--set", "quantize.rules=[{match: '(', type: Q6_K}]"], "regular expression"),
        (["--set", "quantize.rules=[{match: x, type: Q4_K_M}]"], "Q4_K_M"),
        (["--set", "publish.shard_size=large"], "shard_size"),
        (["--set", "calibration.sources=[{file: none.txt}]"], "none.txt"),
        (["--set", "imatrix.file=none.gguf"], "none.gguf"),
        (["--set", "gates.kld_mean={Q4_0: 0.1}"], "Q4_0"),
        (["--set", "quantize.typs=[Q8_0]"], "types"),
        (["--set", "calibration.chunk_size=big"], "chunk_size"),
        (["--set", "model.x=!!python/name:os.system"], "YAML tag"),
        (["--pre-tokenizer", "lama-bpe"], "nearest is 'llama-bpe'"),
        (["--pre-tokenizer", "gpt-2"], "other tokens in llama.cpp"),
    ],
)
def test_settings_that_cannot_be_meant(settings: list[str], named: str, tiny_llama: Path, tmp_path: Path) -> None:
    outcome = hubquant("run", str(tiny_llama), "--out", str(tmp_path / "out"), *settings)
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
    assert named in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [(b"too short", "too short"), (b"", "empty"), ("café ".encode("latin-1") * 5000, "UTF-8")],
)
def test_calibration_text_that_cannot_be_used(content: bytes, named: str, tiny_llama: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(content)
    outcome = run(tiny_llama, tmp_path, "--set", f"calibration.sources=[{{file: {text}}}]")
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
    assert named in outcome.err


def test_the_imatrix_of_another_model(tiny_llama: Path, tmp_path: Path) -> None:
    other = build("llama", tmp_path / "other", hidden_size=128, num_attention_heads=2, num_key_value_heads=1)
    matrix = tmp_path / "imatrix.gguf"
    made = hubquant("imatrix", "collect", str(other), "-o", str(matrix), "--chunks", "2", "--chunk-size", "32")
    assert made.code == 0, made.err
    outcome = hubquant(
        "run", str(tiny_llama), "--types", "Q4_K_M", "--out", str(tmp_path / "out"), "--set", f"imatrix.file={matrix}"
    )
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
    assert "another model" in outcome.err
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_is_a_file(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    outcome = run(tiny_llama, tmp_path)
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
    assert (tmp_path / "out").read_text() == "mine"


def test_an_unknown_model(hub: LocalHub, tmp_path: Path) -> None:
    outcome = run("alice/nothing", tmp_path)
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
    assert "alice/nothing" in outcome.err
    assert hub.requests("GET /api/models/alice/nothing")


def test_a_gated_model_without_a_token(
    hub: LocalHub, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    hub.add("org/gated", tiny_llama, gated="manual")
    outcome = run("org/gated", tmp_path)
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
    assert "hf auth login" in outcome.err


def test_a_push_without_permission_is_refused_before_any_work(hub: LocalHub, tiny_llama: Path, tmp_path: Path) -> None:
    hub.add("org/tiny", tiny_llama)
    outcome = run("org/tiny", tmp_path, "--push", "bob/tiny-GGUF")
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
    assert not hub.requests("safetensors")


def test_a_pickle_only_repository(hub: LocalHub, tiny_llama: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in tiny_llama.iterdir() if path.suffix != ".safetensors"}
    hub.add("org/pickled", {**files, "pytorch_model.bin": b"\x80\x04K\x01."})
    outcome = run("org/pickled", tmp_path)
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
    assert "pytorch_model.bin" in outcome.err
    assert not hub.requests("GET .*pytorch_model.bin")


def test_a_disk_that_is_too_small_is_known_before_any_work(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 20, 1 << 20, 1000))
    outcome = run(tiny_llama, tmp_path)
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
    assert "disk" in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_stops_the_run_and_a_later_one_goes_on(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_settings: list[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    line = ["run", str(tiny_llama), "--out", str(tmp_path / "out"), *small_settings]
    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        outcome = hubquant(*line)
    assert outcome.code == 1
    assert outcome.is_one_message(), outcome.err
    assert "disk is full" in outcome.err
    assert not list((tmp_path / "out").glob("*.gguf*"))
    again = hubquant(*line)
    assert again.code == 0, again.err
