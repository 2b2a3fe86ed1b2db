from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.errors import CheckpointError, TokenizerError
from hubquant.models.load import bytes_of_weight, load_tokenizer
from hubquant.models.tiny import TOKENIZERS, build
from hubquant.models.widened import Widened
from hubquant.sources.checkpoint import load_folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("llama", tmp_path_factory.mktemp("llama"), num_hidden_layers=1, dtype=torch.bfloat16)


@pytest.fixture
def copy(llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama, tmp_path / "copy"))


def test_weights_are_float32_and_fixed(llama: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = load_folder(llama, "cpu")
    assert not model.training
    stored = load_file(llama / "model.safetensors")
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        assert not parameter.requires_grad
        assert torch.equal(parameter, stored[name].float())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_what_a_weight_takes(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = build("mixtral", tmp_path, num_hidden_layers=1, dtype=dtype)
    weights = load_folder(folder, "cpu").state_dict().values()
    taken = sum((x.stored if isinstance(x, Widened) else x).nbytes for x in weights)
    expected = taken / sum(x.numel() for x in weights)
    assert bytes_of_weight(Checkpoint.from_folder(folder)) == pytest.approx(expected)


def test_tokenizer(llama: Path) -> None:
    tokenizer = load_tokenizer(llama)
    assert tokenizer.decode(tokenizer("Hello world!")["input_ids"], skip_special_tokens=True) == "Hello world!"


def test_missing_weight_is_not_invented(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 .* model\.layers\.0\.mlp\.up_proj\.weight"):
        load_folder(copy, "cpu")
    assert capfd.readouterr() == ("", "")


def test_cut_file(copy: Path) -> None:
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"not a sound safetensors file"):
        load_folder(copy, "cpu")


def test_wrong_shape(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(7)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_folder(copy, "cpu")


def test_pickles_are_refused(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled weights"):
        load_folder(copy, "cpu")


def test_no_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        load_folder(copy, "cpu")


@pytest.mark.parametrize("text", [None, "{nope", "{}"])
def test_tokenizer_errors(copy: Path, text: str | None) -> None:
    (copy / "tokenizer.json").unlink()
    if text is not None:
        (copy / "tokenizer.json").write_text(text)
    with pytest.raises(TokenizerError, match="cannot be loaded"):
        load_tokenizer(copy)


def test_a_tokenizer_is_taken_as_it_stands(tmp_path: Path) -> None:
    """transformers' own class for Qwen2 would split numbers otherwise than Llama's tokenizer does."""
    build("qwen2", tmp_path, num_hidden_layers=1)
    original = TOKENIZERS["llama"]()
    original.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path)("12345")["input_ids"] == original("12345")["input_ids"]
    assert AutoTokenizer.from_pretrained(tmp_path)("12345")["input_ids"] != original("12345")["input_ids"]
