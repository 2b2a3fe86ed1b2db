"""Tiny PLaMo 2 with random weights, and its logits as the model's code computes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn.functional import conv1d, silu, softplus

from tests.support.conversion import Weights

WIDTH, SIZE, HEADS, KV_HEADS, STATE_HEADS, STATE, FORWARD, LAYERS, VOCABULARY = 128, 32, 4, 2, 6, 16, 192, 4, 384
RANK, INNER = 64, SIZE * STATE_HEADS
CONFIG: dict[str, Any] = {
    "architectures": ["Plamo2ForCausalLM"],
    "attention_window_size": 2048,
    "hidden_size": WIDTH,
    "hidden_size_per_head": SIZE,
    "intermediate_size": FORWARD,
    "mamba_chunk_size": 256,
    "mamba_d_conv": 4,
    "mamba_d_state": STATE,
    "mamba_enabled": True,
    "mamba_num_heads": STATE_HEADS,
    "mamba_step": 2,
    "max_position_embeddings": 2048,
    "model_type": "plamo2",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KV_HEADS,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "vocab_size": VOCABULARY,
}


def write(folder: Path, config: dict[str, Any], weights: Weights) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def weights2() -> Weights:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int, scale: float = 0.1) -> torch.Tensor:
        return scale * torch.randn(shape, generator=generator)

    found = {"model.embed_tokens.weight": random(VOCABULARY, WIDTH, scale=1), "model.norm.weight": random(WIDTH)}
    for layer in range(LAYERS):
        block = f"model.layers.layers.{layer}"
        for name in ("pre_mixer", "post_mixer", "pre_mlp", "post_mlp"):
            found[f"{block}.{name}_norm.weight"] = random(WIDTH)
        found[f"{block}.mlp.gate_up_proj.weight"] = random(2 * FORWARD, WIDTH)
        found[f"{block}.mlp.down_proj.weight"] = random(WIDTH, FORWARD)
        mixer = f"{block}.mixer"
        if layer % 2:
            found[f"{mixer}.qkv_proj.weight"] = random((HEADS + 2 * KV_HEADS) * SIZE, WIDTH)
            found[f"{mixer}.q_weight"] = 2 + random(HEADS, SIZE)
            found[f"{mixer}.k_weight"] = 2 + random(KV_HEADS, SIZE)
            found[f"{mixer}.o_proj.weight"] = random(WIDTH, HEADS * SIZE)
            continue
        found[f"{mixer}.in_proj.weight"] = random(2 * INNER, WIDTH)
        found[f"{mixer}.conv1d.weight"] = random(INNER, 1, 4, scale=0.5)
        found[f"{mixer}.bcdt_proj.weight"] = random(RANK + 2 * STATE, INNER)
        found[f"{mixer}.dt_proj.weight"] = random(STATE_HEADS, RANK)
        found[f"{mixer}.dt_bias"] = random(STATE_HEADS, scale=1)
        found[f"{mixer}.A_log"] = random(STATE_HEADS, scale=1)
        found[f"{mixer}.D"] = random(STATE_HEADS, scale=1)
        for name, size in (("dt", RANK), ("B", STATE), ("C", STATE)):
            found[f"{mixer}.{name}_norm_weight"] = 1 + random(size)
        found[f"{mixer}.out_proj.weight"] = random(WIDTH, INNER)
    return found


def _normed(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6)


def logits2(weights: Weights, ids: list[int]) -> torch.Tensor:
    """[tokens, VOCABULARY]."""
    x = weights["model.embed_tokens.weight"][ids]
    for layer in range(LAYERS):

        def at(name: str, layer: int = layer) -> torch.Tensor:
            return weights[f"model.layers.layers.{layer}.{name}"]

        def norm(name: str, x: torch.Tensor, offset: float, at: Callable[[str], torch.Tensor] = at) -> torch.Tensor:
            return _normed(x) * (at(f"{name}_norm.weight") + offset)

        mix = _attention if layer % 2 else _mamba
        mixed = mix(lambda name, at=at: at(f"mixer.{name}"), norm("pre_mixer", x, 1))
        x = x + norm("post_mixer", mixed, 1 / 5)
        gate, up = (norm("pre_mlp", x, 1) @ at("mlp.gate_up_proj.weight").T).chunk(2, dim=-1)
        x = x + norm("post_mlp", silu(gate) * up @ at("mlp.down_proj.weight").T, 1 / 5**1.5)
    return _normed(x) * (weights["model.norm.weight"] + 1) @ weights["model.embed_tokens.weight"].T


def _attention(at: Callable[[str], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    sizes = [HEADS * SIZE, KV_HEADS * SIZE, KV_HEADS * SIZE]
    q, k, v = (part.unflatten(-1, (-1, SIZE)) for part in (x @ at("qkv_proj.weight").T).split(sizes, dim=-1))
    q, k = _rotated(_normed(q) * at("q_weight")), _rotated(_normed(k) * at("k_weight"))
    k, v = (part.repeat_interleave(HEADS // KV_HEADS, dim=1) for part in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) / SIZE**0.5
    scores = scores.masked_fill(torch.ones(scores.shape[1:], dtype=torch.bool).triu(1), -torch.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1) @ at("o_proj.weight").T


def _rotated(x: torch.Tensor) -> torch.Tensor:
    angles = torch.arange(len(x))[:, None] * 10000.0 ** -(torch.arange(0, SIZE, 2) / SIZE)
    cos, sin = (torch.cat([each, each], dim=-1)[:, None] for each in (angles.cos(), angles.sin()))
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def _mamba(at: Callable[[str], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    both = (x @ at("in_proj.weight").T).unflatten(-1, (STATE_HEADS, 2 * SIZE))
    z, x = both[..., :SIZE], both[..., SIZE:].flatten(1)
    x = silu(conv1d(x.T[None], at("conv1d.weight"), padding=3, groups=INNER)[0, :, : len(x)].T)
    b, c, dt = (x @ at("bcdt_proj.weight").T).split([STATE, STATE, RANK], dim=-1)
    b, c, dt = (_normed(each) * at(f"{name}_norm_weight") for name, each in (("B", b), ("C", c), ("dt", dt)))
    dt = softplus(dt @ at("dt_proj.weight").T + at("dt_bias"))
    x = x.unflatten(-1, (STATE_HEADS, SIZE))
    state, outputs = torch.zeros(STATE_HEADS, SIZE, STATE), []
    for t in range(len(x)):
        decay = torch.exp(-torch.exp(at("A_log")) * dt[t])
        state = state * decay[:, None, None] + (dt[t][:, None] * x[t])[:, :, None] * b[t]
        outputs.append(state @ c[t] + at("D")[:, None] * x[t])
    return (torch.stack(outputs) * silu(z)).flatten(1) @ at("out_proj.weight").T
