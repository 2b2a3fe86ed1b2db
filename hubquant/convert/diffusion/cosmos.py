"""Cosmos Predict 1 and 2: worlds as videos."""

from __future__ import annotations

from hubquant.convert.diffusion.family import Family, Rows, always, module, tensor, within


def _modulation(original: str, diffusers: str) -> Rows:
    return [*_plain(f"{original}.1", f"{diffusers}.linear_1"), *_plain(f"{original}.2", f"{diffusers}.linear_2")]


def _plain(original: str, diffusers: str) -> Rows:
    return module(original, diffusers, bias=False)


def _ends(embedding: str, norm: str, modulation: str) -> Rows:
    return [
        *_plain(embedding, "patch_embed.proj"),
        *_plain("t_embedder.1.linear_1", "time_embed.t_embedder.linear_1"),
        *_plain("t_embedder.1.linear_2", "time_embed.t_embedder.linear_2"),
        *_plain(norm, "time_embed.norm"),
        *_modulation(modulation, "norm_out"),
        *_plain("final_layer.linear", "proj_out"),
    ]


def _attention(original: str, diffusers: str, parts: str, norms: str, output: str) -> Rows:
    return [
        *(row for x in "qkv" for row in _plain(f"{original}.{parts.format(x)}", f"{diffusers}.to_{x}")),
        *(row for x in "qk" for row in _plain(f"{original}.{norms.format(x)}", f"{diffusers}.norm_{x}")),
        *_plain(f"{original}.{output}", f"{diffusers}.to_out.0"),
    ]


COSMOS1 = Family(
    "cosmos1",
    always(
        _ends("x_embedder.proj.1", "affline_norm", "final_layer.adaLN_modulation"),
        *(tensor(f"extra_pos_embedder.pos_emb_{x}", f"learnable_pos_embed.pos_emb_{x}") for x in "thw"),
        within(
            "blocks.block{}.blocks.",
            "transformer_blocks.{}.",
            *(_modulation(f"{part}.adaLN_modulation", f"norm{part + 1}") for part in range(3)),
            *(_attention(f"{part}.block.attn", f"attn{part + 1}", "to_{}.0", "to_{}.1", "to_out.0") for part in (0, 1)),
            _plain("2.block.layer1", "ff.net.0.proj"),
            _plain("2.block.layer2", "ff.net.2"),
        ),
    ),
    unused=r"logvar\..*|pos_embedder\.seq",
    known_as="cosmos",
    videos=True,
)

_PARTS = {"self_attn": "norm1", "cross_attn": "norm2", "mlp": "norm3"}

COSMOS2 = Family(
    "cosmos",
    always(
        _ends("x_embedder.proj.1", "t_embedding_norm", "final_layer.adaln_modulation"),
        module("crossattn_proj.0", option="projection of text"),
        within(
            "blocks.{}.",
            "transformer_blocks.{}.",
            *(_modulation(f"adaln_modulation_{part}", norm) for part, norm in _PARTS.items()),
            _attention("self_attn", "attn1", "{}_proj", "{}_norm", "output_proj"),
            _attention("cross_attn", "attn2", "{}_proj", "{}_norm", "output_proj"),
            _plain("mlp.layer1", "ff.net.0.proj"),
            _plain("mlp.layer2", "ff.net.2"),
        ),
    ),
    unused=r"accum_.*|pos_embedder\..*|.*_extra_state",
    videos=True,
)
