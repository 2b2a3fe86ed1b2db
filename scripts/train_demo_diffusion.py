"""Train the bundled demo of diffusion: a Lumina 2 of 3.4 M weights that draws coloured shapes, 64 x 64 pixels.

    python -m scripts.train_demo_diffusion --out hubquant/data/demo-diffusion --minutes 33

All pictures are drawn by ``scripts/demo_pictures.py``. The VAE is trained first, then the transformer on its latents,
by flow matching: with noise e and latents x it is shown (1 - s) x + s e and the time 1 - s, and learns x - e, as
Lumina2Pipeline has it (Lipman et al., https://arxiv.org/abs/2210.02747; s as in https://arxiv.org/abs/2403.03206,
section 3.1). What is saved are averages over the last steps, in bf16. Prints how often each thing is as prompted.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, FlowMatchEulerDiscreteScheduler, Lumina2Pipeline
from diffusers import Lumina2Transformer2DModel as Lumina2
from tokenizers import AddedToken
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

from scripts.demo_pictures import COLOURS, EDGE, PLACES, PROMPTS, RADII, SHAPES, Scene, draw, scenes, seen

SYSTEM_PROMPT = (  # as Lumina2Pipeline has it
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment based "
    "on textual prompts or user prompts. <Prompt Start>"
)
WIDTH = 256  # one block of a K-quant
LATENT_CHANNELS = 8
MOST_TOKENS = 10  # of a prompt
DRAWINGS = 3  # of each scene
VAE_RATE, VAE_SHARE = 3e-3, 0.35
CROP, CROPS_SHARE = 32, 0.6  # pixels; for so much of its time the VAE sees cut-outs, which are cheap
BATCH, RATE = 32, 1.5e-3
KL_WEIGHT = 1e-4
SIZE_OPEN, PLACE_OPEN, NO_PROMPT = 0.1, 0.2, 0.1  # how often a prompt leaves these out
STEPS, GUIDANCE = 20, 3.0


def build_tokenizer() -> GemmaTokenizer:
    """One token for each word of a prompt, and one for what the pipeline says before every prompt."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁"]
    vocabulary = {token: i for i, token in enumerate(special)}
    tokenizer = GemmaTokenizer(vocab=vocabulary, merges=[], add_bos_token=True, model_max_length=256)
    words = ("a", "an", "on", *RADII, *COLOURS, *SHAPES, *PLACES)
    tokens = [AddedToken(word, lstrip=True, single_word=True, normalized=False) for word in words]
    tokenizer.add_tokens([AddedToken(SYSTEM_PROMPT, normalized=False), AddedToken(","), *tokens])
    return tokenizer


def build_pipeline() -> Lumina2Pipeline:
    """With random weights. The pipeline takes the text encoder's states before its last layer, of which there is one:
    they are embeddings, and stay random, as the transformer's caption layers can make anything of them."""
    torch.manual_seed(0)
    words = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "vocab_size": 48}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    sizes = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 1, "max_position_embeddings": 512}
    text_encoder = Gemma2Model(Gemma2Config(**words, **heads, **sizes))
    vae = AutoencoderKL(
        sample_size=EDGE,
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(8, 16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=1,  # more of them would lose the colours of plain grounds
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0,
    )
    transformer = Lumina2(
        sample_size=EDGE // 8,
        in_channels=LATENT_CHANNELS,
        hidden_size=WIDTH,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=4,
        num_kv_heads=2,
        ffn_dim_multiplier=0.5,
        axes_dim_rope=(32, 16, 16),
        axes_lens=(300, 64, 64),
        cap_feat_dim=WIDTH,
    )
    for name, weight in transformer.named_parameters():
        if "norm1.linear" in name or "norm_out.linear_2" in name:
            torch.nn.init.zeros_(weight)  # every block begins as the identity
    pipe = Lumina2Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=vae,
        text_encoder=round_weights(text_encoder),
        tokenizer=build_tokenizer(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def round_weights(model: Any) -> Any:
    """To what bf16 holds, as they are saved, so that the next part is trained on what it will meet."""
    for weight in model.requires_grad_(False).eval().parameters():
        weight.copy_(weight.bfloat16())
    return model


def spent(minutes: float) -> Iterator[float]:
    """The share of the time that is spent, until all of it is."""
    start = time.monotonic()
    while (share := (time.monotonic() - start) / (60 * minutes)) < 1:
        yield share


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def rate_at(number: int, share: float) -> float:
    """Of the highest: a short rise, and half a cosine down to zero."""
    return min(1.0, (number + 1) / 100) * 0.5 * (1 + math.cos(math.pi * share))


def train_vae(vae: Any, minutes: float, shown: Sequence[Scene]) -> None:
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.99), fused=True)
    average = averaged(vae)
    for number, share in enumerate(spent(minutes)):
        is_cut = share < CROPS_SHARE
        chosen = torch.randint(len(shown), (16 if is_cut else 8,), generator=generator).tolist()
        pictures = 2 * draw([shown[i] for i in chosen], generator) - 1
        if is_cut:
            top, left = torch.randint(EDGE - CROP + 1, (2,), generator=generator).tolist()
            pictures = pictures[:, :, top : top + CROP, left : left + CROP]
        with torch.autocast("cpu", torch.bfloat16):
            latents = vae.encode(pictures).latent_dist
            error = (vae.decode(latents.sample(generator)).sample.float() - pictures).abs().mean()
        loss = error + KL_WEIGHT * latents.kl().mean() / latents.mean[0].numel()
        step(vae, optimizer, loss, VAE_RATE * rate_at(number, share))
        average.update_parameters(vae)
        if number % 100 == 0:
            print(f"VAE step {number:5d}  mean difference {error.item() / 2:.4f}  {share:6.1%}", flush=True)
    vae.load_state_dict(average.module.state_dict())
    round_weights(vae)


def averaged(model: torch.nn.Module) -> AveragedModel:
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.998))


@torch.no_grad()
def encode(vae: Any, shown: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Means and standard deviations of the latents of ``DRAWINGS`` of each scene, [scenes, drawings, channels, h, w],
    of mean 0 and variance 1: the VAE's config holds their scale and shift from here on."""
    generator = torch.Generator().manual_seed(2)
    found = [vae.encode(2 * draw([scene] * DRAWINGS, generator) - 1).latent_dist for scene in shown]
    means, deviations = (torch.stack([getattr(each, name) for each in found]) for name in ("mean", "std"))
    shift, scale = float(means.mean()), float(1 / (means.var() + deviations.square().mean()).sqrt())
    vae.register_to_config(shift_factor=shift, scaling_factor=scale)
    return (means - shift) * scale, deviations * scale


def prompts_for(chosen: Sequence[Scene], generator: torch.Generator) -> tuple[list[str], Tensor]:
    """What is said of them, and [n] where nothing is: then guidance has what it leads away from."""
    chances = torch.rand(3, len(chosen), generator=generator)
    said = [
        replace(scene, size=scene.size if size > SIZE_OPEN else None, place=scene.place if place > PLACE_OPEN else None)
        for scene, size, place in zip(chosen, *chances[:2].tolist(), strict=True)
    ]
    return [scene.prompt for scene in said], chances[2] < NO_PROMPT


def train_transformer(pipe: Any, minutes: float, shown: Sequence[Scene]) -> None:
    transformer, generator = pipe.transformer, torch.Generator().manual_seed(3)
    means, deviations = encode(pipe.vae, shown)
    optimizer = torch.optim.AdamW(transformer.parameters(), betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    average, smoothed = averaged(transformer), None
    for number, share in enumerate(spent(minutes)):
        chosen = torch.randint(len(shown), (BATCH,), generator=generator)
        drawing = torch.randint(DRAWINGS, (BATCH,), generator=generator)
        mean, deviation = means[chosen, drawing], deviations[chosen, drawing]
        latents = mean + deviation * torch.randn(mean.shape, generator=generator)
        noise = torch.randn(mean.shape, generator=generator)
        sigma = torch.randn(BATCH, generator=generator).sigmoid()
        seen_by = sigma[:, None, None, None]
        states, mask = embed(pipe, *prompts_for([shown[i] for i in chosen.tolist()], generator))
        found = transformer((1 - seen_by) * latents + seen_by * noise, 1 - sigma, states, mask, return_dict=False)[0]
        loss = (found - (latents - noise)).square().mean()
        step(transformer, optimizer, loss, RATE * rate_at(number, share))
        average.update_parameters(transformer)
        smoothed = loss.item() if smoothed is None else 0.98 * smoothed + 0.02 * loss.item()
        if number % 100 == 0:
            print(f"step {number:5d}  loss {smoothed:.4f}  {share:6.1%}", flush=True)
    transformer.load_state_dict(average.module.state_dict())
    round_weights(transformer)


@torch.no_grad()
def embed(pipe: Any, prompts: list[str], nothing: Tensor) -> tuple[Tensor, Tensor]:
    """States [n, tokens, width] and mask [n, tokens], of the empty prompt where ``nothing`` is said."""
    states, mask, empty, empty_mask = pipe.encode_prompt(prompts, max_sequence_length=MOST_TOKENS)
    return torch.where(nothing[:, None, None], empty, states), torch.where(nothing[:, None], empty_mask, mask)


def agreement(folder: Path, asked: Sequence[Scene]) -> None:
    """Draw each scene with what was saved, and print how often each thing is there as the prompt says."""
    pipe = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    found: Counter[str] = Counter()
    for seed, scene in enumerate(asked):
        generator = torch.Generator().manual_seed(seed)
        picture = pipe(
            scene.prompt,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            max_sequence_length=MOST_TOKENS,
            generator=generator,
            output_type="pt",
        ).images[0]
        drawn = seen(picture)
        said = drawn.agrees(scene) if drawn else {}
        found.update(name for name, same in said.items() if same)
        found["all"] += bool(said) and all(said.values())
    print(f"of {len(asked)}: " + ", ".join(f"{name} {number}" for name, number in sorted(found.items())), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=33.0)
    arguments = parser.parse_args()

    lines = (PROMPTS / "demo-prompts-test.txt").read_text("utf-8").splitlines()
    unseen = [Scene.parse(line) for line in lines if not line.startswith("#")]
    shown = [scene for scene in scenes() if scene not in unseen]
    pipe = build_pipeline()
    train_vae(pipe.vae, VAE_SHARE * arguments.minutes, shown)
    pipe.save_pretrained(arguments.out)
    train_transformer(pipe, (1 - VAE_SHARE) * arguments.minutes, shown)
    for part in (pipe.vae, pipe.text_encoder, pipe.transformer):
        part.to(torch.bfloat16)
    pipe.save_pretrained(arguments.out)
    agreement(arguments.out, [*unseen, *shown[::36]])


if __name__ == "__main__":
    main()
