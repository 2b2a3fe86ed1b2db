"""Mistral's own format: params.json beside consolidated*.safetensors, read as the checkpoint of transformers it is.

Names of tensors and settings, and the order of queries and keys, are those that transformers' conversion scripts of
Mistral, Mixtral, Mistral 3 and Ministral 3 know (convert_*_weights_to_hf.py).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hubquant.checkpoint.checkpoint import Checkpoint, local_header
from hubquant.checkpoint.headers import TensorInfo, listed
from hubquant.checkpoint.json_files import read_table
from hubquant.checkpoint.links import check_links
from hubquant.checkpoint.storage import base_model
from hubquant.checkpoint.weight_files import CONSOLIDATED, PARAMS, WeightFiles
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.hub.front_matter import read_card
from hubquant.typed import Typed, read_typed

if TYPE_CHECKING:
    import torch

USUAL_CONTEXT = 32_768
"""Tokens, of transformers' script, where params.json tells none."""
_HINT = "use the repository's files for transformers, where it has them: config.json and model*.safetensors"
_SETTINGS = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "hidden_dim": "intermediate_size",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "norm_eps": "rms_norm_eps",
    "vocab_size": "vocab_size",
    "head_dim": "head_dim",
    "activation": "hidden_act",
    "tied_embeddings": "tie_word_embeddings",
}
_OTHERS = frozenset(
    {
        *("rope_theta", "max_position_embeddings", "max_seq_len", "sliding_window", "_sliding_window", "model_type"),
        *("moe", "yarn", "llama_4_scaling", "quantization", "vision_encoder", "multimodal", "q_lora_rank"),
        *("kv_lora_rank", "use_biases", "causal", "max_batch_size", "model_parallel"),
    }
)
_OF_VISION = {
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "num_channels": "num_channels",
    "patch_size": "patch_size",
    "image_size": "image_size",
}
_LAYER, _VISION = r"^layers\.(\d+)\.", r"^vision_encoder\."
_FP8 = ((r"\.qscale_weight$", ".weight_scale"), (r"\.qscale_act$", ".input_scale"))
_TEXT = (
    (r"^tok_embeddings\.", "model.embed_tokens."),
    (r"^norm\.", "model.norm."),
    (r"^output\.", "lm_head."),
    (rf"{_LAYER}attention_norm\.", r"model.layers.\1.input_layernorm."),
    (rf"{_LAYER}ffn_norm\.", r"model.layers.\1.post_attention_layernorm."),
    (rf"{_LAYER}attention\.w([qkvo])\.", r"model.layers.\1.self_attn.\2_proj."),
    (rf"{_LAYER}feed_forward\.w1\.", r"model.layers.\1.mlp.gate_proj."),
    (rf"{_LAYER}feed_forward\.w2\.", r"model.layers.\1.mlp.down_proj."),
    (rf"{_LAYER}feed_forward\.w3\.", r"model.layers.\1.mlp.up_proj."),
    (rf"{_LAYER}feed_forward\.(gate|experts)\.", r"model.layers.\1.block_sparse_moe.\2."),
)
_PICTURES = (
    (rf"{_VISION}(transformer\.layers\.\d+\.attention)\.w([qkvo])\.", r"vision_tower.\1.\2_proj."),
    (rf"{_VISION}(transformer\.layers\.\d+\.feed_forward)\.w1\.", r"vision_tower.\1.gate_proj."),
    (rf"{_VISION}(transformer\.layers\.\d+\.feed_forward)\.w2\.", r"vision_tower.\1.down_proj."),
    (rf"{_VISION}(transformer\.layers\.\d+\.feed_forward)\.w3\.", r"vision_tower.\1.up_proj."),
    (_VISION, "vision_tower."),
    (r"^vision_language_adapter\.w_in\.", "multi_modal_projector.linear_1."),
    (r"^vision_language_adapter\.w_out\.", "multi_modal_projector.linear_2."),
    (r"^pre_mm_projector_norm\.", "multi_modal_projector.norm."),
    (r"^patch_merger\.", "multi_modal_projector.patch_merger."),
)
_IN_PAIRS = re.compile(r"((?:vision_encoder\.transformer\.)?)layers\.\d+\.attention\.w([qk])\.weight")


class _Yarn(Typed):
    factor: float
    original_max_position_embeddings: int
    beta: float = 32.0
    alpha: float = 1.0
    apply_scale: bool = False


class _Temperature(Typed):
    beta: float


class _Experts(Typed):
    num_experts: int
    num_experts_per_tok: int
    num_shared_experts: int | None = None


class _Vision(Typed):
    num_attention_heads: int
    image_token_id: int = 10
    spatial_merge_size: int | None = None
    mm_projector_id: str | None = None
    adapter_bias: bool = False
    rope_theta: float = 10_000.0


class _Params(Typed):
    n_heads: int
    n_kv_heads: int | None = None
    model_type: str | None = None
    max_position_embeddings: int | None = None
    max_seq_len: int | None = None
    rope_theta: float = 10_000.0
    yarn: _Yarn | None = None
    llama_4_scaling: _Temperature | None = None
    moe: _Experts | None = None
    kv_lora_rank: int | None = None
    use_biases: bool | None = None
    causal: bool | None = None
    vision_encoder: _Vision | None = None
    multimodal: dict[str, Any] | None = None
    quantization: dict[str, Any] | None = None

    @property
    def heads(self) -> dict[str, int]:
        """Of queries and keys, by the places of their matrices in the names of tensors."""
        keys = self.n_kv_heads or self.n_heads
        seeing = self.vision_encoder.num_attention_heads if self.vision_encoder else 0
        tower = "vision_encoder.transformer."
        return {"q": self.n_heads, "k": keys, f"{tower}q": seeing, f"{tower}k": seeing}


@dataclass(frozen=True)
class ConsolidatedCheckpoint(Checkpoint):
    """By the names of transformers. Rows of queries and keys, which Mistral has in pairs that are turned together, come
    in transformers' order: first all first ones of a head, then the second ones. ``heads`` is how many there are."""

    is_safetensors: ClassVar[bool] = False
    heads: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_files(cls, folder: Path, files: WeightFiles) -> ConsolidatedCheckpoint:
        """``files`` of a ``folder`` with params.json. Raises ``CheckpointError`` and ``NotSupportedYet``."""
        check_links(folder)
        return cls.of_headers(folder, files, {name: local_header(folder / name, name) for name in files.names}, folder)

    @classmethod
    def of_headers(
        cls,
        folder: Path,
        files: WeightFiles,
        headers: Mapping[str, Mapping[str, TensorInfo]],
        weights: Path | None = None,
    ) -> ConsolidatedCheckpoint:
        """As :meth:`Checkpoint.from_headers`; ``weights`` is the folder with the files, where they are there."""
        settings = read_table(folder / PARAMS, hint=_HINT)
        params = read_typed(_Params, settings, PARAMS, CheckpointError)
        tensors = {name: info for file in files.names for name, info in headers[file].items()}
        config, notes = _config(settings, params), (*files.notes, *_notes(settings, params))
        plain = cls(config, tensors, weights, notes, base_model(config, read_card(folder)), params.heads)
        inside = "language_model." if params.vision_encoder else ""
        text = [(pattern, inside + name) for pattern, name in _TEXT]
        renamed = plain.renamed(_FP8).renamed((*text, *_PICTURES))
        assert isinstance(renamed, ConsolidatedCheckpoint)
        return renamed

    def _stored(self, info: TensorInfo, dtypes: tuple[str, ...]) -> torch.Tensor:
        x, match = super()._stored(info, dtypes), _IN_PAIRS.fullmatch(info.name)
        heads = self.heads.get("".join(match.groups())) if match else None
        if not heads:
            return x
        if x.shape[0] % (2 * heads):
            raise CheckpointError(
                f"{listed([info.name])} is not {heads} heads",
                why=f"it is {list(x.shape)}",
                hint="fetch the files again",
            )
        return x.reshape(heads, -1, 2, *x.shape[1:]).transpose(1, 2).reshape(x.shape)


def is_consolidated(names: Collection[str]) -> bool:
    """Whether weight files are in Mistral's own format."""
    return any(CONSOLIDATED.fullmatch(name) for name in names)


def _config(settings: Mapping[str, Any], params: _Params) -> dict[str, Any]:
    """config.json that the same model has for transformers."""
    _check(params)
    text = {ours: settings[theirs] for theirs, ours in _SETTINGS.items() if settings.get(theirs) is not None}
    text |= {"max_position_embeddings": _context(params) or USUAL_CONTEXT, "sliding_window": _window(settings)}
    text |= {"tie_word_embeddings": text.get("tie_word_embeddings", False), "rope_parameters": _rope(params)}
    if params.moe:
        kind, name = "mixtral", "MixtralForCausalLM"
        text |= {"num_local_experts": params.moe.num_experts, "num_experts_per_tok": params.moe.num_experts_per_tok}
    elif params.llama_4_scaling:
        kind, name = "ministral3", "Ministral3ForCausalLM"
    else:
        kind, name = "mistral", "MistralForCausalLM"
    text |= {"architectures": [name], "model_type": kind}
    quantization = {"quantization_config": _quantization(params.quantization)} if params.quantization else {}
    if params.vision_encoder:
        return {**_seeing(settings["vision_encoder"], params.vision_encoder), "text_config": text, **quantization}
    return text | quantization


def _check(params: _Params) -> None:
    shares = params.moe is not None and bool(params.moe.num_shared_experts)
    if params.model_type not in (None, "transformer"):
        what = f"model_type {params.model_type[:40]!r}"
    elif params.kv_lora_rank or shares:
        what = "latent attention and shared experts"
    elif params.multimodal:
        what = "models with sound"
    elif params.use_biases or params.causal is False:
        what = "biases of all layers" if params.use_biases else "attention in both directions"
    else:
        return
    raise NotSupportedYet(f"{what} in Mistral's own format ({PARAMS})", hint=_HINT)


def _context(params: _Params) -> int | None:
    return params.max_position_embeddings or params.max_seq_len


def _window(settings: Mapping[str, Any]) -> Any:
    """Tokens; the smallest of those that layers have."""
    found = settings.get("sliding_window") or settings.get("_sliding_window")
    sizes = [size for size in found if type(size) is int] if isinstance(found, list) else []
    return min(sizes, default=None) if isinstance(found, list) else found


def _rope(params: _Params) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": params.rope_theta}
    if (yarn := params.yarn) is None:
        return rope
    rope |= {
        "rope_type": "yarn",
        "factor": yarn.factor,
        "original_max_position_embeddings": yarn.original_max_position_embeddings,
        "beta_fast": yarn.beta,
        "beta_slow": yarn.alpha,
    }
    if not yarn.apply_scale:  # attention is scaled by the ratio of two that are the same
        rope |= {"mscale": 1.0, "mscale_all_dim": 1.0}
    return rope | ({"llama_4_scaling_beta": params.llama_4_scaling.beta} if params.llama_4_scaling else {})


def _quantization(given: Mapping[str, Any]) -> dict[str, Any]:
    if given.get("qformat_weight") == "fp8_e4m3":
        return {"quant_method": "fp8", "activation_scheme": "static"}
    if "quant_method" in given:
        return dict(given)
    raise NotSupportedYet(f"quantization {str(dict(given))[:60]} in {PARAMS}", hint=_HINT)


def _seeing(given: Mapping[str, Any], vision: _Vision) -> dict[str, Any]:
    """config.json of a model that sees, but for its language model."""
    tower = {ours: given[theirs] for theirs, ours in _OF_VISION.items() if theirs in given}
    rope = {"rope_type": "default", "rope_theta": vision.rope_theta}
    shared: dict[str, Any] = {
        "image_token_index": vision.image_token_id,
        "multimodal_projector_bias": vision.adapter_bias,
        "vision_feature_layer": -1,
        "projector_hidden_act": "gelu",
        "vision_config": {"model_type": "pixtral", "hidden_act": "silu", **tower, "rope_parameters": rope},
    }
    if vision.mm_projector_id == "patch_merge":
        name, shared["spatial_merge_size"] = "Mistral3ForConditionalGeneration", vision.spatial_merge_size or 2
        return {"architectures": [name], "model_type": "mistral3", **shared}
    name, shared["vision_feature_select_strategy"] = "LlavaForConditionalGeneration", "full"
    return {"architectures": [name], "model_type": "llava", **shared}


def _notes(settings: Mapping[str, Any], params: _Params) -> list[str]:
    notes = [f"the weights are in Mistral's own format, and read as what transformers would have by {PARAMS}"]
    if _context(params) is None:
        notes.append(f"{PARAMS} does not tell how long a text may be: the file says {USUAL_CONTEXT:,} tokens")
    known = {*_SETTINGS, *_OTHERS}
    if unknown := [name for name, value in settings.items() if value and name not in known]:
        notes.append(f"{PARAMS} has {listed(unknown)}: if the model computes with it, the file does not")
    return notes
