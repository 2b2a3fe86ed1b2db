"""Tiny drafters as published ones are, and what they draft: in llama.cpp, and by their formulas."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from hubquant.gguf_file import GGUFFile
from hubquant.llamacpp import binding
from tests.support.cli import hubquant
from tests.support.conversion import Weights
from tests.support.llamacpp import LlamaCpp

SIZES = {"hidden_size": 256, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
N_DRAFT = 100
SERVER = """
import json, sys, xllamacpp
from hubquant.llamacpp.probe import post
kind, target, drafter = sys.argv[1:]
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.warmup, params.n_gpu_layers = target, 256, 1, False, 0
params.speculative.types = [getattr(xllamacpp.common_speculative_type, f"COMMON_SPECULATIVE_TYPE_DRAFT_{kind}")]
params.speculative.draft.mparams.path, params.speculative.draft.p_min = drafter, 0.0
server = xllamacpp.Server(params)
body = {"prompt": [3, 4, 5, 6, 7], "n_predict": 16, "temperature": 0, "ignore_eos": True}
print(json.dumps(post(server, "/completion", body)["timings"]))
"""


def assert_server_drafts(kind: str, target: Path, drafter: Path) -> None:
    """llama.cpp's server takes the files and drafts with them in its own way of this ``kind``."""
    command = [sys.executable, "-c", SERVER, kind, str(target), str(drafter)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    timings = json.loads(done.stdout.splitlines()[-1])
    assert timings["predicted_n"] == 16
    assert timings["draft_n"] > 0


def converted(folder: Path, file: Path, *options: str, type: str = "F32") -> GGUFFile:
    made = hubquant(
        *("convert", str(folder), *options, "--type", type, "-o", str(file)), *("--store", str(file.parent / "store"))
    )
    assert made.code == 0, made.err
    return GGUFFile.open(file)


def refusal(folder: Path, *options: str) -> str:
    out = ("-o", str(folder.parent / "refused.gguf"), "--store", str(folder.parent / "store"))
    outcome = hubquant("convert", str(folder), *options, *out)
    assert outcome.code != 0
    return " ".join(outcome.err.split())


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


def build_dflash(folder: Path, target: Path, *, own: bool = False, **config: Any) -> Path:
    """For the model in ``target``, of two layers; with its ``own`` embedding and output layer."""
    of_target = json.loads((target / "config.json").read_text())
    of_target = of_target.get("text_config", of_target)
    n_vocab, n = of_target["vocab_size"], of_target["hidden_size"]
    settings = {
        "architectures": ["DFlashDraftModel"],
        "auto_map": {"AutoModel": "dflash.DFlashDraftModel"},
        "model_type": "qwen3",
        "num_hidden_layers": 2,
        "num_target_layers": of_target["num_hidden_layers"],
        "vocab_size": n_vocab,
        "block_size": 8,
        "dflash_config": {"mask_token_id": n_vocab - 1, "target_layer_ids": [0, 2, 4]},
        "max_position_embeddings": 512,
        "head_dim": 32,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": True,
        **SIZES,
        "hidden_size": n,
        **config,
    }
    sizes = {"q": 4 * 32, "k": 2 * 32, "v": 2 * 32}
    shapes: dict[str, tuple[int, ...]] = {"fc": (n, 3 * n), "hidden_norm": (n,), "norm": (n,)}
    for layer in ("layers.0.", "layers.1."):
        shapes |= {f"{layer}self_attn.{x}_proj": (size, n) for x, size in sizes.items()}
        shapes |= {f"{layer}self_attn.o_proj": (n, 4 * 32)}
        shapes |= {f"{layer}self_attn.{x}_norm": (32,) for x in "qk"}
        shapes |= {f"{layer}{x}_layernorm": (n,) for x in ("input", "post_attention")}
        shapes |= {f"{layer}mlp.{x}_proj": (128, n) for x in ("gate", "up")}
        shapes |= {f"{layer}mlp.down_proj": (n, 128)}
    if own:
        shapes |= {"embed_tokens": (n_vocab, n), "lm_head": (n_vocab, n)}
    weights = {f"{name}.weight": torch.zeros(shape) for name, shape in shapes.items()}
    randomize(weights)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def dflash_by_formula(
    weights: Mapping[str, torch.Tensor],
    config: Mapping[str, Any],
    ids: Sequence[int],
    states: torch.Tensor,
    *,
    causal: bool = False,
    windows: Sequence[int | None] = (None, None),
) -> torch.Tensor:
    """Logits [n, n_vocab] of a block of tokens ``ids`` [n] behind tokens with these ``states`` [n_before, 3 * width].

    A layer sees so many tokens back as its window says, and forward all, unless ``causal``."""
    from transformers import Qwen3Config
    from transformers.models.qwen3 import modeling_qwen3

    rotate_half: Any = modeling_qwen3.rotate_half

    def normed(x: torch.Tensor, name: str) -> torch.Tensor:
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + config["rms_norm_eps"]) * weights[f"{name}.weight"]

    def times(x: torch.Tensor, name: str) -> Any:
        return x @ weights[f"{name}.weight"].T

    n, before = len(ids), len(states)
    plain = {name: value for name, value in config.items() if name not in ("architectures", "model_type", "auto_map")}
    at = torch.arange(before + n)
    cos, sin = (x[0] for x in modeling_qwen3.Qwen3RotaryEmbedding(Qwen3Config(**plain))(states, at[None]))
    fused = normed(times(states, "fc"), "hidden_norm")
    x = weights["embed_tokens.weight"][list(ids)]
    for layer, window in enumerate(windows):
        own = f"layers.{layer}."
        y = normed(x, f"{own}input_layernorm")
        both = torch.cat([fused, y])

        def heads(z: torch.Tensor, name: str, own: str = own) -> Any:
            return times(z, f"{own}self_attn.{name}_proj").unflatten(-1, (-1, 32)).transpose(0, 1)

        def turned(z: torch.Tensor) -> Any:
            return z * cos[-z.shape[1] :] + rotate_half(z) * sin[-z.shape[1] :]

        q = turned(normed(heads(y, "q"), f"{own}self_attn.q_norm"))
        k = turned(normed(heads(both, "k"), f"{own}self_attn.k_norm"))
        back = at[before:, None] - at[None]
        seen = (back < (window or len(at))) & ((back >= 0) | torch.tensor(not causal))
        mixed = torch.nn.functional.scaled_dot_product_attention(
            q[None], k[None], heads(both, "v")[None], attn_mask=seen, enable_gqa=True
        )
        x = x + times(mixed[0].transpose(0, 1).flatten(1), f"{own}self_attn.o_proj")
        y = normed(x, f"{own}post_attention_layernorm")
        gated = torch.nn.functional.silu(times(y, f"{own}mlp.gate_proj")) * times(y, f"{own}mlp.up_proj")
        x = x + times(gated, f"{own}mlp.down_proj")
    logits: torch.Tensor = times(normed(x, "norm"), "lm_head")
    return logits


def randomize(weights: Weights) -> None:
    generator = torch.Generator().manual_seed(7)
    for name, x in weights.items():
        if x.is_floating_point():
            weights[name] = (x.dim() == 1) + 0.1 * torch.randn(x.shape, generator=generator)


class DraftingBeside(LlamaCpp):
    """A drafter's file, which computes from states of its target; ``other`` is that target's file, if it needs one."""

    def __init__(self, path: Path, other: Path | None = None) -> None:
        self._other = LlamaCpp(other) if other else None
        super().__init__(path)
        lib, pointer = self._lib, ctypes.c_void_p
        binding.declare(
            lib,
            {
                "llama_set_causal_attn": (None, pointer, ctypes.c_bool),
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

    def block(
        self, ids: Sequence[int], states: NDArray[np.float32], *, causal: bool = False, sections: bool = False
    ) -> NDArray[np.float32]:
        """Logits [n, n_vocab] of a block of tokens ``ids`` [n] behind tokens with the target's ``states``
        [n_before, 3 * width]; a file with ``sections`` has four positions for each of those."""
        lib, before = self._lib, len(states)
        states = np.ascontiguousarray(states, np.float32)
        four = (ctypes.c_int32 * (4 * before))(*(3 * [*range(before)]), *(before * [0]))
        lib.llama_set_causal_attn(self._context, causal)
        with self._batch([0] * before, 0, all_logits=False) as batch:
            given = binding.Batch.from_buffer_copy(batch)  # its own pointers stay for it to free
            given.token, given.embd = None, states.ctypes.data
            if sections:
                given.pos = four
            if status := lib.llama_decode(self._context, given):
                raise RuntimeError(f"llama_decode returned {status}")
        with self._batch(ids, before, all_logits=True) as batch:
            if status := lib.llama_decode(self._context, batch):
                raise RuntimeError(f"llama_decode returned {status}")
            rows = [lib.llama_get_logits_ith(self._context, i) for i in range(len(ids))]
            return np.stack([np.ctypeslib.as_array(row, (self.n_vocab,)) for row in rows])

    def close(self) -> None:
        super().close()
        if self._other is not None:
            self._other.close()
