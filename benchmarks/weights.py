"""A trained Llama's weights and the importance of their columns, as the other benchmarks measure on them."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor, nn

DATA = Path(str(files("hubquant") / "data"))
DEMO = DATA / "demo"
CALIBRATION, TEXT = DATA / "texts" / "demo-calibration.txt", DATA / "texts" / "test.txt"


def loaded(folder: Path) -> nn.Module:
    """The model of a folder in float32, whose weights may be written to."""
    from transformers import AutoModelForCausalLM

    model: nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model


def chunks_of(folder: Path, text: Path, count: int, size: int = 256) -> Tensor:
    """Token ids [count, size] from the start of a text."""
    from hubquant.models import load_tokenizer

    ids = load_tokenizer(folder)(text.read_text()[: 40 * count * size], return_tensors="pt").input_ids[0]
    if ids.numel() < count * size:
        raise SystemExit(f"{text} has fewer than {count} chunks of {size} tokens")
    return ids[: count * size].view(count, size)


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Every linear layer but the output layer."""
    named = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return {name: module for name, module in named.items() if name != "lm_head"}


@torch.inference_mode()
def column_importance(model: nn.Module, ids: Tensor) -> dict[str, Tensor]:
    """The mean squared input of each column of the linear layers: float32 [n_in] by name."""
    sums: dict[str, Tensor] = {}

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def add(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            square = inputs[0].flatten(0, -2).double().square().sum(dim=0)
            sums[name] = sums.get(name, torch.zeros_like(square)) + square

        return module.register_forward_pre_hook(add)

    handles = [watch(name, module) for name, module in linear_layers(model).items()]
    for chunk in ids.split(4):
        model(chunk)
    for handle in handles:
        handle.remove()
    return {name: (total / ids.numel()).float() for name, total in sums.items()}
