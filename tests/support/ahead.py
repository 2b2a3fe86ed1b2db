"""Tiny checkpoints with a layer behind the last that predicts a further token, as published ones have it, and what it
predicts: in llama.cpp, and by transformers' layers of the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from hubquant.llamacpp import binding
from tests.support.conversion import Weights, edit_weights
from tests.support.llamacpp import LlamaCpp

HEAD = ("eh_proj", "enorm", "hnorm", "shared_head.norm")
_QWEN_HEAD = ("fc", "pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm")
_OF_QWEN = ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "exaone_moe")
_CENTERED = ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")
_NEMOTRON = "nemotron_h"
_MIMO = "mimo_v2_flash"


def add_ahead(folder: Path, family: str, *, own_tables: bool = False) -> Path:
    """Its weights are random, in the shapes of a layer that is there. With ``own_tables`` it has an embedding and an
    output layer of its own, which are the model's."""
    config, size = _config(folder), _config(folder)["hidden_size"]
    shapes = dict(zip(HEAD, ((size, 2 * size), (size,), (size,), (size,)), strict=True))

    def edit(weights: Weights) -> None:
        generator = torch.Generator().manual_seed(2)
        block = {name: tuple(weights[like].shape) for name, like in block_names(family, config, weights).items()}
        head = {f"{_head_name(family, config, name)}.weight": shape for name, shape in shapes.items()}
        for name, shape in (block | head).items():
            around = 1 if len(shape) == 1 and "bias" not in name else 0
            weights[name] = around + 0.1 * torch.randn(shape, generator=generator)
        if own_tables:
            prefix = f"model.layers.{config['num_hidden_layers']}."
            weights[f"{prefix}embed_tokens.weight"] = weights["model.embed_tokens.weight"].clone()
            weights[f"{prefix}shared_head.head.weight"] = weights["lm_head.weight"].clone()

    return edit_weights(folder, edit)


def block_names(family: str, config: Mapping[str, Any], weights: Weights) -> dict[str, str]:
    """What the layer computes with, each with the name of what it is like in another layer."""
    base = "backbone" if family == _NEMOTRON else "model"
    n_layer = config["num_hidden_layers"] if family != _NEMOTRON else len(config["layers_block_type"])

    def behind(prefix: str, wanted: str) -> dict[str, str]:
        held = [f"{base}.layers.{number}." for number in range(n_layer)]
        like = [each for each in held if any(name.startswith(each) and wanted in name for name in weights)][-1]
        return {prefix + name.removeprefix(like): name for name in weights if name.startswith(like)}

    if family == _NEMOTRON:
        return behind("mtp.layers.0.", ".q_proj.") | behind("mtp.layers.1.", ".experts.")
    if family == _MIMO:
        return behind("model.mtp.layers.0.", ".mlp.up_proj.")
    if family in _OF_QWEN:
        return behind("mtp.layers.0.", ".mlp.up_proj." if family == "exaone_moe" else ".self_attn.")
    return behind(f"model.layers.{n_layer}.", ".experts.")


class Drafting(LlamaCpp):
    """A file whose layer behind the last runs, in the place of the others."""

    def _model_params(self) -> binding.ModelParams:
        params = super()._model_params()
        params.load_mtp = True
        return params

    def _context_params(self) -> binding.ContextParams:
        params = super()._context_params()
        params.ctx_type = 1  # LLAMA_CONTEXT_TYPE_MTP
        return params

    def drafts(self, ids: Sequence[int], states: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [n, n_vocab] of tokens ``ids`` and the states [n, n_embd] behind the layers at the tokens before."""
        states = np.ascontiguousarray(states, np.float32)
        with self._batch(ids, 0, all_logits=True) as batch:
            batch.embd = states.ctypes.data
            status = self._lib.llama_decode(self._context, batch)
            batch.embd = None  # it is not llama.cpp's to free
            if status:
                raise RuntimeError(f"llama_decode returned {status}")
            rows = [self._lib.llama_get_logits_ith(self._context, i) for i in range(len(ids))]
            return np.stack([np.ctypeslib.as_array(row, (self.n_vocab,)) for row in rows])


def drafts_by_transformers(
    folder: Path, family: str, ids: Sequence[int], states: torch.Tensor, other: Path
) -> NDArray[np.float32]:
    """As :meth:`Drafting.drafts`: by a model in the folder ``other`` that has the weights of the layer behind the last
    in one of its own, and runs that alone."""
    config, weights = _config(folder), load_file(folder / "model.safetensors")
    head = {name: weights[f"{_head_name(family, config, name)}.weight"] for name in HEAD}
    names = block_names(family, config, weights)
    weights |= {like: weights.pop(name) for name, like in names.items()}
    weights["model.norm.weight"] = head["shared_head.norm"].clone()
    other.mkdir()
    (other / "config.json").write_text((folder / "config.json").read_text())
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    model: Any = AutoModelForCausalLM.from_pretrained(other, dtype=torch.float32)
    run, n_layer = sorted({int(like.split(".")[2]) for like in names.values()}), len(model.model.layers)
    model.model.layers = torch.nn.ModuleList([model.model.layers[number] for number in run])
    if family == _NEMOTRON:  # whose last norm takes the mean away too
        model.model.norm_f = torch.nn.LayerNorm(config["hidden_size"], config["layer_norm_epsilon"], bias=False)
        model.model.norm_f.weight = torch.nn.Parameter(head["shared_head.norm"])
    for setting in ("layer_types", "layers_block_type", "mlp_layer_types", "indexer_types"):
        if len(kinds := getattr(model.config, setting, None) or ()) == n_layer:
            setattr(model.config, setting, [kinds[number] for number in run])

    def normed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        epsilon = config.get("rms_norm_eps") or config["layer_norm_epsilon"]
        scaled = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + epsilon)
        return scaled * (weight + 1 if family in _CENTERED else weight)

    with torch.no_grad():
        embedded = model.get_input_embeddings()(torch.tensor(ids))
        both = torch.cat([normed(embedded, head["enorm"]), normed(states, head["hnorm"])], -1)
        logits: NDArray[np.float32] = model(inputs_embeds=(both @ head["eh_proj"].T)[None], use_cache=False).logits
    return np.asarray(logits[0])


def _config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def _head_name(family: str, config: Mapping[str, Any], name: str) -> str:
    if family in _OF_QWEN:
        return f"mtp.{_QWEN_HEAD[HEAD.index(name)]}"
    if family == _NEMOTRON:
        return "mtp.layers.1.final_layernorm" if name == HEAD[-1] else f"mtp.layers.0.{name}"
    if family == _MIMO:
        return f"model.mtp.layers.0.{'final_layernorm' if name == HEAD[-1] else name}"
    return f"model.layers.{config['num_hidden_layers']}.{name}"
