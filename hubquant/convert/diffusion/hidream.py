"""HiDream-I1: the original layout is that of diffusers."""

from __future__ import annotations

from hubquant.convert.diffusion.family import Family, Rows, always, module, within

_EXPERTS = 4
_PARTS = ("to_q", "to_k", "to_v", "to_out")
_NORMS = ("q_rms_norm", "k_rms_norm")


def _feed_forward(name: str) -> Rows:
    return [row for part in ("w1", "w2", "w3") for row in module(f"{name}.{part}", bias=False)]


def _block(kind: str, *further: Rows) -> Rows:
    return within(
        *2 * (f"{kind}_stream_blocks.{{}}.block.",),
        module("adaLN_modulation.1"),
        *(module(f"attn1.{part}") for part in _PARTS),
        *(module(f"attn1.{norm}", bias=False) for norm in _NORMS),
        module("ff_i.gate", bias=False),
        _feed_forward("ff_i.shared_experts"),
        *(_feed_forward(f"ff_i.experts.{expert}") for expert in range(_EXPERTS)),
        *further,
    )


HIDREAM = Family(
    "hidream",
    always(
        module("x_embedder.proj"),
        module("t_embedder.timestep_embedder.linear_1"),
        module("t_embedder.timestep_embedder.linear_2"),
        module("p_embedder.pooled_embedder.linear_1"),
        module("p_embedder.pooled_embedder.linear_2"),
        module("caption_projection.{}.linear", bias=False),
        _block(
            "double",
            *(module(f"attn1.{part}_t") for part in _PARTS),
            *(module(f"attn1.{norm}_t", bias=False) for norm in _NORMS),
            _feed_forward("ff_t"),
        ),
        _block("single"),
        module("final_layer.adaLN_modulation.1"),
        module("final_layer.linear"),
    ),
)
