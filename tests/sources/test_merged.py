"""A LoRA adapter in its base, read as the model that peft's merge_and_unload() would save."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hubquant.convert.conversion import stream
from hubquant.errors import CheckpointError, HubquantError, NotSupportedYet, UserError
from hubquant.gguf_file import GGUFFile
from hubquant.models.tiny import build
from hubquant.recipe.schema import ModelReference
from hubquant.sources.open import open_source
from hubquant.sources.source import SourceModel
from tests.convert.test_adapter import MODELS, scale
from tests.sources.test_open import pulled
from tests.support.adapters import WEIGHTS, factors, merged, save
from tests.support.cli import hubquant
from tests.support.conversion import assert_same, build_uneven, edit_weights
from tests.support.localhub import LocalHub

SMALL: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
IDS = torch.arange(3, 40)[None]
Q = "model.layers.0.self_attn.q_proj"


def in_base(adapter: Path, base: Path) -> SourceModel:
    return open_source(ModelReference(folder=str(adapter), merge=str(base)))


def converted(source: SourceModel) -> dict[str, torch.Tensor]:
    return dict(stream(source.conversion(), source.checkpoint))


def assert_converts(found: SourceModel, expected: Path) -> None:
    assert_same(converted(found), converted(open_source(ModelReference(folder=str(expected)))))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_uneven("llama", tmp_path_factory.mktemp("base"), dtype=torch.bfloat16, **SMALL)


@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_merged_model(name: str, tmp_path: Path) -> None:
    family, config, ends, settings = MODELS[name]
    conv1d = family == "gpt2"
    base = build_uneven(family, tmp_path / "base", **config)
    changes = factors(base, ends, conv1d=conv1d)
    for end, rank in settings.get("rank_pattern", {}).items():
        changes |= factors(base, [end], rank)
    adapter = save(tmp_path / "adapter", base, changes, **settings)
    expected = merged(tmp_path / "merged", base, changes, lambda name: scale(settings, name), conv1d=conv1d)
    source = in_base(adapter, base)
    assert_converts(source, expected)
    logits = open_source(ModelReference(folder=str(expected))).load(device="cpu")(IDS).logits
    assert torch.equal(source.load(device="cpu")(IDS).logits, logits)
    weights = source.open_weights("cpu")
    weights.load(1, weights.read(1))
    loaded = source.load(device="cpu").state_dict()
    for name, x in weights.blocks[1].named_parameters():
        assert torch.equal(x, loaded[next(each for each in loaded if each.endswith(f".1.{name}"))].float())


def test_half_precision_is_rounded_once(base: Path, tmp_path: Path) -> None:
    changes = factors(base, ["q_proj", "embed_tokens"])
    expected = Path(shutil.copytree(base, tmp_path / "merged"))

    def edit(weights: dict[str, torch.Tensor]) -> None:
        for name, (a, b) in changes.items():
            change = (b @ a) * 2
            x = weights[f"{name}.weight"]
            weights[f"{name}.weight"] = (x.float() + (change.T if "embed" in name else change)).bfloat16()

    edit_weights(expected, edit)
    adapter = save(tmp_path / "adapter", base, changes)
    assert_converts(in_base(adapter, base), expected)
    # As peft saves the embedding beside its A and B.
    embedding = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    _tensors(adapter, **{"base_model.model.model.embed_tokens.base_layer.weight": embedding})
    assert_converts(in_base(adapter, base), expected)


def test_whole_modules(base: Path, tmp_path: Path) -> None:
    adapter = save(tmp_path / "adapter", base, factors(base, ["v_proj"]), modules_to_save=["lm_head"])
    tensors = load_file(adapter / WEIGHTS)
    heads = torch.randn(load_file(base / "model.safetensors")["lm_head.weight"].shape).bfloat16()
    for name in ("lm_head.weight", "lm_head.modules_to_save.weight"):
        save_file(tensors | {f"base_model.model.{name}": heads}, adapter / WEIGHTS)
        found = converted(in_base(adapter, base))
        assert torch.equal(found["output.weight"], heads)


def test_dora(base: Path, tmp_path: Path) -> None:
    changes = factors(base, ["up_proj"])
    adapter = save(tmp_path / "adapter", base, changes, use_dora=True)
    tensors, weights = load_file(adapter / WEIGHTS), load_file(base / "model.safetensors")
    magnitude = 1 + torch.rand(96)
    tensors |= {f"base_model.model.{name}.lora_magnitude_vector": magnitude.clone() for name in changes}
    save_file(tensors, adapter / WEIGHTS)
    found = converted(in_base(adapter, base))
    for layer in range(2):
        name = f"model.layers.{layer}.mlp.up_proj"
        a, b = changes[name]
        whole = weights[f"{name}.weight"].float() + 2 * b @ a
        expected = whole * (magnitude / whole.norm(dim=1))[:, None]
        assert torch.allclose(found[f"blk.{layer}.ffn_up.weight"].float(), expected, rtol=2**-7, atol=1e-6)


def test_a_run_names_both(base: Path, tmp_path: Path) -> None:
    adapter = save(tmp_path / "my-adapter", base, factors(base, ["q_proj"]))
    skip = ("--set", "evaluate.skip=true", "--store", str(tmp_path / "store"))
    told = hubquant("plan", str(adapter), "--types", "Q8_0", *skip)
    assert told.code == 2
    assert f"add --merge {base}" in told.err
    out = tmp_path / "out"
    outcome = hubquant("run", str(adapter), "--merge", str(base), "--types", "Q8_0", "-o", str(out), *skip)
    assert outcome.code == 0, outcome.err
    assert (out / "my-adapter-Q8_0.gguf").is_file()
    card = (out / "README.md").read_text()
    assert f"2 weights of {base.name} are changed by the adapter my-adapter" in card
    file = tmp_path / "F32.gguf"
    assert hubquant("convert", str(adapter), "--merge", str(base), "-t", "F32", "-o", str(file)).code == 0
    q = GGUFFile.open(file).data("blk.0.attn_k.weight")
    assert torch.equal(q.view(torch.float32), converted(in_base(adapter, base))["blk.0.attn_k.weight"].float())


def test_both_on_the_hub(base: Path, hub: LocalHub, tmp_path: Path) -> None:
    adapter = save(tmp_path / "adapter", "org/base", factors(base, ["q_proj"]))
    hub.add("org/base", base)
    hub.add("me/adapter", adapter)
    source = open_source(ModelReference(id="me/adapter", merge="org/base"))
    sizes = [path.stat().st_size for path in (base / "model.safetensors", adapter / WEIGHTS)]
    assert source.download_bytes == sum(sizes)
    assert source.card["base_model"] == ["org/base", "me/adapter"]
    commits = [hub.repository(id).head for id in ("org/base", "me/adapter")]
    reference = source.reference(None)
    assert reference
    assert (reference.merge, reference.revision) == (f"org/base@{commits[0]}", commits[1])
    expected = converted(in_base(adapter, base))
    assert torch.equal(converted(pulled(source, tmp_path))["blk.0.attn_q.weight"], expected["blk.0.attn_q.weight"])
    assert open_source(reference).identity == source.identity


def _tensors(adapter: Path, **tensors: torch.Tensor) -> None:
    save_file(load_file(adapter / WEIGHTS) | tensors, adapter / WEIGHTS)


REFUSED: dict[str, tuple[dict[str, Any], type[HubquantError], str]] = {
    "another kind": ({"peft_type": "LOHA"}, NotSupportedYet, "adapters of LOHA"),
    "parameters": ({"target_parameters": ["x"]}, NotSupportedYet, "target_parameters"),
    "biases of B": ({"lora_bias": True}, NotSupportedYet, "lora_bias"),
    "no alpha": ({"lora_alpha": 0}, CheckpointError, "lora_alpha"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, base: Path, tmp_path: Path) -> None:
    settings, error, reason = REFUSED[case]
    adapter = save(tmp_path / "adapter", base, factors(base, ["q_proj"]), **settings)
    with pytest.raises(error, match=reason):
        in_base(adapter, base)


def test_another_base(base: Path, tmp_path: Path) -> None:
    adapter = save(tmp_path / "adapter", base, factors(base, ["q_proj"]))
    other = build("llama", tmp_path / "other", **(SMALL | {"hidden_size": 32}))
    with pytest.raises(CheckpointError, match=r"as if it were \[64, 64\]"):
        in_base(adapter, other)
    _tensors(adapter, **{"base_model.model.model.layers.7.self_attn.q_proj.weight": torch.ones(64, 64)})
    with pytest.raises(CheckpointError, match="1 weight that the adapter changes is not in the base"):
        in_base(adapter, base)
    with pytest.raises(UserError, match=r"no adapter_model\.safetensors"):
        in_base(base, base)
    with pytest.raises(CheckpointError, match="this is an adapter, not a model"):
        in_base(adapter, adapter)
    tied = build("llama", tmp_path / "tied", tie_word_embeddings=True, **SMALL)
    with pytest.raises(NotSupportedYet, match="are one matrix, and it would change both"):
        in_base(save(tmp_path / "head", tied, factors(base, ["lm_head"])), tied)


def test_a_base_of_codes(tmp_path: Path) -> None:
    from tests.checkpoint.test_codings import build as build_coded

    base, expected = build_coded("GPTQ, 4 bits", tmp_path / "base", "llama")
    changes = {Q: (torch.randn(4, 64), torch.randn(64, 4))}
    found = in_base(save(tmp_path / "adapter", base, changes), base)
    a, b = changes[Q]
    rows = converted(found)["blk.0.attn_q.weight"].float().reshape(4, 8, 2, 64).transpose(1, 2).reshape(64, 64)
    assert torch.equal(rows, expected[f"{Q}.weight"] + (b @ a) * 2)
    assert found.quantized_types == ("GPTQ, 4 bits",)
