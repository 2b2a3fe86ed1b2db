"""Qwen 1, whose code is not part of transformers: Qwen2 with queries, keys and values in one matrix."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.architectures.qwen2 import QWEN2
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import SILU, Epsilon, Fixed, Heads, Rule, Settings, check_count, integer
from hubquant.convert.rules.windows import QWEN_WINDOW
from hubquant.convert.tables import Embeddings, linear, norm
from hubquant.gguf_file.metadata import Metadata, u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_NAMES = {
    "layer_norm_epsilon": "rms_norm_eps",
    "rotary_emb_base": "rope_theta",
    "seq_length": "max_position_embeddings",
}


class _BothWidths(Rule):
    """The widths of both matrices into the feed-forward layer together, as llama.cpp has them here."""

    reads = ("intermediate_size",)

    def check(self, settings: Settings) -> None:
        check_count(settings, "intermediate_size", 1 << 24)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        return {"feed_forward_length": u32(2 * config.intermediate_size)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return {"intermediate_size": (integer(metadata, "feed_forward_length") or 0) // 2}


def _as_qwen2(settings: Settings) -> dict[str, Any]:
    """Each of its two matrices into the feed-forward layer has half the width that config.json says."""
    named = {_NAMES.get(name, name): value for name, value in settings.items()}
    width = settings.get("intermediate_size")
    named["num_key_value_heads"] = settings.get("num_attention_heads")
    return named | ({"intermediate_size": width // 2} if type(width) is int else {})


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    return {**decoder.dimensions(config), "n_qkv": 3 * config.hidden_size}


QWEN = replace(
    QWEN2,
    name="qwen",
    classes={"QWenLMHeadModel": "qwen2"},
    rules=(
        *(rule for rule in decoder.SIZES if rule != decoder.FEED_FORWARD),
        _BothWidths(),
        Heads(grouped=False, whole=True),
        Epsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        Rope(("default",)),
        SILU,
        Fixed("no_bias", True),
        Fixed("rotary_pct", 1.0),
    ),
    dimensions=_dimensions,
    outside=(Embeddings("transformer.wte", both=True), norm("transformer.ln_f")),
    block=every_layer(
        norm("ln_1"),
        linear("attn.c_attn", "n_qkv", "n_embd", bias=True),
        linear("attn.c_proj", "n_embd", "n_embd"),
        norm("ln_2"),
        linear("mlp.w2", "n_ff", "n_embd", stem="ffn_gate"),
        linear("mlp.w1", "n_ff", "n_embd", stem="ffn_up"),
        linear("mlp.c_proj", "n_embd", "n_ff"),
    ),
    blocks="transformer.h",
    without_effect=QWEN_WINDOW.reads,
    translate=_as_qwen2,
    translated=(*_NAMES, "kv_channels", "emb_dropout_prob", "attn_dropout_prob", "use_dynamic_ntk", "use_logn_attn"),
    own_code=True,
)
