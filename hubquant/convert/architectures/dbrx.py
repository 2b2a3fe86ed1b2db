"""DBRX: norms without biases, clipped queries, keys and values, and experts whose matrices are the rows of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder, moe
from hubquant.convert.operations import Dimensions, Transpose, always, reshape
from hubquant.convert.rules.nested import Nested
from hubquant.convert.rules.rope import Rope, raw_parameters, rope_type
from hubquant.convert.rules.rule import Constant, Count, Fixed, Heads, Number, Settings
from hubquant.convert.tables import Embeddings, Tensors, linear, norm
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.gguf_file.metadata import f32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_BASE = 10_000.0  # of the code that DBRX was published with
_EXPERTS = "ffn.experts"
_STACK = ("n_expert", "n_ff", "n_embd")
_GIVEN = moe.given_to(_EXPERTS, "in rows")
_IN_ROWS = reshape(("n_expert_ff", "n_embd"), _STACK)


def _translate(settings: Settings) -> Settings:
    """The base of rope is in ``attn_config``, and transformers rotates by ``rope_parameters``."""
    attention = settings.get("attn_config") or {}
    if not isinstance(attention, Mapping):  # which a rule refuses
        return settings
    if attention.get("clip_qkv") is None:
        raise NotSupportedYet("attn_config without clip_qkv", why="transformers and llama.cpp compute DBRX with it")
    rope = raw_parameters(settings)
    bases = [table["rope_theta"] for table in (attention, rope) if table.get("rope_theta") is not None] or [_BASE]
    if bases[0] != bases[-1]:
        raise CheckpointError(
            f"rope_theta in config.json is {str(bases[0])[:40]} in attn_config and {str(bases[-1])[:40]} outside of it",
            why="transformers 5 writes 10000 there for models with another base, and rotates by it",
            hint="leave that of the outside out, if attn_config has the one that the model was trained with",
        )
    return {
        **{name: value for name, value in settings.items() if name not in ("rope_scaling", "rope_theta")},
        "attn_config": {**attention, "rope_theta": bases[0]},
        "rope_parameters": {**rope, "rope_type": rope_type(rope), "rope_theta": bases[0]},
    }


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    width, experts, hidden = config.d_model, config.ffn_config.moe_num_experts, config.ffn_config.ffn_hidden_size
    kv_width = config.attn_config.kv_n_heads * (width // config.n_heads)
    sizes = {"n_ff": hidden, "n_expert": experts, "n_expert_ff": experts * hidden, "n_qkv": width + 2 * kv_width}
    return {**decoder.dimensions(config), **sizes}


DBRX = Architecture(
    name="dbrx",
    classes={"DbrxForCausalLM": "dbrx"},
    restored_as="dbrx",
    rules=(
        Count("vocab_size", "vocab_size"),
        Count("context_length", "max_seq_len", most=(1 << 31) - 1),
        Count("embedding_length", "d_model"),
        Count("block_count", "n_layers", most=10_000),
        Heads(whole=True),
        Rope(("default",)),
        Nested(
            "attn_config",
            (
                Count("attention.head_count_kv", "kv_n_heads", most=1 << 16),
                Number("rope.freq_base", "rope_theta"),
                Number("attention.clamp_kqv", "clip_qkv"),
            ),
        ),
        Nested(
            "ffn_config",
            (
                Count("feed_forward_length", "ffn_hidden_size"),
                *moe.counts("moe_num_experts", "moe_top_k"),
                Fixed("moe_normalize_expert_weights", 1.0),
                Fixed("ffn_act_fn", {"name": "silu"}),
            ),
        ),
        Constant("attention.layer_norm_epsilon", f32(1e-5)),
    ),
    dimensions=_dimensions,
    outside=(Embeddings("transformer.wte"), norm("transformer.norm_f")),
    block=every_layer(
        norm("norm_attn_norm.norm_1"),
        linear("norm_attn_norm.attn.Wqkv", "n_qkv", "n_embd"),
        linear("norm_attn_norm.attn.out_proj", "n_embd", "n_embd"),
        norm("norm_attn_norm.norm_2"),
        linear("ffn.router.layer", "n_expert", "n_embd"),
        Tensors((f"{_EXPERTS}.mlp.w1",), {"ffn_gate_exps.weight": _STACK}, (_IN_ROWS,), taps=(_GIVEN,)),
        Tensors((f"{_EXPERTS}.mlp.v1",), {"ffn_up_exps.weight": _STACK}, (_IN_ROWS,), taps=(_GIVEN,)),
        Tensors(
            (f"{_EXPERTS}.mlp.w2",),
            {"ffn_down_exps.weight": ("n_expert", "n_embd", "n_ff")},
            (_IN_ROWS, always(Transpose())),
            taps=(moe.computed_in(_EXPERTS, "in rows"),),
        ),
    ),
    blocks="transformer.blocks",
    translate=_translate,
    without_effect=("emb_pdrop",),
)
