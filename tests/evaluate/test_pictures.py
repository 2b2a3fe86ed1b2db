"""Denoisers with rounded weights on their source's way, and pictures against each other."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from hubquant.errors import EvaluationError
from hubquant.evaluate.pictures import Fidelity, Likeness, Tape, check_faithful, psnr, relative_error, replay, ssim
from hubquant.evaluate.pictures.replay import PredictionError
from hubquant.pipeline.results import keep_value, read_value
from hubquant.quants import dequantize, quantize
from tests.support.processes import exit_code

Predict = Callable[[torch.nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
STEPS = 3


def made(model: str, config: dict[str, Any], dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    import diffusers

    torch.manual_seed(0)
    denoiser = getattr(diffusers, model)(**config).eval().requires_grad_(False)
    for weight in denoiser.parameters():  # or what starts at zero predicts nothing
        if weight.dim() > 1:
            weight.normal_(std=0.8 / weight[0].numel() ** 0.5)
    return denoiser.to(dtype)


def flux(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    heads = {"attention_head_dim": 64, "num_attention_heads": 4, "axes_dims_rope": (16, 24, 24)}
    texts = {"joint_attention_dim": 256, "pooled_projection_dim": 256}
    return made(
        "FluxTransformer2DModel", {**heads, **texts, "in_channels": 16, "num_layers": 1, "num_single_layers": 1}, dtype
    )


def of_flux(denoiser: torch.nn.Module, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """With tensors that stay the same from step to step."""
    dtype = x.dtype
    texts = torch.ones(1, 5, 256, dtype=dtype).cumsum(2).sin()
    ids = {"img_ids": torch.arange(48.0).view(16, 3) // 12, "txt_ids": torch.zeros(5, 3)}
    given = {"encoder_hidden_states": texts, "pooled_projections": texts[:, 0], "joint_attention_kwargs": None, **ids}
    return denoiser(hidden_states=x, timestep=(t / 1000).to(dtype), **given, return_dict=False)[0]


def z_image() -> torch.nn.Module:
    sizes = {"dim": 256, "n_layers": 1, "n_refiner_layers": 1, "n_heads": 4, "n_kv_heads": 4, "cap_feat_dim": 256}
    return made("ZImageTransformer2DModel", {**sizes, "axes_dims": [16, 24, 24], "axes_lens": [64, 16, 16]})


def of_z_image(denoiser: torch.nn.Module, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """With lists of two for guidance, by position."""
    caption = torch.ones(5, 256).cumsum(1).sin()
    with_text, without = denoiser([x[0], x[0]], (1 - t / 1000).repeat(2), [caption, caption[:1]], return_dict=False)[0]
    return (without + 4 * (with_text - without))[None]


def unet() -> torch.nn.Module:
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    sizes = {"block_out_channels": (256,), "cross_attention_dim": 256, "in_channels": 16, "out_channels": 16}
    sizes |= {"layers_per_block": 1, "sample_size": 4, "attention_head_dim": 4}
    sizes |= {"addition_embed_type": "text_time", "addition_time_embed_dim": 32, "transformer_layers_per_block": 1}
    return made("UNet2DConditionModel", {**blocks, **sizes, "projection_class_embeddings_input_dim": 256})


def of_unet(denoiser: torch.nn.Module, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """With a doubled batch for guidance, a dict, and two calls in a step."""
    texts = torch.ones(2, 5, 256).cumsum(2).sin()
    added = {"text_embeds": texts[:, 0, :64], "time_ids": torch.full((2, 6), 32.0)}
    for _ in range(2):
        found = denoiser(torch.cat([x, x]), t, encoder_hidden_states=texts, added_cond_kwargs=added).sample
    return found[:1] + 4 * (found[1:] - found[:1])


FAMILIES: dict[str, tuple[Callable[[], torch.nn.Module], Predict, tuple[int, ...]]] = {
    "flux": (flux, of_flux, (1, 16, 16)),
    "z_image": (z_image, of_z_image, (1, 16, 1, 4, 4)),
    "unet": (unet, of_unet, (1, 16, 4, 4)),
}
CALLS, PREDICTIONS = {"flux": 3, "z_image": 3, "unet": 6}, {"flux": 3, "z_image": 6, "unet": 12}


def draw(denoiser: torch.nn.Module, family: str, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """By Euler's method."""
    _, predict, shape = FAMILIES[family]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    for t in torch.linspace(1000, 400, STEPS):
        x = x - predict(denoiser, x, t[None]) / STEPS
    return x


def record(family: str, folder: Path, pictures: int = 2) -> tuple[torch.nn.Module, Tape]:
    denoiser, tape = FAMILIES[family][0](), Tape(folder)
    for picture in range(pictures):
        with tape.recording(denoiser, picture):
            draw(denoiser, family, picture)
    return denoiser, tape


def rounded(denoiser: torch.nn.Module, type: str) -> None:
    for module in denoiser.modules():
        if isinstance(module, torch.nn.Linear) and module.in_features % 256 == 0:
            data = quantize(module.weight.float(), type, mode="exact")
            module.weight.copy_(dequantize(data, type, module.in_features))


def measured(denoiser: torch.nn.Module, tape: Tape) -> Fidelity:
    return Fidelity.of(each for picture in tape.pictures for each in replay(denoiser, tape, picture))


@pytest.mark.parametrize("family", FAMILIES)
def test_coarser_types_predict_worse_and_the_same_weights_the_same(family: str, tmp_path: Path) -> None:
    denoiser, tape = record(family, tmp_path)
    assert [call.step for call in tape.calls(1)] == sorted([*range(STEPS)] * (CALLS[family] // STEPS))
    source = measured(denoiser, tape)
    assert (source.error, source.by_step) == (0, (0,) * STEPS)
    assert (source.n_pictures, source.n_predictions) == (2, 2 * PREDICTIONS[family])
    state = {name: weight.clone() for name, weight in denoiser.state_dict().items()}
    found = []
    for type in ("Q8_0", "Q5_0", "Q4_0", "Q2_K"):
        denoiser.load_state_dict(state)
        rounded(denoiser, type)
        found.append(measured(denoiser, tape))
        check_faithful(family, [type, "F32"], found[-1])
    assert [each.error for each in found] == sorted(each.error for each in found)
    assert 0 < found[0].error < 0.02
    assert found[-1].error > 10 * found[0].error
    assert found[-1].standard_error > 0
    denoiser.load_state_dict({name: torch.randn_like(weight) * weight.std() for name, weight in state.items()})
    with pytest.raises(EvaluationError, match="does not predict what the source model does"):
        check_faithful(family, ["Q8_0", "F32"], measured(denoiser, tape))


def test_a_tensor_of_all_steps_is_stored_once(tmp_path: Path) -> None:
    _, tape = record("flux", tmp_path, pictures=1)
    folder = tmp_path / "picture-0000"
    names = [name for call in json.loads((folder / "calls.json").read_text()) for name in call["tensors"]]
    # of each step the latents, the time and the prediction; and texts, pooled texts and two kinds of ids once
    assert len(names) == len(set(names)) == 3 * STEPS + 4
    first, *_, last = tape.calls(0)
    assert torch.equal(first.kwargs["encoder_hidden_states"], last.kwargs["encoder_hidden_states"])
    assert first.kwargs["return_dict"] is False


def test_weights_of_another_dtype_see_the_same_numbers(tmp_path: Path) -> None:
    half, tape = flux(torch.bfloat16), Tape(tmp_path)
    with tape.recording(half, 0):
        draw(half, "flux", 0, torch.bfloat16)
    assert measured(half, tape).error == 0
    assert 0 < measured(half.float(), tape).error < 0.05


def killed_while_drawing(folder: Path) -> None:
    denoiser, tape, steps = flux(), Tape(folder), iter(range(4))

    def kill(*_: object) -> None:
        if next(steps) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    with tape.recording(denoiser, 0):
        draw(denoiser, "flux", 0)
    denoiser.register_forward_hook(kill)
    with tape.recording(denoiser, 1):
        draw(denoiser, "flux", 1)
        draw(denoiser, "flux", 1)


def test_what_a_killed_process_recorded_is_kept_by_picture(tmp_path: Path) -> None:
    assert exit_code(killed_while_drawing, tmp_path) == -signal.SIGKILL
    tape = Tape(tmp_path)
    assert tape.pictures == (0,)
    assert 1 not in tape
    denoiser = flux()
    with tape.recording(denoiser, 1):
        draw(denoiser, "flux", 1)
    assert tape.pictures == (0, 1)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["picture-0000", "picture-0001"]
    assert measured(denoiser, tape).error == 0


def test_a_picture_that_fails_leaves_nothing(tmp_path: Path) -> None:
    denoiser, tape = flux(), Tape(tmp_path)
    with pytest.raises(RuntimeError), tape.recording(denoiser, 0):
        [draw(denoiser, "flux", 0), of_flux(denoiser, torch.zeros(1, 16, 17), torch.ones(1))]
    denoiser.proj_out.bias.fill_(math.nan)
    with pytest.raises(EvaluationError, match="not finite, in step 1"), tape.recording(denoiser, 0):
        draw(denoiser, "flux", 0)
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyError):
        next(tape.calls(0))
    with pytest.raises(EvaluationError, match="called with a object"), tape.recording(denoiser, 0):
        denoiser(object())


def test_summary_by_hand(tmp_path: Path) -> None:
    errors = [PredictionError(0, 0, 0.1), PredictionError(0, 0, 0.3), PredictionError(0, 1, 0.2)]
    errors += [PredictionError(1, 0, 0.4), PredictionError(1, 0, 0.4), PredictionError(1, 1, 0.4)]
    found = Fidelity.of(errors, [Likeness(0.1, 30, 0.9), Likeness(0.3, 20, 0.8)])
    assert found.error == pytest.approx(0.3)
    assert found.standard_error == pytest.approx(0.1)  # of 0.2 and 0.4
    assert found.by_step == pytest.approx((0.3, 0.3))
    assert (found.drift, found.psnr, found.ssim) == pytest.approx((0.2, 25, 0.85))
    assert str(found) == "prediction error 0.30 ± 0.10, PSNR 25.0 dB, SSIM 0.850 on 2 pictures"
    keep_value(tmp_path / "fidelity.json", found)
    assert read_value(tmp_path / "fidelity.json", Fidelity) == found
    assert Fidelity.of(errors[:1]).standard_error == 0
    with pytest.raises(ValueError, match="nothing"):
        Fidelity.of([])


@pytest.mark.parametrize("type", ["Q8_0", "IQ1_S"])
def test_a_file_that_predicts_no_numbers_is_refused(type: str) -> None:
    with pytest.raises(EvaluationError, match="values that are not finite"):
        check_faithful("file", [type], Fidelity.of([PredictionError(0, 0, math.nan), PredictionError(1, 0, 0.1)]))
    check_faithful("file", ["IQ1_S"], Fidelity.of([PredictionError(0, 0, 1.2)]))


def test_relative_error_and_psnr_by_hand() -> None:
    source = torch.tensor([3.0, 4.0])
    assert relative_error(torch.tensor([3.0, 4.5]), source) == pytest.approx(0.1)
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0
    assert relative_error(source, torch.zeros(2)) == math.inf
    picture = torch.full((1, 3, 8, 8), 0.5)
    assert psnr(picture + 0.1, picture) == pytest.approx(20)
    assert psnr(picture, picture) == pytest.approx(144.5, abs=0.01)
    assert math.isnan(psnr(picture * math.nan, picture))


def test_ssim_window_by_window() -> None:
    x, y = np.random.default_rng(0).random((2, 3, 11, 9))
    values = []
    for a, b in zip(*(sliding_window_view(each, (7, 7), (1, 2)).reshape(-1, 49) for each in (x, y)), strict=True):
        covariance = np.cov(a, b)
        above = (2 * a.mean() * b.mean() + 1e-4) * (2 * covariance[0, 1] + 9e-4)
        values.append(above / ((a.mean() ** 2 + b.mean() ** 2 + 1e-4) * (covariance[0, 0] + covariance[1, 1] + 9e-4)))
    assert ssim(torch.from_numpy(x)[None], torch.from_numpy(y)[None]) == pytest.approx(np.mean(values))
    assert ssim(torch.from_numpy(x), torch.from_numpy(x)) == pytest.approx(1)
    flat = torch.full((3, 8, 8), 0.5)  # (2·0.5·0.7 + 1e-4) / (0.5² + 0.7² + 1e-4)
    assert ssim(flat + 0.2, flat) == pytest.approx(0.7001 / 0.7401)
    with pytest.raises(ValueError, match="6 × 8 pixels"):
        ssim(torch.ones(3, 8, 6), torch.ones(3, 8, 6))
