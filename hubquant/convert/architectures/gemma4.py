"""Gemma 4 (text): layers with a window beside layers that see the whole text with wider heads and rotate part of them.

The small models have embeddings of their own for every layer, and last layers that attend to the keys and values of
layers before them and may have an MLP of twice the width. Of the large ones, one takes the keys for values where it
sees the whole text, and one has experts beside the MLP.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture, Constants
from hubquant.convert.architectures import decoder, moe
from hubquant.convert.architectures.gemma3n import TableOfLayers, pad_to_vocabulary
from hubquant.convert.operations import Dimensions
from hubquant.convert.rope import FREQS
from hubquant.convert.rules import (
    Count,
    Epsilon,
    Fixed,
    Number,
    Rule,
    Settings,
    check_count,
    integer,
    is_number,
    number,
    out_of_range,
)
from hubquant.convert.tables import Bundle, Embeddings, Module, Place, Row, Tensors, linear, norm
from hubquant.convert.windows import FULL, SLIDING
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, booleans, f32, i32s, u32
from hubquant.imatrix.taps import Tap

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

_MOST_LAYERS = 10_000
_UNROTATED = 1e30  # what llama.cpp divides the frequencies by that do not rotate
_PATTERN, _HEADS_KV = "attention.sliding_window_pattern", "attention.head_count_kv"


def _first_shared(config: PreTrainedConfig) -> int:
    """The first of the layers that use the keys and values of others."""
    return int(config.num_hidden_layers - config.num_kv_shared_layers)


def _sees_all(config: PreTrainedConfig, layer: int) -> bool:
    return bool(config.layer_types[layer] == FULL)


def _of_kind(config: PreTrainedConfig, kind: str) -> tuple[int, int]:
    """Size of a head, and number of key-value heads, in the layers of a kind. All of them have the same."""
    found = {
        (int(each.head_dim), int(each.num_key_value_heads))
        for layer, each in enumerate(config.per_layer_config[i] for i in range(config.num_hidden_layers))
        if config.layer_types[layer] == kind
    }
    if len(found) > 1:
        raise NotSupportedYet(f"heads that differ between layers of the kind {kind}")
    if not found:
        raise NotSupportedYet(f"no layer of the kind {kind}")
    return found.pop()


@dataclass(frozen=True)
class _Heads:
    """Heads of two sizes, with key-value heads of two numbers, by the kind of layer."""

    def check(self, settings: Settings) -> None:
        for setting in (
            *("num_attention_heads", "num_key_value_heads", "head_dim", "global_head_dim"),
            *("num_global_key_value_heads", "sliding_window"),
        ):
            check_count(settings, setting, (1 << 31) - 1 if setting == "sliding_window" else 1 << 16)
        layers = settings.get("layer_types")
        if layers is not None and not (isinstance(layers, list) and {*map(str, layers)} <= {FULL, SLIDING}):
            raise out_of_range("layer_types", layers, f"a list of {FULL} and {SLIDING}")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        if len(config.layer_types) != config.num_hidden_layers:
            raise out_of_range("layer_types", config.layer_types, f"{config.num_hidden_layers} kinds of layers")
        (size, kv_heads), (wide, wide_kv_heads) = _of_kind(config, SLIDING), _of_kind(config, FULL)
        for each in (kv_heads, wide_kv_heads):
            if config.num_attention_heads % each:
                raise out_of_range(
                    "num_key_value_heads", each, f"a divisor of the {config.num_attention_heads} attention heads"
                )
        for each in (size, wide):
            if each % 2:
                raise out_of_range("head_dim", each, "even, because rope rotates pairs")
        whole = [_sees_all(config, layer) for layer in range(config.num_hidden_layers)]
        by_layer = [wide_kv_heads if here else kv_heads for here in whole]
        return {
            "attention.head_count": u32(config.num_attention_heads),
            _HEADS_KV: u32(kv_heads) if kv_heads == wide_kv_heads else i32s(by_layer),
            "attention.key_length": u32(wide),
            "attention.value_length": u32(wide),
            "attention.key_length_swa": u32(size),
            "attention.value_length_swa": u32(size),
            "attention.sliding_window": u32(config.sliding_window),
            _PATTERN: booleans(not here for here in whole),
            "rope.dimension_count": u32(wide),
            "rope.dimension_count_swa": u32(size),
        }

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        n_layer = min(integer(metadata, "block_count") or 0, _MOST_LAYERS)
        windows = _by_layer(metadata, _PATTERN, n_layer)
        kv_heads = _by_layer(metadata, _HEADS_KV, n_layer)
        wide = integer(metadata, "attention.key_length")
        narrow = [count for count, here in zip(kv_heads, windows, strict=True) if here] or kv_heads
        return {
            "num_attention_heads": integer(metadata, "attention.head_count"),
            "num_key_value_heads": narrow[0] if narrow else None,
            "head_dim": integer(metadata, "attention.key_length_swa"),
            "sliding_window": integer(metadata, "attention.sliding_window") or 512,
            "layer_types": [SLIDING if here else FULL for here in windows],
            "per_layer_config": {
                str(layer): {"head_dim": wide, "num_key_value_heads": count}
                for layer, (count, here) in enumerate(zip(kv_heads, windows, strict=True))
                if not here
            },
        }


def _by_layer(metadata: Metadata, key: str, n_layer: int) -> tuple[Any, ...]:
    found = metadata[key].value if key in metadata else 0
    values = found if isinstance(found, tuple) else (found,) * n_layer
    if len(values) != n_layer or not all(isinstance(value, int) for value in values):
        raise out_of_range(key, found, f"one number or one for each of {n_layer} layers")
    return values


@dataclass(frozen=True)
class _Rope:
    """Layers that see the whole text rotate a share of each head, which ``rope_freqs.weight`` tells."""

    def check(self, settings: Settings) -> None:
        parameters = settings.get("rope_parameters")
        if parameters is None:
            return
        if not isinstance(parameters, dict) or not all(isinstance(each, dict) for each in parameters.values()):
            raise out_of_range("rope_parameters", parameters, "a table for each kind of layer")
        for kind, known in {FULL: ("default", "proportional"), SLIDING: ("default",)}.items():
            each = parameters.get(kind, {})
            type, theta, share = each.get("rope_type"), each.get("rope_theta"), each.get("partial_rotary_factor", 1.0)
            if type not in known:
                raise NotSupportedYet(f"rope type {str(type)[:40]!r}", why=f"known here: {', '.join(known)}")
            if not (is_number(theta) and 0 < theta <= 1e30):
                raise out_of_range("rope_theta", theta, "a number above 0")
            if not (is_number(share) and 0 < share <= 1):
                raise out_of_range("partial_rotary_factor", share, "above 0 and up to 1")
            if each.get("factor", 1.0) != 1 or (share != 1 and type == "default"):
                raise NotSupportedYet(
                    "this rope", why="llama.cpp does not scale it, and rotates whole heads in windows"
                )

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        parameters = config.rope_parameters
        return {
            "rope.freq_base": f32(parameters[FULL]["rope_theta"]),
            "rope.freq_base_swa": f32(parameters[SLIDING]["rope_theta"]),
        }

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        # the share that is rotated comes from rope_freqs.weight
        full = {"rope_type": "proportional", "rope_theta": number(metadata, "rope.freq_base") or 1e6}
        window = {"rope_type": "default", "rope_theta": number(metadata, "rope.freq_base_swa") or 1e4}
        return {"rope_parameters": {FULL: full, SLIDING: window}}


def _frequencies(config: PreTrainedConfig) -> Constants:
    """What each frequency is divided by: 1 where it rotates."""
    size, _ = _of_kind(config, FULL)
    share = config.rope_parameters[FULL].get("partial_rotary_factor", 1.0)
    rotated = int(share * size // 2)  # as transformers rounds
    return {FREQS: (1.0,) * rotated + (_UNROTATED,) * (size // 2 - rotated)}


@dataclass(frozen=True)
class _Width:
    """The width of the MLP, which layers without keys of their own may have twice."""

    key = "feed_forward_length"

    def check(self, settings: Settings) -> None:
        check_count(settings, "intermediate_size", 1 << 24)
        check_count(settings, "num_kv_shared_layers", _MOST_LAYERS, least=0)
        wide = settings.get("use_double_wide_mlp")
        if wide is not None and not isinstance(wide, bool):
            raise out_of_range("use_double_wide_mlp", wide, "true or false")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        n_layer, shared, width = config.num_hidden_layers, config.num_kv_shared_layers, config.intermediate_size
        if shared >= n_layer:
            raise out_of_range("num_kv_shared_layers", shared, f"fewer than the {n_layer} layers")
        keys = {"attention.shared_kv_layers": u32(shared)}
        if not (config.use_double_wide_mlp and shared):
            return keys | {self.key: u32(width)}
        first = _first_shared(config)
        return keys | {self.key: i32s(width if layer < first else 2 * width for layer in range(n_layer))}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        widths = _by_layer(metadata, self.key, min(integer(metadata, "block_count") or 0, _MOST_LAYERS))
        return {
            "intermediate_size": widths[0] if widths else None,
            "use_double_wide_mlp": len({*widths}) > 1,
            "num_kv_shared_layers": integer(metadata, "attention.shared_kv_layers") or 0,
        }


@dataclass(frozen=True)
class _Experts:
    """Experts beside the MLP, in models that have them."""

    counts = (
        Count("expert_count", "num_experts", most=moe.MOST_EXPERTS),
        Count("expert_used_count", "top_k_experts", most=moe.MOST_EXPERTS),
        Count("expert_feed_forward_length", "moe_intermediate_size"),
    )

    def check(self, settings: Settings) -> None:
        for each in self.counts:
            each.check(settings)
            if settings.get("enable_moe_block") and settings.get(each.setting) is None:
                raise out_of_range(each.setting, None, "given where enable_moe_block is true")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        counts = self.counts if config.enable_moe_block else ()
        return {key: value for each in counts for key, value in each.metadata(config).items()}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        found = {name: value for each in self.counts for name, value in each.settings(metadata).items()}
        return {**found, "enable_moe_block": "expert_count" in metadata}


@dataclass(frozen=True)
class _SoftCap(Number):
    """llama.cpp takes 30 where the key is missing, and 0 for none."""

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        return {self.key: f32(getattr(config, self.setting) or 0.0)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return {self.setting: number(metadata, self.key) or None}


def _told_by_tensors(tensors: Mapping[str, torch.Tensor], settings: Settings) -> Mapping[str, Any]:
    parameters = {kind: {**each} for kind, each in settings["rope_parameters"].items()}
    if FREQS in tensors:
        divisors = tensors[FREQS]
        parameters[FULL]["partial_rotary_factor"] = int((divisors < _UNROTATED / 2).sum()) / divisors.numel()
    layers = [layer for layer, kind in enumerate(settings["layer_types"]) if kind == FULL]
    own = [layer for layer in layers if f"blk.{layer}.attn_k.weight" in tensors]
    keys_are_values = bool(own) and f"blk.{own[0]}.attn_v.weight" not in tensors
    return {"rope_parameters": parameters, "attention_k_eq_v": keys_are_values}


def _unused(config: PreTrainedConfig) -> Collection[str]:
    """Keys and values of layers that use others', which checkpoints store all the same."""
    parts = ("k_proj.weight", "v_proj.weight", "k_norm.weight")
    layers = range(_first_shared(config), config.num_hidden_layers)
    return {f"model.layers.{layer}.self_attn.{part}" for layer in layers for part in parts}


@dataclass(frozen=True)
class _InSmallModels:
    """A row of the models that have embeddings of their own for every layer."""

    row: Row

    def bundles(self, place: Place) -> Iterator[Bundle]:
        return self.row.bundles(place) if place.config.hidden_size_per_layer_input else iter(())

    def observed(self, place: Place) -> Iterator[tuple[str, Tap]]:
        return self.row.observed(place) if place.config.hidden_size_per_layer_input else iter(())

    def bias_settings(self, place: Place) -> Iterator[tuple[str, str]]:
        return self.row.bias_settings(place)


_OUTSIDE: tuple[Row, ...] = (
    Embeddings(),
    norm("model.norm"),
    _InSmallModels(
        Module("model.embed_tokens_per_layer", ("n_vocab", "n_per_layer_all"), operations=(pad_to_vocabulary,))
    ),
    _InSmallModels(Module("model.per_layer_model_projection", ("n_per_layer_all", "n_embd"))),  # never quantized
    _InSmallModels(norm("model.per_layer_projection_norm", "n_per_layer")),
)
_PER_LAYER: tuple[Row, ...] = (
    linear("per_layer_input_gate", "n_per_layer", "n_embd"),
    linear("per_layer_projection", "n_embd", "n_per_layer"),
    norm("post_per_layer_input_norm"),
)
_EXPERTS: tuple[Row, ...] = (
    linear("router.proj", "n_expert", "n_embd"),
    Tensors(("router.scale",), {"ffn_gate_inp.scale": ("n_embd",)}),
    Tensors(("router.per_expert_scale",), {"ffn_down_exps.scale": ("n_expert",)}),
    Tensors(
        ("experts.gate_up_proj",),
        {"ffn_gate_up_exps.weight": ("n_expert", "n_gate_up_exp", "n_embd")},
        taps=(moe.given_to("experts"),),
    ),
    Tensors(
        ("experts.down_proj",),
        {"ffn_down_exps.weight": ("n_expert", "n_embd", "n_ff_exp")},
        taps=(moe.computed_in("experts"),),
    ),
    norm("pre_feedforward_layernorm_2"),
    norm("post_feedforward_layernorm_1"),
    norm("post_feedforward_layernorm_2"),
)


def _block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    whole, shared = _sees_all(config, layer), layer >= _first_shared(config)
    kind = "_full" if whole else ""
    keys: tuple[Row, ...] = (
        linear("self_attn.k_proj", f"n_embd_kv{kind}", "n_embd"),
        norm("self_attn.k_norm", f"n_embd_head{kind}"),
    )
    values: tuple[Row, ...] = (linear("self_attn.v_proj", f"n_embd_kv{kind}", "n_embd"),)
    width = "n_ff_wide" if shared and config.use_double_wide_mlp else "n_ff"
    gate, up, down = (f"mlp.{name}" for name in decoder.GATED)
    return (
        norm("input_layernorm"),
        linear("self_attn.q_proj", f"n_embd_q{kind}", "n_embd"),
        *(() if shared else keys),
        *(() if shared or (whole and config.attention_k_eq_v) else values),
        linear("self_attn.o_proj", "n_embd", f"n_embd_q{kind}"),
        norm("self_attn.q_norm", f"n_embd_head{kind}"),
        norm("post_attention_layernorm"),
        norm("pre_feedforward_layernorm"),
        linear(gate, width, "n_embd"),
        linear(up, width, "n_embd"),
        linear(down, "n_embd", width),
        norm("post_feedforward_layernorm"),
        *(_EXPERTS if config.enable_moe_block else ()),
        *(_PER_LAYER if config.hidden_size_per_layer_input else ()),
        Tensors(("layer_scalar",), {"layer_output_scale.weight": ("one",)}),
    )


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    heads, (size, kv_heads), (wide, wide_kv_heads) = (
        config.num_attention_heads,
        _of_kind(config, SLIDING),
        _of_kind(config, FULL),
    )
    experts = config.num_experts if config.enable_moe_block else 0
    n_ff_exp = config.moe_intermediate_size if experts else 0
    per_layer = config.hidden_size_per_layer_input or 0
    return {
        "n_vocab": config.vocab_size,
        "n_embd": config.hidden_size,
        "n_layer": config.num_hidden_layers,
        "n_ff": config.intermediate_size,
        "n_head": heads,
        "n_head_kv": kv_heads,
        "n_expert": experts,
        "n_ff_exp": n_ff_exp,
        "one": 1,
        "n_embd_head": size,
        "n_embd_q": heads * size,
        "n_embd_kv": kv_heads * size,
        "n_embd_head_full": wide,
        "n_embd_q_full": heads * wide,
        "n_embd_kv_full": wide_kv_heads * wide,
        "n_ff_wide": 2 * config.intermediate_size,
        "n_gate_up_exp": 2 * n_ff_exp,
        "n_vocab_per_layer": config.vocab_size_per_layer_input,
        "n_per_layer": per_layer,
        "n_per_layer_all": per_layer * config.num_hidden_layers,
    }


_WIDTH = Count("feed_forward_length", "intermediate_size")
_RULES: tuple[Rule, ...] = (
    *(rule for rule in decoder.SIZES if rule != _WIDTH),
    _Width(),
    _Heads(),
    _Rope(),
    Epsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    Fixed("attention_bias", False),
    Fixed("tie_word_embeddings", True),
    Fixed("hidden_activation", "gelu_pytorch_tanh"),
    Fixed("use_bidirectional_attention", None, same=("vision",)),  # for images only
    _SoftCap("final_logit_softcapping", "final_logit_softcapping"),
    Count("embedding_length_per_layer_input", "hidden_size_per_layer_input", least=0),
    TableOfLayers(),
    _Experts(),
)

GEMMA4 = Architecture(
    name="gemma4",
    classes={"Gemma4ForCausalLM": "gemma4_text"},
    restored_as="gemma4_text",
    rules=_RULES,
    dimensions=_dimensions,
    outside=_OUTSIDE,
    block=_block,
    constants=_frequencies,
    told_by_tensors=_told_by_tensors,
    unused=_unused,
)
