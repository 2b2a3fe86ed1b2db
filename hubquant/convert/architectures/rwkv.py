"""RWKV 6 (https://arxiv.org/abs/2404.05892) and 7 (https://arxiv.org/abs/2503.14456), whose code is not part of
transformers: RWKV 4's config stands for theirs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture, Block
from hubquant.convert.architectures import mamba
from hubquant.convert.operations import Dimensions, Fork, OperationFor, Scale, Stack, Transpose, always, reshape
from hubquant.convert.rules.rule import (
    Computed,
    Constant,
    Count,
    Epsilon,
    Fixed,
    Rule,
    Settings,
    check_count,
    out_of_range,
)
from hubquant.convert.tables import Embeddings, Module, Row, Tensors, linear, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_HEAD_EPSILON = 64e-5  # of the norm of each head in llama.cpp
_WIDE = 4096  # from which on RWKV 6 has matrices of twice the rank
_RANKS = {"decay": "decay", "iclr": "a", "value_residual_mix": "v", "gate": "gate"}


def _told(config: PreTrainedConfig, name: str) -> int:
    """A setting that RWKV 4's config has not, 0 where nothing tells it."""
    return int(getattr(config, name, None) or 0)


class _Count(Count):
    """Of such a setting."""

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        value = _told(config, self.setting)
        self.check({self.setting: value})
        return {self.key: u32(value)}


class _Heads(Rule):
    """Heads of one size, which fill the width."""

    reads = ("head_size", "attention_hidden_size", "hidden_size")

    def check(self, settings: Settings) -> None:
        check_count(settings, "head_size", 1 << 16)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        size, width = _told(config, "head_size"), config.hidden_size
        if not size or width % size:
            raise out_of_range("head_size", size, f"a divisor of the width {width}")
        if config.attention_hidden_size != width:
            raise NotSupportedYet(
                f"attention_hidden_size {config.attention_hidden_size} in a model of width {width}",
                why="llama.cpp takes them to be the same",
            )
        return {"wkv.head_size": u32(size)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return {"head_size": metadata["wkv.head_size"].value} if "wkv.head_size" in metadata else {}


class _HeadNorm(Rule):
    """The norm of each head has the epsilon of the others times the head's size, as Flash Linear Attention has it."""

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        found = _told(config, "head_size") * config.layer_norm_epsilon
        if not math.isclose(found, _HEAD_EPSILON, rel_tol=1e-3):
            raise NotSupportedYet(f"a norm of heads with epsilon {found:.3g}", why=f"llama.cpp has {_HEAD_EPSILON}")
        return {}


def _sizes(config: PreTrainedConfig) -> Dimensions:
    size = _told(config, "head_size")
    return {
        "n_vocab": config.vocab_size,
        "n_embd": config.hidden_size,
        "n_layer": config.num_hidden_layers,
        "n_ff": config.intermediate_size,
        "n_head": 0,  # llama-quantize knows no heads here
        "n_head_kv": 0,
        "n_expert": 0,
        "n_head_size": size,
        "n_heads": config.hidden_size // max(size, 1),
        "one": 1,
        "five": 5,
        "six": 6,
    }


_RULES: tuple[Rule, ...] = (
    *mamba.SIZES,
    Count("feed_forward_length", "intermediate_size"),
    Constant("attention.head_count", u32(0)),
    Epsilon("attention.layer_norm_epsilon", "layer_norm_epsilon"),
    _Heads(),
)


def vector(source: str, target: str) -> Row:
    """[1, 1, n_embd] as [n_embd]."""
    return Tensors((source,), {target: ("n_embd",)}, (reshape(("one", "one", "n_embd"), ("n_embd",)),))


def mixed(prefix: str, parts: str, count: str) -> Row:
    """How much of the token before goes into each of what is computed."""
    target = {"time_mix_lerp_fused.weight": (count, "one", "one", "n_embd")}
    return Tensors(tuple(prefix + part for part in parts), target, (always(Stack()),))


def _square(name: str, stem: str, operations: tuple[OperationFor, ...] = ()) -> Module:
    return linear(name, "n_embd", "n_embd", operations=operations, stem=stem)


def _rank6(config: PreTrainedConfig, name: str, narrow: int) -> int:
    return _told(config, name) or narrow * (1 + (config.hidden_size == _WIDE))


def _mix_rank(config: PreTrainedConfig) -> int:
    return _rank6(config, "time_mix_extra_dim", 32)


def _decay_rank(config: PreTrainedConfig) -> int:
    return _rank6(config, "time_decay_extra_dim", 64)


def _dimensions6(config: PreTrainedConfig) -> Dimensions:
    mix = _mix_rank(config)
    return {**_sizes(config), "n_mix": mix, "n_mixes": 5 * mix, "n_decay": _decay_rank(config)}


def _as_rwkv6(settings: Settings) -> Settings:
    """Three and a half times the width, where config.json leaves that to the model's code."""
    width = settings.get("hidden_size")
    if settings.get("intermediate_size") is None and type(width) is int:
        settings = {**settings, "intermediate_size": width * 7 // 2 // 32 * 32}
    return {"head_size": 64, **settings}


def _turned(name: str, shape: tuple[str, ...]) -> Row:
    return Tensors((f"attention.time_{name}",), {NAMES6[name]: shape}, (always(Transpose()),))


NAMES6 = {
    "maa_w1": "time_mix_w1.weight",
    "maa_w2": "time_mix_w2.weight",
    "decay_w1": "time_mix_decay_w1.weight",
    "decay_w2": "time_mix_decay_w2.weight",
}


def _block6(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    every = config.rescale_every
    halved = (always(Scale((0.5 ** (layer // every if every else 0),))),)
    return (
        norm("ln1", bias=True, stem="attn_norm"),
        vector("attention.time_maa_x", "time_mix_lerp_x.weight"),
        mixed("attention.time_maa_", "wkvrg", "five"),
        _turned("maa_w1", ("n_mixes", "n_embd")),
        _turned("maa_w2", ("five", "n_embd", "n_mix")),
        Tensors(("attention.time_faaaa",), {"time_mix_first.weight": ("n_heads", "n_head_size")}),
        vector("attention.time_decay", "time_mix_decay.weight"),
        _turned("decay_w1", ("n_decay", "n_embd")),
        _turned("decay_w2", ("n_embd", "n_decay")),
        *(_square(f"attention.{name}", f"time_mix_{name}") for name in ("key", "value", "receptance", "gate")),
        _square("attention.output", "time_mix_output", halved),
        norm("attention.ln_x", bias=True, stem="time_mix_ln"),
        norm("ln2", bias=True, stem="attn_norm_2"),
        vector("feed_forward.time_maa_k", "channel_mix_lerp_k.weight"),
        vector("feed_forward.time_maa_r", "channel_mix_lerp_r.weight"),
        linear("feed_forward.key", "n_ff", "n_embd", stem="channel_mix_key"),
        linear("feed_forward.value", "n_embd", "n_ff", operations=halved, stem="channel_mix_value"),
        _square("feed_forward.receptance", "channel_mix_receptance"),
    )


RWKV6 = Architecture(
    name="rwkv6",
    classes={"Rwkv6ForCausalLM": "rwkv"},
    restored_as="rwkv",
    rules=(
        *_RULES,
        Count("rescale_every_n_layers", "rescale_every", most=10_000, least=0),
        Computed("time_mix_extra_dim", "time_mix_extra_dim", _mix_rank),
        Computed("time_decay_extra_dim", "time_decay_extra_dim", _decay_rank),
        Fixed("head_size_divisor", 8),  # of which the square times 1e-5 is the epsilon of the norm of each head
    ),
    dimensions=_dimensions6,
    outside=(
        Embeddings("rwkv.embeddings", "head", both=True),
        norm("rwkv.blocks.0.pre_ln", bias=True, stem="token_embd_norm"),
        norm("rwkv.ln_out", bias=True, stem="output_norm"),
    ),
    block=_block6,
    blocks="rwkv.blocks",
    translate=_as_rwkv6,
    translated=("num_attention_heads", "model_version"),
    without_effect=("context_length",),
    own_code=True,
)

_OF_FLA = {
    "norm_eps": "layer_norm_epsilon",
    "head_dim": "head_size",
    **{f"{theirs}_low_rank_dim": f"lora_rank_{ours}" for ours, theirs in _RANKS.items()},
}


def _as_rwkv7(settings: Settings) -> dict[str, Any]:
    """Names of Flash Linear Attention, and four times the width where it is left to the code."""
    named = {_OF_FLA.get(name, name): value for name, value in settings.items()}
    width = named.get("hidden_size")
    if named.get("intermediate_size") is None and type(width) is int:
        check_count(named, "hidden_ratio", 1 << 10)
        named["intermediate_size"] = -(-width * (named.get("hidden_ratio") or 4) // 32) * 32
    widths = named.get("value_dim")
    if isinstance(widths, list) and {*map(str, widths)} != {str(width)}:
        raise NotSupportedYet(f"value_dim {str(widths)[:40]}", why="llama.cpp has values as wide as the model")
    return {"head_size": 64, **named}


def _dimensions7(config: PreTrainedConfig) -> Dimensions:
    return {
        **_sizes(config),
        **{f"n_{letter[0]}": _told(config, f"lora_rank_{name}") for name, letter in _RANKS.items()},
    }


def _low_rank(module: str, letter: str, size: str, bias: bool = True, also: str = "") -> tuple[Row, ...]:
    """x -> B f(A x) + c; as the matrices ``also`` of the layer, where llama.cpp wants some that it does not use."""
    letters = letter + also
    copies = (always(Fork(len(letters) * (Scale((1.0,)),))),)

    def row(source: str, number: int, shape: tuple[str, ...]) -> Row:
        return Tensors((source,), {f"time_mix_{each}{number}.weight": shape for each in letters}, copies)

    vector = (row(f"{module}.2.bias", 0, ("n_embd",)),) if bias else ()
    return (*vector, row(f"{module}.0.weight", 1, (size, "n_embd")), row(f"{module}.2.weight", 2, ("n_embd", size)))


def _layers7(lerps: Row) -> Block:
    def block(_config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
        values = _low_rank("attn.v_lora.lora", "v", "n_v") if layer else ()
        flat = (reshape(("n_heads", "n_head_size"), ("n_embd",)),)
        return (
            norm("attn_norm", bias=True, stem="attn_norm"),
            lerps,
            *_low_rank("attn.w_lora.lora", "w", "n_d"),
            *_low_rank("attn.a_lora.lora", "a", "n_a", also="" if layer else "v"),
            *values,
            *_low_rank("attn.g_lora.lora", "g", "n_g", bias=False),
            *(Tensors((f"attn.{name}",), {f"time_mix_{name}.weight": ("n_embd",)}) for name in ("k_k", "k_a")),
            Tensors(("attn.r_k",), {"time_mix_r_k.weight": ("n_embd",)}, flat),
            _square("attn.r_proj", "time_mix_receptance"),
            _square("attn.k_proj", "time_mix_key"),
            _square("attn.v_proj", "time_mix_value"),
            _square("attn.o_proj", "time_mix_output"),
            norm("attn.g_norm", bias=True, stem="time_mix_ln"),
            norm("ffn_norm", bias=True, stem="attn_norm_2"),
            Tensors(("ffn.x_k",), {"channel_mix_lerp_k.weight": ("n_embd",)}),
            linear("ffn.key", "n_ff", "n_embd", stem="channel_mix_key"),
            linear("ffn.value", "n_embd", "n_ff", stem="channel_mix_value"),
        )

    return block


_TOGETHER = Tensors(
    ("attn.x_x",),
    {"time_mix_lerp_fused.weight": ("six", "one", "one", "n_embd")},
    (reshape(("six", "n_embd"), ("six", "one", "one", "n_embd")),),
)
RWKV7 = replace(
    RWKV6,
    name="rwkv7",
    classes={"RWKV7ForCausalLM": "rwkv", "Rwkv7ForCausalLM": "rwkv"},
    rules=(
        *_RULES,
        _HeadNorm(),
        *(_Count(f"attention.{name}_lora_rank", f"lora_rank_{name}", most=1 << 16) for name in _RANKS),
        Fixed("hidden_act", "sqrelu"),
        Fixed("norm_first", True),
        Fixed("norm_bias", True),
        Fixed("attn", None),
    ),
    dimensions=_dimensions7,
    outside=(
        Embeddings("model.embeddings", both=True),
        norm("model.layers.0.pre_norm", bias=True, stem="token_embd_norm"),
        norm("model.norm", bias=True, stem="output_norm"),
    ),
    block=_layers7(mixed("attn.x_", "rwkvag", "six")),
    otherwise=("model.layers.0.attn.x_x", _layers7(_TOGETHER)),
    blocks="model.layers",
    ignored=(r"^model\.layers\.0\.attn\.v_lora\.",),  # which some have, and nothing computes with
    translate=_as_rwkv7,
    translated=(*_OF_FLA, "attn_mode", "fuse_norm", "fuse_cross_entropy", "hidden_ratio", "num_heads", "value_dim"),
    without_effect=("context_length", "rescale_every"),
)
