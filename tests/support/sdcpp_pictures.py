"""Pipelines of which stable-diffusion.cpp makes the same pictures as diffusers, in the sizes that it has as constants:
the same noise and sigmas, no prompt, and a small VAE that both decode with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hubquant.gguf_file import GGUFFile, GGUFWriter, TensorEntry, plan_layout
from tests.support.sdcpp import drawn_by_sdcpp

SEED, SIZE = 42, 64
FLOW_SIGMAS = (1.0, 0.75, 0.5, 0.25)
GAIN, GAIN_OF_RELU = 0.8, 1.3
CONTRAST = 0.3
TEXT_ENCODER = "cond_stage_model.transformer."


@dataclass(frozen=True, eq=False)
class Compared:
    """``options`` are those of the pipeline's call, with embeddings of no prompt; ``files`` the parts that
    stable-diffusion.cpp is given beside the denoiser, which it calls ``part``. ``text_encoder`` has tensors that must
    stand in the file of the denoiser."""

    pipe: Any
    vae: Any
    options: Mapping[str, Any]
    sigmas: tuple[float, ...]
    files: Mapping[str, Path]
    part: str = "diffusion_model"
    text_encoder: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def denoiser(self) -> Any:
        return self.pipe.unet if self.part == "model" else self.pipe.transformer

    def drawn(self) -> Tensor:
        """By diffusers, [3, height, width] in 0..1, in steps of 1/255."""
        return self.decoded().clamp(0, 1).mul(255).round() / 255

    def decoded(self) -> Tensor:
        if self.part == "model":  # the pipeline scales the noise by what its scheduler says
            self.pipe.scheduler.set_timesteps(sigmas=[*self.sigmas])
            scale = self.sigmas[0] / float(self.pipe.scheduler.init_noise_sigma)
            options = {**self.options, "latents": scale * self.options["latents"]}
        else:
            options = dict(self.options)
        sizes = {"height": SIZE, "width": SIZE, "num_inference_steps": len(self.sigmas)}
        with torch.no_grad():
            latents = self.pipe(**options, **sizes, sigmas=[*self.sigmas], output_type="latent").images
            if latents.dim() == 3:
                latents = self.pipe._unpack_latents(latents, SIZE, SIZE, 8)
            picture: Tensor = self.vae.decode(latents).sample[0]
        return picture / 2 + 0.5

    def drawn_by_sdcpp(self, file: Path, imatrix: Path | None = None) -> Tensor:
        """With the weights of ``file``, one of ours."""
        if self.text_encoder:
            file = with_halves(file, self.text_encoder)
        settings = {"size": SIZE, "seed": SEED, "sigmas": [*self.sigmas], "guidance": 3.5}
        return drawn_by_sdcpp({self.part: file, **self.files}, settings, imatrix)


def with_halves(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    """A copy of a GGUF file that has these matrices in F16 besides, and vectors in F32."""
    file = GGUFFile.open(path)
    types = {name: "F16" if x.dim() > 1 else "F32" for name, x in tensors.items()}
    entries = [*file.tensors.values(), *(TensorEntry(name, tuple(x.shape), types[name]) for name, x in tensors.items())]
    target = path.with_suffix(".whole.gguf")
    with GGUFWriter(
        target, plan_layout(file.metadata, [TensorEntry(each.name, each.shape, each.type) for each in entries])
    ) as writer:
        for name in file.tensors:
            writer.write(name, file.data(name))
        for name, x in tensors.items():
            writer.write(name, x.half() if types[name] == "F16" else x.float())
        writer.finish()
    return target


def flux(folder: Path) -> Compared:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        num_layers=2,
        num_single_layers=2,
        num_attention_heads=2,
        joint_attention_dim=256,
        guidance_embeds=True,
    )
    pipe = FluxPipeline(
        transformer=_initialized(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        **dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")),
    )
    embeddings, text_encoder = _t5(256, 256, folder)
    options = {
        "prompt_embeds": embeddings,
        "pooled_prompt_embeds": torch.zeros(1, 768),
        "guidance_scale": 3.5,
        "latents": pipe._pack_latents(_noise(16), 1, 16, SIZE // 8, SIZE // 8),
    }
    return _compared(pipe, options, {"t5xxl": text_encoder}, folder)


def sd3(folder: Path) -> Compared:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    transformer = SD3Transformer2DModel(
        sample_size=8,
        num_layers=24,  # the least, and as many as heads
        num_attention_heads=24,
        attention_head_dim=8,
        joint_attention_dim=4096,
        caption_projection_dim=192,
        pooled_projection_dim=2048,
        pos_embed_max_size=192,
    )
    parts = [f"{part}{number}" for part in ("text_encoder", "tokenizer") for number in ("", "_2", "_3")]
    pipe = StableDiffusion3Pipeline(
        transformer=_initialized(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        **dict.fromkeys(("vae", *parts)),
    )
    embeddings, text_encoder = _t5(4096, 77, folder)
    options = {
        "prompt_embeds": torch.cat([torch.zeros(1, 77, 4096), embeddings], 1),
        "pooled_prompt_embeds": torch.zeros(1, 2048),
        "guidance_scale": 1.0,
        "latents": _noise(16),
    }
    return _compared(pipe, options, {"t5xxl": text_encoder}, folder)


def sd15(folder: Path) -> Compared:
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64, 128, 128),
        cross_attention_dim=768,
    )
    pipe = StableDiffusionPipeline(
        unet=_initialized(unet, 1.2),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        **dict.fromkeys(("vae", "text_encoder", "tokenizer", "safety_checker", "feature_extractor")),
        requires_safety_checker=False,
    )
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    clip = _initialized(CLIPTextModel(CLIPTextConfig(**sizes, vocab_size=49408, eos_token_id=49407)))
    clip = clip.half().float()
    with torch.no_grad():
        embeddings = clip(torch.tensor([[49406, *[49407] * 76]]))[0]
    options = {"prompt_embeds": embeddings, "guidance_scale": 1.0, "latents": _noise(4)}
    names = {name: name if name.startswith("text_model.") else f"text_model.{name}" for name in clip.state_dict()}
    tensors = {TEXT_ENCODER + names[name]: x for name, x in clip.state_dict().items() if "position_ids" not in name}
    sigmas = (14.6146, 4.0, 1.0, 0.2)
    return _compared(pipe, options, {}, folder, sigmas, "model", tensors)


PIPELINES: Mapping[str, Callable[[Path], Compared]] = {"flux": flux, "sd3": sd3, "sd15": sd15}


def _compared(
    pipe: Any,
    options: Mapping[str, Any],
    files: Mapping[str, Path],
    folder: Path,
    sigmas: tuple[float, ...] = FLOW_SIGMAS,
    part: str = "diffusion_model",
    text_encoder: Mapping[str, Tensor] = {},
) -> Compared:
    from diffusers import AutoencoderTiny

    pipe.set_progress_bar_config(disable=True)
    vae = _initialized(AutoencoderTiny(latent_channels=4 if part == "model" else 16), GAIN_OF_RELU)
    files = {**files, "taesd": folder / "vae" / "diffusion_pytorch_model.safetensors"}
    compared = Compared(pipe, vae, options, sigmas, files, part, text_encoder)
    # Of a contrast that shows differences: neither dull nor black and white.
    picture, last = compared.decoded(), vae.decoder.layers[-1]
    scale = CONTRAST / picture.std((1, 2))
    last.weight.mul_(scale[:, None, None, None])
    last.bias.sub_(picture.mean((1, 2))).mul_(scale).add_(0.5)
    vae.save_pretrained(folder / "vae")
    return compared


def _t5(width: int, n_tokens: int, folder: Path) -> tuple[Tensor, Path]:
    """What a text encoder makes of no prompt, [1, ``n_tokens``, ``width``], and its file."""
    from safetensors.torch import save_file
    from transformers import T5Config, T5EncoderModel

    sizes = {"d_model": width, "d_ff": 128, "num_layers": 2, "num_decoder_layers": 0, "num_heads": 1, "d_kv": 64}
    kind = {"feed_forward_proj": "gated-gelu", "is_encoder_decoder": False}
    encoder = _initialized(T5EncoderModel(T5Config(vocab_size=64, **sizes, **kind)))
    path = folder / f"t5-{width}.safetensors"
    tensors = {
        name: x.contiguous() for name, x in encoder.state_dict().items() if name != "encoder.embed_tokens.weight"
    }
    save_file(tensors, path)
    with torch.no_grad():
        return encoder(torch.tensor([[3, 1, *[0] * (n_tokens - 2)]]))[0], path


def _noise(channels: int) -> Tensor:
    return torch.randn(1, channels, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(SEED))


def _initialized(model: Any, gain: float = GAIN) -> Any:
    """Of unit gain, with biases that are seen."""
    generator = torch.Generator().manual_seed(0)
    model.eval().requires_grad_(False)
    for module in model.modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            weight.copy_(torch.randn(weight.shape, generator=generator) * gain / weight[0].numel() ** 0.5)
            if isinstance(bias, Tensor):
                bias.copy_(0.05 * torch.randn(bias.shape, generator=generator))
        elif isinstance(module, torch.nn.Embedding):
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return model
