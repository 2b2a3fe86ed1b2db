"""Wan 2.1 and 2.2: videos from text, or from a picture too."""

from __future__ import annotations

from hubquant.convert.diffusion.family import Family, Rows, always, module, tensor, within


def _attention(original: str, diffusers: str) -> Rows:
    return within(
        f"{original}.",
        f"{diffusers}.",
        module("q", "to_q"),
        module("k", "to_k"),
        module("v", "to_v"),
        module("o", "to_out.0"),
        module("norm_q", bias=False),
        module("norm_k", bias=False),
    )


WAN = Family(
    "wan",
    always(
        module("patch_embedding"),
        within(
            "",
            "condition_embedder.",
            module("time_embedding.0", "time_embedder.linear_1"),
            module("time_embedding.2", "time_embedder.linear_2"),
            module("time_projection.1", "time_proj"),
            module("text_embedding.0", "text_embedder.linear_1"),
            module("text_embedding.2", "text_embedder.linear_2"),
        ),
        within(
            "img_emb.proj.",
            "condition_embedder.image_embedder.",
            module("0", "norm1"),
            module("1", "ff.net.0.proj"),
            module("3", "ff.net.2"),
            module("4", "norm2"),
            option="picture",
        ),
        within(
            "blocks.{}.",
            "blocks.{}.",
            tensor("modulation", "scale_shift_table"),
            _attention("self_attn", "attn1"),
            _attention("cross_attn", "attn2"),
            within(
                "cross_attn.",
                "attn2.",
                module("k_img", "add_k_proj"),
                module("v_img", "add_v_proj"),
                module("norm_k_img", "norm_added_k", bias=False),
                option="picture",
            ),
            module("norm3", "norm2"),
            module("ffn.0", "ffn.net.0.proj"),
            module("ffn.2", "ffn.net.2"),
        ),
        tensor("head.modulation", "scale_shift_table"),
        module("head.head", "proj_out"),
    ),
)
