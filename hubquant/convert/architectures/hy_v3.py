"""Hunyuan 3 (Hy3): Qwen3's attention, DeepSeek V3's experts without groups behind dense layers."""

from hubquant.convert.ahead import JOINED, Ahead
from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder, moe, qwen3
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Constant, Count, Fixed, Number
from hubquant.convert.tables import Row, Tensors, norm
from hubquant.gguf_file.metadata import boolean, u32

_EXPERTS: tuple[Row, ...] = (
    *moe.routed("mlp.router.gate", modules=("mlp.gate", "mlp.experts")),
    *moe.shared("mlp.shared_mlp", "mlp.shared_experts"),
    Tensors(("mlp.expert_bias",), {"exp_probs_b": ("n_expert",)}),
)

HY_V3 = Architecture(
    name="hy_v3",
    classes={"HYV3ForCausalLM": "hy_v3"},
    restored_as="hy_v3",
    rules=(
        *decoder.RULES,
        Rope(),
        moe.DenseLayersFirst(),
        *moe.counts("num_experts"),
        Count("expert_shared_count", "num_shared_experts", most=moe.MOST_EXPERTS),
        Count("expert_feed_forward_length", "moe_intermediate_size"),
        moe.SharedWidth(moe.with_shared_experts),
        Number("expert_weights_scale", "router_scaling_factor"),
        Constant("expert_weights_norm", boolean(True)),
        Constant("expert_gating_func", u32(moe.SIGMOID)),
        Fixed("attention_bias", False),
        Fixed("mlp_bias", False),
        Fixed("route_norm", True),
    ),
    dimensions=moe.with_shared_experts,
    outside=decoder.OUTSIDE,
    block=moe.behind_dense(qwen3.ATTENTION, _EXPERTS),
    ahead=Ahead(
        lambda _: (*qwen3.ATTENTION, *_EXPERTS, *JOINED, norm("final_layernorm", stem="nextn.shared_head_norm"))
    ),
    renames=(  # as transformers has them in memory
        (r"\.mlp\.gate\.weight$", ".mlp.router.gate.weight"),
        (r"\.mlp\.e_score_correction_bias$", ".mlp.expert_bias"),
        (r"\.mlp\.shared_experts\.", ".mlp.shared_mlp."),
    ),
    without_effect=("enable_moe_fp32_combine",),
)
