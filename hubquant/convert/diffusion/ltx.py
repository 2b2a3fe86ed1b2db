"""LTX-Video."""

from __future__ import annotations

from hubquant.convert.diffusion.family import Family, Rows, always, module, tensor, within


def _attention(name: str) -> Rows:
    return within(
        *2 * (f"{name}.",),
        tensor("q_norm.weight", "norm_q.weight"),
        tensor("k_norm.weight", "norm_k.weight"),
        *(module(part) for part in ("to_q", "to_k", "to_v", "to_out.0")),
    )


LTX = Family(
    "ltx",
    always(
        tensor("scale_shift_table"),
        module("patchify_proj", "proj_in"),
        module("adaln_single.emb.timestep_embedder.linear_1", "time_embed.emb.timestep_embedder.linear_1"),
        module("adaln_single.emb.timestep_embedder.linear_2", "time_embed.emb.timestep_embedder.linear_2"),
        module("adaln_single.linear", "time_embed.linear"),
        module("caption_projection.linear_1"),
        module("caption_projection.linear_2"),
        within(
            *2 * ("transformer_blocks.{}.",),
            tensor("scale_shift_table"),
            _attention("attn1"),
            _attention("attn2"),
            module("ff.net.0.proj"),
            module("ff.net.2"),
        ),
        module("proj_out"),
    ),
    known_as="ltxv",
)
