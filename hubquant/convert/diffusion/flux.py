"""Flux.1, Flux.2 and Chroma: blocks of two streams, then blocks of one."""

from __future__ import annotations

from hubquant.convert.diffusion.family import Family, Rows, always, module, swapped, tensor, within


def _embedder(original: str, diffusers: str, bias: bool = True, option: str = "") -> Rows:
    return [
        *module(f"{original}.in_layer", f"{diffusers}.linear_1", bias=bias, option=option),
        *module(f"{original}.out_layer", f"{diffusers}.linear_2", bias=bias, option=option),
    ]


def _norms(original: str, queries: str, keys: str) -> Rows:
    return [
        *tensor(f"{original}.query_norm.scale", f"attn.{queries}.weight"),
        *tensor(f"{original}.key_norm.scale", f"attn.{keys}.weight"),
    ]


def _double(*further: Rows, up: str = "net.0.proj", down: str = "net.2", bias: bool = True) -> Rows:
    return within(
        "double_blocks.{}.",
        "transformer_blocks.{}.",
        *further,
        module("img_attn.qkv", "attn.to_q", "attn.to_k", "attn.to_v", bias=bias),
        module("txt_attn.qkv", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", bias=bias),
        _norms("img_attn.norm", "norm_q", "norm_k"),
        _norms("txt_attn.norm", "norm_added_q", "norm_added_k"),
        module("img_attn.proj", "attn.to_out.0", bias=bias),
        module("txt_attn.proj", "attn.to_add_out", bias=bias),
        module("img_mlp.0", f"ff.{up}", bias=bias),
        module("img_mlp.2", f"ff.{down}", bias=bias),
        module("txt_mlp.0", f"ff_context.{up}", bias=bias),
        module("txt_mlp.2", f"ff_context.{down}", bias=bias),
    )


def _single(*further: Rows) -> Rows:
    return within("single_blocks.{}.", "single_transformer_blocks.{}.", _norms("norm", "norm_q", "norm_k"), *further)


def _ends(bias: bool = True) -> Rows:
    return [
        *module("img_in", "x_embedder", bias=bias),
        *module("txt_in", "context_embedder", bias=bias),
        *module("final_layer.linear", "proj_out", bias=bias),
    ]


_FUSED = module("linear1", "attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp", square=3)

FLUX = Family(
    "flux",
    always(
        _ends(),
        _embedder("time_in", "time_text_embed.timestep_embedder"),
        _embedder("vector_in", "time_text_embed.text_embedder"),
        _embedder("guidance_in", "time_text_embed.guidance_embedder", option="guidance"),
        swapped("final_layer.adaLN_modulation.1", "norm_out.linear"),
        _double(module("img_mod.lin", "norm1.linear"), module("txt_mod.lin", "norm1_context.linear")),
        _single(module("modulation.lin", "norm.linear"), _FUSED, module("linear2", "proj_out")),
    ),
)

CHROMA = Family(
    "chroma",
    always(
        _ends(),
        module("distilled_guidance_layer.in_proj"),
        module("distilled_guidance_layer.out_proj"),
        within(
            "distilled_guidance_layer.layers.{}.",
            "distilled_guidance_layer.layers.{}.",
            module("in_layer", "linear_1"),
            module("out_layer", "linear_2"),
        ),
        tensor(
            "distilled_guidance_layer.norms.{}.scale",
            "distilled_guidance_layer.norms.{}.weight",
            like="distilled_guidance_layer.layers.{}",
        ),
        _double(),
        _single(_FUSED, module("linear2", "proj_out")),
    ),
    known_as="flux",
)

FLUX2 = Family(
    "flux2",
    always(
        _ends(bias=False),
        _embedder("time_in", "time_guidance_embed.timestep_embedder", bias=False),
        _embedder("guidance_in", "time_guidance_embed.guidance_embedder", bias=False, option="guidance"),
        swapped("final_layer.adaLN_modulation.1", "norm_out.linear", bias=False),
        module("double_stream_modulation_img.lin", "double_stream_modulation_img.linear", bias=False),
        module("double_stream_modulation_txt.lin", "double_stream_modulation_txt.linear", bias=False),
        module("single_stream_modulation.lin", "single_stream_modulation.linear", bias=False),
        _double(up="linear_in", down="linear_out", bias=False),
        _single(
            module("linear1", "attn.to_qkv_mlp_proj", bias=False),
            module("linear2", "attn.to_out", bias=False),
        ),
    ),
    known_as="flux",
)
