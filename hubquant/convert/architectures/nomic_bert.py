"""nomic-bert: BERT with rotary positions and gates, and in version 2 with experts in every second layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import bert
from hubquant.convert.operations import Dimensions, Transpose, always, reshape
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import GELU, SILU, Count, Fixed, Rule, Settings
from hubquant.convert.tables import Module, Row, Tensors, inputs_of, linear, norm

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_NAMES = {  # in the config.json of nomic-ai's own code
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_layer": "num_hidden_layers",
    "max_trained_positions": "max_position_embeddings",
    "layer_norm_epsilon": "layer_norm_eps",
}
_ALWAYS = (
    Fixed("rotary_emb_fraction", 1.0),
    Fixed("rotary_emb_scale_base", None),
    Fixed("rotary_scaling_factor", None),
    Fixed("scale_attn_weights", True),
    *(Fixed(name, False) for name in ("causal", "prenorm", "rotary_emb_interleaved", "use_rms_norm")),
    *(Fixed(name, False) for name in ("scale_attn_by_inverse_layer_idx", "parallel_block", "add_cross_attention")),
)
_EVERY = "moe_every_n_layers"
_BIASES = ("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias")
_GATED = (Fixed("activation_function", "swiglu"), *(Fixed(name, False) for name in (_EVERY, *_BIASES)))
_SPARSE = (
    Fixed("activation_function", "gelu", same=GELU),
    *(Fixed(name, True) for name in _BIASES),
    *(Fixed(name, False) for name in ("moe_normalize_expert_weights", "expert_choice_router")),
    Fixed("num_shared_experts", 0),
    Fixed("ffn_div", 1),
)
_OF_EXPERTS = (_EVERY, "num_experts", "moe_top_k")
_KEYS = (
    *(*_NAMES, *(rule.setting for rule in (*_ALWAYS, *_GATED, *_SPARSE)), "rotary_emb_base", *_OF_EXPERTS),
    *("n_positions", "attn_pdrop", "embd_pdrop", "resid_pdrop", "summary_type", "summary_use_proj"),
    *("summary_first_dropout", "summary_proj_to_labels", "reorder_and_upcast_attn", "parallel_block_tied_norm"),
    *("mlp_multiple_of", "residual_in_fp32", "dense_seq_output", "shared_rope", "last_layer_subset"),
    "moe_resid_pdrop",
)
_TRAINED = 512  # tokens: of version 2, whose config.json says 2,048


def _known(settings: Settings) -> dict[str, Any]:
    for rule in _ALWAYS:
        rule.check(settings)
    known = {new: settings[old] for old, new in _NAMES.items() if old in settings}
    rope = {"rope_type": "default", "rope_theta": settings.get("rotary_emb_base", 1000.0)}
    names = ("vocab_size", "type_vocab_size", "pad_token_id", *_OF_EXPERTS)
    return {**known, "rope_parameters": rope, **{name: settings[name] for name in names if name in settings}}


def _translate(settings: Settings) -> Settings:
    if "n_embd" not in settings:
        return settings
    for rule in _GATED:
        rule.check(settings)
    return _known(settings)


def _translate_sparse(settings: Settings) -> Settings:
    for rule in _SPARSE:
        rule.check(settings)
    return {**_known(settings), "hidden_act": "gelu", "max_position_embeddings": _TRAINED}


@dataclass(frozen=True)
class _WithoutTheirBias(Rule):
    """llama.cpp has no place for the one bias of all experts of a layer."""

    def notes(self, config: PreTrainedConfig) -> Iterator[str]:  # noqa: ARG002
        yield (
            "embeddings come out a little otherwise than in the model's own code: llama.cpp does without the bias that "
            "is added to what the experts of a layer give"
        )


NOMIC_BERT = Architecture(
    name="nomic-bert",
    classes={"NomicBertModel": "nomic_bert"},
    restored_as="nomic_bert",
    rules=(*bert.RULES, Rope(("default",)), SILU, bert.WholeHeads()),
    dimensions=bert.dimensions,
    outside=(*bert.EMBEDDINGS, norm("emb_ln", bias=True)),
    block=every_layer(
        bert.renamed_linear("attn.Wqkv", "n_qkv", "n_embd", "self_attn.q_proj"),
        bert.renamed_linear("attn.out_proj", "n_embd", "n_embd", "self_attn.o_proj"),
        norm("norm1", bias=True),
        bert.renamed_linear("mlp.fc11", "n_ff", "n_embd", "mlp.up_proj"),
        bert.renamed_linear("mlp.fc12", "n_ff", "n_embd", "mlp.gate_proj"),
        bert.renamed_linear("mlp.fc2", "n_embd", "n_ff", "mlp.down_proj"),
        norm("norm2", bias=True),
    ),
    blocks="encoder.layers",
    ignored=bert.HEADS,
    renames=bert.RENAMES,
    told_by_tensors=bert.told_by_tensors,
    layout=("type_vocab_size",),
    translate=_translate,
    translated=_KEYS,
    generates=False,
)


def _sparse_dimensions(config: PreTrainedConfig) -> Dimensions:
    sizes, n_experts = bert.dimensions(config), getattr(config, "num_experts", 0)
    return {**sizes, "n_expert": n_experts, "n_ff_all": n_experts * sizes["n_ff"]}


def _experts(name: str, stem: str, shape: tuple[str, str], *, transposed: bool) -> Tensors:
    """All experts' rows [n_expert * n_ff, n_embd] in one matrix."""
    stack = reshape(("n_ff_all", "n_embd"), ("n_expert", "n_ff", "n_embd"))
    return Tensors(
        (f"mlp.experts.mlp.{name}",),
        {f"{stem}.weight": ("n_expert", *shape)},
        (stack, always(Transpose())) if transposed else (stack,),
        taps=(inputs_of("mlp.experts"),),
    )


_SPARSE_FEED_FORWARD: tuple[Row, ...] = (
    Module("mlp.router.layer", ("n_expert", "n_embd")),
    _experts("w1", "ffn_up_exps", ("n_ff", "n_embd"), transposed=False),
    _experts("w2", "ffn_down_exps", ("n_embd", "n_ff"), transposed=True),
)
_DENSE_FEED_FORWARD: tuple[Row, ...] = (
    linear("mlp.fc1", "n_ff", "n_embd", bias=True),
    linear("mlp.fc2", "n_embd", "n_ff", bias=True),
)


def _sparse_block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    """From the second layer on every ``moe_every_n_layers``-th has experts."""
    return (
        linear("attn.Wqkv", "n_qkv", "n_embd", bias=True),
        linear("attn.out_proj", "n_embd", "n_embd", bias=True),
        norm("norm1", bias=True),
        *(_SPARSE_FEED_FORWARD if layer % getattr(config, _EVERY, 2) == 1 else _DENSE_FEED_FORWARD),
        norm("norm2", bias=True),
    )


NOMIC_BERT_MOE = replace(
    NOMIC_BERT,
    name="nomic-bert-moe",
    rules=(
        *bert.RULES,
        Rope(("default",)),
        Fixed("hidden_act", "gelu"),
        bert.WholeHeads(),
        Count("moe_every_n_layers", _EVERY, most=2, least=2),
        Count("expert_count", "num_experts", most=1 << 16),
        Count("expert_used_count", "moe_top_k", most=1 << 16),
        _WithoutTheirBias(),
    ),
    dimensions=_sparse_dimensions,
    block=_sparse_block,
    ignored=(*bert.HEADS, r"\.mlp\.experts\.bias$"),
    translate=_translate_sparse,
    takes=lambda settings: bool(settings.get(_EVERY)),
    own_code=True,
)
