"""Q3_K_HIFI beside other ways to spend the same bytes: ``python -m benchmarks.hifi``.

Mean KL divergence of the demo model from itself with its linear layers (but the output) quantized, with importance, and
the ratio to Q3_K_HIFI: the geometric mean over models that compute the same function with their channels in another
order, with its standard error. Bits per weight are those of the quantized layers.
"""

from __future__ import annotations

import argparse
import copy
import math
from pathlib import Path
from statistics import mean, stdev

import torch
from torch import nn

from benchmarks.divergence import divergence, log_probabilities, shuffled
from benchmarks.kernels import machine
from benchmarks.weights import CALIBRATION, DEMO, TEXT, chunks_of, column_importance, linear_layers, loaded
from hubquant.mix import assign
from hubquant.quants import dequantize, quantize
from hubquant.quants.formats import lookup
from hubquant.recipe.schema import Rule

GGUF_NAMES = {
    **{f"{part}_proj": f"attn_{part}" for part in "qkv"},
    "o_proj": "attn_output",
    **{f"{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")},
}
TARGET = "Q3_K_HIFI"
MIXES: dict[str, tuple[str, dict[str, str]]] = {
    "Q3_K_S": ("Q3_K_S", {}),
    "Q3_K_M": ("Q3_K_M", {}),
    "Q3_K_S, attn and ffn_down in Q3_K_HIFI": ("Q3_K_S", {"attn|ffn_down": TARGET}),
    TARGET: (TARGET, {}),
    "Q3_K_M, attn and ffn_up in Q4_K": ("Q3_K_M", {"attn|ffn_up": "Q4_K"}),
    "IQ4_XS": ("IQ4_XS", {".": "IQ4_XS"}),
    "Q4_K_S": ("Q4_K_S", {".": "Q4_K"}),
}


def types_of(model: nn.Module, ftype: str, rules: dict[str, str]) -> dict[str, str]:
    """By the layer's name in the model."""
    config = model.config
    hparams = {"n_layer": config.num_hidden_layers, "n_head": config.num_attention_heads}
    hparams["n_head_kv"] = config.num_key_value_heads
    layers = linear_layers(model)
    names = {name: f"blk.{name.split('.')[2]}.{GGUF_NAMES[name.split('.')[-1]]}.weight" for name in layers}
    shapes = {names[name]: tuple(layer.weight.shape) for name, layer in layers.items()}
    chosen = [Rule(match=match, type=type) for match, type in rules.items()]
    types = assign(shapes, ftype, "llama", hparams, has_imatrix=True, rules=chosen)
    return {name: types[gguf_name] for name, gguf_name in names.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=DEMO, help="folder of a Llama (default: the demo model)")
    parser.add_argument("--calibration", type=Path, default=CALIBRATION)
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--orders", type=int, default=6, help="orders of the channels to average over")
    parser.add_argument("--chunks", type=int, default=16, help="chunks of 256 tokens, of each text")
    parser.add_argument("--mode", choices=("exact", "best"), default="exact")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = loaded(args.model)
    calibration = chunks_of(args.model, args.calibration, args.chunks)
    ids = chunks_of(args.model, args.text, args.chunks)
    base = list(log_probabilities(model, ids))
    found: dict[str, list[float]] = {label: [] for label in MIXES}
    for order in range(args.orders):
        source = shuffled(model, order)
        importance = column_importance(source, calibration)
        for label, (ftype, rules) in MIXES.items():
            candidate = copy.deepcopy(source)
            layers, types = linear_layers(candidate), types_of(source, ftype, rules)
            for name, layer in layers.items():
                weight = layer.weight.detach()
                data = quantize(weight, types[name], importance[name], args.mode)
                layer.weight.data = dequantize(data, types[name], weight.shape[1])
            found[label].append(divergence(base, candidate, ids))
    print(f"{machine()}; {args.orders} orders, {ids.numel()} tokens\n")
    print(f"| file | bits per weight | divergence | ratio to {TARGET} |\n|---|---|---|---|")
    sizes = {name: layer.weight.numel() for name, layer in linear_layers(model).items()}
    for label, (ftype, rules) in MIXES.items():
        types = types_of(model, ftype, rules)
        bits = sum(lookup(types[name]).bits_per_weight * size for name, size in sizes.items()) / sum(sizes.values())
        logs = [math.log(value / target) for value, target in zip(found[label], found[TARGET], strict=True)]
        error = f" ± {math.exp(mean(logs)) * stdev(logs) / math.sqrt(len(logs)):.3f}" if label != TARGET else ""
        print(f"| {label} | {bits:.3f} | {mean(found[label]):.3g} | {math.exp(mean(logs)):.3f}{error} |")


if __name__ == "__main__":
    main()
