"""Tiny RWKV 6 and 7 with random weights, and their logits by the papers' formulas (https://arxiv.org/abs/2404.05892,
https://arxiv.org/abs/2503.14456)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn.functional import group_norm, layer_norm, normalize, silu

from tests.support.conversion import Weights

WIDTH, SIZE, LAYERS, FORWARD = 128, 64, 3, 224
HEADS = WIDTH // SIZE
WORDS = [b"the", b" the", b"\n\n", b"hello", b" world", b"\xe6\x97", "日本".encode(), b"it's", b'"', b"\\n", b"  "]
BYTES = [bytes([byte]) for byte in range(256)]
VOCABULARY = 1 + len({*BYTES, *WORDS}) + 3  # with rows that no token has
TOKENS = list(dict.fromkeys([*BYTES, *WORDS]))
RANKS = {"w": 32, "a": 32, "v": 16, "g": 48}
CONFIG6 = {
    "architectures": ["Rwkv6ForCausalLM"],
    "attention_hidden_size": WIDTH,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "head_size": SIZE,
    "head_size_divisor": 8,
    "hidden_size": WIDTH,
    "intermediate_size": FORWARD,
    "layer_norm_epsilon": 1e-5,
    "model_type": "rwkv6",
    "num_attention_heads": SIZE,
    "num_hidden_layers": LAYERS,
    "rescale_every": 2,
    "tie_word_embeddings": False,
    "vocab_size": VOCABULARY,
}
CONFIG7: dict[str, Any] = {
    "a_low_rank_dim": RANKS["a"],
    "architectures": ["RWKV7ForCausalLM"],
    "attn": None,
    "attn_mode": "chunk",
    "decay_low_rank_dim": RANKS["w"],
    "fuse_norm": False,
    "gate_low_rank_dim": RANKS["g"],
    "head_dim": SIZE,
    "hidden_act": "sqrelu",
    "hidden_ratio": 4.0,
    "hidden_size": WIDTH,
    "intermediate_size": FORWARD,
    "model_type": "rwkv7",
    "norm_bias": True,
    "norm_eps": 1e-5,
    "norm_first": True,
    "num_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "tie_word_embeddings": False,
    "v_low_rank_dim": RANKS["v"],
    "value_dim": [WIDTH] * LAYERS,
    "vocab_size": VOCABULARY,
}


def write(folder: Path, config: dict[str, Any], weights: Weights) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    lines = [f"{id} {_literal(token)} {len(token)}" for id, token in enumerate(TOKENS, 1)]
    (folder / "rwkv_vocab_v20230424.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _literal(token: bytes) -> str:
    """As the published file has them: text where it is any, else bytes."""
    try:
        return repr(token.decode())
    except UnicodeDecodeError:
        return repr(token)


def _random() -> Callable[..., torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return lambda *shape, scale=0.1: scale * torch.randn(shape, generator=generator)


def _norm(random: Callable[..., torch.Tensor], name: str) -> Weights:
    return {f"{name}.weight": 1 + random(WIDTH), f"{name}.bias": random(WIDTH)}


def weights6() -> Weights:
    random = _random()
    found = {"rwkv.embeddings.weight": random(VOCABULARY, WIDTH, scale=1), "head.weight": random(VOCABULARY, WIDTH)}
    found |= {**_norm(random, "rwkv.ln_out"), **_norm(random, "rwkv.blocks.0.pre_ln")}
    for layer in range(LAYERS):
        block = f"rwkv.blocks.{layer}"
        for name in ("ln1", "ln2", "attention.ln_x"):
            found |= _norm(random, f"{block}.{name}")
        for name in "xwkvrg":
            found[f"{block}.attention.time_maa_{name}"] = random(1, 1, WIDTH, scale=0.5)
        for name in "kr":
            found[f"{block}.feed_forward.time_maa_{name}"] = random(1, 1, WIDTH, scale=0.5)
        found[f"{block}.attention.time_maa_w1"] = random(WIDTH, 5 * 32)
        found[f"{block}.attention.time_maa_w2"] = random(5, 32, WIDTH)
        found[f"{block}.attention.time_decay"] = random(1, 1, WIDTH, scale=1) - 1
        found[f"{block}.attention.time_decay_w1"] = random(WIDTH, 64)
        found[f"{block}.attention.time_decay_w2"] = random(64, WIDTH)
        found[f"{block}.attention.time_faaaa"] = random(HEADS, SIZE, scale=0.5)
        for name in ("receptance", "key", "value", "gate", "output"):
            found[f"{block}.attention.{name}.weight"] = random(WIDTH, WIDTH)
        found[f"{block}.feed_forward.key.weight"] = random(FORWARD, WIDTH)
        found[f"{block}.feed_forward.value.weight"] = random(WIDTH, FORWARD)
        found[f"{block}.feed_forward.receptance.weight"] = random(WIDTH, WIDTH)
    return found


def weights7() -> Weights:
    random = _random()
    found = {"model.embeddings.weight": random(VOCABULARY, WIDTH, scale=1), "lm_head.weight": random(VOCABULARY, WIDTH)}
    found |= {**_norm(random, "model.norm"), **_norm(random, "model.layers.0.pre_norm")}
    for layer in range(LAYERS):
        block = f"model.layers.{layer}"
        for name in ("attn_norm", "ffn_norm", "attn.g_norm"):
            found |= _norm(random, f"{block}.{name}")
        for name in "rwkvag":
            found[f"{block}.attn.x_{name}"] = random(1, 1, WIDTH, scale=0.5)
        found[f"{block}.ffn.x_k"] = random(WIDTH, scale=0.5)
        for name, rank in RANKS.items():
            if name != "v" or layer:
                lora = f"{block}.attn.{name}_lora.lora"
                found |= {f"{lora}.0.weight": random(rank, WIDTH), f"{lora}.2.weight": random(WIDTH, rank)}
                found |= {f"{lora}.2.bias": random(WIDTH, scale=1)} if name != "g" else {}
        found |= {f"{block}.attn.k_k": 1 + random(WIDTH), f"{block}.attn.k_a": 1 + random(WIDTH)}
        found[f"{block}.attn.r_k"] = random(HEADS, SIZE)
        for name in "rkvo":
            found[f"{block}.attn.{name}_proj.weight"] = random(WIDTH, WIDTH)
        found[f"{block}.ffn.key.weight"] = random(FORWARD, WIDTH)
        found[f"{block}.ffn.value.weight"] = random(WIDTH, FORWARD)
    return found


class _Model:
    """Tokens by width all the way: [tokens, WIDTH]."""

    def __init__(self, weights: Weights, blocks: str) -> None:
        self.weights, self.blocks = weights, blocks

    def at(self, layer: int, name: str) -> torch.Tensor:
        return self.weights[f"{self.blocks}.{layer}.{name}"]

    def linear(self, layer: int, name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ self.at(layer, f"{name}.weight").T

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, (WIDTH,), self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], 1e-5)

    def layer_norm(self, layer: int, name: str, x: torch.Tensor) -> torch.Tensor:
        return self.norm(f"{self.blocks}.{layer}.{name}", x)

    def head_norm(self, layer: int, name: str, x: torch.Tensor) -> torch.Tensor:
        return group_norm(x, HEADS, self.at(layer, f"{name}.weight"), self.at(layer, f"{name}.bias"), 64e-5)


def _shifted(x: torch.Tensor) -> torch.Tensor:
    """What the token before has more."""
    return torch.cat([torch.zeros(1, WIDTH), x[:-1]]) - x


def _by_head(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [x.view(-1, HEADS, SIZE) for x in tensors]


def logits6(weights: Weights, ids: list[int]) -> torch.Tensor:
    """[tokens, VOCABULARY]."""
    model = _Model(weights, "rwkv.blocks")
    x = model.layer_norm(0, "pre_ln", weights["rwkv.embeddings.weight"][ids])
    for layer in range(LAYERS):
        x = x + _time_mix6(model, layer, model.layer_norm(layer, "ln1", x))
        inner = model.layer_norm(layer, "ln2", x)
        key, gate = (
            inner + _shifted(inner) * model.at(layer, f"feed_forward.time_maa_{name}").view(-1) for name in "kr"
        )
        forward = model.linear(layer, "feed_forward.key", key).relu() ** 2
        gate = model.linear(layer, "feed_forward.receptance", gate).sigmoid()
        x = x + gate * model.linear(layer, "feed_forward.value", forward)
    return model.norm("rwkv.ln_out", x) @ weights["head.weight"].T


def _time_mix6(model: _Model, layer: int, x: torch.Tensor) -> torch.Tensor:
    def at(name: str) -> torch.Tensor:
        return model.at(layer, f"attention.time_{name}")

    more = _shifted(x)
    mixed = torch.tanh((x + more * at("maa_x").view(-1)) @ at("maa_w1")).view(-1, 5, 32)
    mixed = mixed.transpose(0, 1) @ at("maa_w2")
    w, k, v, r, g = (x + more * (at(f"maa_{name}").view(-1) + mixed[i]) for i, name in enumerate("wkvrg"))
    decay = torch.exp(-torch.exp(at("decay").view(-1) + torch.tanh(w @ at("decay_w1")) @ at("decay_w2")))
    names = (("receptance", r), ("key", k), ("value", v))
    r, k, v = (model.linear(layer, f"attention.{name}", inputs) for name, inputs in names)
    r, k, v, decay = _by_head(r, k, v, decay)
    state, outputs = torch.zeros(HEADS, SIZE, SIZE), []
    for t in range(len(x)):
        now = k[t].unsqueeze(2) * v[t].unsqueeze(1)
        outputs.append((r[t].unsqueeze(1) @ (state + at("faaaa").unsqueeze(2) * now)).flatten())
        state = decay[t].unsqueeze(2) * state + now
    y = model.head_norm(layer, "attention.ln_x", torch.stack(outputs))
    return model.linear(layer, "attention.output", y * silu(model.linear(layer, "attention.gate", g)))


def logits7(weights: Weights, ids: list[int]) -> torch.Tensor:
    """[tokens, VOCABULARY]."""
    model = _Model(weights, "model.layers")
    x = model.layer_norm(0, "pre_norm", weights["model.embeddings.weight"][ids])
    first: torch.Tensor | None = None
    for layer in range(LAYERS):
        mixed, first = _time_mix7(model, layer, model.layer_norm(layer, "attn_norm", x), first)
        x = x + mixed
        inner = model.layer_norm(layer, "ffn_norm", x)
        inner = inner + _shifted(inner) * model.at(layer, "ffn.x_k")
        x = x + model.linear(layer, "ffn.value", model.linear(layer, "ffn.key", inner).relu() ** 2)
    return model.norm("model.norm", x) @ weights["lm_head.weight"].T


def _time_mix7(
    model: _Model, layer: int, x: torch.Tensor, first: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """And the values of the first layer."""

    def lora(name: str, inputs: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor] = lambda x: x) -> Any:
        found = model.linear(
            layer, f"attn.{name}_lora.lora.2", function(model.linear(layer, f"attn.{name}_lora.lora.0", inputs))
        )
        return found if name == "g" else found + model.at(layer, f"attn.{name}_lora.lora.2.bias")

    more = _shifted(x)
    into = {name: x + more * model.at(layer, f"attn.x_{name}").view(-1) for name in "rwkvag"}
    r, k, v = (model.linear(layer, f"attn.{name}_proj", into[name]) for name in "rkv")
    decay = torch.exp(-0.6065306597126334 * lora("w", into["w"], torch.tanh).sigmoid())
    if first is None:
        first = v
    else:
        v = v + (first - v) * lora("v", into["v"]).sigmoid()
    a, gate = lora("a", into["a"]).sigmoid(), lora("g", into["g"], torch.sigmoid)
    removed = normalize((k * model.at(layer, "attn.k_k")).view(-1, HEADS, SIZE), dim=-1)
    k = k * (1 + (a - 1) * model.at(layer, "attn.k_a"))
    r, k, v, decay, a = _by_head(r, k, v, decay, a)
    state, outputs = torch.zeros(HEADS, SIZE, SIZE), []
    for t in range(len(x)):
        old = (state @ removed[t].unsqueeze(2)) @ (removed[t] * a[t]).unsqueeze(1)
        state = state * decay[t].unsqueeze(1) - old + v[t].unsqueeze(2) @ k[t].unsqueeze(1)
        outputs.append((state @ r[t].unsqueeze(2)).flatten())
    y = model.head_norm(layer, "attn.g_norm", torch.stack(outputs))
    own = (r * k * model.at(layer, "attn.r_k")).sum(-1, keepdim=True) * v
    return model.linear(layer, "attn.o_proj", (y + own.flatten(1)) * gate), first
