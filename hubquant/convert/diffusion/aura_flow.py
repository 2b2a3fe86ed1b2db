"""AuraFlow."""

from __future__ import annotations

from hubquant.convert.diffusion.family import Family, Rows, always, module, swapped, tensor, within


def _feed_forward(original: str, diffusers: str) -> Rows:
    return within(
        f"{original}.",
        f"{diffusers}.",
        module("c_fc1", "linear_1", bias=False),
        module("c_fc2", "linear_2", bias=False),
        module("c_proj", "out_projection", bias=False),
    )


def _attention(original: str, *diffusers: str) -> Rows:
    pairs = zip("qkvo", diffusers, strict=True)
    return [row for part, name in pairs for row in module(f"attn.{original}{part}", f"attn.{name}", bias=False)]


AURA_FLOW = Family(
    "auraflow",
    always(
        tensor("register_tokens"),
        tensor("positional_encoding", "pos_embed.pos_embed"),
        module("init_x_linear", "pos_embed.proj"),
        module("cond_seq_linear", "context_embedder", bias=False),
        module("t_embedder.mlp.0", "time_step_proj.linear_1"),
        module("t_embedder.mlp.2", "time_step_proj.linear_2"),
        within(
            "double_layers.{}.",
            "joint_transformer_blocks.{}.",
            module("modX.1", "norm1.linear", bias=False),
            module("modC.1", "norm1_context.linear", bias=False),
            _attention("w2", "to_q", "to_k", "to_v", "to_out.0"),
            _attention("w1", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
            _feed_forward("mlpX", "ff"),
            _feed_forward("mlpC", "ff_context"),
        ),
        within(
            "single_layers.{}.",
            "single_transformer_blocks.{}.",
            module("modCX.1", "norm1.linear", bias=False),
            _attention("w1", "to_q", "to_k", "to_v", "to_out.0"),
            _feed_forward("mlp", "ff"),
        ),
        swapped("modF.1", "norm_out.linear", bias=False),
        module("final_linear", "proj_out", bias=False),
    ),
    known_as="aura",
)
