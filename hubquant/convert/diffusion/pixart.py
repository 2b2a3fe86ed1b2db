"""PixArt-alpha and -sigma. The original names are those that diffusers' conversion scripts read; it opens no single
files of this family."""

from __future__ import annotations

from hubquant.convert.diffusion.family import Family, Rows, always, module, tensor, within


def _embedder(original: str, diffusers: str, option: str = "") -> Rows:
    return [
        *module(f"{original}.mlp.0", f"adaln_single.emb.{diffusers}.linear_1", option=option),
        *module(f"{original}.mlp.2", f"adaln_single.emb.{diffusers}.linear_2", option=option),
    ]


PIXART = Family(
    "pixart",
    always(
        module("x_embedder.proj", "pos_embed.proj"),
        _embedder("t_embedder", "timestep_embedder"),
        _embedder("csize_embedder", "resolution_embedder", option="sizes"),
        _embedder("ar_embedder", "aspect_ratio_embedder", option="sizes"),
        module("t_block.1", "adaln_single.linear"),
        module("y_embedder.y_proj.fc1", "caption_projection.linear_1"),
        module("y_embedder.y_proj.fc2", "caption_projection.linear_2"),
        within(
            "blocks.{}.",
            "transformer_blocks.{}.",
            tensor("scale_shift_table"),
            module("attn.qkv", "attn1.to_q", "attn1.to_k", "attn1.to_v"),
            module("attn.proj", "attn1.to_out.0"),
            module("cross_attn.q_linear", "attn2.to_q"),
            module("cross_attn.kv_linear", "attn2.to_k", "attn2.to_v"),
            module("cross_attn.proj", "attn2.to_out.0"),
            module("mlp.fc1", "ff.net.0.proj"),
            module("mlp.fc2", "ff.net.2"),
        ),
        module("final_layer.linear", "proj_out"),
        tensor("final_layer.scale_shift_table", "scale_shift_table"),
    ),
    # The embedding of no text is in the published files; diffusers has the positions as a formula.
    unused=r"pos_embed|pos_embed\.pos_embed|(y_embedder|caption_projection)\.y_embedding",
)
