"""What can be said of pictures before any is drawn: sizes, frames, guidance, and prompts that are cut."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from typing import Any

from hubquant.errors import CalibrationError, NotSupportedYet, RecipeError
from hubquant.models.diffusion.draw import guidance_argument
from hubquant.models.diffusion.parts import denoiser
from hubquant.models.diffusion.quiet import quiet_diffusers
from hubquant.panics import tokenizer_errors
from hubquant.recipe.pictures import Pictures
from hubquant.units import counted

_ORDINARY = inspect.Parameter.POSITIONAL_OR_KEYWORD
_NO_LIMIT = 100_000  # tokens; tokenizers without a limit say 1e30
_SHOWN = 60  # characters of what is cut


def check_pictures(pipe: Any, prompts: Sequence[str], settings: Pictures) -> tuple[str, ...]:
    """Notes for the plan, one for each tokenizer by which prompts are cut; ``pipe`` may be without weights.

    Raises ``CalibrationError`` without prompts, ``RecipeError`` for a size, frames or guidance that the pipeline cannot
    have, and ``NotSupportedYet`` for one that draws from more than a prompt.
    """
    if not any(prompt.strip() for prompt in prompts):
        raise CalibrationError("there are no prompts", why="nothing can be drawn without", hint="name some in prompts")
    known = inspect.signature(type(pipe).__call__).parameters
    _check_known(pipe, settings)
    if settings.width_and_height is not None and "height" in known:
        _check_size(pipe, settings.width_and_height)
    if settings.frames is not None:
        _check_frames(pipe, settings.frames)
    return tuple(_cut(pipe, prompts))


def _check_known(pipe: Any, settings: Pictures) -> None:
    known = inspect.signature(type(pipe).__call__).parameters
    arguments = {"size": "height", "frames": "num_frames", "steps": "num_inference_steps"}
    required = [name for name, each in known.items() if each.default is each.empty and each.kind is _ORDINARY]
    if others := [name for name in required if name not in ("self", "prompt")]:
        raise NotSupportedYet(
            f"{type(pipe).__name__}", why=f"it does not draw from a prompt alone, but from {', '.join(others)} too"
        )
    if "prompt" not in known:
        raise NotSupportedYet(f"{type(pipe).__name__}", why="it draws without a prompt")
    wanted = {name: argument in known for name, argument in arguments.items()}
    wanted["guidance"] = guidance_argument(known) is not None
    for name, is_known in wanted.items():
        if getattr(settings, name) is not None and not is_known:
            raise RecipeError(f"{type(pipe).__name__} has no {name} to be set", hint=f"leave {name} out")


def edge_step(pipe: Any) -> int:
    """Pixels: edges are multiples of it, as the VAE makes one latent of several, and the denoiser one token of several
    latents."""
    names = ("vae_scale_factor", "vae_scale_factor_spatial", "vae_spatial_compression_ratio")
    of_vae = next((int(getattr(pipe, name)) for name in names if hasattr(pipe, name)), 8)
    processor = getattr(pipe, "image_processor", None) or getattr(pipe, "video_processor", None)
    of_processor = int(processor.config.vae_scale_factor) if processor is not None else 1
    return math.lcm(of_vae * _patch(pipe), of_processor)


def largest_edge(pipe: Any) -> int | None:
    """Pixels: the denoiser has no positions for more. None without such a limit."""
    model = denoiser(pipe)
    config: Any = getattr(model, "config", {})
    positions = config.get("pos_embed_max_size")
    if positions and type(model).__name__ == "AuraFlowTransformer2DModel":
        positions = math.isqrt(positions)
    elif axes := config.get("axes_lens"):
        positions = min(axes[1:])
    return positions * edge_step(pipe) if positions else None


def _patch(pipe: Any) -> int:
    """Latents along an edge that are one token."""
    patch = getattr(denoiser(pipe), "config", {}).get("patch_size") or 1
    return int(patch if isinstance(patch, int) else patch[-1])


def _check_size(pipe: Any, size: tuple[int, int]) -> None:
    step, largest = edge_step(pipe), largest_edge(pipe)
    good = [_nearest(edge, step, largest) for edge in size]
    if [*size] != good:
        limit = f" up to {largest:,}" if largest else ""
        raise RecipeError(
            f"{type(pipe).__name__} cannot make pictures of {size[0]}x{size[1]}",
            why=f"edges are multiples of {step}{limit}",
            hint=f"the nearest size that it can make is {good[0]}x{good[1]}",
        )


def _nearest(edge: int, step: int, largest: int | None) -> int:
    nearest = max(step, (2 * edge + step) // (2 * step) * step)
    return nearest if largest is None else min(nearest, largest)


def _check_frames(pipe: Any, frames: int) -> None:
    names = ("vae_scale_factor_temporal", "vae_temporal_compression_ratio")
    step = next((int(getattr(pipe, name)) for name in names if hasattr(pipe, name)), 1)
    nearest = max(0, (2 * (frames - 1) + step) // (2 * step)) * step + 1
    if frames != nearest:
        raise RecipeError(
            f"{type(pipe).__name__} cannot make videos of {counted(frames, 'frame')}",
            why=f"its VAE makes one latent of {step} frames, beside that of the first",
            hint=f"set frames to {nearest}, the nearest that it can make",
        )


def _cut(pipe: Any, prompts: Sequence[str]) -> Iterator[str]:
    for name, tokenizer in pipe.components.items():
        if not name.startswith("tokenizer") or tokenizer is None:
            continue
        limit = _limit(pipe, tokenizer)
        with quiet_diffusers(), tokenizer_errors(f"{name} fails on a prompt"):
            ids = [tokenizer(prompt).input_ids for prompt in prompts]
            long = [each for each in ids if len(each) > limit]
            if long:
                rest = " ".join(tokenizer.decode(long[0][limit:], skip_special_tokens=True).split())
                shown = rest if len(rest) <= _SHOWN else f"{rest[:_SHOWN]}…"
                yield (
                    f"{counted(len(long), 'prompt is', 'prompts are')} longer than the {limit} tokens that "
                    f"{name.replace('tokenizer', 'text_encoder')} reads; of the first this is cut: {shown}"
                )


def _limit(pipe: Any, tokenizer: Any) -> int:
    """Tokens. CLIP has positions for no more; other text encoders get what the pipeline takes by default."""
    of_tokenizer = min(int(tokenizer.model_max_length), _NO_LIMIT)
    longest = inspect.signature(type(pipe).__call__).parameters.get("max_sequence_length")
    if longest is None or longest.default is inspect.Parameter.empty or "CLIP" in type(tokenizer).__name__:
        return of_tokenizer
    return min(of_tokenizer, int(longest.default))
