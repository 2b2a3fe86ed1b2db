"""A tiny Qwen 2 with RWKV 6 in the place of attention, with random weights, and its logits by the formulas of RADLADS
(https://arxiv.org/abs/2505.03005)."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import silu

from tests.support.conversion import Weights

WIDTH, SIZE, HEADS, KV_HEADS, FORWARD, LAYERS, VOCABULARY, MIX, DECAY = 128, 32, 4, 2, 192, 3, 384, 16, 24
CONFIG: dict[str, Any] = {
    "architectures": ["RWKV6Qwen2ForCausalLM"],
    "attention_bias": True,
    "attention_output_bias": False,
    "hidden_act": "silu",
    "hidden_size": WIDTH,
    "intermediate_size": FORWARD,
    "lora_rank_decay": DECAY,
    "lora_rank_tokenshift": MIX,
    "max_position_embeddings": 32768,
    "model_type": "rwkv6qwen2",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KV_HEADS,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "use_rope": False,
    "use_sliding_window": False,
    "vocab_size": VOCABULARY,
}


def weights() -> Weights:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int, scale: float = 0.1) -> torch.Tensor:
        return scale * torch.randn(shape, generator=generator)

    found = {
        "model.embed_tokens.weight": random(VOCABULARY, WIDTH, scale=1),
        "lm_head.weight": random(VOCABULARY, WIDTH),
    }
    found["model.norm.weight"] = 1 + random(WIDTH)
    for layer in range(LAYERS):
        block = f"model.layers.{layer}"
        mixer = f"{block}.self_attn"
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{block}.{name}.weight"] = 1 + random(WIDTH)
        for name in "xrkvwg":
            found[f"{mixer}.time_maa_{name}"] = random(1, 1, WIDTH, scale=0.5)
        found[f"{mixer}.time_maa_w1"] = random(WIDTH, 5 * MIX)
        found[f"{mixer}.time_maa_w2"] = random(5, MIX, WIDTH)
        found[f"{mixer}.time_decay"] = random(1, 1, WIDTH, scale=0.5) - 2
        found[f"{mixer}.time_decay_w1"] = random(WIDTH, DECAY)
        found[f"{mixer}.time_decay_w2"] = random(DECAY, WIDTH)
        for name, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            found[f"{mixer}.{name}_proj.weight"] = random(heads * SIZE, WIDTH)
            found[f"{mixer}.{name}_proj.bias"] = random(heads * SIZE)
        found[f"{mixer}.gate.weight"] = random(WIDTH, WIDTH)
        found[f"{mixer}.o_proj.weight"] = random(WIDTH, WIDTH)
        found[f"{block}.mlp.gate_proj.weight"] = random(FORWARD, WIDTH)
        found[f"{block}.mlp.up_proj.weight"] = random(FORWARD, WIDTH)
        found[f"{block}.mlp.down_proj.weight"] = random(WIDTH, FORWARD)
    return found


def logits(weights: Weights, ids: list[int]) -> torch.Tensor:
    """[tokens, VOCABULARY]."""
    x = weights["model.embed_tokens.weight"][ids]
    for layer in range(LAYERS):
        block = {
            name.removeprefix(f"model.layers.{layer}."): each
            for name, each in weights.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        x = x + _mixed(block, _normed(x) * block["input_layernorm.weight"])
        inner = _normed(x) * block["post_attention_layernorm.weight"]
        gate, up = (inner @ block[f"mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        x = x + (silu(gate) * up) @ block["mlp.down_proj.weight"].T
    return _normed(x) * weights["model.norm.weight"] @ weights["lm_head.weight"].T


def _normed(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6)


def _mixed(block: Weights, x: torch.Tensor) -> torch.Tensor:
    def at(name: str) -> torch.Tensor:
        return block[f"self_attn.{name}"]

    more = torch.cat([torch.zeros(1, WIDTH), x[:-1]]) - x
    mixed = torch.tanh((x + more * at("time_maa_x").view(-1)) @ at("time_maa_w1")).view(-1, 5, MIX)
    mixed = mixed.transpose(0, 1) @ at("time_maa_w2")
    r, k, v, w, g = (x + more * (at(f"time_maa_{name}").view(-1) + mixed[i]) for i, name in enumerate("rkvwg"))
    inputs = (("q", r), ("k", k), ("v", v))
    q, k, v = (
        (each @ at(f"{name}_proj.weight").T + at(f"{name}_proj.bias")).unflatten(-1, (-1, SIZE))
        for name, each in inputs
    )
    k, v = (each.repeat_interleave(HEADS // KV_HEADS, dim=1) for each in (k, v))
    rates = at("time_decay").view(-1) + torch.tanh(w @ at("time_decay_w1")) @ at("time_decay_w2")
    kept = torch.exp((-rates.exp()).clamp(-5)).unflatten(-1, (HEADS, SIZE))
    k = k * (1 - kept)
    state, outputs = torch.zeros(HEADS, SIZE, SIZE), []
    for t in range(len(x)):
        state = kept[t].unsqueeze(2) * state + k[t].unsqueeze(2) * v[t].unsqueeze(1)
        outputs.append((q[t].unsqueeze(1) @ state).flatten() / SIZE**0.5)
    return (torch.stack(outputs) * torch.sigmoid(g @ at("gate.weight").T)) @ at("o_proj.weight").T
