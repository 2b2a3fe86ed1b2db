"""Step-3.5: norms around 1, those of heads too, a gate for each head, more heads in layers with a window, and limits on
what experts compute. transformers has it as what reads in Step-3.7 alone."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from hubquant.convert.ahead import HEAD, Ahead
from hubquant.convert.architecture import Architecture, Constants
from hubquant.convert.architectures import decoder, moe
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.by_layer import MOST_LAYERS, PATTERN, PartialRopeByKind, WindowsByLayer, by_layer
from hubquant.convert.rules.rope import rope_freqs
from hubquant.convert.rules.rule import (
    SILU,
    Constant,
    Count,
    Epsilon,
    Fixed,
    Heads,
    Number,
    Rule,
    Settings,
    check_count,
    check_list,
    integer,
    is_number,
    out_of_range,
)
from hubquant.convert.rules.windows import FULL, SLIDING
from hubquant.convert.tables import Row, Tensors, linear, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, boolean, f32s, i32s, u32

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

_HEADS, _ROTATED = "attention.head_count", "rope.dimension_count"
_IN_WINDOWS = "num_sliding_attention_heads"
_LIMITS = {"swiglu_clamp_exp": "swiglu_limits", "swiglu_clamp_shexp": "swiglu_limits_shared"}
_OF_WINDOWS = "attention_other_setting"
_NAMES = ("moe_layers_enum", "partial_rotary_factors", "num_nextn_predict_layers", "yarn_only_types", "need_fp32_gate")


def _heads(config: PreTrainedConfig, layer: int) -> int:
    return int(config.per_layer_config[layer].num_attention_heads)


class _Heads(Rule):
    """Layers with a window have as many heads of queries as ``num_sliding_attention_heads`` says."""

    reads = (*Heads.reads, _IN_WINDOWS, "per_layer_config", "query_pre_attn_scalar")

    def check(self, settings: Settings) -> None:
        Heads().check(settings)
        check_count(settings, _IN_WINDOWS, 1 << 16)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        counts, kv_heads, size = self._counts(config), config.num_key_value_heads, config.head_dim
        if config.query_pre_attn_scalar != size:
            raise NotSupportedYet(
                f"query_pre_attn_scalar {config.query_pre_attn_scalar}", why=f"llama.cpp computes with {size}"
            )
        if any(heads % kv_heads for heads in counts):
            raise out_of_range("num_key_value_heads", kv_heads, f"a divisor of {sorted({*counts})} attention heads")
        return {
            _HEADS: i32s(counts),
            "attention.head_count_kv": u32(kv_heads),
            "attention.key_length": u32(size),
            "attention.value_length": u32(size),
        }

    def _counts(self, config: PreTrainedConfig) -> list[int]:
        kinds = {FULL: vars(config)["num_attention_heads"], SLIDING: config.num_sliding_attention_heads}
        counts = [_heads(config, layer) for layer in range(config.num_hidden_layers)]
        if counts != [kinds[kind] for kind in config.layer_types]:
            raise out_of_range("per_layer_config", counts, "as num_attention_heads and the other kind's setting say")
        return counts

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        n_layer = min(integer(metadata, "block_count") or 0, MOST_LAYERS)
        layers = [*zip(by_layer(metadata, PATTERN, n_layer), by_layer(metadata, _HEADS, n_layer), strict=True)]
        whole, windows = ({heads for here, heads in layers if here == kind} for kind in (False, True))
        if len(whole) > 1 or len(windows) > 1:
            raise NotSupportedYet("heads that differ between layers of one kind")
        return {
            "num_attention_heads": next(iter(whole or windows), None),
            _IN_WINDOWS: next(iter(windows or whole), None),
            "num_key_value_heads": integer(metadata, "attention.head_count_kv"),
            "head_dim": integer(metadata, "attention.key_length"),
        }


class _Rope(PartialRopeByKind):
    """llama.cpp rotates half of what it is told in layers that see the whole text."""

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        keys = super().metadata(config)
        return {**keys, _ROTATED: u32(2 * (integer(keys, _ROTATED) or 0))}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return super().settings({**metadata, _ROTATED: u32((integer(metadata, _ROTATED) or 0) // 2)})


class _Limits(Rule):
    """The most that gates and what they gate may be, in experts and in the feed-forward layer of all tokens; 0 is
    none."""

    reads = tuple(_LIMITS.values())

    def check(self, settings: Settings) -> None:
        for setting in self.reads:
            check_list(settings, setting)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        found: Metadata = {}
        for key, setting in _LIMITS.items():
            limits = [0.0 if each is None else each for each in getattr(config, setting) or ()]
            if limits and not (len(limits) == config.num_hidden_layers and all(map(is_number, limits))):
                raise out_of_range(setting, limits, f"{config.num_hidden_layers} numbers")
            found |= {key: f32s(limits)} if limits else {}
        return found

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return {setting: list(metadata[key].value) for key, setting in _LIMITS.items() if key in metadata}  # type: ignore[arg-type]


def _translate(settings: Settings) -> Settings:
    given, of_windows = settings, settings.get(_OF_WINDOWS)
    for name in ("num_attention_groups", "head_dim"):
        if isinstance(of_windows, dict) and of_windows.get(name) not in (None, given.get(name)):
            raise NotSupportedYet(f"{name} {str(of_windows[name])[:40]} in {_OF_WINDOWS}", why="heads differ by number")
    return settings


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    whole = cast("PreTrainedConfig", SimpleNamespace(**vars(config)))
    width = config.moe_intermediate_size
    sizes = moe.dimensions(whole, config.n_routed_experts, width, config.share_expert_dim)
    counts = (vars(config)["num_attention_heads"], config.num_sliding_attention_heads)
    return {**sizes, **decoder.by_heads(counts, config.head_dim), "n_head": _heads(config, 0)}


def _attention(heads: int) -> tuple[Row, ...]:
    queries = f"n_embd_q_{heads}"
    return (
        norm("input_layernorm"),
        linear("self_attn.q_proj", queries, "n_embd"),
        linear("self_attn.k_proj", "n_embd_kv", "n_embd"),
        linear("self_attn.v_proj", "n_embd_kv", "n_embd"),
        linear("self_attn.g_proj", f"n_head_{heads}", "n_embd", stem="attn_gate"),
        linear("self_attn.o_proj", "n_embd", queries),
        norm("self_attn.q_norm", "n_embd_head"),
        norm("self_attn.k_norm", "n_embd_head"),
        norm("post_attention_layernorm"),
    )


def _matrices(name: str, shape: tuple[str, ...]) -> Tensors:
    return Tensors((f"moe.{name}_proj.weight",), {f"ffn_{name}_exps.weight": shape})


_EXPERTS: tuple[Row, ...] = (
    linear("moe.gate", "n_expert", "n_embd", stem="ffn_gate_inp"),
    Tensors(("moe.router_bias",), moe.BIAS.targets),
    _matrices("gate", ("n_expert", "n_ff_exp", "n_embd")),
    _matrices("up", ("n_expert", "n_ff_exp", "n_embd")),
    _matrices("down", ("n_expert", "n_embd", "n_ff_exp")),
    linear("share_expert.gate_proj", "n_ff_shexp", "n_embd", stem="ffn_gate_shexp"),
    linear("share_expert.up_proj", "n_ff_shexp", "n_embd", stem="ffn_up_shexp"),
    linear("share_expert.down_proj", "n_embd", "n_ff_shexp", stem="ffn_down_shexp"),
)


def _block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    rest = decoder.gated_mlp() if moe.is_dense(config, layer) else _EXPERTS
    return decoder.around_one((*_attention(_heads(config, layer)), *rest))


def _kind_ahead(config: PreTrainedConfig) -> str:
    return str((config.mtp_layer_types or [SLIDING])[0])


def _heads_ahead(config: PreTrainedConfig) -> int:
    windows = _kind_ahead(config) == SLIDING
    return int(config.num_sliding_attention_heads if windows else vars(config)["num_attention_heads"])


def _ahead(config: PreTrainedConfig) -> tuple[Row, ...]:
    return decoder.around_one((*_attention(_heads_ahead(config)), *decoder.gated_mlp(), *HEAD))


def _by_layer_ahead(config: PreTrainedConfig) -> dict[str, float]:
    limits = {key: 0.0 for key, setting in _LIMITS.items() if getattr(config, setting)}
    return {_HEADS: _heads_ahead(config), PATTERN: _kind_ahead(config) == SLIDING, **limits}


def _uneven_ahead(config: PreTrainedConfig) -> str | None:
    kinds = {*(config.mtp_layer_types or ())}
    return "they are of several kinds" if len(kinds) > 1 else None


def _constants(config: PreTrainedConfig) -> Constants:
    """Factors of the frequencies of layers that see the whole text, and 1 up to those that windows have."""
    tables, size = config.rope_parameters, config.head_dim
    rotated = {kind: int(size * table.get("partial_rotary_factor", 1.0)) for kind, table in tables.items()}
    whole = SimpleNamespace(rope_parameters=tables[FULL], head_dim=rotated[FULL])
    more = max(rotated.values()) // 2 - rotated[FULL] // 2
    return {name: (*values, *more * (1.0,)) for name, values in rope_freqs(cast("PreTrainedConfig", whole)).items()}


def _told_by_tensors(tensors: Mapping[str, torch.Tensor], settings: Settings) -> Mapping[str, Any]:
    return {"mlp_layer_types": moe.kinds_by_tensors(tensors, len(settings["layer_types"]))}


STEP35 = Architecture(
    name="step35",
    classes={"Step3p5ForCausalLM": "step3p5", "Step3p7ForConditionalGeneration": "step3p5"},
    restored_as="step3p5",
    rules=(
        *decoder.SIZES,
        _Heads(),
        Epsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        SILU,
        _Rope(("default", "llama3")),
        WindowsByLayer(),
        *moe.counts("n_routed_experts"),
        Count("expert_feed_forward_length", "moe_intermediate_size"),
        Count("expert_shared_feed_forward_length", "share_expert_dim"),
        Number("expert_weights_scale", "moe_router_scaling_factor"),
        Constant("expert_gating_func", u32(moe.SIGMOID)),
        Constant("expert_weights_norm", boolean(True)),
        _Limits(),
        Fixed("attention_bias", False),
        Fixed("mlp_bias", False),
        Fixed("moe_router_activation", "sigmoid"),
        *(Fixed(name, True) for name in ("norm_expert_weight", "use_head_wise_attn_gate", "use_moe_router_bias")),
        *(Fixed(name, True) for name in ("use_qk_norm", "zero_centered")),
        Fixed("sink", False),
    ),
    dimensions=_dimensions,
    outside=decoder.around_one(decoder.OUTSIDE_WITH_OUTPUT),
    block=_block,
    constants=_constants,
    ahead=Ahead(_ahead, by_layer=_by_layer_ahead, left_out=_uneven_ahead),
    renames=(
        (r"\.transformer\.shared_head\.norm\.", ".shared_head.norm."),
        (r"\.transformer\.shared_head\.output\.", ".shared_head.head."),
    ),
    told_by_tensors=_told_by_tensors,
    translate=_translate,
    layout=("mlp_layer_types",),
    without_effect=("num_local_experts", "mtp_layer_types", "mtp_mlp_layer_types"),
    translated=(_OF_WINDOWS, *_NAMES),
    own_code=True,
)
