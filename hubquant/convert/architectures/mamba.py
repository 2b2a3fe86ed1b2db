"""Mamba, Falcon-Mamba and Mamba 2: a state space in every layer, no attention and no feed-forward layer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import latent
from hubquant.convert.operations import Dimensions, NegativeExp, always, reshape
from hubquant.convert.rules.rule import SILU, Constant, Count, Epsilon, Fixed, Rule, number
from hubquant.convert.rules.state_space import CountOrAutomatic, StateHeads, StepsWithoutLimit, TwiceAsWide
from hubquant.convert.tables import Embeddings, Module, Place, Row, TapFor, Tensors, linear, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, boolean, u32
from hubquant.models.taps.tap import ModuleOutput, Tap

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

SIZES: tuple[Rule, ...] = (
    Count("vocab_size", "vocab_size"),
    Constant("context_length", u32(1 << 20)),  # nothing knows positions, and no model of this kind has a limit
    Count("embedding_length", "hidden_size"),
    Count("block_count", "num_hidden_layers", most=10_000),
)
_RULES: tuple[Rule, ...] = (
    *SIZES,
    Constant("feed_forward_length", u32(0)),
    Constant("attention.head_count", u32(0)),
    Epsilon("attention.layer_norm_rms_epsilon", "layer_norm_epsilon"),
    Count("ssm.conv_kernel", "conv_kernel", most=1 << 10),
    TwiceAsWide("expand"),
    Count("ssm.state_size", "state_size", most=1 << 16),
    Fixed("use_bias", False),
    Fixed("use_conv_bias", True),
    SILU,
)
STATES_BESIDE_ATTENTION: tuple[Rule, ...] = (
    Count("ssm.conv_kernel", "mamba_d_conv", most=1 << 10),
    TwiceAsWide("mamba_expand"),
    Count("ssm.state_size", "mamba_d_state", most=1 << 16),
    StateHeads("mamba_n_heads", "mamba_d_head", "mamba_n_groups"),
    StepsWithoutLimit(),
    Fixed("mamba_conv_bias", True),
    Fixed("mamba_proj_bias", False),
)
"""Of Mamba 2's layers among others."""
_NORMED = "ssm.dt_b_c_rms"
_OUTSIDE: tuple[Row, ...] = (Embeddings("backbone.embeddings"), norm("backbone.norm_f"))


def mixer(module: str, steps: TapFor) -> tuple[Row, ...]:
    """Mamba's mixer. transformers multiplies the time ``steps`` by the weight of dt_proj without calling the module."""
    return (
        *_convolution(module, "n_inner"),
        linear(f"{module}.in_proj", "n_inner_2", "n_embd"),
        linear(f"{module}.x_proj", "n_x", "n_inner"),
        Module(f"{module}.dt_proj", ("n_inner", "n_dt"), bias=True, tap=steps),
        linear(f"{module}.out_proj", "n_embd", "n_inner"),
        Tensors((f"{module}.A_log",), {"ssm_a": ("n_inner", "n_state")}, (always(NegativeExp()),)),
        Tensors((f"{module}.D",), {"ssm_d": ("n_inner",)}),
    )


def _steps(place: Place) -> Tap:
    return ModuleOutput(f"{place.prefix}mixer.x_proj", size=place.dimensions["n_dt"])


def mixer2(module: str) -> tuple[Row, ...]:
    """Mamba 2's mixer but for its projections and norm. A and D have one number for each head."""
    column = reshape(("n_ssm_head",), ("n_ssm_head", "one"))
    return (
        *_convolution(module, "n_conv_in"),
        Tensors((f"{module}.dt_bias",), {"ssm_dt.bias": ("n_ssm_head",)}),
        Tensors((f"{module}.A_log",), {"ssm_a": ("n_ssm_head", "one")}, (always(NegativeExp()), column)),
        Tensors((f"{module}.D",), {"ssm_d": ("n_ssm_head", "one")}, (column,)),
    )


def mixer2_norm(module: str) -> Row:
    """The norm goes over each group."""
    grouped = ("n_group", "n_inner_group")
    return Tensors((f"{module}.norm.weight",), {"ssm_norm.weight": grouped}, (reshape(("n_inner",), grouped),))


def whole_mixer2(module: str) -> tuple[Row, ...]:
    """Mamba 2's mixer with its norm, and with projections whose numbers stay as they are."""
    return (
        *mixer2(module),
        mixer2_norm(module),
        linear(f"{module}.in_proj", "n_in", "n_embd", stem="ssm_in"),
        linear(f"{module}.out_proj", "n_embd", "n_inner", stem="ssm_out"),
    )


def _convolution(module: str, channels: str) -> tuple[Row, ...]:
    shape = (channels, "n_conv")
    flat = reshape((channels, "one", "n_conv"), shape)
    return (
        Tensors((f"{module}.conv1d.weight",), {"ssm_conv1d.weight": shape}, (flat,)),
        Tensors((f"{module}.conv1d.bias",), {"ssm_conv1d.bias": (channels,)}),
    )


def state_dimensions(inner: int, state: int, conv: int, rank: int) -> Dimensions:
    """Sizes of Mamba's mixer."""
    return {
        "n_inner": inner,
        "n_inner_2": 2 * inner,
        "n_state": state,
        "n_conv": conv,
        "n_dt": rank,
        "n_x": rank + 2 * state,
    }


def state_dimensions2(inner: int, state: int, conv: int, heads: int, groups: int) -> Dimensions:
    """Sizes of Mamba 2's mixer."""
    conv_in = inner + 2 * groups * state
    return {
        "one": 1,
        "n_inner": inner,
        "n_conv": conv,
        "n_conv_in": conv_in,
        "n_in": inner + conv_in + heads,
        "n_ssm_head": heads,
        "n_group": groups,
        "n_inner_group": inner // groups,
    }


def _sizes(config: PreTrainedConfig) -> Dimensions:
    return {
        "n_vocab": config.vocab_size,
        "n_embd": config.hidden_size,
        "n_layer": config.num_hidden_layers,
        **dict.fromkeys(("n_ff", "n_head", "n_head_kv", "n_expert"), 0),
    }


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    inner, rank = 2 * config.hidden_size, config.time_step_rank
    return {**_sizes(config), **state_dimensions(inner, config.state_size, config.conv_kernel, rank)}


def _dimensions2(config: PreTrainedConfig) -> Dimensions:
    inner, heads, groups = 2 * config.hidden_size, config.num_heads, config.n_groups
    return {**_sizes(config), **state_dimensions2(inner, config.state_size, config.conv_kernel, heads, groups)}


class _MixerEpsilon(Epsilon):
    """The epsilon of the norms of time steps, B and C, for which llama.cpp takes that of the others: up to 1e-5 that is
    no difference."""

    def __init__(self) -> None:
        super().__init__("", "mixer_rms_eps")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        for name in (self.setting, "layer_norm_epsilon"):
            if getattr(config, name) > latent.LatentEpsilon.most:
                raise NotSupportedYet(f"{name} {getattr(config, name)}", why="llama.cpp has one for all norms")
        return {}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return {self.setting: number(metadata, "attention.layer_norm_rms_epsilon")}


MAMBA = Architecture(
    name="mamba",
    classes={"MambaForCausalLM": "mamba", "MambaLMHeadModel": "mamba"},
    restored_as="mamba",
    rules=(
        *_RULES,
        CountOrAutomatic("ssm.time_step_rank", "time_step_rank"),
        Constant(_NORMED, boolean(False)),
    ),
    dimensions=_dimensions,
    outside=_OUTSIDE,
    blocks="backbone.layers",
    block=every_layer(norm("norm"), *mixer("mixer", _steps)),
)
FALCON_MAMBA = replace(
    MAMBA,
    classes={"FalconMambaForCausalLM": "falcon_mamba"},
    restored_as="falcon_mamba",
    rules=(
        *_RULES,
        CountOrAutomatic("ssm.time_step_rank", "time_step_rank"),
        Constant(_NORMED, boolean(True)),
        _MixerEpsilon(),
    ),
    block=every_layer(norm("norm"), *mixer("mixer", lambda place: ModuleOutput(f"{place.prefix}mixer.dt_layernorm"))),
    marker=(_NORMED, True),
)
MAMBA2 = Architecture(
    name="mamba2",
    classes={"Mamba2ForCausalLM": "mamba2"},
    restored_as="mamba2",
    rules=(*_RULES, StateHeads("num_heads", "head_dim", "n_groups"), StepsWithoutLimit()),
    dimensions=_dimensions2,
    outside=_OUTSIDE,
    blocks="backbone.layers",
    block=every_layer(norm("norm"), *whole_mixer2("mixer")),
    without_effect=("time_step_rank",),  # of Mamba 1
)
