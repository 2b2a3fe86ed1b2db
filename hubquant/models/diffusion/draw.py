"""One call of a pipeline: the latents that its denoiser ends with, and the pictures that they stand for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.errors import EvaluationError
from hubquant.models.diffusion.quiet import quiet_diffusers
from hubquant.recipe.pictures import Pictures
from hubquant.units import counted

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Drawn:
    """``latents`` [n, …] as the pipeline has them after its last step, which may be packed or flat; ``pictures``
    [n, frames, 3, height, width] in 0..1, one frame for a picture. Both are float32 on the CPU."""

    latents: torch.Tensor
    pictures: torch.Tensor


def draw(pipe: Any, prompts: Sequence[str], seeds: Sequence[int], settings: Pictures) -> Drawn:
    """A picture of each prompt, all in one batch; ``settings.prompts``, ``count``, ``batch`` and ``seed`` are not read.

    The noise of each comes from a generator of its own on the CPU: a batch draws what single calls would, but for
    rounding. Raises ``EvaluationError`` for pictures that are NaN or infinite, for what the pipeline refuses or
    draws in another size, and where memory does not suffice.
    """
    import torch

    last: dict[str, torch.Tensor] = {}

    def keep(latents: torch.Tensor) -> None:
        last["latents"] = latents.detach()

    arguments = {
        **call_arguments(pipe, settings, len(prompts)),
        **_callback(pipe, keep),
        "prompt": [*prompts],
        "generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        "output_type": "pt",
    }
    with quiet_diffusers(), torch.no_grad():
        try:
            output = pipe(**arguments)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            raise _out_of_memory(error, len(prompts)) from error
        except ValueError as error:
            raise EvaluationError(
                f"{type(pipe).__name__} refuses to draw",
                why=(str(error).strip() or "it says no more").splitlines()[0],
                hint="change size, frames, steps or guidance, or leave them to the pipeline",
            ) from error
    pictures = (output.frames if hasattr(output, "frames") else output.images).detach()
    pictures = pictures[:, None] if pictures.ndim == 4 else pictures
    drawn = Drawn(last["latents"].float().cpu(), pictures.float().cpu())
    _check_finite(drawn)
    _check_size(pipe, drawn, settings)
    return drawn


def call_arguments(pipe: Any, settings: Pictures, n: int) -> dict[str, Any]:
    """Of the pipeline's call, for ``n`` pictures: what the recipe sets, and what the published pipelines are meant to
    be called with although it is not their default."""
    known = inspect.signature(type(pipe).__call__).parameters
    given: dict[str, Any] = {"num_inference_steps": settings.steps, "num_frames": settings.frames}
    if settings.width_and_height is not None:
        given["width"], given["height"] = settings.width_and_height
        if "use_resolution_binning" in known:
            given["use_resolution_binning"] = False  # or another size would be drawn, and scaled to this one
    name = guidance_argument(known)
    if name is not None:
        given[name] = settings.guidance
    if name == "true_cfg_scale" and (settings.guidance is None or settings.guidance > 1):
        given["negative_prompt"] = [" "] * n  # without one Qwen-Image ignores its guidance, default or not
    return {name: value for name, value in given.items() if value is not None}


def guidance_argument(known: Mapping[str, inspect.Parameter]) -> str | None:
    """What a call names guidance. Of pipelines with both, those whose ``guidance_scale`` is a number that their
    denoiser was trained with do by default without the other."""
    true_scale = known.get("true_cfg_scale")
    if true_scale is not None and true_scale.default > 1:
        return "true_cfg_scale"
    return "guidance_scale" if "guidance_scale" in known else None


def _callback(pipe: Any, keep: Any) -> dict[str, Any]:
    """Arguments with which the pipeline gives its latents after each step."""
    if "callback_on_step_end" in inspect.signature(type(pipe).__call__).parameters:

        def on_step_end(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG001
            keep(tensors["latents"])
            return tensors

        return {"callback_on_step_end": on_step_end}

    def after_step(step: int, timestep: Any, latents: Any) -> None:  # noqa: ARG001
        keep(latents)

    return {"callback": after_step}


def _check_finite(drawn: Drawn) -> None:
    for what, x in {"latents": drawn.latents, "pictures": drawn.pictures}.items():
        wrong = [i for i, each in enumerate(x) if not each.isfinite().all()]
        if wrong:
            raise EvaluationError(
                f"{len(wrong)} of {len(x)} {what} hold values that are NaN or infinite",
                why="numbers became too large for the type that the pipeline computes in, or its weights are broken",
                hint="draw on the CPU, where weights are float32, or change steps and guidance",
            )


def _check_size(pipe: Any, drawn: Drawn, settings: Pictures) -> None:
    _, frames, _, height, width = drawn.pictures.shape
    asked = (*(settings.width_and_height or (width, height)), settings.frames or frames)
    if asked != (width, height, frames):
        raise EvaluationError(
            f"{type(pipe).__name__} drew {width}x{height} with {counted(frames, 'frame')}",
            why=f"it does not keep to {asked[0]}x{asked[1]} with {asked[2]}",
            hint="leave size and frames to the pipeline, or set what it drew",
        )


def _is_out_of_memory(error: Exception) -> bool:
    """torch has a class of its own for a GPU's memory only."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _out_of_memory(error: Exception, n: int) -> EvaluationError:
    return EvaluationError(
        "memory does not suffice to draw",
        why=(str(error).strip() or type(error).__name__).splitlines()[0],
        hint="set a smaller batch" if n > 1 else "set a smaller size, or offload model or group",
    )
