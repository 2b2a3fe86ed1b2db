"""MiniMax-01: lightning attention (https://arxiv.org/abs/2501.08313, section 2.2), which decays with distance, in most
layers; experts in all; residuals of what the norms give, times one factor.

transformers rotates whole heads. The models as first published, whose code is not part of it, rotate half of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder, mixtral
from hubquant.convert.architectures.latent import LatentEpsilon
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.by_layer import MOST_LAYERS
from hubquant.convert.rules.heads_by_layer import FULL, LINEAR, attends
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import (
    SILU,
    Fixed,
    Heads,
    Number,
    Rule,
    Settings,
    check_list,
    head_size,
    integer,
    number,
    out_of_range,
)
from hubquant.convert.tables import Row, linear, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, booleans, f32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_ALPHAS = ("full_attn_alpha_factor", "linear_attn_alpha_factor", "mlp_alpha_factor")
_BETAS = tuple(name.replace("alpha", "beta") for name in _ALPHAS)
_PERIOD = 8  # of layers with attention where a file does not tell them


@dataclass(frozen=True)
class _LinearLayers(Rule):
    """Which layers have lightning attention."""

    key = "attention.recurrent_layers"
    reads = ("layer_types",)

    def check(self, settings: Settings) -> None:
        check_list(settings, "layer_types")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        kinds = list(config.layer_types)
        if not {*kinds} <= {FULL, LINEAR}:
            raise out_of_range("layer_types", kinds, f"{FULL} or {LINEAR} for each layer")
        if len(kinds) == 1 and kinds != [FULL]:
            raise NotSupportedYet("one layer of lightning attention", why="llama.cpp divides by the number of others")
        return {self.key: booleans(kind == LINEAR for kind in kinds)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        found = metadata[self.key].value if self.key in metadata else None
        if not isinstance(found, tuple):
            period = integer(metadata, "full_attention_interval") or _PERIOD
            n_layer = min(integer(metadata, "block_count") or 0, MOST_LAYERS)
            found = tuple((layer + 1) % period != 0 for layer in range(n_layer))
        return {"layer_types": [LINEAR if linear else FULL for linear in found]}


@dataclass(frozen=True)
class _Residuals(Rule):
    """What residuals are multiplied with, the same everywhere; what is added to them is not."""

    key = "residual_scale"
    reads = (*_ALPHAS, *_BETAS)

    def check(self, settings: Settings) -> None:
        for name in self.reads:
            Number(self.key, name).check(settings)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        alphas, betas = ({getattr(config, name) for name in names} for names in (_ALPHAS, _BETAS))
        if len(alphas) != 1 or betas != {1}:
            raise NotSupportedYet(
                "residuals with factors that differ", why="llama.cpp has one for all, and 1 for what is added to them"
            )
        return {self.key: f32(alphas.pop())}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return {**dict.fromkeys(_ALPHAS, number(metadata, self.key)), **dict.fromkeys(_BETAS, 1.0)}


@dataclass(frozen=True)
class _WholeHeads(Rule):
    """transformers does not read how much of each head is rotated."""

    def check(self, settings: Settings) -> None:
        told, size = settings.get("rotary_dim"), settings.get("head_dim")
        if told is not None and size is not None and told != size:
            raise self._part(told, size)

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        told, size = integer(metadata, "rope.dimension_count"), integer(metadata, "attention.key_length")
        if told != size:
            raise self._part(told, size)
        return {}

    def _part(self, told: Any, size: Any) -> NotSupportedYet:
        return NotSupportedYet(
            f"rope on {str(told)[:40]} of {str(size)[:40]} in each head",
            why="transformers' MiniMax rotates whole heads",
        )


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    return {**mixtral.dimensions(config), "n_qkv": 3 * config.num_attention_heads * head_size(config)}


_LIGHTNING: tuple[Row, ...] = (
    linear("self_attn.qkv_proj", "n_qkv", "n_embd", stem="attn_qkv"),
    norm("self_attn.norm", "n_embd_q", stem="attn_norm_2"),
    linear("self_attn.output_gate", "n_embd_q", "n_embd", stem="attn_gate"),
    linear("self_attn.out_proj", "n_embd", "n_embd_q", stem="attn_output"),
)


def _block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    return (
        norm("input_layernorm"),
        *(decoder.attention() if attends(config, layer) else _LIGHTNING),
        norm("post_attention_layernorm"),
        *mixtral.EXPERTS,
    )


_RULES: tuple[Rule, ...] = (
    *decoder.SIZES,
    Heads(),
    LatentEpsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps", "lightning attention"),
    SILU,
    *mixtral.COUNTS,
    _LinearLayers(),
    _Residuals(),
    Fixed("sliding_window", None),
    Fixed("postnorm", True),
    Fixed("shared_intermediate_size", 0),
)
MINIMAX_01 = Architecture(
    name="minimax-01",
    classes={"MiniMaxForCausalLM": "minimax"},
    restored_as="minimax",
    rules=(*_RULES, Rope(("default",)), _WholeHeads()),
    dimensions=_dimensions,
    outside=decoder.OUTSIDE,
    block=_block,
    ignored=(*Architecture.ignored, r"\.self_attn\.(slope_rate|(query|key|diagonal)_decay)$"),  # computed of the sizes
    renames=mixtral.MIXTRAL.renames,
    without_effect=("block_size",),
)

_OWN: Mapping[str, str] = {
    f"layernorm_{part}_{factor}": f"{ours}_{factor}_factor"
    for part, ours in (("full_attention", "full_attn"), ("linear_attention", "linear_attn"), ("mlp", "mlp"))
    for factor in ("alpha", "beta")
}


def _translate(settings: Settings) -> Settings:
    found = {_OWN.get(name, name): value for name, value in settings.items()}
    kinds, rotated, size = (found.pop(name, None) for name in ("attn_type_list", "rotary_dim", "head_dim"))
    if isinstance(kinds, list):
        found["layer_types"] = [FULL if kind == 1 else LINEAR for kind in kinds]
    if size is not None:
        found["head_dim"] = size
    if type(rotated) is int and type(size) is int and size:
        found["partial_rotary_factor"] = rotated / size
    return found


MINIMAX_01_OWN = replace(
    MINIMAX_01,
    classes={"MiniMaxText01ForCausalLM": "minimax", "MiniMaxM1ForCausalLM": "minimax"},
    rules=(*_RULES, Rope(("default",), partial=True)),
    own_code=True,
    translate=_translate,
    translated=(*_OWN, "attn_type_list", "rotary_dim"),
)
