"""Encoders whose code is not part of transformers, in llama.cpp's own runtime, against what their code computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from hubquant.models.tiny import bert_tokenizer, xlm_roberta_tokenizer
from tests.convert.test_encoders import IDS, close
from tests.support.conversion import Weights, write_gguf
from tests.support.llamacpp import LlamaCpp

WIDTH, HEADS, LAYERS, FF, EXPERTS = 128, 4, 2, 192, 4
VOCABULARY = -1  # as the tokenizer has it
SIZE = WIDTH // HEADS
Shapes = dict[str, tuple[int, ...]]


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return functional.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Of heads [n, heads, size] each; ``bias`` [heads, n, n] is added to what they score."""
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v, bias).transpose(0, 1).flatten(1)


def in_heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (HEADS, SIZE))


def turned(x: Tensor, base: float, *, pairs: bool) -> Tensor:
    """[n, heads, size], where numbers of a pair lie together or half a head apart."""
    angles = torch.outer(torch.arange(len(x)), base ** (-torch.arange(0, SIZE, 2) / SIZE))[:, None]
    a, b = (x[..., ::2], x[..., 1::2]) if pairs else x.chunk(2, dim=-1)
    new = (a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos())
    return torch.stack(new, dim=-1).flatten(-2) if pairs else torch.cat(new, dim=-1)


def normed(*names: str) -> Shapes:
    return {f"{name}.{part}": (WIDTH,) for name in names for part in ("weight", "bias")}


def full(name: str, rows: int, columns: int) -> Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


EMBEDDINGS: Shapes = {
    "embeddings.word_embeddings.weight": (VOCABULARY, WIDTH),
    "embeddings.token_type_embeddings.weight": (2, WIDTH),
}


def embedded(weights: Weights, name: str) -> Tensor:
    word, kind = (weights[f"embeddings.{each}_embeddings.weight"] for each in ("word", "token_type"))
    return norm(weights, name, word[IDS] + kind[0])


def jina_shapes(*, code: bool) -> Shapes:
    shapes = EMBEDDINGS | normed("embeddings.LayerNorm")
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= full(f"{at}.attention.{name}", WIDTH, WIDTH)
        shapes |= normed(f"{at}.attention.output.LayerNorm")
        gate, down, norms = ("gated_layers", "wo", ["mlp.layernorm"])
        if code:
            norms = ["attention.self.layer_norm_q", "attention.self.layer_norm_k", "layer_norm_1", "layer_norm_2"]
            gate, down = "up_gated_layer", "down_layer"
        shapes |= normed(*(f"{at}.{name}" for name in norms)) | full(f"{at}.mlp.{down}", WIDTH, FF)
        shapes[f"{at}.mlp.{gate}.weight"] = (2 * FF, WIDTH)
    return shapes


def jina(weights: Weights) -> Tensor:
    """Version 2; of its models for code and for two languages queries and keys have norms, and a layer one more."""
    x = embedded(weights, "embeddings.LayerNorm")
    places = torch.arange(len(IDS))
    slopes = 2.0 ** (-8 / HEADS * torch.arange(1, HEADS + 1))
    distances = -slopes[:, None, None] * (places[:, None] - places).abs()
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        q, k, v = (linear(weights, f"{at}.attention.self.{name}", x) for name in ("query", "key", "value"))
        code = f"{at}.layer_norm_1.weight" in weights
        if code:
            q, k = (norm(weights, f"{at}.attention.self.layer_norm_{name}", y) for name, y in (("q", q), ("k", k)))
        attention = linear(
            weights, f"{at}.attention.output.dense", attend(in_heads(q), in_heads(k), in_heads(v), distances)
        )
        y = norm(weights, f"{at}.attention.output.LayerNorm", attention + x)
        if code:
            y = norm(weights, f"{at}.layer_norm_1", x + y)
            up, gate = linear(weights, f"{at}.mlp.up_gated_layer", y).chunk(2, dim=-1)
            x = linear(weights, f"{at}.mlp.down_layer", up * functional.gelu(gate))
            x = norm(weights, f"{at}.layer_norm_2", y + x)
        else:
            gate, up = linear(weights, f"{at}.mlp.gated_layers", y).chunk(2, dim=-1)
            x = norm(weights, f"{at}.mlp.layernorm", y + linear(weights, f"{at}.mlp.wo", up * functional.gelu(gate)))
    return x


def nomic_shapes() -> Shapes:
    shapes = EMBEDDINGS | normed("emb_ln")
    for layer in range(LAYERS):
        at = f"encoder.layers.{layer}"
        shapes |= full(f"{at}.attn.Wqkv", 3 * WIDTH, WIDTH) | full(f"{at}.attn.out_proj", WIDTH, WIDTH)
        shapes |= normed(f"{at}.norm1", f"{at}.norm2")
        if layer % 2:
            shapes |= {f"{at}.mlp.experts.mlp.{name}": (EXPERTS * FF, WIDTH) for name in ("w1", "w2")}
            shapes |= {f"{at}.mlp.router.layer.weight": (EXPERTS, WIDTH), f"{at}.mlp.experts.bias": (WIDTH,)}
        else:
            shapes |= full(f"{at}.mlp.fc1", FF, WIDTH) | full(f"{at}.mlp.fc2", WIDTH, FF)
    return shapes


def nomic(weights: Weights) -> Tensor:
    """Version 2, without the bias of experts, for which llama.cpp has no place."""
    x = embedded(weights, "emb_ln")
    for layer in range(LAYERS):
        at = f"encoder.layers.{layer}"
        q, k, v = map(in_heads, linear(weights, f"{at}.attn.Wqkv", x).chunk(3, dim=-1))
        attention = attend(turned(q, 10000, pairs=False), turned(k, 10000, pairs=False), v)
        x = norm(weights, f"{at}.norm1", x + linear(weights, f"{at}.attn.out_proj", attention))
        y = experts(weights, f"{at}.mlp", x) if layer % 2 else dense(weights, f"{at}.mlp", x)
        x = norm(weights, f"{at}.norm2", x + y)
    return x


def dense(weights: Weights, at: str, x: Tensor) -> Tensor:
    return linear(weights, f"{at}.fc2", functional.gelu(linear(weights, f"{at}.fc1", x)))


def experts(weights: Weights, at: str, x: Tensor) -> Tensor:
    shares, chosen = linear(weights, f"{at}.router.layer", x).softmax(-1).topk(2)
    first, second = (weights[f"{at}.experts.mlp.{name}"].unflatten(0, (EXPERTS, FF)) for name in ("w1", "w2"))
    of_all = torch.einsum("nef,efh->neh", functional.gelu(torch.einsum("nh,efh->nef", x, first)), second)
    return (shares[..., None] * of_all[torch.arange(len(x))[:, None], chosen]).sum(1)


def neo_shapes() -> Shapes:
    shapes: Shapes = {"model.encoder.weight": (VOCABULARY, WIDTH), "model.layer_norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        at = f"model.transformer_encoder.{layer}"
        shapes |= {f"{at}.{name}.weight": (WIDTH,) for name in ("attention_norm", "ffn_norm")}
        shapes |= {f"{at}.qkv.weight": (3 * WIDTH, WIDTH), f"{at}.wo.weight": (WIDTH, WIDTH)}
        shapes |= {f"{at}.ffn.w12.weight": (2 * FF, WIDTH), f"{at}.ffn.w3.weight": (WIDTH, FF)}
    return shapes


def neo(weights: Weights) -> Tensor:
    """The matrix of queries, keys and values has them head by head."""

    def rms(name: str, x: Tensor) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], weights[f"model.{name}.weight"], 1e-5)

    x = weights["model.encoder.weight"][IDS]
    for layer in range(LAYERS):
        at = f"transformer_encoder.{layer}"
        qkv = linear(weights, f"model.{at}.qkv", rms(f"{at}.attention_norm", x))
        q, k, v = qkv.unflatten(-1, (HEADS, 3 * SIZE)).chunk(3, dim=-1)
        attention = attend(turned(q, 10000, pairs=True), turned(k, 10000, pairs=True), v)
        x = x + linear(weights, f"model.{at}.wo", attention)
        gate, up = linear(weights, f"model.{at}.ffn.w12", rms(f"{at}.ffn_norm", x)).chunk(2, dim=-1)
        x = x + linear(weights, f"model.{at}.ffn.w3", functional.silu(gate) * up)
    return rms("layer_norm", x)


_CODE = {"AutoModel": "modeling.Model"}
JINA: dict[str, Any] = {
    "architectures": ["JinaBertForMaskedLM"],
    "model_type": "bert",
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "intermediate_size": FF,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 8192,
    "position_embedding_type": "alibi",
    "feed_forward_type": "geglu",
    "emb_pooler": "mean",
    "hidden_act": "gelu",
    "type_vocab_size": 2,
}
NOMIC: dict[str, Any] = {
    "architectures": ["NomicBertModel"],
    "model_type": "nomic_bert",
    "n_embd": WIDTH,
    "n_head": HEADS,
    "n_layer": LAYERS,
    "n_inner": FF,
    "n_positions": 2048,
    "max_trained_positions": 2048,
    "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu",
    **dict.fromkeys(("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"), True),
    **dict.fromkeys(("causal", "prenorm", "rotary_emb_interleaved", "use_rms_norm", "expert_choice_router"), False),
    "moe_every_n_layers": 2,
    "moe_normalize_expert_weights": False,
    "moe_top_k": 2,
    "num_experts": EXPERTS,
    "num_shared_experts": 0,
    "ffn_div": 1,
    "rotary_emb_base": 10000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_scale_base": None,
    "type_vocab_size": 2,
}
NEO: dict[str, Any] = {
    "architectures": ["NeoBERTLMHead"],
    "model_type": "neobert",
    "dim_head": SIZE,
    "hidden_size": WIDTH,
    "intermediate_size": 3 * FF // 2,
    "max_length": 4096,
    "norm_eps": 1e-5,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
}
Model = tuple[dict[str, Any], Shapes, Callable[[Weights], Tensor]]
MODELS: dict[str, Model] = {
    "jina v2": (JINA, jina_shapes(code=False), jina),
    "jina v2 for code": (JINA, jina_shapes(code=True), jina),
    "nomic v2": (NOMIC, nomic_shapes(), nomic),
    "neobert": (NEO, neo_shapes(), neo),
}


def build(name: str, folder: Path) -> tuple[Path, Weights]:
    config, shapes, _ = MODELS[name]
    tokenizer = xlm_roberta_tokenizer() if name.startswith("nomic") else bert_tokenizer()
    tokenizer.save_pretrained(folder)
    rows = len(tokenizer)
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": _CODE, "vocab_size": rows}))
    torch.manual_seed(0)
    shapes = {name: (rows if shape[0] == VOCABULARY else shape[0], *shape[1:]) for name, shape in shapes.items()}
    weights = {name: torch.randn(shape) * (0.3 if len(shape) == 1 else 0.15) for name, shape in shapes.items()}
    weights |= {name: x + 1 for name, x in weights.items() if x.dim() == 1 and name.endswith("weight")}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder, weights


@pytest.mark.parametrize("name", MODELS)
def test_embeddings_are_those_of_the_models_code(name: str, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    folder, weights = build(name, tmp_path / "model")
    file = tmp_path / "model.gguf"
    conversion = write_gguf(folder, file, "F32")
    assert "transformers lacks its code" in str(conversion.cannot_run)
    assert any("bias" in note for note in conversion.notes) is (name == "nomic v2")
    with LlamaCpp(file, encoder=True) as llama:
        assert close(llama.embeddings(IDS), MODELS[name][2](weights).numpy(), 2e-3)
