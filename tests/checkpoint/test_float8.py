"""Checkpoints in FP8 with scales."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.convert.conversion import stream
from hubquant.convert.restore import load_model
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.models import identify
from hubquant.sources.checkpoint import load_folder
from tests.support.conversion import Weights, build_uneven, configure, edit_weights, plan, write_gguf
from tests.support.llamacpp import LlamaCpp

IDS = torch.randint(3, 380, (100,), generator=torch.Generator().manual_seed(0)).tolist()
LARGEST = torch.finfo(torch.float8_e4m3fn).max
DEEPSEEK = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
}
FLOAT8 = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": False}


def compressed(**weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": FLOAT8 | weights}
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


# settings, suffix of the scales, the block of one (0: as large as the matrix), the scales' type
SOURCES: dict[str, tuple[dict[str, Any], str, tuple[int, int], torch.dtype]] = {
    "blocks": (DEEPSEEK, "_scale_inv", (128, 128), torch.float32),
    "blocks with powers of two": (DEEPSEEK, "_scale_inv", (128, 128), torch.float8_e8m0fnu),
    "matrices": (DEEPSEEK | {"weight_block_size": None}, "_scale_inv", (0, 0), torch.float32),
    "matrices of AutoFP8": ({"quant_method": "fp8", "activation_scheme": "static"}, "_scale", (0, 0), torch.float32),
    "matrices of ModelOpt": ({"quant_method": "modelopt", "quant_algo": "FP8"}, "_scale", (0, 0), torch.float32),
    "rows": ({}, "_scale", (1, 0), torch.float32),
    "compressed channels": (compressed(strategy="channel"), "_scale", (1, 0), torch.bfloat16),
    "compressed tensors": (compressed(strategy="tensor"), "_scale", (0, 0), torch.bfloat16),
    "compressed blocks": (
        compressed(strategy="block", block_structure=[128, 128]),
        "_scale",
        (128, 128),
        torch.float32,
    ),
}


def build(source: str, folder: Path, **config: Any) -> tuple[Path, Weights]:
    """A tiny model in FP8, and the floats that its weights stand for."""
    settings, suffix, block, dtype = SOURCES[source]
    build_uneven("qwen3", folder, dtype=torch.bfloat16, **config)
    expected: Weights = {}

    def store(weights: Weights) -> None:
        for name in list(weights):
            x = weights[name].float()
            expected[name] = x
            if not name.endswith("_proj.weight"):
                continue
            rows, columns = (n or whole for n, whole in zip(block, x.shape, strict=True))
            grid = torch.empty(math.ceil(x.shape[0] / rows), math.ceil(x.shape[1] / columns), dtype=dtype)
            codes = torch.empty(x.shape, dtype=torch.float8_e4m3fn)
            expected[name] = torch.empty_like(x)
            for i in range(grid.shape[0]):
                for j in range(grid.shape[1]):
                    part = slice(i * rows, (i + 1) * rows), slice(j * columns, (j + 1) * columns)
                    grid[i, j] = x[part].abs().max() / LARGEST
                    codes[part] = (x[part] / grid[i, j].float()).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
                    expected[name][part] = codes[part].float() * grid[i, j].float()
            weights[name] = codes
            weights[name + suffix] = grid[0, 0] if block == (0, 0) and settings and "fp8" in str(settings) else grid
            weights[name.replace("weight", "input_scale")] = torch.ones(1)

    edit_weights(folder, store)
    return configure(folder, quantization_config=settings), expected


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=torch.tensor([IDS])).logits[0]
    return result


@pytest.mark.parametrize("source", SOURCES)
def test_the_floats_are_codes_times_scales(source: str, tmp_path: Path) -> None:
    # 448 and 320 are no multiples of a block
    folder, expected = build(source, tmp_path, intermediate_size=448, hidden_size=320)
    conversion, checkpoint = plan(folder), Checkpoint.from_folder(folder)
    found = dict(stream(conversion, checkpoint))
    assert conversion.float_type == "BF16"
    assert found["blk.1.ffn_down.weight"].dtype == torch.float32
    for weight, tap in conversion.taps.items():
        assert torch.equal(found[weight].float(), expected[f"{tap.module}.weight"])
    for name, x in load_folder(folder, "cpu").state_dict().items():
        assert torch.equal(x, expected[name])


def test_transformers_reads_the_same_floats(tmp_path: Path) -> None:
    folder, _ = build("blocks", tmp_path)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    found = load_folder(folder, "cpu").state_dict()
    assert found.keys() == reference.keys()
    assert all(torch.equal(found[name], reference[name]) for name in found)


def test_logits_in_llama_cpp(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    folder, _ = build("blocks", tmp_path, intermediate_size=448)
    expected = logits(load_folder(folder, "cpu"))
    write_gguf(folder, tmp_path / "model.gguf", "F32")
    with LlamaCpp(tmp_path / "model.gguf") as llama:
        found = torch.from_numpy(llama.logits(IDS))
    assert (found - expected).abs().max() <= 1e-3 * expected.abs().max()
    assert torch.equal(found.argmax(-1), expected.argmax(-1))
    assert (logits(load_model(tmp_path / "model.gguf")) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_such_a_model_is_known(tmp_path: Path) -> None:
    assert identify(build("compressed channels", tmp_path, num_hidden_layers=1)[0]).model_class == "Qwen3ForCausalLM"


def test_scales_that_do_not_fit(tmp_path: Path) -> None:
    folder, _ = build("blocks", tmp_path, num_hidden_layers=1)
    name = "model.layers.0.mlp.up_proj.weight"
    for wrong in (torch.ones(3, 5), torch.ones(4, 2, dtype=torch.int32), torch.ones(0, 2), torch.ones(2, 2, 2)):
        edit_weights(folder, lambda weights, wrong=wrong: weights.update({f"{name}_scale_inv": wrong}))  # type: ignore[misc]
        with pytest.raises(CheckpointError, match=rf"the scales of {name} do not fit"):
            plan(folder)
    edit_weights(folder, lambda weights: weights.pop(f"{name}_scale_inv"))
    with pytest.raises(NotSupportedYet, match=rf"weights stored as F8_E4M3: 1 tensor: {name}") as caught:
        plan(folder)
    assert "have no scales beside them" in str(caught.value.hint)


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "no method": ({"bits": 8}, NotSupportedYet, "unknown method"),
    "packed": (compressed(strategy="tensor") | {"format": "pack-quantized"}, NotSupportedYet, "pack-quantized"),
}


@pytest.mark.parametrize("case", WRONG)
def test_settings_that_cannot_be_read(case: str, tmp_path: Path) -> None:
    settings, error, reason = WRONG[case]

    def pack(weights: Weights) -> None:
        weights["model.layers.0.mlp.up_proj.weight"] = torch.zeros(96, 8, dtype=torch.int32)

    folder = edit_weights(build_uneven("qwen3", tmp_path, num_hidden_layers=1), pack)
    with pytest.raises(error, match=reason):
        plan(configure(folder, quantization_config=settings))


@pytest.mark.parametrize("size", [[0, 128], 128])
def test_blocks_of_no_size(size: Any, tmp_path: Path) -> None:
    folder, _ = build("blocks", tmp_path, num_hidden_layers=1)
    with pytest.raises(CheckpointError, match="block size"):
        plan(configure(folder, quantization_config=DEEPSEEK | {"weight_block_size": size}))
