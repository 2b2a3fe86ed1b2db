"""MiniMax-M2: norms of all queries and of all keys together, rope on a part of each head, experts in every layer."""

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder, mixtral, moe
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Constant, Count, Fixed, Rule
from hubquant.convert.tables import Tensors, norm
from hubquant.gguf_file.metadata import u32

ROUTING: tuple[Rule, ...] = (
    Constant("expert_gating_func", u32(moe.SIGMOID)),
    Fixed("scoring_func", "sigmoid"),
    Fixed("use_routing_bias", True),
    Fixed("use_qk_norm", True),
)
BIAS = Tensors(("block_sparse_moe.e_score_correction_bias",), moe.BIAS.targets)

MINIMAX_M2 = Architecture(
    name="minimax-m2",
    classes={"MiniMaxM2ForCausalLM": "minimax_m2"},
    restored_as="minimax_m2",
    rules=(
        *decoder.RULES,
        Rope(("default",), partial=True),
        *mixtral.COUNTS,
        Count("expert_feed_forward_length", "intermediate_size"),
        *ROUTING,
        Fixed("qk_norm_type", "per_layer"),
        Fixed("shared_intermediate_size", 0),
    ),
    dimensions=mixtral.dimensions,
    outside=decoder.OUTSIDE_WITH_OUTPUT,
    block=every_layer(
        norm("input_layernorm"),
        *decoder.attention(),
        norm("self_attn.q_norm", "n_embd_q"),
        norm("self_attn.k_norm", "n_embd_kv"),
        norm("post_attention_layernorm"),
        *mixtral.EXPERTS,
        BIAS,
    ),
    renames=(
        (r"\.mlp\.(gate\.|e_score_correction_bias)", r".block_sparse_moe.\1"),
    ),  # as transformers has it in memory
    translated=("rotary_dim",),
)
