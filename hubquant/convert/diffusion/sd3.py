"""Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from hubquant.convert.diffusion.family import Family, Rows, always, module, swapped, tensor, within


def _stream(original: str, attention: tuple[str, str, str], norms: tuple[str, str], norm: str) -> Rows:
    return within(
        f"joint_blocks.{{}}.{original}.",
        "transformer_blocks.{}.",
        # In the last block the context has no gates, and norms as the final layer has.
        swapped("adaLN_modulation.1", f"{norm}.linear"),
        module("attn.qkv", *(f"attn.{name}" for name in attention)),
        tensor("attn.ln_q.weight", f"attn.{norms[0]}.weight", option=f"norms of {original}"),
        tensor("attn.ln_k.weight", f"attn.{norms[1]}.weight", option=f"norms of {original}"),
    )


def _after(original: str, output: str, feed_forward: str, option: str = "") -> Rows:
    return within(
        f"joint_blocks.{{}}.{original}.",
        "transformer_blocks.{}.",
        module("attn.proj", f"attn.{output}"),
        module("mlp.fc1", f"{feed_forward}.net.0.proj"),
        module("mlp.fc2", f"{feed_forward}.net.2"),
        option=option,
    )


SD3 = Family(
    "sd3",
    always(
        tensor("pos_embed", "pos_embed.pos_embed"),
        module("x_embedder.proj", "pos_embed.proj"),
        module("context_embedder"),
        module("t_embedder.mlp.0", "time_text_embed.timestep_embedder.linear_1"),
        module("t_embedder.mlp.2", "time_text_embed.timestep_embedder.linear_2"),
        module("y_embedder.mlp.0", "time_text_embed.text_embedder.linear_1"),
        module("y_embedder.mlp.2", "time_text_embed.text_embedder.linear_2"),
        _stream("x_block", ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"), "norm1"),
        _stream(
            "context_block",
            ("add_q_proj", "add_k_proj", "add_v_proj"),
            ("norm_added_q", "norm_added_k"),
            "norm1_context",
        ),
        _after("x_block", "to_out.0", "ff"),
        _after("context_block", "to_add_out", "ff_context", option="context goes on"),
        within(
            "joint_blocks.{}.x_block.attn2.",
            "transformer_blocks.{}.attn2.",
            module("qkv", "to_q", "to_k", "to_v"),
            module("proj", "to_out.0"),
            option="second attention",
        ),
        within(
            "joint_blocks.{}.x_block.attn2.",
            "transformer_blocks.{}.attn2.",
            tensor("ln_q.weight", "norm_q.weight"),
            tensor("ln_k.weight", "norm_k.weight"),
            option="norms of the second attention",
        ),
        module("final_layer.linear", "proj_out"),
        swapped("final_layer.adaLN_modulation.1", "norm_out.linear"),
    ),
)
