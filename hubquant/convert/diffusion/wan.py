"""Wan 2.1 and 2.2: videos from text, or from pictures and other videos (VACE) too."""

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


def _block(name: str, *further: Rows, option: str = "") -> Rows:
    return within(
        *2 * (f"{name}.{{}}.",),
        tensor("modulation", "scale_shift_table"),
        _attention("self_attn", "attn1"),
        _attention("cross_attn", "attn2"),
        module("norm3", "norm2"),
        module("ffn.0", "ffn.net.0.proj"),
        module("ffn.2", "ffn.net.2"),
        *further,
        option=option,
    )


WAN = Family(
    "wan",
    always(
        module("patch_embedding"),
        module("vace_patch_embedding", option="vace"),
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
            "img_emb.",
            "condition_embedder.image_embedder.",
            module("proj.0", "norm1"),
            module("proj.1", "ff.net.0.proj"),
            module("proj.3", "ff.net.2"),
            module("proj.4", "norm2"),
            # With a first and a last picture, and not in diffusers' function for single files.
            tensor("emb_pos", "pos_embed", option="two pictures"),
            option="picture",
        ),
        _block(
            "blocks",
            within(
                "cross_attn.",
                "attn2.",
                module("k_img", "add_k_proj"),
                module("v_img", "add_v_proj"),
                module("norm_k_img", "norm_added_k", bias=False),
                option="picture",
            ),
        ),
        _block(
            "vace_blocks",
            module("before_proj", "proj_in", option="first of vace"),
            module("after_proj", "proj_out"),
            option="vace",
        ),
        tensor("head.modulation", "scale_shift_table"),
        module("head.head", "proj_out"),
    ),
    unused=r"blocks\.\d+\.attn2\.norm_added_q\.weight",  # published beside norm_added_k; diffusers ignores it
    videos=True,
)
