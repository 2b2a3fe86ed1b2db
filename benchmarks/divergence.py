"""What a type costs a model in each mode: ``python -m benchmarks.divergence [TYPE ...] [--model FOLDER]``.

Mean KL divergence of the model from itself with every linear layer (but the output) quantized. One rounding of one
model says little: two equally good searches easily differ by 10 %. So each measurement is repeated on models that
compute the same function with their channels in another order (residual stream, feed-forward and value channels),
which gives other blocks; the ratio of the modes is the geometric mean over the orders, with its standard error.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev

import torch
from torch import Tensor, nn

from benchmarks.kernels import machine
from benchmarks.weights import CALIBRATION, DEMO, TEXT, chunks_of, column_importance, linear_layers, loaded
from hubquant.quants import TYPES, dequantize, implemented, needs_importance, quantize
from hubquant.quants.api import Mode

# the axis that runs over the residual stream
RESIDUAL_AXIS = dict.fromkeys(("embed_tokens", "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head"), 1) | (
    dict.fromkeys(("o_proj", "down_proj", "layernorm", "norm"), 0)
)


@torch.no_grad()
def shuffled(model: nn.Module, seed: int) -> nn.Module:
    """A Llama with the same function and its channels in another order; the same order for seed 0."""
    model = copy.deepcopy(model)
    if seed == 0:
        return model
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    residual, inner, head = (
        torch.randperm(size, generator=generator)
        for size in (config.hidden_size, config.intermediate_size, config.head_dim)
    )
    for name, weight in model.named_parameters():
        axis = RESIDUAL_AXIS[name.split(".")[-2].removeprefix("input_").removeprefix("post_attention_")]
        weight.copy_(weight.index_select(axis, residual))
    for layer in model.model.layers:
        mlp, attention = layer.mlp, layer.self_attn
        for linear in (mlp.gate_proj, mlp.up_proj):
            linear.weight.copy_(linear.weight[inner])
        mlp.down_proj.weight.copy_(mlp.down_proj.weight[:, inner])
        value, output = attention.v_proj.weight, attention.o_proj.weight
        value.copy_(value.unflatten(0, (-1, config.head_dim))[:, head].flatten(0, 1))
        output.copy_(output.unflatten(1, (-1, config.head_dim))[:, :, head].flatten(1))
    return model


@torch.inference_mode()
def log_probabilities(model: nn.Module, ids: Tensor) -> Iterator[Tensor]:
    for chunk in ids.split(4):
        yield model(chunk).logits.float().log_softmax(dim=-1).flatten(0, 1)


def divergence(base: list[Tensor], model: nn.Module, ids: Tensor) -> float:
    """Mean over all tokens of KL(base ‖ model)."""
    total = sum(
        float((p.exp() * (p - q)).sum(dim=-1).double().sum())
        for p, q in zip(base, log_probabilities(model, ids), strict=True)
    )
    return total / ids.numel()


def quantized(model: nn.Module, type: str, importance: dict[str, Tensor] | None, mode: Mode) -> nn.Module:
    model = copy.deepcopy(model)
    for name, layer in linear_layers(model).items():
        weight = layer.weight.detach()
        data = quantize(weight, type, importance[name] if importance else None, mode)
        layer.weight.data = dequantize(data, type, weight.shape[1])
    return model


def compare(models: list[nn.Module], calibration: Tensor, ids: Tensor, type: str, weighted: bool) -> str:
    found: dict[Mode, list[float]] = {"exact": [], "best": []}
    base = list(log_probabilities(models[0], ids))
    for model in models:
        importance = column_importance(model, calibration) if weighted else None
        for mode, values in found.items():
            values.append(divergence(base, quantized(model, type, importance, mode), ids))
    logs = [math.log(b / e) for e, b in zip(found["exact"], found["best"], strict=True)]
    error = f" ± {stdev(logs) / math.sqrt(len(logs)):.3f}" if len(logs) > 1 else ""
    cells = [type, "yes" if weighted else "no", *(f"{mean(values):.3g}" for values in found.values())]
    return f"| {' | '.join(cells)} | {math.exp(mean(logs)):.3f}{error} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", metavar="TYPE")
    parser.add_argument("--model", type=Path, default=DEMO, help="folder of a Llama (default: the demo model)")
    parser.add_argument("--calibration", type=Path, default=CALIBRATION)
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--orders", type=int, default=6, help="orders of the channels to average over")
    parser.add_argument("--chunks", type=int, default=16, help="chunks of 256 tokens, of each text")
    parser.add_argument("--importance", choices=("both", "yes", "no"), default="both")
    args = parser.parse_args()
    torch.set_num_threads(1)
    types = args.types or [t for t, fmt in TYPES.items() if implemented(t) and fmt.block_size > 1]
    model = loaded(args.model)
    models = [shuffled(model, seed) for seed in range(args.orders)]
    calibration = chunks_of(args.model, args.calibration, args.chunks)
    ids = chunks_of(args.model, args.text, args.chunks)
    print(f"{machine()}; {args.orders} orders, {ids.numel()} tokens\n")
    print("| type | importance | exact | best | best / exact |\n|---|---|---|---|---|")
    for type in types:
        for weighted in (False, True):
            if args.importance not in ("both", "yes" if weighted else "no"):
                continue
            if not weighted and needs_importance(type):
                continue
            print(compare(models, calibration, ids, type, weighted), flush=True)


if __name__ == "__main__":
    main()
