"""LoRA adapters as peft saves them, and the models that they make of their base."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]


def adapt(model: nn.Module, ends: Sequence[str], rank: int = 4) -> Factors:
    """A and B for every module of ``model`` whose name ends so, as peft calls and shapes them."""
    generator = torch.Generator().manual_seed(5)
    factors = {}
    for name, module in model.named_modules():
        if not name.endswith(tuple(ends)) or not hasattr(module, "weight"):
            continue
        n_in, n_out = reversed(module.weight.shape)
        if isinstance(module, Conv1D):
            n_in, n_out = n_out, n_in
        if isinstance(module, nn.Embedding):
            n_in, n_out = n_out, n_in
        a, b = (0.2 * torch.randn(shape, generator=generator) for shape in ((rank, n_in), (n_out, rank)))
        factors[name] = a, b
    return factors


def save(folder: Path, base: str, factors: Factors, **settings: Any) -> Path:
    """In ``folder``; of embeddings, whose modules are called embed_tokens or wte, under peft's other names."""
    tensors = {}
    for name, pair in factors.items():
        for letter, x in zip("AB", pair, strict=True):
            embedding = name.endswith(("embed_tokens", "wte"))
            kind = f"lora_embedding_{letter}" if embedding else f"lora_{letter}.weight"
            tensors[f"base_model.model.{name}.{kind}"] = x.contiguous()
    config = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 4, "lora_alpha": 8, "bias": "none"}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config | settings))
    return folder


@torch.no_grad()
def merge(model: nn.Module, factors: Factors, scales: dict[str, float] | float) -> None:
    """Add to the weights what peft's merge_and_unload() adds."""
    for name, (a, b) in factors.items():
        module = model.get_submodule(name)
        change = (scales if isinstance(scales, float) else scales[name]) * (b @ a)
        assert isinstance(module.weight, torch.Tensor)
        module.weight += change.T if isinstance(module, nn.Embedding | Conv1D) else change


def load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)  # type: ignore[no-any-return]
