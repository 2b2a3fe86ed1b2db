"""Dream, LLaDA and RND1, which fill masks in a text instead of going on with it, and whose code is not part of
transformers: Qwen2, Llama, OLMoE and Qwen3 with experts, in which each token sees the whole text."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import every_layer
from hubquant.convert.architectures import decoder, llama, moe, qwen3
from hubquant.convert.architectures.llama import LLAMA
from hubquant.convert.architectures.qwen2 import QWEN2
from hubquant.convert.architectures.qwen_moe import QWEN3_MOE
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Constant, Count, Fixed, Rule, Settings
from hubquant.gguf_file.metadata import boolean

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_SEES_ALL = Constant("attention.causal", boolean(False))
_IN_PLACE = Constant("diffusion.shift_logits", boolean(False))
"""The logits of a mask stand at its place, not at that of the token before."""

DREAM = replace(
    QWEN2,
    name="dream",
    classes={"DreamModel": "qwen2"},
    rules=(*QWEN2.rules, _SEES_ALL),
    own_code=True,
)
RND1 = replace(
    QWEN3_MOE,
    name="rnd1",
    classes={"RND1": "qwen3_moe"},
    rules=(*QWEN3_MOE.rules, _SEES_ALL),
    own_code=True,
)

_SIZES = {
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "mlp_hidden_size": "intermediate_size",
    "max_sequence_length": "max_position_embeddings",
}
_OF_LLADA: dict[str, Any] = {
    "activation_type": "silu",
    "alibi": False,
    "attention_layer_norm": False,
    "block_type": "llama",
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "rope": True,
    "scale_logits": False,
}


def _as_llama(settings: Settings) -> dict[str, Any]:
    tied = {"tie_word_embeddings": bool(settings.get("weight_tying", False))}
    return {**tied, **{_SIZES.get(name, name): value for name, value in settings.items()}}


_MODULES = (
    ("attn_out", "self_attn.o_proj"),
    ("([qkv])_proj", r"self_attn.\2_proj"),
    ("attn_norm", "input_layernorm"),
    ("ff_norm", "post_attention_layernorm"),
    ("ff_proj", "mlp.gate_proj"),
    ("up_proj", "mlp.up_proj"),
    ("ff_out", "mlp.down_proj"),
)
LLADA = replace(
    LLAMA,
    name="llada",
    classes={"LLaDAModelLM": "llama"},
    rules=(
        *decoder.RULES,
        Rope(("default",)),
        _SEES_ALL,
        _IN_PLACE,
        *(Fixed(name, value) for name, value in _OF_LLADA.items()),
        Fixed("attention_bias", False),
        Fixed("mlp_bias", False),
    ),
    block=every_layer(*llama.ATTENTION, *decoder.gated_mlp()),
    renames=(
        (r"^model\.transformer\.wte\.", "model.embed_tokens."),
        (r"^model\.transformer\.ln_f\.", "model.norm."),
        (r"^model\.transformer\.ff_out\.", "lm_head."),
        *(
            (rf"^model\.transformer\.blocks\.(\d+)\.{theirs}\.", rf"model.layers.\1.{ours}.")
            for theirs, ours in _MODULES
        ),
    ),
    translate=_as_llama,
    translated=(*_SIZES, "weight_tying"),
    own_code=True,
)


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    return moe.dimensions(config, config.num_experts, config.moe_intermediate_size)


_OF_EXPERTS: tuple[Rule, ...] = (
    *decoder.RULES_OF_WHOLE_HEADS,
    Rope(("default",)),
    *moe.counts("num_experts"),
    Count("expert_feed_forward_length", "moe_intermediate_size"),
    _SEES_ALL,
    _IN_PLACE,
    Fixed("norm_topk_prob", False),
    Fixed("attention_bias", False),
    Fixed("qk_layernorm", True),
)
LLADA_MOE = replace(
    QWEN3_MOE,
    name="llada-moe",
    classes={"LLaDAMoEModel": "qwen3_moe", "LLaDAMoEModelLM": "qwen3_moe"},
    rules=_OF_EXPERTS,
    dimensions=_dimensions,
    outside=decoder.OUTSIDE_WITH_OUTPUT,
    block=every_layer(*qwen3.ATTENTION, *moe.routed()),
    translate=lambda settings: {
        ("moe_intermediate_size" if name == "expert_intermediate_size" else name): value
        for name, value in settings.items()
    },
    translated=("expert_intermediate_size",),
    without_effect=(
        "decoder_sparse_step",
        "mlp_only_layers",
        "sliding_window",
        "use_sliding_window",
    ),
    own_code=True,
)
