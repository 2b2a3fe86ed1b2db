"""Tiny models of PLaMo with random weights, and their logits as the models' code computes them."""

from __future__ import annotations

import json
import math
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


HEADS1 = 6
CONFIG1: dict[str, Any] = {
    "architectures": ["PlamoForCausalLM"],
    "hidden_size": HEADS1 * SIZE,
    "intermediate_size": FORWARD,
    "max_position_embeddings": 4096,
    "model_type": "plamo",
    "n_shared_head": HEADS1 // KV_HEADS,
    "num_attention_heads": HEADS1,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": HEADS1,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "vocab_size": VOCABULARY,
}
WINDOW, PERIOD, CONTEXT = 24, 3, 64
THETA, LOCAL_THETA = 1e6, 1e4
CONFIG3: dict[str, Any] = {
    "architectures": ["Plamo3ForCausalLM"],
    "attention_bias": False,
    "head_dim": SIZE,
    "hidden_activation": "swiglu",
    "hidden_size": WIDTH,
    "initial_context_length": None,
    "interleaved_sliding_window": [WINDOW, WINDOW, None, WINDOW],
    "intermediate_size": FORWARD,
    "max_position_embeddings": 2048,
    "model_type": "plamo3",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KV_HEADS,
    "rms_norm_eps": 1e-6,
    "rope_local_theta": LOCAL_THETA,
    "rope_scaling_factor": 1,
    "rope_theta": THETA,
    "sliding_window_pattern": PERIOD,
    "tie_word_embeddings": True,
    "vocab_size": VOCABULARY,
    "window_size": WINDOW,
}


def write(folder: Path, config: dict[str, Any], weights: Weights) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _randomly() -> Callable[..., torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int, scale: float = 0.1) -> torch.Tensor:
        return scale * torch.randn(shape, generator=generator)

    return random


def weights1() -> Weights:
    random, width = _randomly(), HEADS1 * SIZE
    found = {"model.embed_tokens.weight": random(VOCABULARY, width, scale=1), "model.norm.weight": 1 + random(width)}
    found["lm_head.weight"] = random(VOCABULARY, width)
    for layer in range(LAYERS):
        block = f"model.layers.layers.{layer}"
        found[f"{block}.norm.weight"] = 1 + random(width)
        for name, heads in (("q", HEADS1), ("k", KV_HEADS), ("v", KV_HEADS)):
            found[f"{block}.self_attn.{name}_proj.weight"] = random(heads * SIZE, width)
        found[f"{block}.self_attn.o_proj.weight"] = random(width, width)
        found[f"{block}.self_attn.rotary_emb.inv_freq"] = frequencies(LOCAL_THETA)
        found[f"{block}.mlp.gate_proj.weight"] = random(FORWARD, width)
        found[f"{block}.mlp.up_proj.weight"] = random(FORWARD, width)
        found[f"{block}.mlp.down_proj.weight"] = random(width, FORWARD)
    return found


def _outside(random: Callable[..., torch.Tensor]) -> Weights:
    """Of PLaMo 2 and 3."""
    return {"model.embed_tokens.weight": random(VOCABULARY, WIDTH, scale=1), "model.norm.weight": random(WIDTH)}


def _around_mixer(random: Callable[..., torch.Tensor], block: str) -> Weights:
    """Of PLaMo 2 and 3: norms, and the feed-forward layer."""
    names = ("pre_mixer", "post_mixer", "pre_mlp", "post_mlp")
    return {f"{block}.{name}_norm.weight": random(WIDTH) for name in names} | {
        f"{block}.mlp.gate_up_proj.weight": random(2 * FORWARD, WIDTH),
        f"{block}.mlp.down_proj.weight": random(WIDTH, FORWARD),
    }


def weights2() -> Weights:
    random = _randomly()
    found = _outside(random)
    for layer in range(LAYERS):
        block = f"model.layers.layers.{layer}"
        found |= _around_mixer(random, block)
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


def weights3() -> Weights:
    random = _randomly()
    found = _outside(random)
    for layer in range(LAYERS):
        block = f"model.layers.layers.{layer}"
        found |= _around_mixer(random, block)
        found[f"{block}.mixer.qkv_proj.weight"] = random((HEADS + 2 * KV_HEADS) * SIZE, WIDTH)
        found[f"{block}.mixer.q_norm.weight"] = 1 + random(SIZE)
        found[f"{block}.mixer.k_norm.weight"] = 1 + random(SIZE)
        found[f"{block}.mixer.o_proj.weight"] = random(WIDTH, HEADS * SIZE)
    return found


def _normed(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6)


Mixer = Callable[[int, Callable[[str], torch.Tensor], torch.Tensor], torch.Tensor]


def logits1(weights: Weights, ids: list[int]) -> torch.Tensor:
    """[tokens, VOCABULARY]. Head h of queries attends with keys and values of head h modulo their number."""
    x = weights["model.embed_tokens.weight"][ids]
    for layer in range(LAYERS):

        def at(name: str, layer: int = layer) -> torch.Tensor:
            return weights[f"model.layers.layers.{layer}.{name}.weight"]

        normed = _normed(x) * at("norm")
        q, k, v = ((normed @ at(f"self_attn.{name}_proj").T).unflatten(-1, (-1, SIZE)) for name in "qkv")
        q, k = rotated(q, frequencies(LOCAL_THETA)), rotated(k, frequencies(LOCAL_THETA))
        k, v = (part.repeat(1, HEADS1 // KV_HEADS, 1) for part in (k, v))
        gated = silu(normed @ at("mlp.gate_proj").T) * (normed @ at("mlp.up_proj").T)
        x = x + attended(q, k, v).flatten(1) @ at("self_attn.o_proj").T + gated @ at("mlp.down_proj").T
    return _normed(x) * weights["model.norm.weight"] @ weights["lm_head.weight"].T


def logits2(weights: Weights, ids: list[int], theta: float = 1e4) -> torch.Tensor:
    """[tokens, VOCABULARY]."""

    def mixer(layer: int, at: Callable[[str], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        if layer % 2:
            return _attention(at, x, (at("q_weight"), at("k_weight")), frequencies(theta))
        return _mamba(at, x)

    return _logits(weights, ids, mixer)


def logits3(weights: Weights, ids: list[int], factor: float = 1.0) -> torch.Tensor:
    """[tokens, VOCABULARY], with yarn of this ``factor``, whose range of frequencies is rounded as in llama.cpp."""

    def mixer(layer: int, at: Callable[[str], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        norms = (1 + at("q_norm.weight"), 1 + at("k_norm.weight"))
        if (layer + 1) % PERIOD:
            return _attention(at, x, norms, frequencies(LOCAL_THETA), window=WINDOW)
        return _attention(at, x, norms, _yarn(factor), scale=1 + 0.1 * math.log(factor))

    return _logits(weights, ids, mixer)


def frequencies(theta: float) -> torch.Tensor:
    """[SIZE / 2]."""
    return theta ** -(torch.arange(0, SIZE, 2) / SIZE)


def _yarn(factor: float) -> torch.Tensor:
    """[SIZE / 2]."""
    low, high = (SIZE * math.log(CONTEXT / (turns * math.tau)) / (2 * math.log(THETA)) for turns in (32, 1))
    first, last = max(math.floor(low), 0), min(math.ceil(high), SIZE - 1)
    stretched = ((torch.arange(SIZE // 2) - first) / (last - first)).clamp(0, 1)
    return frequencies(THETA) * (1 - stretched + stretched / factor)


def _logits(weights: Weights, ids: list[int], mixer: Mixer) -> torch.Tensor:
    x = weights["model.embed_tokens.weight"][ids]
    for layer in range(LAYERS):

        def at(name: str, layer: int = layer) -> torch.Tensor:
            return weights[f"model.layers.layers.{layer}.{name}"]

        def norm(name: str, x: torch.Tensor, offset: float, at: Callable[[str], torch.Tensor] = at) -> torch.Tensor:
            return _normed(x) * (at(f"{name}_norm.weight") + offset)

        mixed = mixer(layer, lambda name, at=at: at(f"mixer.{name}"), norm("pre_mixer", x, 1))
        x = x + norm("post_mixer", mixed, 1 / 5)
        gate, up = (norm("pre_mlp", x, 1) @ at("mlp.gate_up_proj.weight").T).chunk(2, dim=-1)
        x = x + norm("post_mlp", silu(gate) * up @ at("mlp.down_proj.weight").T, 1 / 5**1.5)
    return _normed(x) * (weights["model.norm.weight"] + 1) @ weights["model.embed_tokens.weight"].T


def _attention(
    at: Callable[[str], torch.Tensor],
    x: torch.Tensor,
    norms: tuple[torch.Tensor, torch.Tensor],
    rotation: torch.Tensor,
    scale: float = 1.0,
    window: int | None = None,
) -> torch.Tensor:
    """``scale`` is that of rotated queries and keys; a token sees the last ``window`` tokens, itself among them."""
    sizes = [HEADS * SIZE, KV_HEADS * SIZE, KV_HEADS * SIZE]
    q, k, v = (part.unflatten(-1, (-1, SIZE)) for part in (x @ at("qkv_proj.weight").T).split(sizes, dim=-1))
    q, k = (scale * rotated(_normed(part) * norm, rotation) for part, norm in zip((q, k), norms, strict=True))
    k, v = (part.repeat_interleave(HEADS // KV_HEADS, dim=1) for part in (k, v))
    return attended(q, k, v, window).flatten(1) @ at("o_proj.weight").T


def attended(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int | None = None) -> torch.Tensor:
    """[tokens, heads, SIZE] of all three."""
    scores = torch.einsum("qhd,khd->hqk", q, k) / SIZE**0.5
    seen = torch.ones(scores.shape[1:], dtype=torch.bool).tril()
    seen = seen if window is None else seen.triu(1 - window)
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v)


def rotated(x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """[tokens, heads, SIZE], by ``rotation`` [SIZE / 2] a token."""
    angles = torch.arange(len(x))[:, None] * rotation
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
