"""Falcon-H1: attention and Mamba 2's mixer side by side in every layer.

llama.cpp knows none of its multipliers: the weights are written multiplied by them, and a model that is read back has
these weights and multipliers of 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder, mamba
from hubquant.convert.operations import Dimensions, Fork, OperationFor, Scale, always
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Count, Fixed, Rule, Settings, check_count, integer, is_number, out_of_range
from hubquant.convert.rules.state_space import StateHeads, StepsWithoutLimit
from hubquant.convert.tables import Bundle, Embeddings, Place, Row, Tensors, linear, norm
from hubquant.gguf_file.metadata import Metadata, u32
from hubquant.models.taps.tap import ModuleInput, Tap

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

_SINGLE = (
    *("embedding_multiplier", "lm_head_multiplier", "attention_in_multiplier", "attention_out_multiplier"),
    *("key_multiplier", "ssm_in_multiplier", "ssm_out_multiplier"),
)
_SEVERAL = {"mlp_multipliers": 2, "ssm_multipliers": 5}


class _Multipliers(Rule):
    """Numbers above 0 that the weights are multiplied by."""

    reads = (*_SINGLE, *_SEVERAL)

    def check(self, settings: Settings) -> None:
        for name in _SINGLE:
            if settings.get(name) is not None and not _is_multiplier(settings[name]):
                raise out_of_range(name, settings[name], "a number above 0")
        for name, length in _SEVERAL.items():
            values = settings.get(name)
            fits = isinstance(values, list) and len(values) == length and all(map(_is_multiplier, values))
            if values is not None and not fits:
                raise out_of_range(name, values, f"{length} numbers above 0")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        for name in _SINGLE:
            if getattr(config, name) is None:
                raise out_of_range(name, None, "a number above 0")
        return {}

    def settings(self, metadata: Metadata) -> dict[str, Any]:  # noqa: ARG002
        return dict.fromkeys(_SINGLE, 1.0) | {name: [1.0] * length for name, length in _SEVERAL.items()}


def _is_multiplier(value: object) -> bool:
    return is_number(value) and 0 < value < 1e6


class _InnerSize(Rule):
    """The width of the mixer."""

    reads = ("mamba_d_ssm", "mamba_expand")

    def check(self, settings: Settings) -> None:
        for setting in self.reads:
            check_count(settings, setting, 1 << 24)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        return {"ssm.inner_size": u32(_inner_size(config))}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return {"mamba_d_ssm": integer(metadata, "ssm.inner_size")}


def _inner_size(config: PreTrainedConfig) -> int:
    width = config.mamba_expand * config.hidden_size if config.mamba_d_ssm is None else config.mamba_d_ssm
    return int(width)


@dataclass(frozen=True)
class _ScaledEmbeddings(Embeddings):
    """Embedding and output have multipliers of their own, so that one matrix may become two."""

    def observed(self, place: Place) -> Iterator[tuple[str, Tap]]:
        targets = [name for bundle in self.bundles(place) for name in bundle.targets]
        yield targets[-1], ModuleInput(self.module)

    def bundles(self, place: Place) -> Iterator[Bundle]:
        factors = place.config.embedding_multiplier, place.config.lm_head_multiplier
        embedding, *output = super().bundles(place)
        shape = place.shape(("n_vocab", "n_embd"))
        scales = Scale((factors[0],)), Scale((factors[1],))
        if output:
            yield Bundle(embedding.sources, embedding.targets, scales[:1])
            yield Bundle(output[0].sources, output[0].targets, scales[1:])
        elif factors[0] == factors[1]:
            yield Bundle(embedding.sources, embedding.targets, scales[:1], embedding.copies)
        else:
            targets = {**embedding.targets, "output.weight": shape}
            yield Bundle(embedding.sources, targets, (Fork(scales),), embedding.copies)


def _block(config: PreTrainedConfig, _layer: int) -> tuple[Row, ...]:
    def scaled(*factors: float) -> tuple[OperationFor, ...]:
        product = 1.0
        for factor in factors:
            product *= factor
        return (always(Scale((product,))),)

    inner, grouped = _inner_size(config), config.mamba_n_groups * config.mamba_d_state
    parts = inner, inner, grouped, grouped, config.mamba_n_heads
    into = tuple(config.ssm_in_multiplier * factor for factor in config.ssm_multipliers)
    gate, down = config.mlp_multipliers
    attention = config.attention_in_multiplier
    return (
        norm("input_layernorm"),
        linear("self_attn.q_proj", "n_embd_q", "n_embd", operations=scaled(attention)),
        linear("self_attn.k_proj", "n_embd_kv", "n_embd", operations=scaled(attention, config.key_multiplier)),
        linear("self_attn.v_proj", "n_embd_kv", "n_embd", operations=scaled(attention)),
        linear("self_attn.o_proj", "n_embd", "n_embd_q", operations=scaled(config.attention_out_multiplier)),
        *mamba.mixer2("mamba"),
        *((mamba.mixer2_norm("mamba"),) if config.mamba_rms_norm else ()),
        linear("mamba.in_proj", "n_in", "n_embd", operations=(always(Scale(into, parts)),)),
        linear("mamba.out_proj", "n_embd", "n_inner", operations=scaled(config.ssm_out_multiplier)),
        Tensors(("pre_ff_layernorm.weight",), {"ffn_norm": ("n_embd",)}),  # llama.cpp's name ends here
        linear("feed_forward.gate_proj", "n_ff", "n_embd", operations=scaled(gate)),
        linear("feed_forward.up_proj", "n_ff", "n_embd"),
        linear("feed_forward.down_proj", "n_embd", "n_ff", operations=scaled(down)),
    )


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    state, conv = config.mamba_d_state, config.mamba_d_conv
    heads, groups = config.mamba_n_heads, config.mamba_n_groups
    states = mamba.state_dimensions2(_inner_size(config), state, conv, heads, groups)
    return {**decoder.dimensions(config), **states}


def _normed(tensors: Mapping[str, torch.Tensor], _settings: Settings) -> dict[str, Any]:
    return {"mamba_rms_norm": "blk.0.ssm_norm.weight" in tensors}


FALCON_H1 = Architecture(
    name="falcon-h1",
    classes={"FalconH1ForCausalLM": "falcon_h1"},
    restored_as="falcon_h1",
    rules=(
        *decoder.RULES,
        Rope(),
        Count("ssm.conv_kernel", "mamba_d_conv", most=1 << 10),
        _InnerSize(),
        Count("ssm.state_size", "mamba_d_state", most=1 << 16),
        StateHeads("mamba_n_heads", "mamba_d_head", "mamba_n_groups"),
        StepsWithoutLimit(),
        _Multipliers(),
        Fixed("mamba_conv_bias", True),
        Fixed("mamba_proj_bias", False),
        Fixed("mamba_norm_before_gate", False),
        Fixed("projectors_bias", False),
        Fixed("attention_bias", False),
        Fixed("mlp_bias", False),
    ),
    dimensions=_dimensions,
    outside=(_ScaledEmbeddings(), norm("model.final_layernorm")),
    block=_block,
    told_by_tensors=_normed,
    layout=("mamba_rms_norm",),
)
