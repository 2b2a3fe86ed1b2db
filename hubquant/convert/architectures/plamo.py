"""PLaMo 2, whose code is not part of transformers: Mamba 2's mixer with norms of the steps and of B and C, attention
with norms of heads in some layers, norms before and behind. Llama's config stands for its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder
from hubquant.convert.operations import AddOne, Dimensions, NegativeExp, OperationFor, always, reshape
from hubquant.convert.rules.heads_by_layer import FULL, LINEAR, HeadsByLayer, attends, first_layer
from hubquant.convert.rules.rope import Rope, raw_parameters
from hubquant.convert.rules.rule import (
    Epsilon,
    Fixed,
    Rule,
    Settings,
    check_count,
    check_list,
    integer,
    out_of_range,
    plain_setting,
)
from hubquant.convert.rules.windows import DroppedWindow
from hubquant.convert.tables import Embeddings, Module, Row, Tensors, linear
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_NAMES = {"hidden_size_per_head": "head_dim", "attention_window_size": "sliding_window"}
_STATES = {"mamba_num_heads": "time_step_rank", "mamba_d_state": "state_size", "mamba_d_conv": "conv_kernel"}
_DEFAULTS: dict[str, Any] = {
    "head_dim": 128,
    "mamba_d_conv": 4,
    "mamba_d_state": 64,
    "mamba_num_heads": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
BEHIND_MIXER, BEHIND_FEED_FORWARD = 1 / 5, 1 / 5**1.5  # what the norms behind multiply by in a new model


def _told(config: PreTrainedConfig, name: str) -> int:
    """A setting that Llama's config has not, 0 where nothing tells it."""
    return int(getattr(config, name, None) or 0)


class _States(Rule):
    """Heads of the mixer, as wide as those of attention."""

    reads = (*_STATES, "head_dim")

    def check(self, settings: Settings) -> None:
        for setting in self.reads:
            check_count(settings, setting, 1 << 16)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        for setting in _STATES:
            if not _told(config, setting):
                raise out_of_range(setting, None, "a whole number from 1 to 65,536")
        keys = {f"ssm.{key}": u32(_told(config, setting)) for setting, key in _STATES.items()}
        inner = _told(config, "mamba_num_heads") * plain_setting(config, "head_dim")
        return {**keys, "ssm.inner_size": u32(inner), "ssm.group_count": u32(0)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return {setting: integer(metadata, f"ssm.{key}") for setting, key in _STATES.items()}


def _translated(settings: Settings) -> dict[str, Any]:
    """Attention in the middle one of every ``mamba_step`` layers, or in the last (PLaMo 2's own code)."""
    named = {_NAMES.get(name, name): value for name, value in settings.items()}
    check_count(named, "mamba_step", 10_000, least=2)
    check_count(named, "num_hidden_layers", 10_000)
    step, n_layer = named.get("mamba_step") or 2, named.get("num_hidden_layers") or 32
    attention = {n_layer - 1} if n_layer <= step // 2 else {*range(step // 2, n_layer, step)}
    layers = [FULL if layer in attention else LINEAR for layer in range(n_layer)]
    rope = {"rope_parameters": _rope(named, sorted(attention))}
    return {**_DEFAULTS, **named, **rope, "num_hidden_layers": n_layer, "layer_types": layers}


def _rope(settings: Settings, attention: list[int]) -> dict[str, Any]:
    """rope_theta is the base of the layers ``full_attention_idx``, rope_local_theta that of the other ones with
    attention (plamo-translate-cli, servers/mlx/model.py)."""
    check_list(settings, "full_attention_idx")
    parameters = {"rope_type": "default", "rope_theta": _DEFAULTS["rope_theta"], **raw_parameters(settings)}
    local, full = settings.get("rope_local_theta"), settings.get("full_attention_idx") or ()
    whole = parameters["rope_theta"]
    bases = [whole if local is None or layer in full else local for layer in attention]
    if any(base != bases[0] for base in bases):
        raise NotSupportedYet(
            f"rope_theta {str(whole)[:40]} in some layers and {str(local)[:40]} in others",
            why="llama.cpp has one base for all layers here",
        )
    return {**parameters, "rope_theta": bases[0]}


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    sizes = decoder.dimensions(config)
    state, rank = _told(config, "mamba_d_state"), max(64, sizes["n_embd"] // 16)
    heads = _told(config, "mamba_num_heads")
    inner = heads * sizes["n_embd_head"]
    states = {
        "one": 1,
        "n_qkv": sizes["n_embd_q"] + 2 * sizes["n_embd_kv"],
        "n_head_kv_all": sizes["n_head_kv"],
        "n_ff_2": 2 * sizes["n_ff"],
        "n_ssm_head": heads,
        "n_inner": inner,
        "n_inner_2": 2 * inner,
        "n_conv": _told(config, "mamba_d_conv"),
        "n_state": state,
        "n_dt": rank,
        "n_x": rank + 2 * state,
    }
    return first_layer({**sizes, **states}, config)


def centered(name: str, target: str, part: float = 1.0, size: str = "n_embd") -> Row:
    """A norm [size] that is stored without what it multiplies by in a new model. ``size`` names a dimension."""
    return Tensors((f"{name}.weight",), {target: (size,)}, (always(AddOne(part)),))


def _one(source: str, target: str, shape: tuple[str, ...], operations: tuple[OperationFor, ...] = ()) -> Row:
    return Tensors((f"mixer.{source}",), {target: shape}, operations)


_MIXER: tuple[Row, ...] = (
    linear("mixer.in_proj", "n_inner_2", "n_embd"),
    _one(
        "conv1d.weight",
        "ssm_conv1d.weight",
        ("n_inner", "n_conv"),
        (reshape(("n_inner", "one", "n_conv"), ("n_inner", "n_conv")),),
    ),
    linear("mixer.bcdt_proj", "n_x", "n_inner"),
    linear("mixer.dt_proj", "n_ssm_head", "n_dt"),
    _one("dt_bias", "ssm_dt.bias", ("n_ssm_head",)),
    _one("A_log", "ssm_a", ("n_ssm_head",), (always(NegativeExp()),)),
    _one("D", "ssm_d", ("n_ssm_head",)),
    _one("dt_norm_weight", "ssm_dt_norm", ("n_dt",)),
    _one("B_norm_weight", "ssm_b_norm", ("n_state",)),
    _one("C_norm_weight", "ssm_c_norm", ("n_state",)),
    linear("mixer.out_proj", "n_embd", "n_inner"),
)
_ATTENTION: tuple[Row, ...] = (
    linear("mixer.qkv_proj", "n_qkv", "n_embd"),
    _one("q_weight", "attn_q_norm.weight", ("n_head", "n_embd_head")),
    _one("k_weight", "attn_k_norm.weight", ("n_head_kv_all", "n_embd_head")),
    linear("mixer.o_proj", "n_embd", "n_embd_q"),
)


def _block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    return (
        centered("pre_mixer_norm", "attn_norm.weight"),
        *(_ATTENTION if attends(config, layer) else _MIXER),
        centered("post_mixer_norm", "post_attention_norm", BEHIND_MIXER),
        centered("pre_mlp_norm", "ffn_norm.weight"),
        linear("mlp.gate_up_proj", "n_ff_2", "n_embd"),
        linear("mlp.down_proj", "n_embd", "n_ff"),
        centered("post_mlp_norm", "post_ffw_norm", BEHIND_FEED_FORWARD),
    )


PLAMO2 = Architecture(
    name="plamo2",
    classes={"Plamo2ForCausalLM": "llama", "PLaMo2ForCausalLM": "llama"},
    restored_as="llama",
    rules=(
        *decoder.SIZES,
        HeadsByLayer(lambda layers: {"layer_types": [FULL if here else LINEAR for here in layers]}),
        Rope(("default",)),
        DroppedWindow(),
        Epsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        _States(),
        Fixed("mamba_enabled", True),
        Fixed("attention_bias", False),
        Fixed("mlp_bias", False),
    ),
    dimensions=_dimensions,
    outside=(Embeddings(), Module("model.norm", ("n_embd",), operations=(always(AddOne()),))),
    block=_block,
    blocks="model.layers.layers",
    translate=_translated,
    translated=(*_NAMES, "mamba_step", "mamba_chunk_size", "full_attention_idx", "rope_local_theta"),
    without_effect=("hidden_act",),
    own_code=True,
)
