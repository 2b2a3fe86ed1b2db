"""Names of tensors as tools leave them: each is read as the model that it is, or refused with its reason."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.convert.conversion import plan_conversion, stream
from hubquant.errors import CheckpointError, HubquantError
from hubquant.models.load import Placement
from hubquant.models.tiny import build
from hubquant.sources.checkpoint import load_folder
from tests.support.conversion import Weights, configure, edit_weights, plan

SMALL: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
EXPERTS: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True},
    "mixtral": {"num_local_experts": 3, "num_experts_per_tok": 2, "head_dim": ...},
    "minimax_m2": {"num_local_experts": 3, "num_experts_per_tok": 2},
    "ernie4_5_moe": {"moe_num_experts": 3, "moe_k": 2, "moe_intermediate_size": 32, "head_dim": ...},
    "glm4_moe": {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
}
IDS = torch.arange(3, 40)[None]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("llama", tmp_path_factory.mktemp("llama"), **SMALL)


@pytest.fixture
def folder(llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama, tmp_path / "model"))


def converted(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = Checkpoint.from_folder(folder)
    return dict(stream(plan_conversion(folder, checkpoint), checkpoint))


def equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def rename(new: Callable[[str], str]) -> Callable[[Weights], None]:
    def edit(weights: Weights) -> None:
        for name in list(weights):
            weights[new(name)] = weights.pop(name)

    return edit


READ: dict[str, Callable[[str], str]] = {
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "torch.compile of each layer": lambda name: name.replace(".self_attn.", "._orig_mod.self_attn."),
    "data parallel": lambda name: f"module.{name}",
    "FSDP in data parallel": lambda name: f"module._fsdp_wrapped_module.{name}",
    "checkpointing": lambda name: name.replace(".mlp.", ".mlp._checkpoint_wrapped_module."),
    "peft, nothing left": lambda name: f"base_model.model.{name}",
    "lightning": lambda name: f"model.{name}",
    "a language model's part": lambda name: f"language_model.{name}",
    "a wrapper within": lambda name: name.replace("model.", "model.model."),
    "a language model within": lambda name: name.replace("model.", "model.language_model."),
    "no prefix": lambda name: name.removeprefix("model."),
}


@pytest.mark.parametrize("case", READ)
def test_the_model_is_read_through_what_wraps_it(case: str, folder: Path) -> None:
    whole, expected = converted(folder), load_folder(folder, "cpu")(IDS).logits
    edit_weights(folder, rename(READ[case]))
    assert equal(converted(folder), whole)
    assert torch.equal(load_folder(folder, "cpu")(IDS).logits, expected)


def test_a_renamed_and_tied_model_waits_on_disk(tmp_path: Path) -> None:
    folder = build("llama", tmp_path / "model", tie_word_embeddings=True, **SMALL)
    expected = load_folder(folder, "cpu")(IDS).logits
    edit_weights(folder, rename(lambda name: f"_orig_mod.{name}"))
    offloaded = load_folder(folder, "cpu", Placement(spread=True, max_memory={"cpu": "100KB"}, disk=tmp_path / "disk"))
    assert any(parameter.is_meta for parameter in offloaded.parameters())
    assert torch.equal(offloaded(IDS).logits, expected)


def _adapter(weights: Weights) -> None:
    for name in [name for name in weights if "q_proj" in name]:
        stem = name.removesuffix(".weight")
        weights[f"{stem}.base_layer.weight"] = weights.pop(name)
        weights[f"{stem}.lora_A.default.weight"] = torch.zeros(8, 64)


def _modules_to_save(weights: Weights) -> None:
    head = weights.pop("lm_head.weight")
    weights |= {"lm_head.original_module.weight": head, "lm_head.modules_to_save.default.weight": head.clone()}


def _eight_bits(weights: Weights) -> None:
    for name in [name for name in weights if name.endswith("proj.weight")]:
        weights[name.replace("weight", "SCB")] = weights[name].abs().amax(1)
        weights[name] = weights[name].to(torch.int8)


def _four_bits(weights: Weights) -> None:
    for name in [name for name in weights if name.endswith("proj.weight")]:
        weights[f"{name}.absmax"] = torch.zeros(weights[name].numel() // 64)
        weights[f"{name}.quant_state.bitsandbytes__nf4"] = torch.zeros(64, dtype=torch.uint8)
        weights[name] = torch.zeros(weights[name].numel() // 2, 1, dtype=torch.uint8)


def _packed(parts: dict[str, torch.dtype]) -> Callable[[Weights], None]:
    def edit(weights: Weights) -> None:
        for name in [name for name in weights if name.endswith("proj.weight")]:
            del weights[name]
            for part, dtype in parts.items():
                weights[name.removesuffix("weight") + part] = torch.zeros(8, 8, dtype=dtype)

    return edit


def _meta(weights: Weights) -> None:
    for name in list(weights):
        weights[name.removeprefix("model.").replace("self_attn.q_proj", "attention.wq")] = weights.pop(name)
    weights["tok_embeddings.weight"] = weights.pop("embed_tokens.weight")


def _without_a_layer(weights: Weights) -> None:
    for name in [name for name in weights if ".layers.1." in name]:
        del weights[name]


REFUSED: dict[str, tuple[Callable[[Weights], None], str, str]] = {
    "LoRA": (_adapter, "an adapter is not merged into this model", "merge_and_unload"),
    "modules to save": (_modules_to_save, "an adapter is not merged into this model", "merge_and_unload"),
    "8 bits": (_eight_bits, r"already quantized \(bitsandbytes\)", "16-bit model that they were made from"),
    "4 bits": (_four_bits, r"already quantized \(bitsandbytes\)", "merged into that one"),
    "GPTQ": (
        _packed({"qweight": torch.int32, "qzeros": torch.int32, "scales": torch.float16, "g_idx": torch.int32}),
        r"already quantized \(GPTQ or AWQ\)",
        "16-bit model",
    ),
    "MLX": (
        _packed({"weight": torch.uint32, "scales": torch.float16, "biases": torch.float16}),
        r"already quantized \(MLX\)",
        "16-bit model",
    ),
    "compressed": (
        _packed({"weight_packed": torch.int32, "weight_scale": torch.float16, "weight_shape": torch.int64}),
        r"already quantized \(compressed-tensors\)",
        "16-bit model",
    ),
    "8-bit integers": (
        _packed({"weight": torch.int8, "weight_scale": torch.float16}),
        r"already quantized \(8-bit integers\)",
        "16-bit model",
    ),
    "Meta's names": (_meta, "names of Meta's and Mistral's own formats", "files for transformers"),
    "other names": (rename(lambda name: f"x.{name}.y"), "no tensor has a name that a llama model has", "compare"),
    "a layer less": (_without_a_layer, "1 of 2 layers are not there: 1", "number the others anew"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_true_reason_and_the_step_that_helps(case: str, folder: Path) -> None:
    edit, reason, hint = REFUSED[case]
    with pytest.raises(HubquantError, match=reason) as caught:
        plan(edit_weights(folder, edit))
    assert hint in str(caught.value.hint)


def test_what_quantization_leaves_beside_floats_is_left_out(folder: Path) -> None:
    whole = converted(folder)

    def leave(weights: Weights) -> None:
        for name in [name for name in weights if name.endswith("proj.weight")]:
            weights[f"{name}_scale"] = torch.ones(1)
            weights[name.replace("weight", "SCB")] = torch.ones(1)

    edit_weights(folder, leave)
    assert equal(converted(folder), whole)
    assert "left out, as transformers leaves them out" in plan(folder).notes[0]


def test_of_tied_weights_either_may_be_the_one_that_is_stored(tmp_path: Path) -> None:
    folder = build("llama", tmp_path, tie_word_embeddings=True, **SMALL)
    whole, expected = converted(folder), load_folder(folder, "cpu")(IDS).logits
    edit_weights(folder, rename(lambda name: "lm_head.weight" if name == "model.embed_tokens.weight" else name))
    assert equal(converted(folder), whole)
    assert torch.equal(load_folder(folder, "cpu")(IDS).logits, expected)


def test_double_precision(folder: Path) -> None:
    whole, expected = converted(folder), load_folder(folder, "cpu")(IDS).logits

    def widen(weights: Weights) -> None:
        weights |= {name: x.double() for name, x in weights.items()}

    edit_weights(folder, widen)
    assert equal(converted(folder), whole)
    assert torch.equal(load_folder(folder, "cpu")(IDS).logits, expected)


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "fp8", "mxfp4"])
def test_a_stale_quantization_config(method: str, folder: Path) -> None:
    whole, expected = converted(folder), load_folder(folder, "cpu")(IDS).logits
    configure(folder, quantization_config={"quant_method": method, "load_in_4bit": True, "bits": 4})
    assert equal(converted(folder), whole)
    assert plan(folder).notes == (
        f"config.json says that the weights are quantized ({method}); they are floats, and read as such",
    )
    assert torch.equal(load_folder(folder, "cpu")(IDS).logits, expected)


@pytest.mark.parametrize("family", EXPERTS)
def test_experts_as_transformers_has_them_in_memory(family: str, tmp_path: Path) -> None:
    folder = build(family, tmp_path, **(SMALL | EXPERTS[family]))
    whole, model = converted(folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expected = model(IDS).logits

    def replace(weights: Weights) -> None:
        weights.clear()
        weights |= {name: x.contiguous() for name, x in model.state_dict().items()}

    edit_weights(folder, replace)
    assert any(name.endswith("experts.gate_up_proj") for name in load_file(folder / "model.safetensors"))
    assert equal(converted(folder), whole)
    assert torch.allclose(load_folder(folder, "cpu")(IDS).logits, expected, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "bloom", "lfm2"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_base_class(family: str, tied: bool, tmp_path: Path) -> None:
    folder = build(family, tmp_path / "model", tie_word_embeddings=tied, **SMALL)
    whole = converted(folder)
    AutoModel.from_pretrained(folder).save_pretrained(folder)
    conversion, found = plan(folder), converted(folder)
    assert equal(found, {name: x for name, x in whole.items() if name != "output.weight"})
    assert not conversion.embeds
    if tied:
        assert conversion.cannot_run is None
    else:
        assert "without its output layer" in str(conversion.cannot_run)
        with pytest.raises(CheckpointError, match=r"lacks 1 .* lm_head"):
            load_folder(folder, "cpu")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_lasttoken": true}')
    conversion = plan(folder)
    assert conversion.metadata[f"{family}.pooling_type"].value == 3
    assert (conversion.cannot_run, conversion.embeds) == (None, True)
    assert any("no output layer" in note for note in conversion.notes) is not tied
    assert load_folder(folder, "cpu")(IDS).logits.isfinite().all()
