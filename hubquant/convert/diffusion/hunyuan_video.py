"""HunyuanVideo."""

from __future__ import annotations

from hubquant.convert.diffusion.family import Family, Rows, always, module, swapped, within


def _embedder(original: str, diffusers: str, option: str = "") -> Rows:
    return [
        *module(f"{original}.mlp.0", f"{diffusers}.linear_1", option=option),
        *module(f"{original}.mlp.2", f"{diffusers}.linear_2", option=option),
    ]


def _stream(of: str, attention: tuple[str, str, str], norms: tuple[str, str], output: str, suffix: str) -> Rows:
    return within(
        f"double_blocks.{{}}.{of}_",
        "transformer_blocks.{}.",
        module("mod.linear", f"norm1{suffix}.linear"),
        module("attn_qkv", *(f"attn.{name}" for name in attention)),
        module("attn_q_norm", f"attn.{norms[0]}", bias=False),
        module("attn_k_norm", f"attn.{norms[1]}", bias=False),
        module("attn_proj", f"attn.{output}"),
        module("mlp.fc1", f"ff{suffix}.net.0.proj"),
        module("mlp.fc2", f"ff{suffix}.net.2"),
    )


HUNYUAN_VIDEO = Family(
    "hunyuan_video",
    always(
        module("img_in.proj", "x_embedder.proj"),
        _embedder("time_in", "time_text_embed.timestep_embedder"),
        module("vector_in.in_layer", "time_text_embed.text_embedder.linear_1"),
        module("vector_in.out_layer", "time_text_embed.text_embedder.linear_2"),
        _embedder("guidance_in", "time_text_embed.guidance_embedder", option="guidance"),
        within(
            "txt_in.",
            "context_embedder.",
            module("input_embedder", "proj_in"),
            _embedder("t_embedder", "time_text_embed.timestep_embedder"),
            module("c_embedder.linear_1", "time_text_embed.text_embedder.linear_1"),
            module("c_embedder.linear_2", "time_text_embed.text_embedder.linear_2"),
        ),
        within(
            "txt_in.individual_token_refiner.blocks.{}.",
            "context_embedder.token_refiner.refiner_blocks.{}.",
            module("norm1"),
            module("norm2"),
            module("self_attn_qkv", "attn.to_q", "attn.to_k", "attn.to_v"),
            module("self_attn_proj", "attn.to_out.0"),
            module("mlp.fc1", "ff.net.0.proj"),
            module("mlp.fc2", "ff.net.2"),
            module("adaLN_modulation.1", "norm_out.linear"),  # two gates, in one order in both layouts
        ),
        _stream("img", ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"), "to_out.0", ""),
        _stream(
            "txt",
            ("add_q_proj", "add_k_proj", "add_v_proj"),
            ("norm_added_q", "norm_added_k"),
            "to_add_out",
            "_context",
        ),
        within(
            "single_blocks.{}.",
            "single_transformer_blocks.{}.",
            module("modulation.linear", "norm.linear"),
            module("linear1", "attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp", square=3),
            module("linear2", "proj_out"),
            module("q_norm", "attn.norm_q", bias=False),
            module("k_norm", "attn.norm_k", bias=False),
        ),
        module("final_layer.linear", "proj_out"),
        swapped("final_layer.adaLN_modulation.1", "norm_out.linear"),
    ),
    known_as="hyvid",
    videos=True,
)
