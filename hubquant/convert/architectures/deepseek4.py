"""DeepSeek V4: four streams of activations that hyper-connections mix, and attention to a window and, in most layers,
to entries that each stand for 4 tokens, chosen by an indexer, or for 128. In the first layers a token's id chooses its
experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder, moe
from hubquant.convert.operations import Dimensions, ToBytes, ToFloat, always
from hubquant.convert.rules.rope import Rope
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
    check_list,
    integer,
    is_number,
    number,
    out_of_range,
)
from hubquant.convert.tables import Embeddings, Place, Row, TapFor, Tensors, linear, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, boolean, f32, f32s, i32s, u32
from hubquant.models.taps.tap import ModuleOutput, Tap

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_RATIOS = {"sliding_attention": 0, "compressed_sparse_attention": 4, "heavily_compressed_attention": 128}
_KINDS = {ratio: kind for kind, ratio in _RATIOS.items()}
_HASH, _ROUTED = "hash_moe", "moe"
_SQRT_SOFTPLUS = 4  # expert_gating_func
_STREAMS = 4
_MOST_LAYERS = 10_000
_COMPRESSED_BASE = "attention.compress_rope_freq_base"


@dataclass(frozen=True)
class _Ratios(Rule):
    """How many tokens an entry stands for that a layer sees beyond its window, 0 where it sees none."""

    key = "attention.compress_ratios"
    reads = ("layer_types", "compress_rates", "index_head_dim")

    def check(self, settings: Settings) -> None:
        check_list(settings, "layer_types")
        rates = settings.get("compress_rates")
        for kind, rate in (rates if isinstance(rates, Mapping) else {}).items():
            if rate != _RATIOS.get(kind):
                raise NotSupportedYet(f"compress_rates of {str(rate)[:40]}", why="llama.cpp has 4 and 128")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        ratios = [_RATIOS[kind] for kind in config.layer_types]
        if 4 not in ratios:
            raise NotSupportedYet("no layer of compressed_sparse_attention", why="llama.cpp ends without one")
        if config.index_head_dim == config.head_dim:
            raise NotSupportedYet(f"index_head_dim {config.index_head_dim}, as head_dim", why="llama.cpp ends with it")
        return {self.key: i32s(ratios)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        found = metadata[self.key].value if self.key in metadata else ()
        n_layer = integer(metadata, "block_count") or 0
        ratios = list(found)[:n_layer] if isinstance(found, tuple) else []
        if not {*ratios} <= _KINDS.keys():
            raise out_of_range(self.key, ratios, "a list of 0, 4 and 128")
        return {"layer_types": [_KINDS[int(ratio)] for ratio in ratios]}


@dataclass(frozen=True)
class _HashLayers(Rule):
    """How many layers, the first, have experts that a token's id chooses."""

    key = "hash_layer_count"
    reads = ("mlp_layer_types",)

    def check(self, settings: Settings) -> None:
        check_list(settings, "mlp_layer_types")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        kinds = list(config.mlp_layer_types)
        count = kinds.count(_HASH)
        if kinds != _kinds(count, config.num_hidden_layers):
            raise NotSupportedYet("this order of layers whose experts ids choose", why="llama.cpp has them first")
        return {self.key: u32(count)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        n_layer = min(integer(metadata, "block_count") or 0, _MOST_LAYERS)
        return {"mlp_layer_types": _kinds(min(integer(metadata, self.key) or 0, n_layer), n_layer)}


def _kinds(count: int, n_layer: int) -> list[str]:
    return [_HASH] * count + [_ROUTED] * (n_layer - count)


@dataclass(frozen=True)
class _Ropes(Rule):
    """One for layers with nothing but a window; one for the others, perhaps stretched, without yarn's own scale."""

    main = Rope(("default",), partial=True)
    compressed = Rope(("default", "yarn"), partial=True)
    reads = ("rope_parameters", "rope_theta", "compress_rope_theta", "partial_rotary_factor")

    def check(self, settings: Settings) -> None:
        told = settings.get("rope_parameters")
        if not (isinstance(told, Mapping) and {"main", "compress"} <= told.keys()):
            self.compressed.check(settings)
            return
        self.main.check({"rope_parameters": told["main"]})
        self.compressed.check({"rope_parameters": told["compress"]})

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        main, compressed = config.rope_parameters["main"], config.rope_parameters["compress"]
        if main.get("partial_rotary_factor") != compressed.get("partial_rotary_factor"):
            raise NotSupportedYet("rope on two parts of each head", why="llama.cpp rotates the same in all layers")
        if compressed["rope_type"] == "yarn" and compressed.get("attention_factor") != 1:
            raise NotSupportedYet("yarn with a scale of its own", why="llama.cpp leaves it out here")
        sizes: dict[str, Any] = {"head_dim": config.head_dim, "max_position_embeddings": config.max_position_embeddings}
        of: Any = SimpleNamespace(rope_parameters=compressed, **sizes)
        result = self.compressed.metadata(of)
        result.pop("rope.scaling.attn_factor", None)
        rotated = int(result["rope.dimension_count"].value)  # type: ignore[arg-type]
        if rotated > config.index_head_dim:
            raise out_of_range("index_head_dim", config.index_head_dim, f"at least the {rotated} that are rotated")
        return result | {
            "rope.freq_base": f32(main["rope_theta"]),
            _COMPRESSED_BASE: f32(compressed["rope_theta"]),
        }

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        found: dict[str, Any] = self.compressed.settings(metadata)["rope_parameters"]
        share, theta = found["partial_rotary_factor"], found["rope_theta"]
        main = {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": share}
        compressed = found | {"rope_theta": number(metadata, _COMPRESSED_BASE) or theta}
        if found["rope_type"] == "yarn":
            compressed["attention_factor"] = 1.0
        return {
            "rope_theta": theta,
            "compress_rope_theta": compressed["rope_theta"],
            "partial_rotary_factor": share,
            "rope_parameters": {"main": main, "compress": compressed},
        }


@dataclass(frozen=True)
class _Clamp(Rule):
    """Where experts' activations end, the same in all layers."""

    keys = ("swiglu_clamp_exp", "swiglu_clamp_shexp")
    reads = ("swiglu_limit",)

    def check(self, settings: Settings) -> None:
        Number(self.keys[0], "swiglu_limit").check(settings)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        return dict.fromkeys(self.keys, f32s([config.swiglu_limit] * config.num_hidden_layers))

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        found = metadata[self.keys[0]].value if self.keys[0] in metadata else None
        limits = {*found} if isinstance(found, tuple) else {found}
        limit = limits.pop()
        if limits or not is_number(limit):
            raise NotSupportedYet(f"{self.keys[0]} that differs between layers")
        return {"swiglu_limit": limit}


@dataclass(frozen=True)
class _Groups(Rule):
    """Groups of heads whose outputs are first compressed alone; and the width of all streams."""

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        if config.num_attention_heads % config.o_groups:
            raise out_of_range("o_groups", config.o_groups, f"a divisor of the {config.num_attention_heads} heads")
        return {"embedding_length_out": u32(config.hidden_size * config.hc_mult)}


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    width, size, streams = config.moe_intermediate_size, config.head_dim, config.hc_mult
    heads, index = config.num_attention_heads * size, config.index_head_dim
    return {
        **moe.dimensions(config, config.n_routed_experts, width, width),
        "n_expert_used": config.num_experts_per_tok,
        "n_lora_q": config.q_lora_rank,
        "n_group": heads // config.o_groups,
        "n_lora_o": config.o_groups * config.o_lora_rank,
        "n_embd_head_2": 2 * size,
        "n_index_head": config.index_n_heads,
        "n_index_key": index,
        "n_index_key_2": 2 * index,
        "n_index_queries": config.index_n_heads * index,
        "n_stream": streams,
        "n_streams": streams * config.hidden_size,
        "n_mix": (2 + streams) * streams,
        "three": 3,
        **{f"n_{ratio}": ratio for ratio in _KINDS},
    }


def _streams(module: str) -> TapFor:
    """All of them side by side, normed."""

    def tap(place: Place) -> Tap:
        return ModuleOutput(f"{place.prefix}{module}.input_norm")

    return tap


def _mixing(part: str) -> tuple[Row, ...]:
    """What mixes the streams before and behind attention ("attn") or the experts ("ffn")."""
    name = f"hc_{part}"
    return (
        Tensors((f"{name}_fn",), {f"{name}_fn.weight": ("n_mix", "n_streams")}, taps=(_streams(f"{part}_hc"),)),
        Tensors((f"{name}_base",), {f"{name}_base.weight": ("n_mix",)}),
        Tensors((f"{name}_scale",), {f"{name}_scale.weight": ("three",)}),
    )


def _compressor(module: str, computing: str, stem: str, size: str, width: str, ratio: int) -> tuple[Row, ...]:
    """What makes entries of ``size`` of tokens, in two series (``width``) where they overlap."""
    return (
        linear(f"{module}.wkv", width, "n_embd", computing=f"{computing}.kv_proj", stem=f"{stem}_kv"),
        linear(f"{module}.wgate", width, "n_embd", computing=f"{computing}.gate_proj", stem=f"{stem}_gate"),
        Tensors((f"{module}.ape",), {f"{stem}_ape.weight": (f"n_{ratio}", width)}),
        norm(f"{module}.norm", size, stem=f"{stem}_norm"),
    )


_ATTENTION: tuple[Row, ...] = (
    *_mixing("attn"),
    norm("attn_norm", stem="attn_norm"),
    Tensors(("attn.attn_sink",), {"attn_sinks.weight": ("n_head",)}),
    linear("attn.wq_a", "n_lora_q", "n_embd", computing="self_attn.q_a_proj", stem="attn_q_a"),
    norm("attn.q_norm", "n_lora_q", stem="attn_q_a_norm"),
    linear("attn.wq_b", "n_embd_q", "n_lora_q", computing="self_attn.q_b_proj", stem="attn_q_b"),
    linear("attn.wkv", "n_embd_head", "n_embd", computing="self_attn.kv_proj", stem="attn_kv"),
    norm("attn.kv_norm", "n_embd_head", stem="attn_kv_a_norm"),
    linear("attn.wo_a", "n_lora_o", "n_group", computing="self_attn.o_a_proj", stem="attn_output_a"),
    linear("attn.wo_b", "n_embd", "n_lora_o", computing="self_attn.o_b_proj", stem="attn_output_b"),
)
_IN_MEMORY = "self_attn.compressor"
_BEYOND: Mapping[int, tuple[Row, ...]] = {
    0: (),
    4: (
        *_compressor("attn.compressor", _IN_MEMORY, "attn_compressor", "n_embd_head", "n_embd_head_2", 4),
        *_compressor(
            "attn.indexer.compressor",
            f"{_IN_MEMORY}.indexer",
            "indexer_compressor",
            "n_index_key",
            "n_index_key_2",
            4,
        ),
        linear(
            "attn.indexer.wq_b",
            "n_index_queries",
            "n_lora_q",
            computing=f"{_IN_MEMORY}.indexer.q_b_proj",
            stem="indexer.attn_q_b",
        ),
        linear(
            "attn.indexer.weights_proj",
            "n_index_head",
            "n_embd",
            computing=f"{_IN_MEMORY}.indexer.scorer.weights_proj",
            stem="indexer.proj",
        ),
    ),
    128: _compressor("attn.compressor", _IN_MEMORY, "attn_compressor", "n_embd_head", "n_embd_head", 128),
}
_SHARED = "ffn.shared_experts"
_EXPERTS: tuple[Row, ...] = (
    *_mixing("ffn"),
    norm("ffn_norm", stem="ffn_norm"),
    linear("ffn.gate", "n_expert", "n_embd", computing="mlp.gate", stem="ffn_gate_inp"),
    *moe.routed("ffn.gate", "ffn.experts", ("w1", "w3", "w2"), ("mlp.gate", "mlp.experts"))[1:],
    linear(f"{_SHARED}.w1", "n_ff_shexp", "n_embd", computing="mlp.shared_experts.gate_proj", stem="ffn_gate_shexp"),
    linear(f"{_SHARED}.w3", "n_ff_shexp", "n_embd", computing="mlp.shared_experts.up_proj", stem="ffn_up_shexp"),
    linear(f"{_SHARED}.w2", "n_embd", "n_ff_shexp", computing="mlp.shared_experts.down_proj", stem="ffn_down_shexp"),
)
_BIAS = Tensors(("ffn.gate.bias",), moe.BIAS.targets)
_IDS = Tensors(
    ("ffn.gate.tid2eid",),
    {"ffn_gate_tid2eid.weight": ("n_vocab", "n_expert_used")},
    (always(ToFloat()),),
    "I32",
    (always(ToBytes()),),
)


def _block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    beyond, hashed = _BEYOND[_RATIOS[config.layer_types[layer]]], config.mlp_layer_types[layer] == _HASH
    return (*_ATTENTION, *beyond, *_EXPERTS, _IDS if hashed else _BIAS)


_HEAD: tuple[Row, ...] = (
    Tensors(("model.hc_head.hc_fn",), {"output_hc_fn.weight": ("n_stream", "n_streams")}),
    Tensors(("model.hc_head.hc_base",), {"output_hc_base.weight": ("n_stream",)}),
    Tensors(("model.hc_head.hc_scale",), {"output_hc_scale.weight": ("one",)}),
)
DEEPSEEK4 = Architecture(
    name="deepseek4",
    classes={"DeepseekV4ForCausalLM": "deepseek_v4"},
    restored_as="deepseek_v4",
    rules=(
        *(rule for rule in decoder.SIZES if rule != decoder.FEED_FORWARD),
        Heads(),
        Fixed("num_key_value_heads", 1),
        Epsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        SILU,
        _Ropes(),
        Count("attention.q_lora_rank", "q_lora_rank"),
        Count("attention.sliding_window", "sliding_window", most=(1 << 31) - 1),
        Count("attention.output_group_count", "o_groups"),
        Count("attention.output_lora_rank", "o_lora_rank"),
        _Groups(),
        _Ratios(),
        Count("attention.indexer.head_count", "index_n_heads", most=1 << 16),
        Count("attention.indexer.key_length", "index_head_dim", most=1 << 16),
        Count("attention.indexer.top_k", "index_topk"),
        *moe.counts("n_routed_experts"),
        Count("expert_feed_forward_length", "moe_intermediate_size"),
        Constant("expert_shared_count", u32(1)),
        Number("expert_weights_scale", "routed_scaling_factor"),
        Constant("expert_weights_norm", boolean(True)),
        Constant("expert_gating_func", u32(_SQRT_SOFTPLUS)),
        _HashLayers(),
        _Clamp(),
        Count("hyper_connection.count", "hc_mult"),
        Count("hyper_connection.sinkhorn_iterations", "hc_sinkhorn_iters"),
        Epsilon("hyper_connection.epsilon", "hc_eps"),
        Fixed("hc_mult", _STREAMS),
        Fixed("n_shared_experts", 1),
        Fixed("norm_topk_prob", True),
        Fixed("scoring_func", "sqrtsoftplus"),
        Fixed("topk_method", "noaux_tc"),
        Fixed("attention_bias", False),
        Fixed("mlp_bias", False),
    ),
    dimensions=_dimensions,
    outside=(Embeddings(both=True), norm("model.norm"), *_HEAD),
    block=_block,
    renames=(
        (r"^(?:model\.)?(layers\.\d+\.attn\.)norm\.", r"model.\1kv_norm."),
        (r"^layers\.", "model.layers."),
        (r"^embed\.", "model.embed_tokens."),
        (r"^norm\.", "model.norm."),
        (r"^head\.", "lm_head."),
        (r"^hc_head_(fn|base|scale)$", r"model.hc_head.hc_\1"),
    ),
    without_effect=("num_nextn_predict_layers",),
    translated=("compress_ratios", "num_hash_layers", "qk_rope_head_dim", "expert_dtype"),
)
