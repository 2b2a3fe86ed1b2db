"""Our tables against the functions with which diffusers itself converts files of the original layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import CodeType, FunctionType
from typing import Any

import pytest
import torch

from hubquant.convert.diffusion.aura_flow import AURA_FLOW
from hubquant.convert.diffusion.cosmos import COSMOS1, COSMOS2
from hubquant.convert.diffusion.family import Family, Layout
from hubquant.convert.diffusion.flux import CHROMA, FLUX, FLUX2
from hubquant.convert.diffusion.hidream import HIDREAM
from hubquant.convert.diffusion.hunyuan_video import HUNYUAN_VIDEO
from hubquant.convert.diffusion.ltx import LTX, LTX2, LTX23
from hubquant.convert.diffusion.lumina import LUMINA2, Z_IMAGE
from hubquant.convert.diffusion.pixart import PIXART
from hubquant.convert.diffusion.qwen_image import QWEN_IMAGE
from hubquant.convert.diffusion.recognise import FAMILIES, parts, recognise
from hubquant.convert.diffusion.sana import SANA
from hubquant.convert.diffusion.sd3 import SD3
from hubquant.convert.diffusion.unet import SD, SDXL
from hubquant.convert.diffusion.wan import WAN
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.mix import assign

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Tiny:
    """A model of a diffusers class, and the function that converts its family. ``sizes`` replaces those of the
    published models that the function has as constants."""

    family: Family
    model: str
    config: dict[str, Any]
    function: str = ""
    sizes: dict[int, int] = field(default_factory=dict)


HEADS = {"attention_head_dim": 16, "num_attention_heads": 2}
FLUX_SIZES = {**HEADS, "in_channels": 16, "num_layers": 2, "num_single_layers": 3, "joint_attention_dim": 24}
FLUX_SIZES |= {"axes_dims_rope": (4, 6, 6)}
SD3_SIZES = {"sample_size": 8, "attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": 24}
SD3_SIZES |= {"caption_projection_dim": 16, "pooled_projection_dim": 20, "pos_embed_max_size": 8}
UNET = {"sample_size": 8, "block_out_channels": (8, 16, 24), "norm_num_groups": 4, "attention_head_dim": 4}
UNET |= {"cross_attention_dim": 12, "in_channels": 4, "out_channels": 4}
DOWN, UP = ("CrossAttnDownBlock2D", "DownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
SD_SIZES = {**UNET, "down_block_types": (DOWN[0], DOWN[0], DOWN[1]), "up_block_types": (UP[1], UP[0], UP[0])}
SDXL_SIZES = {**UNET, "down_block_types": (DOWN[1], DOWN[0], DOWN[0]), "up_block_types": (UP[0], UP[0], UP[1])}
SDXL_SIZES |= {"use_linear_projection": True, "transformer_layers_per_block": (1, 2, 3)}
SDXL_SIZES |= {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
SDXL_SIZES |= {"projection_class_embeddings_input_dim": 64}
WAN_SIZES = {
    **HEADS,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 24,
    "freq_dim": 8,
    "ffn_dim": 40,
    "num_layers": 2,
}
COSMOS = {**HEADS, "in_channels": 4, "out_channels": 4, "num_layers": 2, "text_embed_dim": 24, "adaln_lora_dim": 8}
COSMOS |= {"max_size": (4, 8, 8)}
AUDIO = {**HEADS, "num_layers": 2, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 32}
AUDIO |= {"caption_channels": 12}
AUDIO |= {"audio_attention_head_dim": 8, "audio_num_attention_heads": 2, "audio_cross_attention_dim": 16}
AUDIO |= {"audio_in_channels": 6, "audio_out_channels": 6}
PIXART_SIZES = {**HEADS, "in_channels": 4, "out_channels": 8, "num_layers": 2, "cross_attention_dim": 32}
PIXART_SIZES |= {"sample_size": 8, "caption_channels": 12}
LUMINA = {"hidden_size": 48, "num_attention_heads": 4, "num_kv_heads": 2, "multiple_of": 4, "cap_feat_dim": 20}
LUMINA |= {"num_layers": 2, "num_refiner_layers": 2, "axes_dim_rope": (4, 4, 4), "axes_lens": (30, 8, 8)}
HUNYUAN = {
    **HEADS,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "num_single_layers": 2,
    "num_refiner_layers": 2,
}
HUNYUAN |= {"text_embed_dim": 24, "pooled_projection_dim": 8, "rope_axes_dim": (4, 6, 6)}
HIDREAM_SIZES = {**HEADS, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 2, "num_single_layers": 2}
HIDREAM_SIZES |= {"caption_channels": [24, 12], "text_emb_dim": 20, "llama_layers": [0, 1], "axes_dims_rope": (8, 4, 4)}
HIDREAM_SIZES |= {"num_routed_experts": 4, "num_activated_experts": 2, "max_resolution": (16, 16)}
SANA_SIZES = {**HEADS, "in_channels": 4, "out_channels": 4, "num_layers": 2, "sample_size": 8, "caption_channels": 12}
SANA_SIZES |= {"num_cross_attention_heads": 2, "cross_attention_head_dim": 16, "cross_attention_dim": 32}
AURA = {**HEADS, "sample_size": 8, "in_channels": 4, "num_mmdit_layers": 2, "num_single_dit_layers": 3}
AURA |= {"joint_attention_dim": 24, "caption_projection_dim": 32, "pos_embed_max_size": 16}
Z_SIZES = {"dim": 32, "n_layers": 2, "n_refiner_layers": 2, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 24}
Z_SIZES |= {"axes_dims": [4, 6, 6], "axes_lens": [16, 8, 8]}
REFINER = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
REFINER_SIZES = {**SDXL_SIZES, "block_out_channels": (8, 16, 24, 24), "down_block_types": REFINER}
REFINER_SIZES |= {"up_block_types": tuple(name.replace("Down", "Up") for name in REFINER)}
REFINER_SIZES |= {"transformer_layers_per_block": 2, "projection_class_embeddings_input_dim": 40}
TO = "_transformer_checkpoint_to_diffusers"
TINY = {
    "flux-dev": Tiny(
        FLUX,
        "FluxTransformer2DModel",
        {**FLUX_SIZES, "pooled_projection_dim": 8, "guidance_embeds": True},
        f"convert_flux{TO}",
        {3072: 32},
    ),
    "flux-schnell": Tiny(
        FLUX,
        "FluxTransformer2DModel",
        {**FLUX_SIZES, "pooled_projection_dim": 8, "guidance_embeds": False},
        f"convert_flux{TO}",
        {3072: 32},
    ),
    "chroma": Tiny(
        CHROMA,
        "ChromaTransformer2DModel",
        {
            **FLUX_SIZES,
            "approximator_num_channels": 16,
            "approximator_hidden_dim": 24,
            "approximator_layers": 2,
        },
        f"convert_chroma{TO}",
        {3072: 32},
    ),
    "flux2": Tiny(
        FLUX2, "Flux2Transformer2DModel", {**FLUX_SIZES, "axes_dims_rope": (4, 4, 4, 4)}, f"convert_flux2{TO}"
    ),
    "flux-fill": Tiny(
        FLUX,
        "FluxTransformer2DModel",
        {**FLUX_SIZES, "in_channels": 96, "out_channels": 16, "pooled_projection_dim": 8, "guidance_embeds": True},
        f"convert_flux{TO}",
        {3072: 32},
    ),
    "sd3": Tiny(SD3, "SD3Transformer2DModel", {**SD3_SIZES, "num_layers": 2}, f"convert_sd3{TO}"),
    "sd3.5": Tiny(
        SD3,
        "SD3Transformer2DModel",
        {**SD3_SIZES, "num_layers": 3, "qk_norm": "rms_norm", "dual_attention_layers": (0, 1)},
        f"convert_sd3{TO}",
    ),
    "sd1": Tiny(SD, "UNet2DConditionModel", SD_SIZES, "convert_ldm_unet_checkpoint"),
    "sd2": Tiny(
        SD,
        "UNet2DConditionModel",
        {**SD_SIZES, "use_linear_projection": True, "layers_per_block": 1},
        "convert_ldm_unet_checkpoint",
    ),
    "sdxl": Tiny(SDXL, "UNet2DConditionModel", SDXL_SIZES, "convert_ldm_unet_checkpoint"),
    "sdxl-refiner": Tiny(SDXL, "UNet2DConditionModel", REFINER_SIZES, "convert_ldm_unet_checkpoint"),
    "sd-inpainting": Tiny(SD, "UNet2DConditionModel", {**SD_SIZES, "in_channels": 9}, "convert_ldm_unet_checkpoint"),
    "wan-text": Tiny(WAN, "WanTransformer3DModel", WAN_SIZES, "convert_wan_transformer_to_diffusers"),
    "wan-picture": Tiny(
        WAN,
        "WanTransformer3DModel",
        {**WAN_SIZES, "image_dim": 20, "added_kv_proj_dim": 32},
        "convert_wan_transformer_to_diffusers",
    ),
    "wan-2.2-5b": Tiny(
        WAN,
        "WanTransformer3DModel",
        {**WAN_SIZES, "in_channels": 12, "out_channels": 12},
        "convert_wan_transformer_to_diffusers",
    ),
    "wan-vace": Tiny(
        WAN,
        "WanVACETransformer3DModel",
        {**WAN_SIZES, "num_layers": 4, "vace_layers": [0, 2], "vace_in_channels": 6},
        "convert_wan_transformer_to_diffusers",
    ),
    "cosmos1": Tiny(COSMOS1, "CosmosTransformer3DModel", COSMOS, f"convert_cosmos{TO}"),
    "cosmos2": Tiny(
        COSMOS2, "CosmosTransformer3DModel", {**COSMOS, "extra_pos_embed_type": None}, f"convert_cosmos{TO}"
    ),
    "cosmos2.5": Tiny(
        COSMOS2,
        "CosmosTransformer3DModel",
        {
            **COSMOS,
            "extra_pos_embed_type": None,
            "use_crossattn_projection": True,
            "crossattn_proj_in_channels": 20,
            "encoder_hidden_states_channels": 24,
        },
        f"convert_cosmos{TO}",
    ),
    "ltx2": Tiny(LTX2, "LTX2VideoTransformer3DModel", AUDIO, "convert_ltx2_transformer_to_diffusers"),
    "ltx2.3": Tiny(
        LTX23,
        "LTX2VideoTransformer3DModel",
        {
            **AUDIO,
            "gated_attn": True,
            "audio_gated_attn": True,
            "cross_attn_mod": True,
            "audio_cross_attn_mod": True,
            "use_prompt_embeddings": False,
        },
        "convert_ltx2_transformer_to_diffusers",
    ),
    "ltx": Tiny(
        LTX,
        "LTXVideoTransformer3DModel",
        {
            **HEADS,
            "in_channels": 8,
            "out_channels": 8,
            "cross_attention_dim": 32,
            "num_layers": 2,
            "caption_channels": 12,
        },
        f"convert_ltx{TO}",
    ),
    "qwen-image": Tiny(
        QWEN_IMAGE,
        "QwenImageTransformer2DModel",
        {**HEADS, "in_channels": 16, "out_channels": 4, "num_layers": 2, "joint_attention_dim": 24},
    ),
    "qwen-image-layered": Tiny(
        QWEN_IMAGE,
        "QwenImageTransformer2DModel",
        {
            **HEADS,
            "in_channels": 16,
            "out_channels": 4,
            "num_layers": 2,
            "joint_attention_dim": 24,
            "use_additional_t_cond": True,
        },
    ),
    "lumina2": Tiny(LUMINA2, "Lumina2Transformer2DModel", LUMINA, "convert_lumina2_to_diffusers", {2304: 48, 768: 24}),
    "z-image": Tiny(Z_IMAGE, "ZImageTransformer2DModel", Z_SIZES, f"convert_z_image{TO}"),
    "hunyuan-video": Tiny(
        HUNYUAN_VIDEO,
        "HunyuanVideoTransformer3DModel",
        {**HUNYUAN, "guidance_embeds": True},
        "convert_hunyuan_video_transformer_to_diffusers",
        {3072: 32},
    ),
    "hidream": Tiny(
        HIDREAM, "HiDreamImageTransformer2DModel", HIDREAM_SIZES, "convert_hidream_transformer_to_diffusers"
    ),
    "sana": Tiny(SANA, "SanaTransformer2DModel", SANA_SIZES, "convert_sana_transformer_to_diffusers"),
    "pixart-alpha": Tiny(
        PIXART, "PixArtTransformer2DModel", {**PIXART_SIZES, "use_additional_conditions": True}, "pixart"
    ),
    "pixart-sigma": Tiny(
        PIXART, "PixArtTransformer2DModel", {**PIXART_SIZES, "use_additional_conditions": False}, "pixart"
    ),
    "auraflow": Tiny(AURA_FLOW, "AuraFlowTransformer2DModel", AURA, f"convert_auraflow{TO}"),
}


UNUSED = {
    "cosmos": ("accum_iteration", "pos_embedder.seq", "blocks.0.self_attn.q_norm._extra_state"),
    "cosmos1": ("logvar.0.freqs", "pos_embedder.seq"),
    "ltx2": ("video_embeddings_connector.learnable_registers",),
    "lumina2": ("norm_final.weight",),
    "sana": ("pos_embed", "y_embedder.y_embedding"),
    "z_image": ("norm_final.weight",),
}
"""Tensors of published files that the functions drop."""


@cache
def state(name: str) -> Tensors:
    """Random weights, so that no two tensors are alike."""
    import diffusers

    torch.manual_seed(0)
    tiny = TINY[name]
    with torch.device("meta"):
        model = getattr(diffusers, tiny.model)(**tiny.config)
        tiny.config.update(model.config)
    return {name: torch.randn(x.shape) for name, x in model.state_dict().items()}


def shapes(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: tuple(x.shape) for name, x in tensors.items()}


def converted(family: Family, tensors: Tensors, layout: Layout) -> Tensors:
    """``tensors`` of ``layout`` in the other one."""
    found: Tensors = {}
    for bundle in family.bundles(shapes(tensors), layout):
        if layout == "original":
            found |= bundle.forward([tensors[name] for name in bundle.sources])
        else:
            found |= bundle.inverse([tensors[name] for name in bundle.targets])
    return found


def resized(code: CodeType, sizes: Mapping[int, int]) -> CodeType:
    def other(constant: Any) -> Any:
        if isinstance(constant, CodeType):
            return resized(constant, sizes)
        if isinstance(constant, tuple):
            return tuple(map(other, constant))
        return sizes.get(constant, constant) if type(constant) is int else constant

    return code.replace(co_consts=tuple(map(other, code.co_consts)))


def by_diffusers(tiny: Tiny, original: Tensors) -> Tensors:
    from diffusers.loaders import single_file_utils

    if not tiny.function:
        return original
    if tiny.function == "pixart":
        return pixart_by_script(original)
    original = original | {name: torch.ones(4) for name in UNUSED.get(tiny.family.name, ())}
    if tiny.family is COSMOS1:
        original = Unpopped({f"net.{name}": x for name, x in original.items()})
    elif tiny.model == "UNet2DConditionModel":
        original = {f"model.diffusion_model.{name}": x for name, x in original.items()}
    elif tiny.family is LTX23:  # the names of LTX-2.3 that only diffusers' script knows
        original = {name.replace("prompt_adaln_single", "prompt_adaln"): x for name, x in original.items()}
    function: Callable[..., Tensors] = getattr(single_file_utils, tiny.function)
    if tiny.sizes:
        function = FunctionType(resized(function.__code__, tiny.sizes), vars(single_file_utils))
    return function(original, config=tiny.config)


class Unpopped(Tensors):
    """diffusers' function for Cosmos looks for a name of Predict 1 after it has taken all of them."""

    def pop(self, name: str) -> torch.Tensor:  # type: ignore[override]
        return self[name]


def pixart_by_script(original: Tensors) -> Tensors:
    """As diffusers' scripts for PixArt-alpha and -sigma name and cut the tensors: it has no function for them."""
    renames = {
        "x_embedder": "pos_embed",
        "y_embedder.y_proj.fc": "caption_projection.linear_",
        "t_embedder": "adaln_single.emb.timestep_embedder",
        "csize_embedder": "adaln_single.emb.resolution_embedder",
        "ar_embedder": "adaln_single.emb.aspect_ratio_embedder",
        "t_block.1": "adaln_single.linear",
        "final_layer.linear": "proj_out",
        "final_layer.": "",
        ".cross_attn.q_linear": ".attn2.to_q",
        ".cross_attn.kv_linear": ".attn2.kv",
        ".cross_attn.proj": ".attn2.to_out.0",
        ".attn.proj": ".attn1.to_out.0",
        ".attn.qkv": ".attn1.qkv",
        "embedder.mlp.0": "embedder.linear_1",
        "embedder.mlp.2": "embedder.linear_2",
        "mlp.fc1": "ff.net.0.proj",
        "mlp.fc2": "ff.net.2",
    }
    found: Tensors = {}
    for name, x in original.items():
        new = f"transformer_{name}" if name.startswith("blocks.") else name
        for old, replacement in renames.items():
            new = new.replace(old, replacement)
        module, _, kind = new.rpartition(".")
        head, _, parts = module.rpartition(".")
        if parts in ("qkv", "kv"):
            chunks = x.chunk(len(parts))
            found |= {f"{head}.to_{part}.{kind}": chunk for part, chunk in zip(parts, chunks, strict=True)}
        else:
            found[new] = x
    return found


def assert_same(found: Tensors, wanted: Tensors) -> None:
    assert found.keys() == wanted.keys()
    for name, x in wanted.items():
        assert found[name].shape == x.shape, name
        assert torch.equal(found[name], x), name


@pytest.mark.parametrize("name", TINY)
def test_diffusers_converts_our_original_to_the_same_bits(name: str) -> None:
    tiny = TINY[name]
    original = converted(tiny.family, state(name), "diffusers")
    assert_same(converted(tiny.family, original, "original"), state(name))
    assert_same(by_diffusers(tiny, original), state(name))
    assert_same(converted(tiny.family, by_diffusers(tiny, original), "diffusers"), original)


LAST_OF_THEIR_KIND = {
    "distilled_guidance_layer.norms.1.scale",
    "distilled_guidance_layer.norms.1.weight",
    "input_blocks.2.0.in_layers.2.weight",
    "down_blocks.0.attentions.0.norm.weight",
    "down_blocks.0.resnets.1.conv1.weight",
}
"""Names that a table might count blocks or layers by."""
ALONE = "time_text_embed.addition_t_embedding.weight"
"""A tensor that a denoiser may have or lack with no other."""


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_a_tensor_that_is_missing_or_left_over_is_named(name: str, layout: Layout) -> None:
    family = TINY[name].family
    found = shapes(state(name) if layout == "diffusers" else converted(family, state(name), "diffusers"))
    for lost in [*[*found][:: len(found) // 20 + 1], *LAST_OF_THEIR_KIND.intersection(found)]:
        if lost == ALONE:
            continue
        fewer = {tensor: shape for tensor, shape in found.items() if tensor != lost}
        assert family.match(fewer, layout).missing == (lost,)
    lost = next(iter(found))
    with pytest.raises(CheckpointError, match=rf"1 tensor is missing: {lost}"):
        family.bundles({tensor: shape for tensor, shape in found.items() if tensor != lost}, layout)
    with pytest.raises(CheckpointError, match=r"1 tensor is left over: lora_A\.weight"):
        family.bundles(found | {"lora_A.weight": (4, 4)}, layout)


@pytest.mark.parametrize(
    ("layout", "name", "shape"),
    [
        ("original", "double_blocks.1.img_attn.qkv.weight", (95, 32)),
        ("original", "double_blocks.1.img_attn.qkv.weight", ()),
        ("original", "single_blocks.0.linear1.weight", (95, 32)),
        ("original", "single_blocks.0.linear1.bias", (95,)),
        ("diffusers", "transformer_blocks.1.attn.to_k.weight", (16, 32)),
        ("diffusers", "transformer_blocks.1.attn.to_k.weight", (32, 16)),
        ("diffusers", "single_transformer_blocks.0.attn.to_q.weight", (16, 32)),
    ],
)
def test_a_fused_tensor_of_a_shape_that_does_not_fit_is_named(
    layout: Layout, name: str, shape: tuple[int, ...]
) -> None:
    found = shapes(state("flux-dev") if layout == "diffusers" else converted(FLUX, state("flux-dev"), "diffusers"))
    with pytest.raises(CheckpointError, match=r"has a shape that does not fit"):
        FLUX.bundles(found | {name: shape}, layout)


def test_a_number_that_no_file_can_have_makes_no_blocks() -> None:
    found = shapes(state("flux-dev")) | {"transformer_blocks.99999999999.attn.to_q.weight": (32, 32)}
    assert FLUX.match(found, "diffusers").extra == ("transformer_blocks.99999999999.attn.to_q.weight",)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_family_layout_and_prefix_are_recognised(name: str, prefix: str, layout: Layout) -> None:
    tiny = TINY[name]
    found = shapes(state(name) if layout == "diffusers" else converted(tiny.family, state(name), "diffusers"))
    denoiser = recognise({prefix + tensor: shape for tensor, shape in found.items()})
    assert denoiser.family is tiny.family
    assert denoiser.layout == ("original" if tiny.family in (QWEN_IMAGE, HIDREAM) else layout)
    assert denoiser.prefix == prefix
    assert {tensor for bundle in denoiser.bundles() for tensor in bundle.source_shapes()} == (
        converted(tiny.family, state(name), "diffusers").keys()
    )


def test_every_family_is_proven() -> None:
    assert {family.name for family in FAMILIES} == {tiny.family.name for tiny in TINY.values()}


def test_a_damaged_file_is_of_its_family() -> None:
    found = shapes(state("flux-dev"))
    del found["x_embedder.bias"]
    assert recognise(found).family is FLUX
    with pytest.raises(CheckpointError, match=r"1 tensor is missing: x_embedder\.bias"):
        recognise(found).bundles()


def test_an_unknown_denoiser_is_told_the_nearest_family() -> None:
    flux = converted(FLUX, state("flux-dev"), "diffusers")
    found = shapes(flux) | {f"{name}.scale_weight": () for name in flux if name.endswith("weight")}
    with pytest.raises(NotSupportedYet, match=r"nearest are those of flux in its original layout, but they have "):
        recognise(found)


@pytest.mark.parametrize("names", [(), ("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight")])
def test_what_is_no_denoiser_is_of_no_family(names: tuple[str, ...]) -> None:
    with pytest.raises(NotSupportedYet, match=r"of no known family"):
        recognise(dict.fromkeys(names, (4, 4)))


def test_components_of_a_file_with_everything_are_told_apart() -> None:
    unet = {f"model.diffusion_model.{name}": x.shape for name, x in converted(SD, state("sd1"), "diffusers").items()}
    others = {
        "cond_stage_model.transformer.text_model.embeddings.position_ids": (1, 77),
        "first_stage_model.encoder.conv_in.weight": (8, 3, 3, 3),
        "model_ema.diffusion_modelinput_blocks00weight": (8, 4, 3, 3),
        "alphas_cumprod": (1000,),
    }
    found = parts({name: tuple(shape) for name, shape in (unet | others).items()})
    assert found.prefix == "model.diffusion_model."
    assert {found.prefix + name for name in found.denoiser} == unet.keys()
    assert [*found.text_encoders, *found.vae, *found.left_out] == [*others]
    assert recognise({name: tuple(shape) for name, shape in (unet | others).items()}).bundles()


@pytest.mark.parametrize(
    ("name", "unused"),
    [
        ("lumina2", "norm_final.weight"),
        ("z-image", "norm_final.weight"),
        ("cosmos2", "blocks.1.cross_attn.k_norm._extra_state"),
        ("pixart-alpha", "y_embedder.y_embedding"),
        ("qwen-image", "__index_timestep_zero__"),
    ],
)
def test_what_nothing_computes_with_is_left_out(name: str, unused: str) -> None:
    family, original = TINY[name].family, converted(TINY[name].family, state(name), "diffusers")
    assert_same(converted(family, original | {unused: torch.ones(4)}, "original"), state(name))
    assert family.match(original | {unused: torch.ones(4)}, "original").unused == (unused,)


def test_a_norm_of_wan_that_diffusers_ignores_is_left_out() -> None:
    found = state("wan-picture") | {"blocks.1.attn2.norm_added_q.weight": torch.ones(4)}
    assert_same(converted(WAN, found, "diffusers"), converted(WAN, state("wan-picture"), "diffusers"))


def test_positions_of_a_first_and_a_last_picture() -> None:
    """As diffusers' script for Wan names them; its function for single files keeps the original name."""
    found = state("wan-picture") | {"condition_embedder.image_embedder.pos_embed": torch.ones(1, 514, 20)}
    assert converted(WAN, found, "diffusers")["img_emb.emb_pos"].shape == (1, 514, 20)


@pytest.mark.parametrize("name", TINY)
def test_the_same_layers_are_quantized_in_both_layouts_and_they_are_linear(name: str) -> None:
    import diffusers

    tiny = TINY[name]
    of_diffusers = shapes(state(name))
    original = shapes(converted(tiny.family, state(name), "diffusers"))
    quantized = {
        tensor
        for found in (of_diffusers, original)
        for tensor, type in assign(wide(found), "Q8_0", tiny.family.architecture, {}, has_imatrix=False).items()
        if type == "Q8_0"
    }
    for bundle in tiny.family.bundles(original, "original"):
        assert len({tensor in quantized for tensor in (*bundle.sources, *bundle.targets)}) == 1, bundle.sources
    with torch.device("meta"):
        model = getattr(diffusers, tiny.model)(**tiny.config)
    linear = {f"{module}.weight" for module, x in model.named_modules() if isinstance(x, torch.nn.Linear)}
    assert quantized & of_diffusers.keys() <= linear
    assert len(quantized & linear) > len(linear) / 4


def wide(found: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Rows that every block divides."""
    return {name: (*shape[:-1], 256) if len(shape) == 2 else shape for name, shape in found.items()}
