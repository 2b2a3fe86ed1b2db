"""Sana."""

from __future__ import annotations

from hubquant.convert.diffusion.family import Family, always, module, tensor, within

SANA = Family(
    "sana",
    always(
        module("x_embedder.proj", "patch_embed.proj"),
        module("t_embedder.mlp.0", "time_embed.emb.timestep_embedder.linear_1"),
        module("t_embedder.mlp.2", "time_embed.emb.timestep_embedder.linear_2"),
        module("t_block.1", "time_embed.linear"),
        module("y_embedder.y_proj.fc1", "caption_projection.linear_1"),
        module("y_embedder.y_proj.fc2", "caption_projection.linear_2"),
        module("attention_y_norm", "caption_norm", bias=False),
        within(
            "blocks.{}.",
            "transformer_blocks.{}.",
            tensor("scale_shift_table"),
            module("attn.qkv", "attn1.to_q", "attn1.to_k", "attn1.to_v", bias=False),
            module("attn.proj", "attn1.to_out.0"),
            module("cross_attn.q_linear", "attn2.to_q"),
            module("cross_attn.kv_linear", "attn2.to_k", "attn2.to_v"),
            module("cross_attn.proj", "attn2.to_out.0"),
            module("mlp.inverted_conv.conv", "ff.conv_inverted"),
            module("mlp.depth_conv.conv", "ff.conv_depth"),
            module("mlp.point_conv.conv", "ff.conv_point", bias=False),
        ),
        module("final_layer.linear", "proj_out"),
        tensor("final_layer.scale_shift_table", "scale_shift_table"),
    ),
    # diffusers asks for these in the original layout, and throws them away.
    unused=r"pos_embed|y_embedder\.y_embedding",
    preferred="diffusers",
)
