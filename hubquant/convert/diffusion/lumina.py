"""Lumina Image 2 and Z-Image: refiners of noise and text, then layers of both."""

from __future__ import annotations

from hubquant.convert.diffusion.family import Family, Rows, always, module, tensor, within

_UNUSED = r"norm_final\.weight"


def _weights(*pairs: tuple[str, str]) -> Rows:
    return [row for original, diffusers in pairs for row in module(original, diffusers, bias=False)]


def _block_of_lumina(name: str, *norms: Rows) -> Rows:
    return within(
        *2 * (f"{name}.{{}}.",),
        # Fewer heads of keys and values than of queries.
        module("attention.qkv", "attn.to_q", "attn.to_k", "attn.to_v", bias=False, square=1),
        _weights(
            ("attention.out", "attn.to_out.0"),
            ("attention.q_norm", "attn.norm_q"),
            ("attention.k_norm", "attn.norm_k"),
            ("feed_forward.w1", "feed_forward.linear_1"),
            ("feed_forward.w2", "feed_forward.linear_2"),
            ("feed_forward.w3", "feed_forward.linear_3"),
            ("attention_norm2", "norm2"),
            ("ffn_norm1", "ffn_norm1"),
            ("ffn_norm2", "ffn_norm2"),
        ),
        *norms,
    )


_ADAPTIVE = (_weights(("attention_norm1", "norm1.norm")), module("adaLN_modulation.1", "norm1.linear"))

LUMINA2 = Family(
    "lumina2",
    always(
        module("x_embedder"),
        module("t_embedder.mlp.0", "time_caption_embed.timestep_embedder.linear_1"),
        module("t_embedder.mlp.2", "time_caption_embed.timestep_embedder.linear_2"),
        module("cap_embedder.0", "time_caption_embed.caption_embedder.0", bias=False),
        module("cap_embedder.1", "time_caption_embed.caption_embedder.1"),
        _block_of_lumina("context_refiner", _weights(("attention_norm1", "norm1"))),
        _block_of_lumina("noise_refiner", *_ADAPTIVE),
        _block_of_lumina("layers", *_ADAPTIVE),
        module("final_layer.adaLN_modulation.1", "norm_out.linear_1"),
        module("final_layer.linear", "norm_out.linear_2"),
    ),
    unused=_UNUSED,
)


def _block_of_z_image(name: str, *adaptive: Rows) -> Rows:
    same = ("feed_forward.w1", "feed_forward.w2", "feed_forward.w3")
    norms = ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2")
    return within(
        *2 * (f"{name}.{{}}.",),
        module("attention.qkv", "attention.to_q", "attention.to_k", "attention.to_v", bias=False),
        _weights(
            ("attention.out", "attention.to_out.0"),
            ("attention.q_norm", "attention.norm_q"),
            ("attention.k_norm", "attention.norm_k"),
            *((part, part) for part in (*same, *norms)),
        ),
        *adaptive,
    )


Z_IMAGE = Family(
    "z_image",
    always(
        tensor("x_pad_token"),
        tensor("cap_pad_token"),
        module("x_embedder", "all_x_embedder.2-1"),
        module("t_embedder.mlp.0"),
        module("t_embedder.mlp.2"),
        module("cap_embedder.0", bias=False),
        module("cap_embedder.1"),
        _block_of_z_image("context_refiner"),
        _block_of_z_image("noise_refiner", module("adaLN_modulation.0")),
        _block_of_z_image("layers", module("adaLN_modulation.0")),
        module("final_layer.adaLN_modulation.1", "all_final_layer.2-1.adaLN_modulation.1"),
        module("final_layer.linear", "all_final_layer.2-1.linear"),
    ),
    unused=_UNUSED,
    known_as="lumina2",
)
