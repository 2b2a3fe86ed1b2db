"""ChatGLM 2 and 3 and GLM-4-9B of 2024 with their own code: GLM whose queries, keys and values are one matrix."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.architectures.glm4 import CHATGLM
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Fixed, Settings, is_number, out_of_range
from hubquant.convert.tables import Embeddings, linear, norm

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_NAMES = {
    "num_layers": "num_hidden_layers",
    "padded_vocab_size": "vocab_size",
    "ffn_hidden_size": "intermediate_size",
    "kv_channels": "head_dim",
    "layernorm_epsilon": "rms_norm_eps",
    "seq_length": "max_position_embeddings",
    "multi_query_group_num": "num_key_value_heads",
    "add_qkv_bias": "attention_bias",
}
_RATIO, _GROUPED = "rope_ratio", "multi_query_attention"


def _as_glm(settings: Settings) -> dict[str, Any]:
    """The base of rope is 10 000 times its ratio, and half of each head rotates."""
    ratio = settings.get(_RATIO, 1)
    if not (is_number(ratio) and 0 < ratio < 1e9):
        raise out_of_range(_RATIO, ratio, "a number above 0")
    named = {_NAMES[name]: value for name, value in settings.items() if name in _NAMES}
    rest = {name: value for name, value in settings.items() if name not in (*_NAMES, _RATIO, _GROUPED)}
    result = {
        "tie_word_embeddings": False,
        **rest,
        **named,
        "rope_theta": 10000.0 * ratio,
        "partial_rotary_factor": 0.5,
    }
    if not settings.get(_GROUPED, False):
        result["num_key_value_heads"] = settings.get("num_attention_heads")
    return result


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    sizes = decoder.dimensions(config)
    fused = sizes["n_embd_q"] + 2 * sizes["n_embd_kv"]
    return {**sizes, "n_ff_both": 2 * config.intermediate_size, "n_qkv": fused}


CHATGLM_OWN = replace(
    CHATGLM,
    classes={"ChatGLMModel": "glm", "ChatGLMForConditionalGeneration": "glm"},
    rules=(
        *decoder.RULES_OF_WHOLE_HEADS,
        Rope(("default",), partial=True),
        Fixed("add_bias_linear", False),
        Fixed("apply_residual_connection_post_layernorm", False),
        Fixed("original_rope", True),
        Fixed("post_layer_norm", True),
        Fixed("rmsnorm", True),
    ),
    dimensions=_dimensions,
    outside=(
        Embeddings("transformer.embedding.word_embeddings", "transformer.output_layer", both=True),
        norm("transformer.encoder.final_layernorm", stem="output_norm"),
    ),
    block=every_layer(
        norm("input_layernorm", stem="attn_norm"),
        linear("self_attention.query_key_value", "n_qkv", "n_embd", "attention_bias", stem="attn_qkv"),
        linear("self_attention.dense", "n_embd", "n_embd_q", stem="attn_output"),
        norm("post_attention_layernorm", stem="ffn_norm"),
        linear("mlp.dense_h_to_4h", "n_ff_both", "n_embd", stem="ffn_up"),
        linear("mlp.dense_4h_to_h", "n_embd", "n_ff", stem="ffn_down"),
    ),
    blocks="transformer.encoder.layers",
    ignored=(r"\.rotary_pos_emb\.inv_freq$", r"^transformer\.vision\."),
    translate=_as_glm,
    translated=(*_NAMES, _RATIO, _GROUPED),
    own_code=True,
)
