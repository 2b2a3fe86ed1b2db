"""PLaMo 1, whose code is not part of transformers: attention and feed-forward layer beside each other behind one norm.
Llama's config stands for its own. Heads that share keys and values lie apart: head h of queries has those of head
h modulo their number, which llama.cpp computes of groups that lie together."""

from __future__ import annotations

from typing import Any

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.head_order import TileHeads
from hubquant.convert.operations import OperationFor
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Fixed, Settings, check_count, out_of_range
from hubquant.convert.tables import linear, norm

_DEFAULTS: dict[str, Any] = {
    "intermediate_size": 13312,
    "max_position_embeddings": 2048,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}


def _translated(settings: Settings) -> dict[str, Any]:
    """As many heads of keys and values as groups of ``n_shared_head``, whatever num_key_value_heads says."""
    named = {**_DEFAULTS, **settings}
    for name in ("num_attention_heads", "n_shared_head"):
        check_count(named, name, 1 << 16)
    heads, shared = named["num_attention_heads"] or 32, named.get("n_shared_head") or 8
    if heads % shared:
        raise out_of_range("n_shared_head", shared, f"a divisor of the {heads} attention heads")
    return {**named, "num_attention_heads": heads, "num_key_value_heads": heads // shared}


def _together(axis: int = 0) -> OperationFor:
    """Heads of queries along ``axis`` from the first of every group, the second, … to group by group."""
    return lambda sizes: TileHeads(sizes["n_head"] // sizes["n_head_kv"], sizes["n_head"], axis)


PLAMO = Architecture(
    name="plamo",
    classes={"PlamoForCausalLM": "llama"},
    restored_as="llama",
    rules=(
        *decoder.RULES_OF_WHOLE_HEADS,
        Rope(("default",)),
        Fixed("attention_bias", False),
        Fixed("mlp_bias", False),
    ),
    dimensions=decoder.dimensions,
    outside=decoder.OUTSIDE_WITH_OUTPUT,
    block=every_layer(
        norm("norm"),
        linear("self_attn.q_proj", "n_embd_q", "n_embd", operations=(_together(),)),
        linear("self_attn.k_proj", "n_embd_kv", "n_embd"),
        linear("self_attn.v_proj", "n_embd_kv", "n_embd"),
        linear("self_attn.o_proj", "n_embd", "n_embd_q", operations=(_together(axis=1),)),
        *decoder.gated_mlp(),
    ),
    blocks="model.layers.layers",
    translate=_translated,
    translated=("n_shared_head",),
    own_code=True,
)
