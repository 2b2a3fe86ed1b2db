"""Tiny drafters as published ones are, and what they draft: in llama.cpp, and by their formulas."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from hubquant.llamacpp import binding
from tests.support.llamacpp import LlamaCpp

SIZES = {"hidden_size": 256, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
N_DRAFT = 100


def build_eagle3(folder: Path, target: Path, *, own: bool = True, prefix: str = "midlayer.", **config: Any) -> Path:
    """For the model in ``target``; with its ``own`` embedding and output layer."""
    of_target = json.loads((target / "config.json").read_text())
    n_vocab, width = of_target["vocab_size"], of_target["hidden_size"]
    settings = {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "num_hidden_layers": 1,
        "vocab_size": n_vocab,
        "draft_vocab_size": N_DRAFT if own else n_vocab,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        **SIZES,
        **config,
    }
    generator = torch.Generator().manual_seed(7)

    def random(*shape: int) -> torch.Tensor:
        return (len(shape) == 1) + 0.1 * torch.randn(shape, generator=generator)

    n, n_ff = settings["hidden_size"], settings["intermediate_size"]
    kv = n * settings["num_key_value_heads"] // settings["num_attention_heads"]
    layer = {
        "self_attn.q_proj": random(n, 2 * n),
        "self_attn.k_proj": random(kv, 2 * n),
        "self_attn.v_proj": random(kv, 2 * n),
        "self_attn.o_proj": random(n, n),
        "mlp.gate_proj": random(n_ff, n),
        "mlp.up_proj": random(n_ff, n),
        "mlp.down_proj": random(n, n_ff),
        **{name: random(n) for name in ("input_layernorm", "hidden_norm", "post_attention_layernorm")},
    }
    weights = {f"{prefix}{name}.weight": x for name, x in layer.items()}
    weights |= {"fc.weight": random(n, 3 * width), "norm.weight": random(n)}
    if config.get("norm_before_fc"):
        weights["input_norm.weight"] = random(3 * width)
    if own:
        ids = torch.randperm(n_vocab, generator=generator)[:N_DRAFT].sort().values
        weights |= {"embed_tokens.weight": random(n_vocab, n), "lm_head.weight": random(N_DRAFT, n)}
        weights |= {"d2t": ids - torch.arange(N_DRAFT), "t2d": torch.zeros(n_vocab, dtype=torch.bool)}
        weights["t2d"][ids] = True
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def drafts_by_formula(
    weights: Mapping[str, torch.Tensor], config: Mapping[str, Any], ids: list[int], states: torch.Tensor
) -> torch.Tensor:
    """Logits [n, n_draft] of tokens ``ids`` [n] and the target's ``states`` [n, 3 * width] at the tokens before."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    layer = {name.removeprefix("midlayer."): x for name, x in weights.items()}

    def normed(x: torch.Tensor, name: str) -> torch.Tensor:
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + config["rms_norm_eps"]) * layer[f"{name}.weight"]

    def times(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ layer[f"{name}.weight"].T

    def heads(x: torch.Tensor, n: int) -> torch.Tensor:
        return x.unflatten(-1, (n, -1)).transpose(0, 1)[None]

    n_head, n_kv = config["num_attention_heads"], config["num_key_value_heads"]
    fused = times(normed(states, "input_norm") if config.get("norm_before_fc") else states, "fc")
    hidden = normed(fused, "hidden_norm")
    rest = hidden if config.get("norm_before_residual") else fused
    both = torch.cat([normed(layer["embed_tokens.weight"][ids], "input_layernorm"), hidden], -1)
    q, k, v = (heads(times(both, f"self_attn.{x}_proj"), n) for x, n in (("q", n_head), ("k", n_kv), ("v", n_kv)))
    plain = {name: value for name, value in config.items() if name not in ("architectures", "model_type")}
    cos, sin = LlamaRotaryEmbedding(LlamaConfig(**plain))(v, torch.arange(len(ids))[None])
    q, k = apply_rotary_pos_emb(q, k, cos, sin)
    seen = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    x = times(seen[0].transpose(0, 1).flatten(1), "self_attn.o_proj") + rest
    y = normed(x, "post_attention_layernorm")
    x = x + times(torch.nn.functional.silu(times(y, "mlp.gate_proj")) * times(y, "mlp.up_proj"), "mlp.down_proj")
    return times(normed(x, "norm"), "lm_head")


class DraftingBeside(LlamaCpp):
    """A drafter's file, which computes from states of its target; ``other`` is that target's file, if it needs one."""

    def __init__(self, path: Path, other: Path | None = None) -> None:
        self._other = LlamaCpp(other) if other else None
        super().__init__(path)
        lib, pointer = self._lib, ctypes.c_void_p
        binding.declare(
            lib,
            {
                "llama_encode": (ctypes.c_int32, pointer, binding.Batch),
                "_Z26llama_set_embeddings_nextnP13llama_contextbb": (None, pointer, ctypes.c_bool, ctypes.c_bool),
                "_Z26llama_get_embeddings_nextnP13llama_context": (ctypes.POINTER(ctypes.c_float), pointer),
            },
        )

    def _context_params(self) -> binding.ContextParams:
        params = super()._context_params()
        if self._other is not None:
            params._room[2] = self._other._context  # ctx_other, of whose model it takes what it lacks
        return params

    def drafts(self, ids: Sequence[int], states: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [n, n_vocab] of tokens ``ids`` [n] and the target's ``states`` [n, 3 * width] at those before."""
        lib, n = self._lib, len(ids)
        lib._Z26llama_set_embeddings_nextnP13llama_contextbb(self._context, True, True)
        with self._batch(ids, 0, all_logits=True) as batch:
            tokens, batch.token = batch.token, None
            batch.embd = states.ctypes.data
            status = lib.llama_encode(self._context, batch)
            batch.token, batch.embd = tokens, None
        if status:
            raise RuntimeError(f"llama_encode returned {status}")
        found = lib._Z26llama_get_embeddings_nextnP13llama_context(self._context)
        width = int(lib.llama_model_n_embd(self._model))
        fused = np.ctypeslib.as_array(found, (n, width)).copy()
        with self._batch(ids, 0, all_logits=True) as batch:
            batch.embd = fused.ctypes.data
            status = lib.llama_decode(self._context, batch)
            batch.embd = None  # it is not llama.cpp's to free
            if status:
                raise RuntimeError(f"llama_decode returned {status}")
            rows = [lib.llama_get_logits_ith(self._context, i) for i in range(n)]
            return np.stack([np.ctypeslib.as_array(row, (self.n_vocab,)) for row in rows])

    def close(self) -> None:
        super().close()
        if self._other is not None:
            self._other.close()
