"""Checkpoints that GPTQ, AWQ, compressed-tensors, ModelOpt and bitsandbytes quantized: read as the floats they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.checkpoint.codings import integers
from hubquant.checkpoint.codings.integers import unpacked
from hubquant.convert.blocks import open_checkpoint
from hubquant.convert.conversion import stream
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.gguf_file import GGUFFile
from hubquant.quants import dequantize, quantize
from hubquant.recipe.schema import ModelReference
from hubquant.sources.checkpoint import load_folder
from hubquant.sources.open import open_source
from tests.support.cli import hubquant
from tests.support.conversion import Weights, build_uneven, configure, edit_weights, plan
from tests.support.localhub import LocalHub
from tests.support.packing import Parts, awq, compressed, gptq, in_words

Pack = Callable[[torch.Tensor], tuple[Parts, torch.Tensor]]
SMALL = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}


def in_groups(format: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights}
    return {"quant_method": "compressed-tensors", "format": format, "config_groups": {"group_0": group}}


def by_library(format: str, **weights: Any) -> tuple[dict[str, Any], Pack]:
    return in_groups(format, **weights), lambda x: compressed(x, format, **weights)


def modelopt(x: torch.Tensor) -> tuple[Parts, torch.Tensor]:
    """As compressed-tensors has it, but for a factor that is one over the other."""
    parts, expected = compressed(x, "nvfp4-pack-quantized", **NVFP4)
    parts["weight"] = parts.pop("weight_packed")
    parts["weight_scale_2"] = 1 / parts.pop("weight_global_scale")[0]
    return parts | {"input_scale": torch.ones(())}, expected


def llm_int8(x: torch.Tensor) -> tuple[Parts, torch.Tensor]:
    largest = x.float().abs().amax(1)
    codes = (x.float() / largest[:, None] * 127).round().to(torch.int8)
    parts = {"weight": codes, "SCB": largest, "weight_format": torch.zeros((), dtype=torch.uint8)}
    return parts, codes.float() * (largest / 127)[:, None]


def four_bits(kind: str, **options: Any) -> Pack:
    """By the library, and the floats that it has for the codes."""

    def pack(x: torch.Tensor) -> tuple[Parts, torch.Tensor]:
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        codes, state = quantize_4bit(x.float(), quant_type=kind, blocksize=64, **options)
        parts = state.as_dict(packed=True)
        return {"weight": codes, **{f"weight.{name}": part for name, part in parts.items()}}, dequantize_4bit(
            codes, state
        )

    return pack


def bitnet(x: torch.Tensor, **settings: str) -> tuple[Parts, torch.Tensor]:
    """Packed by transformers itself."""
    from transformers.integrations.bitnet import pack_weights

    scale = (1 / x.float().abs().mean()).to(x.dtype)
    codes = (x * scale).round().clamp(-1, 1)
    packed = pack_weights(codes.float().clone())
    if settings:
        scale = 1 / scale
    expected = codes.float() * scale.float() if settings else codes.float() / scale.float()
    return {"weight": packed, "weight_scale": scale.reshape(1)}, expected


NVFP4: dict[str, Any] = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
FOUR_BITS = {"quant_method": "bitsandbytes", "load_in_4bit": True}
INT4: dict[str, Any] = {"num_bits": 4, "strategy": "group", "group_size": 32}
AUTO = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}
SOURCES: dict[str, tuple[dict[str, Any], Pack]] = {
    **{f"GPTQ, {bits} bits": (GPTQ | {"bits": bits}, lambda x, bits=bits: gptq(x, bits, 32)) for bits in (2, 3, 4, 8)},
    "GPTQ, in the order of activations": (GPTQ | {"desc_act": True}, lambda x: gptq(x, 4, 32, act_order=True)),
    "GPTQ, symmetric": (GPTQ | {"sym": True}, lambda x: gptq(x, 4, 32, symmetric=True)),
    "GPTQ, version 2": (GPTQ | {"checkpoint_format": "gptq_v2"}, lambda x: gptq(x, 4, 32, less=0)),
    "GPTQ, groups of whole rows": (GPTQ | {"group_size": -1}, lambda x: gptq(x, 4, x.shape[1])),
    "AWQ": ({"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": 32}, lambda x: awq(x, 32)),
    "int4": by_library("pack-quantized", **INT4),
    "int4 with zero points": by_library("pack-quantized", **INT4, symmetric=False),
    "int3": by_library("pack-quantized", **(INT4 | {"num_bits": 3})),
    "int8 in words": by_library("pack-quantized", **(INT4 | {"num_bits": 8}), symmetric=False),
    "int4 of rows": by_library("pack-quantized", num_bits=4, strategy="channel"),
    "int8 of rows": by_library("int-quantized", num_bits=8, strategy="channel"),
    "int8 of rows with zero points": by_library("int-quantized", num_bits=8, strategy="channel", symmetric=False),
    "int8 of tensors": by_library("int-quantized", num_bits=8, strategy="tensor"),
    "NVFP4": by_library("nvfp4-pack-quantized", **NVFP4),
    "NVFP4 of ModelOpt": ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, modelopt),
    "MXFP4": by_library("mxfp4-pack-quantized", **(NVFP4 | {"strategy": "group", "group_size": 32})),
    "nf4": (FOUR_BITS, four_bits("nf4")),
    "nf4, doubly quantized": (FOUR_BITS, four_bits("nf4", compress_statistics=True)),
    "fp4": (FOUR_BITS, four_bits("fp4")),
    "BitNet": ({"quant_method": "bitnet"}, bitnet),
    "BitNet, times the scale": (AUTO, lambda x: bitnet(x, **AUTO)),
    "LLM.int8": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, llm_int8),
}
ROUNDED = ("int", "NVFP4", "MXFP4")
"""The library rounds what it gives to bfloat16."""


def build(source: str, folder: Path, family: str = "qwen3", **config: Any) -> tuple[Path, Weights]:
    """A tiny model that is quantized so, and the floats that it stands for."""
    settings, pack = SOURCES[source]
    build_uneven(family, folder, dtype=torch.bfloat16, **{**SMALL, **config})
    expected: Weights = {}

    def store(weights: Weights) -> None:
        for name in list(weights):
            x = weights[name]
            expected[name] = x.float()
            if name.endswith(("_proj.weight", ".w1.weight", ".w2.weight", ".w3.weight")):
                parts, expected[name] = pack(weights.pop(name))
                stem = name.removesuffix("weight")
                weights |= {stem + part: x.contiguous() for part, x in parts.items()}

    edit_weights(folder, store)
    return configure(folder, quantization_config=settings), expected


def same(source: str, found: torch.Tensor, expected: torch.Tensor) -> bool:
    if source == "fp4":  # a CPU has 0.0052 for one in 192 there
        return torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)
    if source.startswith(ROUNDED):
        return torch.equal(found.bfloat16(), expected.bfloat16())
    return torch.equal(found, expected)


@pytest.mark.parametrize("source", SOURCES)
def test_the_floats_are_those_that_the_codes_stand_for(source: str, tmp_path: Path) -> None:
    folder, expected = build(source, tmp_path)
    conversion, checkpoint = plan(folder), Checkpoint.from_folder(folder)
    assert "quantized before" in conversion.notes[0]
    found = dict(stream(conversion, checkpoint))
    assert len(conversion.taps) == 15
    for weight, tap in conversion.taps.items():
        factor = found.get(f"{weight.removesuffix('weight')}scale", torch.ones(()))  # that of NVFP4 is beside it
        assert same(source, found[weight].float() * factor, expected[f"{tap.module}.weight"]), weight
    for name, x in load_folder(folder, "cpu").state_dict().items():
        assert same(source, x, expected[name]), name


@pytest.mark.parametrize("settings", [{}, AUTO])
def test_layers_of_bitnet_compute_with_these_floats(settings: dict[str, str]) -> None:
    from transformers.integrations.bitnet import AutoBitLinear, BitLinear

    parts, expected = bitnet(torch.randn(8, 16, generator=torch.Generator().manual_seed(5)), **settings)
    layer: Any = BitLinear(16, 8, bias=False, dtype=torch.float32)
    if settings:
        layer = AutoBitLinear(16, 8, bias=False)
        layer.weight.data, layer.weight_scale = (expected / parts["weight_scale"]).round(), parts["weight_scale"]
    else:
        layer.weight, layer.weight_scale = parts["weight"], parts["weight_scale"]
    with torch.compiler.set_stance("force_eager"), torch.no_grad():
        found = layer(torch.eye(16)).T  # which 8 bits hold
    assert torch.allclose(found, expected, rtol=1e-6)
    rows = expected.repeat(1, 16)
    assert torch.equal(dequantize(quantize(rows, "TQ2_0"), "TQ2_0", 256).sign(), rows.sign())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"linear_class": "autobitlinear", "quantization_mode": "online"}, "whenever they are used"),
        ({"use_rms_norm": True}, "already quantized (bitnet)"),
    ],
)
def test_layers_of_bitnet_that_compute_more(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder, _ = build("BitNet", tmp_path)
    configure(folder, quantization_config={"quant_method": "bitnet", **settings})
    with pytest.raises(NotSupportedYet, match=re.escape(message)):
        plan(folder)


EXPERTS = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True}


@pytest.mark.parametrize("source", ["GPTQ, 4 bits", "int4", "nf4"])
def test_experts_and_blocks_that_are_streamed(source: str, tmp_path: Path) -> None:
    folder, expected = build(source, tmp_path, "qwen3_moe", **EXPERTS)
    checkpoint = Checkpoint.from_folder(folder)
    up = dict(stream(plan(folder), checkpoint))["blk.1.ffn_up_exps.weight"]
    for i, x in enumerate(up):
        assert same(source, x, expected[f"model.layers.1.mlp.experts.{i}.up_proj.weight"])
    ids = torch.arange(3, 40)[None]
    whole, streamed = load_folder(folder, "cpu"), open_checkpoint(checkpoint, "cpu")
    streamed.load(1, streamed.read(1))
    for name, x in streamed.blocks[1].named_parameters():
        assert torch.equal(x, whole.get_parameter(f"model.layers.1.{name}").float())
    assert whole(ids).logits.isfinite().all()


@pytest.mark.parametrize(("source", "type", "width"), [("int4", "Q4_0", 18), ("int8 of rows", "Q8_0", 34)])
def test_blocks_of_gguf_hold_the_same_codes(source: str, type: str, width: int, tmp_path: Path) -> None:
    folder, expected = build(source, tmp_path / "model", "llama")
    options = ("quantize", str(folder), "-t", type, "--pure", "--allow-requantize")
    outcome = hubquant(*options, "-o", str(tmp_path / "out"))
    assert outcome.code == 0
    assert "14 tensors keep the codes and scales of the source" in outcome.err
    file = GGUFFile.open(next((tmp_path / "out").glob("*.gguf")))
    for name in ("ffn_down", "ffn_up", "attn_q"):
        entry = file.tensors[f"blk.1.{name}.weight"]
        data = file.data(entry.name)
        assert (entry.type, data.shape[-1]) == (type, width * entry.shape[-1] // 32)
        found, module = dequantize(data, type, entry.shape[-1]), dict(plan(folder).taps)[entry.name].module
        wanted = expected[f"{module}.weight"]
        if name == "attn_q":  # llama.cpp has halves of heads interleaved
            wanted = wanted.reshape(4, 2, 8, -1).transpose(1, 2).reshape(wanted.shape)
        assert same(source, found, wanted)


def test_a_scale_that_f16_cannot_hold(tmp_path: Path) -> None:
    folder, _ = build("int4", tmp_path / "model")

    def shrink(weights: Weights) -> None:
        weights["model.layers.0.mlp.up_proj.weight_scale"] *= 2.0**-14

    edit_weights(folder, shrink)
    outcome = hubquant("quantize", str(folder), "-t", "Q4_0", "--allow-requantize", "-o", str(tmp_path / "out"))
    assert outcome.code == 0
    floats = dict(stream(plan(folder), Checkpoint.from_folder(folder)))
    file = GGUFFile.open(next((tmp_path / "out").glob("*.gguf")))
    for name, exact in (("blk.0.ffn_up.weight", False), ("blk.0.ffn_gate.weight", True)):
        found = dequantize(file.data(name), "Q4_0", file.tensors[name].shape[-1])
        assert torch.equal(found, floats[name]) is exact


def test_the_switch_and_what_it_says(tmp_path: Path) -> None:
    folder, _ = build("AWQ", tmp_path / "model")
    (folder / "README.md").write_text("---\nbase_model: org/original\n---\n")
    for command in (["convert", str(folder)], ["quantize", str(folder), "-t", "Q8_0"]):
        outcome = hubquant(*command, "-o", str(tmp_path))
        assert outcome.code == 2
        assert "quantized already (AWQ, 4 bits)" in outcome.err
        assert "start from org/original, or" in outcome.err
        assert "--allow-requantize" in outcome.err


@pytest.mark.parametrize(("name", "label"), [("int4", "compressed-tensors, int4"), ("nf4", "bitsandbytes, nf4")])
def test_a_repository_tells_before_it_is_downloaded(name: str, label: str, hub: LocalHub, tmp_path: Path) -> None:
    folder, _ = build(name, tmp_path / "model")
    hub.add("org/quantized", folder)
    source = open_source(ModelReference(id="org/quantized"))
    assert source.conversion().shapes == plan(folder).shapes
    assert source.quantized_types == (label,)
    assert source.download_bytes == (folder / "model.safetensors").stat().st_size


def test_large_matrices_are_unpacked_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = torch.randint(0, 8, (50, 64))
    whole = unpacked(in_words(numbers, 3), 3)
    monkeypatch.setattr(integers, "_AT_A_TIME", 1 << 8)
    assert torch.equal(unpacked(in_words(numbers, 3), 3), whole)
    assert torch.equal(whole.long(), numbers)


def _without(part: str) -> Callable[[Weights], None]:
    def edit(weights: Weights) -> None:
        del weights[f"model.layers.0.mlp.up_proj.{part}"]

    return edit


def _cut(part: str) -> Callable[[Weights], None]:
    def edit(weights: Weights) -> None:
        name = f"model.layers.0.mlp.up_proj.{part}"
        weights[name] = weights[name][:-1].contiguous()

    return edit


def _other_shape(weights: Weights) -> None:
    weights["model.layers.0.mlp.up_proj.weight_shape"] += 1


def _other_groups(weights: Weights) -> None:
    weights["model.layers.0.mlp.up_proj.g_idx"] += 1


def _turned(weights: Weights) -> None:
    name = "model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__fp4"
    state = bytes(weights[name].tolist()).replace(b"[128, 64]", b"[64, 128]")
    weights[name] = torch.tensor([*state], dtype=torch.uint8)


BROKEN: dict[str, tuple[str, Callable[[Weights], None], str]] = {
    "no scales": ("GPTQ, 4 bits", _without("scales"), "has no scales beside it"),
    "no zero points": ("AWQ", _without("qzeros"), "has no qzeros beside it"),
    "few groups": ("GPTQ, 4 bits", _cut("scales"), r"qzeros I32 \[2, 16\], scales F16 \[1, 128\]"),
    "few inputs": ("GPTQ, 4 bits", _cut("g_idx"), "do not fit together"),
    "few rows": ("AWQ", _cut("qweight"), "do not fit together"),
    "few scales": ("NVFP4", _cut("weight_scale"), "do not fit together"),
    "few exponents": ("MXFP4", _cut("weight_scale"), "do not fit together"),
    "few factors": ("LLM.int8", _cut("SCB"), "do not fit together"),
    "few blocks": ("nf4", _cut("weight.absmax"), "do not fit together"),
    "few factors of blocks": ("nf4, doubly quantized", _cut("weight.nested_absmax"), "do not fit together"),
    "few numbers": ("nf4", _cut("weight.quant_map"), "do not fit together"),
    "few codes": ("nf4", _cut("weight"), r"is \[1, 8190\] instead of \[128, 64\]"),
    "a matrix that is turned": ("fp4", _turned, r"tells of a matrix \[64, 128\] in blocks of 64"),
    "no JSON": ("fp4", _cut("weight.quant_state.bitsandbytes__fp4"), "is not sound JSON"),
    "another shape": ("int4", _other_shape, r"is said to be \[129, 65\]"),
    "groups that are not there": ("GPTQ, 4 bits", _other_groups, "names groups that are not there"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_parts_that_do_not_fit(case: str, tmp_path: Path) -> None:
    source, edit, reason = BROKEN[case]
    folder = edit_weights(build(source, tmp_path)[0], edit)
    with pytest.raises(CheckpointError, match=reason):
        list(stream(plan(folder), Checkpoint.from_folder(folder)))


OTHER: dict[str, tuple[str, dict[str, Any]]] = {
    "GPTQ for one kernel": ("GPTQ, 4 bits", {"checkpoint_format": "marlin"}),
    "AWQ for one kernel": ("AWQ", {"version": "gemv"}),
    "rotated inputs": ("int4", {"transform_config": {"config_groups": {"R1": {}}}}),
    "sparse": ("int4", {"sparsity_config": {"format": "sparse-24-bitmask"}}),
    "of one kernel": ("int4", {"format": "marlin-24"}),
    "of other bits": ("int4", in_groups("pack-quantized", num_bits=6, group_size=32)),
}


@pytest.mark.parametrize("case", OTHER)
def test_forms_that_are_not_known(case: str, tmp_path: Path) -> None:
    source, changes = OTHER[case]
    folder, _ = build(source, tmp_path)
    with pytest.raises(NotSupportedYet, match="already quantized"):
        plan(configure(folder, quantization_config=SOURCES[source][0] | changes))
