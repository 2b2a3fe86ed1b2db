"""Qwen-Image, also for editing: the original layout is that of diffusers."""

from __future__ import annotations

from hubquant.convert.diffusion.family import Family, always, module, tensor, within

_BLOCK = (
    *("img_mod.1", "txt_mod.1"),
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
    *("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2"),
)
_NORMS = ("attn.norm_q", "attn.norm_k", "attn.norm_added_q", "attn.norm_added_k")

QWEN_IMAGE = Family(
    "qwen_image",
    always(
        module("time_text_embed.timestep_embedder.linear_1"),
        module("time_text_embed.timestep_embedder.linear_2"),
        tensor("time_text_embed.addition_t_embedding.weight", option="layered"),
        module("txt_norm", bias=False),
        module("txt_in"),
        module("img_in"),
        within(
            *2 * ("transformer_blocks.{}.",),
            *(module(name) for name in _BLOCK),
            *(module(name, bias=False) for name in _NORMS),
        ),
        module("norm_out.linear"),
        module("proj_out"),
    ),
    unused="__index_timestep_zero__",  # ComfyUI's mark of Qwen-Image-Edit 2511
)
