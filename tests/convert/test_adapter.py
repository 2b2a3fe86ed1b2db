"""LoRA adapters: llama.cpp computes with them what transformers does with the merged model; others are refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from hubquant.sources.checkpoint import load_folder
from tests.convert.test_llama_cpp import LATENT
from tests.support.adapters import CONFIG, WEIGHTS, factors, merged, save
from tests.support.cli import hubquant
from tests.support.conversion import build_uneven, configure, write_gguf
from tests.support.llamacpp import LlamaCpp
from tests.support.localhub import LocalHub

IDS = torch.randint(3, 380, (48,), generator=torch.Generator().manual_seed(0)).tolist()
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}

# family, its config, ends of the names of the modules, settings of the adapter
MODELS: dict[str, tuple[str, dict[str, Any], tuple[str, ...], dict[str, Any]]] = {
    "llama": ("llama", {}, (*ATTENTION, "gate_proj", "up_proj", "down_proj", "lm_head", "embed_tokens"), {}),
    "qwen3 with rsLoRA and patterns": (
        "qwen3",
        {"tie_word_embeddings": True},
        (*ATTENTION, "down_proj"),
        {"use_rslora": True, "rank_pattern": {"o_proj": 6}, "alpha_pattern": {"layers.1.self_attn.q_proj": 3}},
    ),
    "mixtral": ("mixtral", EXPERTS, ("q_proj", "gate", "0.w1", "2.w1", "w2", "1.w3"), {}),
    "gpt2": ("gpt2", {"tie_word_embeddings": True}, ("c_attn", "c_proj", "c_fc"), {"fan_in_fan_out": True}),
}


def scale(settings: dict[str, Any], name: str) -> float:
    """As peft has it."""
    ends = settings.get("alpha_pattern", {})
    alpha = next((value for end, value in ends.items() if name.endswith(end)), 8)
    rank = next((value for end, value in settings.get("rank_pattern", {}).items() if name.endswith(end)), 4)
    return float(alpha / (rank**0.5 if settings.get("use_rslora") else rank))


def logits(folder: Path) -> NDArray[np.float32]:
    with torch.no_grad():
        found: NDArray[np.float32] = load_folder(folder, "cpu")(torch.tensor([IDS])).logits[0].numpy()
    return found


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_computes_the_merged_model(name: str, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    family, config, ends, settings = MODELS[name]
    conv1d = family == "gpt2"
    base = build_uneven(family, tmp_path / "base", **config)
    changes = factors(base, ends, conv1d=conv1d)
    for end, rank in settings.get("rank_pattern", {}).items():
        changes |= factors(base, [end], rank)
    adapter = save(tmp_path / "adapter", base, changes, **settings)
    expected = logits(merged(tmp_path / "merged", base, changes, lambda name: scale(settings, name), conv1d=conv1d))
    outcome = hubquant("convert", str(adapter), "-o", str(tmp_path / "adapter.gguf"))
    assert outcome.code == 0, outcome.err
    write_gguf(base, tmp_path / "base.gguf", "F32")
    with LlamaCpp(tmp_path / "base.gguf") as llama:
        before = llama.logits(IDS)
        llama.adapt(tmp_path / "adapter.gguf")
        found = llama.logits(IDS)
    largest = np.abs(expected).max()
    assert np.abs(before - expected).max() > 0.5 * largest
    # llama.cpp takes GELU from a table in F16
    assert np.abs(found - expected).max() < (3e-3 if conv1d else 1e-4) * largest


def test_the_file_is_that_of_llama_cpp(tiny_llama: Path, tmp_path: Path) -> None:
    """Of a Llama, whose rows of queries are in another order there: keys, names, and A and B as they were."""
    changes = factors(tiny_llama, ("q_proj", "embed_tokens"))
    adapter = save(tmp_path / "my-adapter", "org/unknown", changes)
    out = tmp_path / "my-adapter-F16.gguf"
    line = ("convert", str(adapter), "--base", str(tiny_llama), "-t", "F16", "-o", str(tmp_path), "--json")
    outcome = hubquant(*line)
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out) == {"path": str(out), "type": "F16", "size": out.stat().st_size, "shards": 1}
    reader = GGUFReader(out)
    keys = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert keys == {
        "general.architecture": "llama",
        "general.type": "adapter",
        "general.name": "My Adapter",
        "general.quantization_version": 2,
        "adapter.type": "lora",
        "adapter.lora.alpha": 8.0,
    }
    found = {tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors}
    a, b = (x.half() for x in changes["model.layers.1.self_attn.q_proj"])
    assert torch.equal(found["blk.1.attn_q.weight.lora_a"], a)
    pairs = b.reshape(4, 2, 32, 4).transpose(1, 2).reshape(b.shape)
    assert torch.equal(found["blk.1.attn_q.weight.lora_b"], pairs)
    a, b = (x.half() for x in changes["model.embed_tokens"])
    assert torch.equal(found["token_embd.weight.lora_a"], a.T)
    assert torch.equal(found["token_embd.weight.lora_b"], b)


def test_an_adapter_and_its_base_are_on_the_hub(tiny_llama: Path, hub: LocalHub, tmp_path: Path) -> None:
    """Of the base config.json is read, also where its weights are quantized."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_bytes((tiny_llama / "config.json").read_bytes())
    configure(base, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    (base / "model.safetensors").write_bytes(b"none of it")
    adapter = save(tmp_path / "adapter", "org/base", factors(tiny_llama, ATTENTION))
    (adapter / "README.md").write_text("---\nlicense: mit\nbase_model: org/base\n---\n")
    hub.add("org/base", base)
    hub.add("org/my-adapter", adapter)
    outcome = hubquant("convert", "org/my-adapter", "-o", str(tmp_path))
    assert outcome.code == 0, outcome.err
    reader = GGUFReader(tmp_path / "my-adapter-F32.gguf")
    assert len(reader.tensors) == 2 * 2 * len(ATTENTION)
    assert reader.fields["general.base_model.0.repo_url"].contents().endswith("org/base")
    assert not hub.requests(r"org/base/.*safetensors")


def _settings(**changes: Any) -> Callable[[Path], object]:
    return lambda adapter: (adapter / CONFIG).write_text(
        json.dumps(json.loads((adapter / CONFIG).read_text()) | changes)
    )


def _tensors(edit: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def change(adapter: Path) -> None:
        tensors = load_file(adapter / WEIGHTS)
        edit(tensors)
        save_file(tensors, adapter / WEIGHTS)

    return change


def _pickled(adapter: Path) -> None:
    (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")


Q = "base_model.model.model.layers.0.self_attn.q_proj"
REFUSED: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "another kind": (_settings(peft_type="LOHA"), "adapters of LOHA", "merge_and_unload"),
    "DoRA": (_settings(use_dora=True), "use_dora", "--merge BASE"),
    "biases": (_settings(bias="lora_only"), "bias lora_only", "--merge BASE"),
    "whole modules": (_settings(modules_to_save=["lm_head"]), "modules_to_save", "--merge BASE"),
    "parameters": (_settings(target_parameters=["mlp.experts.gate_up_proj"]), "target_parameters", "merge_and_unload"),
    "PiSSA": (_settings(init_lora_weights="pissa"), "init_lora_weights pissa", "path_initial_model"),
    "alpha 0": (_settings(lora_alpha=0), "lora_alpha in adapter_config.json is 0", "anew"),
    "a pattern": (_settings(alpha_pattern={"(a|a)*b": 3}), r"the pattern \(a\|a\)\*b", "merge_and_unload"),
    "a pickle": (_pickled, "pickled weights only", "writes safetensors"),
    "no weights": (lambda adapter: (adapter / WEIGHTS).unlink(), "has no adapter_model.safetensors", "fetch it"),
    "no base": (_settings(base_model_name_or_path=None), "names no base model", "--base BASE"),
    "a base that is gone": (_settings(base_model_name_or_path="/gone/base"), "'/gone/base', cannot be read", "--base"),
    "a lone A": (_tensors(lambda x: x.pop(f"{Q}.lora_B.weight")), "q_proj has no B", "anew"),
    "not finite": (_tensors(lambda x: x[f"{Q}.lora_B.weight"].fill_(torch.inf)), "lora_B.weight", "again"),
    "a norm": (
        _tensors(lambda x: x.update({"base_model.model.model.norm.weight": torch.ones(256)})),
        "model.norm.weight in the adapter",
        "--merge BASE",
    ),
    "another shape": (
        _tensors(lambda x: x.update({f"{Q}.lora_A.weight": torch.ones(4, 128)})),
        r"changes model.layers.0.self_attn.q_proj.weight as if it were \[256, 128\]",
        "--base BASE",
    ),
    "a layer too many": (
        _tensors(lambda x: x.update({k.replace("layers.0", "layers.9"): v.clone() for k, v in x.items()})),
        "not in the base: model.layers.9",
        "--base BASE",
    ),
    "no safetensors": (lambda adapter: (adapter / WEIGHTS).write_bytes(b"{}"), "safetensors", ""),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_llama_cpp_cannot_apply_is_refused(case: str, tiny_llama: Path, tmp_path: Path) -> None:
    spoil, message, hint = REFUSED[case]
    adapter = save(tmp_path / "adapter", tiny_llama, factors(tiny_llama, ("0.self_attn.q_proj",)))
    spoil(adapter)
    refused(adapter, message, hint)


def test_a_base_is_named_of_an_adapter_alone(tiny_llama: Path, tmp_path: Path) -> None:
    adapter = save(tmp_path / "adapter", tiny_llama, factors(tiny_llama, ("q_proj",)))
    refused(tiny_llama, "tiny-llama is a model, not an adapter", "leave --base out", "--base", "org/base", out=tmp_path)
    refused(adapter, "not written as Q8_0", "leave --type out", "-t", "Q8_0")
    refused(adapter, "adapter is an adapter", "leave --vocab-only", "--vocab-only")


def test_tied_embeddings_and_other_families_are_refused(tmp_path: Path) -> None:
    tied = build_uneven("llama", tmp_path / "tied", tie_word_embeddings=True)
    for number, end in enumerate(("embed_tokens", "lm_head")):
        pair = {f"model.{end}" if number == 0 else end: (torch.ones(4, 256), torch.ones(384, 4))}
        refused(save(tmp_path / end, tied, pair), f"{end}.weight in the adapter", "merge_and_unload")
    latent = build_uneven("deepseek_v3", tmp_path / "latent", **LATENT)
    adapter = save(tmp_path / "adapter", latent, factors(latent, ("kv_b_proj",)))
    refused(adapter, "an adapter of model.layers.0.self_attn.kv_b_proj.weight", "--merge BASE")
    ignored = save(tmp_path / "ignored", latent, factors(latent, ("q_a_proj",)))
    refused(ignored, "an adapter of model.layers.0.self_attn.q_a_proj.weight", "--merge BASE")
    refused(adapter, "not in the base: model.layers.0.self_attn.kv_b_proj", "--base BASE", "--base", str(tied))


def refused(model: Path, message: str, hint: str, *options: str, out: Path | None = None) -> None:
    folder = out or model.parent
    outcome = hubquant("convert", str(model), "-o", str(folder / "out.gguf"), "--json", *options)
    assert outcome.code == 2, outcome.err
    error = json.loads(outcome.err.splitlines()[-1])
    assert re.search(message, error["what"]), error
    assert hint in (error["hint"] or ""), error
    assert not [path for path in folder.iterdir() if path.name.startswith(("out", ".out"))]
