"""What is drawn, against plain calls of diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hubquant.errors import CheckpointError, EvaluationError
from hubquant.models.diffusion import denoiser, denoisers, draw
from hubquant.recipe.pictures import Pictures
from tests.support.diffusion import FRAMES, call_pipeline, make_pipeline

PROMPTS = ["a red cat", "a lighthouse at dusk"]
LATENTS = ("sd15", "sd3", "flux", "wan", "pixart")
"""Of those whose pipelines give for ``latent`` what their last step leaves, and not another order of it."""


def settings(family: str = "", **values: Any) -> Pictures:
    return Pictures(**{"size": 32, "steps": 2, "frames": FRAMES.get(family), **values})


def calls_of_denoiser(pipe: Any, pictures: Pictures) -> int:
    calls: list[int] = []
    handle = denoiser(pipe).register_forward_pre_hook(lambda *_: calls.append(1))
    draw(pipe, PROMPTS[:1], [0], pictures)
    handle.remove()
    return len(calls)


@pytest.mark.parametrize("family", LATENTS)
def test_latents_are_those_of_the_last_step(family: str) -> None:
    pipe = make_pipeline(family)
    latents = draw(pipe, PROMPTS, [1, 2], settings(family)).latents
    torch.testing.assert_close(latents, call_pipeline(pipe, family, PROMPTS, [1, 2], "latent"))


@pytest.mark.parametrize("family", ["sdxl", "z_image", "qwen_image"])
def test_a_batch_draws_what_single_calls_do(family: str) -> None:
    pipe = make_pipeline(family)
    both = draw(pipe, PROMPTS, [7, 8], settings())
    second = draw(pipe, PROMPTS[1:], [8], settings())
    torch.testing.assert_close(both.pictures[1], second.pictures[0], atol=1e-4, rtol=0)
    assert not both.pictures[0].allclose(second.pictures[0], atol=1e-2)
    other_noise = draw(pipe, PROMPTS[1:], [9], settings())
    assert not other_noise.pictures.allclose(second.pictures, atol=1e-2)


def test_width_comes_before_height() -> None:
    assert draw(make_pipeline("flux"), PROMPTS[:1], [0], settings(size=(64, 32))).pictures.shape[-2:] == (32, 64)


def test_guidance_is_what_the_pipeline_calls_so() -> None:
    pipe = make_pipeline("qwen_image")
    assert calls_of_denoiser(pipe, settings()) == 2 * 2
    assert calls_of_denoiser(pipe, settings(guidance=1)) == 2
    assert calls_of_denoiser(make_pipeline("flux"), settings(guidance=9)) == 2
    pipe = make_pipeline("lumina2")
    assert calls_of_denoiser(pipe, settings()) == 2 * 2
    assert calls_of_denoiser(pipe, settings(guidance=1)) == 2


def test_a_pipeline_with_two_denoisers() -> None:
    from diffusers import WanPipeline

    parts = make_pipeline("wan").components
    second = make_pipeline("wan", seed=1).transformer
    pipe = WanPipeline(**{**parts, "transformer_2": second}, boundary_ratio=0.8)
    pipe.set_progress_bar_config(disable=True)
    assert denoisers(pipe) == {"transformer": parts["transformer"], "transformer_2": second}
    assert denoiser(pipe) is parts["transformer"]
    both = draw(pipe, PROMPTS[:1], [0], settings("wan"))
    one = draw(WanPipeline(**parts), PROMPTS[:1], [0], settings("wan"))
    assert not both.latents.allclose(one.latents, atol=1e-2)


def test_a_pipeline_without_a_denoiser() -> None:
    pipe = make_pipeline("flux")
    pipe.transformer = None
    with pytest.raises(CheckpointError, match=r"FluxPipeline has no denoiser: .* it has vae, text_encoder, "):
        denoiser(pipe)


def test_pictures_that_are_no_numbers() -> None:
    pipe = make_pipeline("sd15")
    pipe.vae.decoder.conv_in.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(EvaluationError, match="2 of 2 pictures hold values that are NaN"):
        draw(pipe, PROMPTS, [1, 2], settings())
    pipe.unet.conv_in.weight[0, 0, 0, 0] = float("inf")
    with pytest.raises(EvaluationError, match="2 of 2 latents hold values that are NaN"):
        draw(pipe, PROMPTS, [1, 2], settings())


def test_what_the_pipeline_refuses_is_said() -> None:
    with pytest.raises(EvaluationError, match=r"SanaPipeline refuses to draw: .* divisible by 32 but are 40 and 40"):
        draw(make_pipeline("sana"), PROMPTS[:1], [0], settings(size=40))


def test_another_size_than_was_asked_for() -> None:
    with pytest.raises(EvaluationError, match="FluxPipeline drew 32x32 with 1 frame: it does not keep to 40x40 with 1"):
        draw(make_pipeline("flux"), PROMPTS[:1], [0], settings(size=40))


def fill_main_memory(*_: Any) -> None:
    torch.empty(1 << 55)


def fill_gpu(*_: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")


@pytest.mark.parametrize(("fill", "why"), [(fill_main_memory, "can't allocate memory"), (fill_gpu, r"2\.00 GiB\.$")])
def test_memory_that_does_not_suffice(fill: Callable[..., None], why: str) -> None:
    pipe = make_pipeline("sd15")
    pipe.unet.register_forward_pre_hook(fill)
    with pytest.raises(EvaluationError, match=f"memory does not suffice to draw: .*{why}") as caught:
        draw(pipe, PROMPTS, [1, 2], settings())
    assert "smaller batch" in str(caught.value.hint)
