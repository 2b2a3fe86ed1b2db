"""Models that other tools have quantized are loaded by the frameworks, or it is said what they need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

import hubquant
from hubquant.errors import UserError
from hubquant.models.tiny import build

IDS = {"input_ids": torch.arange(32)[None]}
GROUP = 128


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "initializer_range": 0.02}
    return build("llama", tmp_path_factory.mktemp("models") / "llama", **sizes)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**IDS).logits
    return found


def save_compressed(source: Path, folder: Path) -> torch.Tensor:
    """As llm-compressor writes weights of four bits; what they compute."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        QuantizationStatus,
        apply_quantization_config,
    )
    from compressed_tensors.quantization.utils import calculate_qparams

    model: Any = AutoModelForCausalLM.from_pretrained(source).eval().requires_grad_(False)
    weights = QuantizationArgs(num_bits=4, type="int", strategy="group", group_size=GROUP, symmetric=True)
    config = QuantizationConfig(
        config_groups={"all": QuantizationScheme(targets=["Linear"], weights=weights)},
        ignore=["lm_head"],
        quantization_status="frozen",
        format="pack-quantized",
    )
    apply_quantization_config(model, config)
    for layer in model.modules():
        if getattr(layer, "quantization_scheme", None):
            groups = layer.weight.reshape(len(layer.weight), -1, GROUP)
            scale, _ = calculate_qparams(groups.amin(-1), groups.amax(-1), weights)
            layer.weight_scale.data.copy_(scale)
            layer.quantization_status = QuantizationStatus.FROZEN
    computed = logits(model)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)
    return computed


@pytest.mark.slow
def test_compressed_tensors(source: Path, tmp_path: Path) -> None:
    wanted = save_compressed(source, tmp_path)
    assert hubquant.detect(tmp_path).components[0].backend == "compressed-tensors"
    assert torch.equal(logits(hubquant.load(tmp_path)), wanted)
    with pytest.raises(UserError, match="is quantized already"):
        hubquant.load(tmp_path, "sdnq:int8")


def test_a_package_that_only_the_frameworks_know_is_named(source: Path, tmp_path: Path) -> None:
    """That of GPTQ does not install beside these versions."""
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    layer = "model.layers.0.mlp.up_proj"
    shapes = {"qweight": (32, 512), "qzeros": (2, 64), "g_idx": (256,)}
    packed = {f"{layer}.{name}": torch.zeros(shape, dtype=torch.int32) for name, shape in shapes.items()}
    save_file({**packed, f"{layer}.scales": torch.ones(2, 512).half()}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="a model of gptq needs gptqmodel") as raised:
        hubquant.load(tmp_path)
    assert "the model that it was made of" in str(raised.value.hint)
