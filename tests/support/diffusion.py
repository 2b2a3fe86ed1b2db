"""Real pipelines of diffusers with random weights, small enough to draw within a fraction of a second.

Pictures are 32x32 and larger, in steps of 32; give ``size`` and ``frames``, as the defaults of some pipelines are those
of the published models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

TEXT = 32
"""The width of text encoders."""
FRAMES: Mapping[str, int] = {"wan": 5, "ltx": 9, "hunyuan_video": 5}
"""Families that make videos, and the least frames with which there are two in the latents."""
INIT_GAIN = 0.8


def make_pipeline(family: str, width: int = 64, seed: int = 0) -> Any:
    """A pipeline whose denoiser is ``width`` wide, a multiple of 64: with 256 K-quants fit most of its weights."""
    import torch

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        pipe = FAMILIES[family](width)
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                _initialize(part)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save_pipeline(family: str, folder: Path, width: int = 64, seed: int = 0, **options: Any) -> Path:
    """``make_pipeline`` as a folder; ``options`` are those of ``save_pretrained``, such as ``variant``."""
    make_pipeline(family, width, seed).save_pretrained(folder, **options)
    return folder


def call_pipeline(pipe: Any, family: str, prompts: list[str], seeds: list[int], output_type: str = "pt") -> Any:
    """What a plain call of the pipeline gives for pictures of 32x32 in two steps."""
    import torch

    more: dict[str, Any] = {"num_frames": FRAMES[family]} if family in FRAMES else {}
    if family in ("pixart", "sana"):
        more["use_resolution_binning"] = False
    if family == "qwen_image":
        more["negative_prompt"] = [" "] * len(prompts)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    sizes = {"height": 32, "width": 32, "num_inference_steps": 2}
    output = pipe(prompt=prompts, generator=generators, output_type=output_type, **sizes, **more)
    return output.frames if hasattr(output, "frames") else output.images


def _initialize(part: Any) -> None:
    """Of unit gain, as torch's own initial values let activations fade within a few layers."""
    import torch

    for module in part.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.Conv3d):
            torch.nn.init.normal_(module.weight, std=INIT_GAIN / module.weight[0].numel() ** 0.5)
    part.eval().requires_grad_(False)


def _clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    letters = _bytes()
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)


def _t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(chr(code), -3.0) for code in range(33, 127)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def _qwen_tokenizer() -> Any:
    from transformers import Qwen2Tokenizer

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
    vocab = {token: i for i, token in enumerate([*_bytes(), *special])}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[], model_max_length=1024)
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


def _gemma_tokenizer() -> Any:
    from transformers import GemmaTokenizer

    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    tokens += [chr(code) for code in range(33, 127)]
    return GemmaTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=512)


def _bytes() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def _clip(projection: int = 0, width: int = TEXT) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokens = {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPTextConfig(**tokens, **sizes, max_position_embeddings=77, projection_dim=projection or width)
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def _t5(kind: str = "T5", width: int = TEXT) -> Any:
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=100,
        d_model=width,
        d_ff=2 * width,
        d_kv=width // 2,
        num_heads=2,
        num_layers=1,
        num_decoder_layers=0,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
    )
    return getattr(transformers, f"{kind}EncoderModel")(config)


QWEN: Mapping[str, int] = {
    "vocab_size": 262,
    "hidden_size": TEXT,
    "intermediate_size": 2 * TEXT,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def _qwen3(kind: str, layers: int) -> Any:
    import transformers

    return getattr(transformers, kind)(transformers.Qwen3Config(**QWEN, head_dim=16, num_hidden_layers=layers))


def _qwen25_vl() -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": TEXT}
    ids = {"image_token_id": 261, "vision_start_token_id": 259, "vision_end_token_id": 260}
    text = {**QWEN, "num_hidden_layers": 1, "rope_parameters": rope}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids))


def _gemma2() -> Any:
    from transformers import Gemma2Config, Gemma2Model

    sizes = {"vocab_size": 356, "hidden_size": TEXT, "intermediate_size": 2 * TEXT, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    return Gemma2Model(Gemma2Config(**sizes, **heads, pad_token_id=0, eos_token_id=1, bos_token_id=2))


def _kl(channels: int, **options: Any) -> Any:
    """A VAE that makes a pixel of eight by eight, as the published ones."""
    from diffusers import AutoencoderKL

    blocks: dict[str, Any] = {"block_out_channels": (8,) * 4, "norm_num_groups": 4, "layers_per_block": 1}
    blocks |= {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return AutoencoderKL(latent_channels=channels, **blocks, **options)


def _flux_kl() -> Any:
    return _kl(16, use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.3611, shift_factor=0.1159)


def _flow(**options: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**options)


def _heads(width: int) -> dict[str, int]:
    return {"num_attention_heads": 2, "attention_head_dim": width // 2}


def _axes(width: int) -> tuple[int, int, int]:
    """Of a head's rotary embedding, for three axes."""
    return width // 8, 3 * width // 16, 3 * width // 16


BETAS: Mapping[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
UNET: Mapping[str, Any] = {
    "sample_size": 8,
    "layers_per_block": 1,
    "in_channels": 4,
    "out_channels": 4,
    "norm_num_groups": 8,
}
DOWN, UP = ("CrossAttnDownBlock2D", "DownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")


def _sd15(width: int) -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        **UNET,
        block_out_channels=(width // 2, width // 2, width),
        down_block_types=(DOWN[0], DOWN[0], DOWN[1]),
        up_block_types=(UP[1], UP[0], UP[0]),
        attention_head_dim=2,
        cross_attention_dim=TEXT,
    )
    return StableDiffusionPipeline(
        unet=unet,
        vae=_kl(4),
        text_encoder=_clip(),
        tokenizer=_clip_tokenizer(),
        scheduler=DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl(width: int) -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        **UNET,
        block_out_channels=(width // 2, width // 2, width),
        down_block_types=(DOWN[1], DOWN[0], DOWN[0]),
        up_block_types=(UP[0], UP[0], UP[1]),
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=2,
        use_linear_projection=True,
        cross_attention_dim=2 * TEXT,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=TEXT + 6 * 8,
    )
    return StableDiffusionXLPipeline(
        unet=unet,
        vae=_kl(4),
        text_encoder=_clip(),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=_clip(TEXT),
        tokenizer_2=_clip_tokenizer(),
        scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1),
    )


def _sd3(width: int, **options: Any) -> Any:
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    # The pipeline sets the hidden states of both CLIP models side by side and widens them to those of T5.
    transformer = SD3Transformer2DModel(
        **_heads(width),
        **options,
        sample_size=8,
        num_layers=2,
        joint_attention_dim=2 * TEXT,
        caption_projection_dim=width,
        pooled_projection_dim=2 * TEXT,
        pos_embed_max_size=16,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=_flow(shift=3.0),
        vae=_flux_kl(),
        text_encoder=_clip(TEXT),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=_clip(TEXT),
        tokenizer_2=_clip_tokenizer(),
        text_encoder_3=_t5(width=2 * TEXT),
        tokenizer_3=_t5_tokenizer(),
    )


def _sd35(width: int) -> Any:
    return _sd3(width, qk_norm="rms_norm", dual_attention_layers=(0,))


def _flux(width: int) -> Any:
    from diffusers import FluxPipeline, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        **_heads(width),
        num_layers=1,
        num_single_layers=1,
        joint_attention_dim=TEXT,
        pooled_projection_dim=TEXT,
        guidance_embeds=True,
        axes_dims_rope=_axes(width),
    )
    return FluxPipeline(
        transformer=transformer,
        scheduler=_flow(use_dynamic_shifting=True),
        vae=_flux_kl(),
        text_encoder=_clip(),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=_t5(),
        tokenizer_2=_t5_tokenizer(),
    )


def _flux2(width: int) -> Any:
    from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel

    transformer = Flux2Transformer2DModel(
        **_heads(width),
        in_channels=32,
        num_layers=1,
        num_single_layers=1,
        joint_attention_dim=3 * TEXT,
        guidance_embeds=False,
        axes_dims_rope=(width // 8,) * 4,
    )
    vae = AutoencoderKLFlux2(block_out_channels=(8,) * 4, latent_channels=8, norm_num_groups=4, layers_per_block=1)
    return Flux2KleinPipeline(
        transformer=transformer,
        vae=vae,
        scheduler=_flow(use_dynamic_shifting=True),
        text_encoder=_qwen3("Qwen3ForCausalLM", layers=28),  # the pipeline takes what layers 9, 18 and 27 give
        tokenizer=_qwen_tokenizer(),
        is_distilled=False,
    )


def _chroma(width: int) -> Any:
    from diffusers import ChromaPipeline, ChromaTransformer2DModel

    transformer = ChromaTransformer2DModel(
        **_heads(width),
        num_layers=1,
        num_single_layers=1,
        joint_attention_dim=TEXT,
        axes_dims_rope=_axes(width),
        approximator_num_channels=32,
        approximator_hidden_dim=width,
        approximator_layers=1,
    )
    return ChromaPipeline(
        transformer=transformer,
        scheduler=_flow(),
        vae=_flux_kl(),
        text_encoder=_t5(),
        tokenizer=_t5_tokenizer(),
    )


def _qwen_image(width: int) -> Any:
    from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel

    transformer = QwenImageTransformer2DModel(
        **_heads(width), num_layers=2, joint_attention_dim=TEXT, axes_dims_rope=_axes(width)
    )
    return QwenImagePipeline(
        transformer=transformer,
        vae=AutoencoderKLQwenImage(base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        scheduler=_flow(use_dynamic_shifting=True),
        text_encoder=_qwen25_vl(),
        tokenizer=_qwen_tokenizer(),
    )


def _wan(width: int) -> Any:
    from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel

    transformer = WanTransformer3DModel(**_heads(width), text_dim=TEXT, freq_dim=width, ffn_dim=2 * width, num_layers=2)
    return WanPipeline(
        transformer=transformer,
        vae=AutoencoderKLWan(base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        scheduler=_flow(shift=3.0),
        text_encoder=_t5("UMT5"),
        tokenizer=_t5_tokenizer(),
    )


def _lumina2(width: int) -> Any:
    from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel

    transformer = Lumina2Transformer2DModel(
        sample_size=8,
        hidden_size=width,
        num_layers=2,
        num_refiner_layers=1,
        multiple_of=32,
        num_attention_heads=2,
        num_kv_heads=1,
        cap_feat_dim=TEXT,
        axes_dim_rope=_axes(width),
        axes_lens=(300, 64, 64),
    )
    return Lumina2Pipeline(
        transformer=transformer,
        vae=_flux_kl(),
        scheduler=_flow(),
        text_encoder=_gemma2(),
        tokenizer=_gemma_tokenizer(),
    )


def _z_image(width: int) -> Any:
    from diffusers import ZImagePipeline, ZImageTransformer2DModel

    transformer = ZImageTransformer2DModel(
        dim=width,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=TEXT,
        axes_dims=[*_axes(width)],
        axes_lens=[1024, 64, 64],
    )
    return ZImagePipeline(
        transformer=transformer,
        vae=_flux_kl(),
        scheduler=_flow(),
        text_encoder=_qwen3("Qwen3Model", layers=2),
        tokenizer=_qwen_tokenizer(),
    )


def _ltx(width: int) -> Any:
    from diffusers import AutoencoderKLLTXVideo, LTXPipeline, LTXVideoTransformer3DModel

    transformer = LTXVideoTransformer3DModel(
        **_heads(width),
        in_channels=16,
        out_channels=16,
        cross_attention_dim=width,
        num_layers=2,
        caption_channels=TEXT,
    )
    vae = AutoencoderKLLTXVideo(
        latent_channels=16,
        block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
    )
    return LTXPipeline(
        transformer=transformer,
        vae=vae,
        scheduler=_flow(use_dynamic_shifting=True),
        text_encoder=_t5(),
        tokenizer=_t5_tokenizer(),
    )


def _pixart(width: int) -> Any:
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    transformer = PixArtTransformer2DModel(
        **_heads(width),
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=width,
        sample_size=8,
        caption_channels=TEXT,
        use_additional_conditions=False,
    )
    return PixArtSigmaPipeline(
        transformer=transformer,
        vae=_kl(4),
        scheduler=DPMSolverMultistepScheduler(),
        text_encoder=_t5(),
        tokenizer=_t5_tokenizer(),
    )


def _sana(width: int) -> Any:
    from diffusers import AutoencoderDC, SanaPipeline, SanaTransformer2DModel

    transformer = SanaTransformer2DModel(
        **_heads(width),
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=width // 2,
        cross_attention_dim=width,
        caption_channels=TEXT,
        sample_size=8,
    )
    coders: dict[str, Any] = {}
    for coder in ("encoder", "decoder"):
        coders |= {f"{coder}_block_types": "ResBlock", f"{coder}_block_out_channels": (8,) * 4}
        coders |= {f"{coder}_layers_per_block": (1,) * 4, f"{coder}_qkv_multiscales": ((),) * 4}
    vae = AutoencoderDC(**coders, latent_channels=4, attention_head_dim=2)
    return SanaPipeline(
        transformer=transformer,
        vae=vae,
        scheduler=_flow(shift=3.0),
        text_encoder=_gemma2(),
        tokenizer=_gemma_tokenizer(),
    )


def _aura_flow(width: int) -> Any:
    from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel

    transformer = AuraFlowTransformer2DModel(
        **_heads(width),
        sample_size=8,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        joint_attention_dim=TEXT,
        caption_projection_dim=width,
        pos_embed_max_size=64,
    )
    return AuraFlowPipeline(
        transformer=transformer,
        vae=_kl(4),
        scheduler=_flow(shift=1.73),
        text_encoder=_t5("UMT5"),
        tokenizer=_t5_tokenizer(),
    )


def _hunyuan_video(width: int) -> Any:
    from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoPipeline, HunyuanVideoTransformer3DModel
    from transformers import LlamaConfig, LlamaModel

    transformer = HunyuanVideoTransformer3DModel(
        **_heads(width),
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=TEXT,
        pooled_projection_dim=TEXT,
        rope_axes_dim=_axes(width),
    )
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=16, block_out_channels=(8,) * 4, layers_per_block=1, norm_num_groups=4
    )
    return HunyuanVideoPipeline(
        transformer=transformer,
        vae=vae,
        scheduler=_flow(shift=7.0),
        text_encoder=LlamaModel(LlamaConfig(**QWEN, num_hidden_layers=3)),  # the pipeline skips the last two
        tokenizer=_qwen_tokenizer(),
        text_encoder_2=_clip(),
        tokenizer_2=_clip_tokenizer(),
    )


FAMILIES: Mapping[str, Callable[[int], Any]] = {
    "sd15": _sd15,
    "sdxl": _sdxl,
    "sd3": _sd3,
    "sd35": _sd35,
    "flux": _flux,
    "flux2": _flux2,
    "chroma": _chroma,
    "qwen_image": _qwen_image,
    "wan": _wan,
    "lumina2": _lumina2,
    "z_image": _z_image,
    "ltx": _ltx,
    "pixart": _pixart,
    "sana": _sana,
    "aura_flow": _aura_flow,
    "hunyuan_video": _hunyuan_video,
}
