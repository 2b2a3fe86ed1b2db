"""Denoisers with rounded weights on their source's way, and pictures against each other."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from hubquant.engine.values import keep_value, read_value
from hubquant.errors import EvaluationError
from hubquant.evaluate.pictures import Fidelity, Likeness, Tape, check_faithful, psnr, relative_error, replay, ssim
from hubquant.evaluate.pictures.replay import PredictionError
from hubquant.evaluate.plausible import fewest_bits
from hubquant.models.diffusion.draw import Drawn, draw
from hubquant.models.diffusion.parts import denoiser
from hubquant.quants import dequantize, quantize
from hubquant.quants.formats import lookup
from hubquant.recipe.pictures import Pictures
from tests.support.diffusion import FAMILIES, FRAMES, make_pipeline
from tests.support.processes import exit_code

PROMPTS = ("a red cat", "two ships in a storm")
STEPS = 2


def settings(family: str) -> Pictures:
    return Pictures(steps=STEPS, size=32, frames=FRAMES.get(family))


def record(family: str, folder: Path, width: int = 64, pictures: int = 1) -> tuple[Any, Tape, list[Drawn]]:
    """A pipeline, and what it drew."""
    pipe, tape, drawn = make_pipeline(family, width), Tape(folder), []
    for picture in range(pictures):
        with tape.recording(denoiser(pipe), picture):
            drawn.append(draw(pipe, [PROMPTS[picture]], [picture], settings(family)))
    return pipe, tape, drawn


def rounded(model: torch.nn.Module, type: str) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module.in_features % lookup(type).block_size == 0:
            data = quantize(module.weight.float(), type, mode="exact")
            module.weight.copy_(dequantize(data, type, module.in_features))


def measured(model: torch.nn.Module, tape: Tape, likenesses: Sequence[Likeness] = ()) -> Fidelity:
    return Fidelity.of((each for picture in tape.pictures for each in replay(model, tape, picture)), likenesses)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_denoisers_are_called_with_is_replayed(family: str, tmp_path: Path) -> None:
    """Lists, dicts, doubled batches, two calls in a step: each family has its own."""
    pipe, tape, _ = record(family, tmp_path)
    source = measured(denoiser(pipe), tape)
    assert (source.n_pictures, len(source.by_step)) == (1, STEPS)
    in_one_call = family in ("flux", "hunyuan_video")  # their denoisers are given the guidance as a number
    assert source.n_predictions == STEPS * (1 if in_one_call else 2)
    assert 0 <= source.error < 1e-6
    errors = []
    for type in ("Q8_0", "Q4_0"):
        rounded(denoiser(pipe), type)
        errors.append(measured(denoiser(pipe), tape).error)
    assert 1e-4 < errors[0] < errors[1] / 4


def test_coarser_types_predict_and_draw_worse(tmp_path: Path) -> None:
    pipe, tape, drawn = record("flux", tmp_path, width=256, pictures=2)
    model = denoiser(pipe)
    state = {name: weight.clone() for name, weight in model.state_dict().items()}
    found = []
    for type in ("Q8_0", "Q5_0", "Q4_0", "Q2_K"):
        model.load_state_dict(state)
        rounded(model, type)
        own = [draw(pipe, [PROMPTS[n]], [n], settings("flux")) for n in range(2)]
        pairs = zip(own, drawn, strict=True)
        alike = [Likeness.of(a.latents[0], a.pictures[0], b.latents[0], b.pictures[0]) for a, b in pairs]
        found.append(measured(model, tape, alike))
        check_faithful("flux", fewest_bits([type, "F32"]), found[-1])
    for name in ("error", "drift"):
        assert [getattr(each, name) for each in found] == sorted(getattr(each, name) for each in found)
    for name in ("psnr", "ssim"):
        assert [getattr(each, name) for each in found] == sorted((getattr(each, name) for each in found), reverse=True)
    assert 0 < found[0].error < 0.02
    assert found[-1].error > 10 * found[0].error
    assert found[-1].standard_error > 0
    assert found[0].psnr is not None
    assert found[0].psnr > 40
    model.load_state_dict({name: torch.randn_like(weight) * weight.std() for name, weight in state.items()})
    with pytest.raises(EvaluationError, match="does not predict what the source model does"):
        check_faithful("flux", fewest_bits(["Q8_0", "F32"]), measured(model, tape))


def test_a_tensor_of_all_steps_is_stored_once(tmp_path: Path) -> None:
    _, tape, _ = record("flux", tmp_path)
    names = [
        name for call in json.loads((tmp_path / "picture-0000" / "calls.json").read_text()) for name in call["tensors"]
    ]
    # of each step the latents, the time and the prediction; and once the texts, the pooled texts, the guidance and ids
    assert len(names) == len(set(names)) == 3 * STEPS + 5
    first, last = tape.calls(0)
    assert torch.equal(first.kwargs["encoder_hidden_states"], last.kwargs["encoder_hidden_states"])
    assert first.kwargs["return_dict"] is False
    assert [first.step, last.step] == [0, 1]


def test_weights_of_another_dtype_are_given_what_they_take(tmp_path: Path) -> None:
    pipe, tape = make_pipeline("flux").to(torch.bfloat16), Tape(tmp_path)
    with tape.recording(denoiser(pipe), 0):
        draw(pipe, PROMPTS[:1], [0], settings("flux"))
    assert measured(denoiser(pipe), tape).error == 0
    assert 0 < measured(denoiser(pipe).float(), tape).error < 0.5


def test_offloaded_weights_see_the_same(tmp_path: Path) -> None:
    from accelerate import cpu_offload

    pipe, tape, _ = record("z_image", tmp_path)
    model = cpu_offload(denoiser(pipe), execution_device=torch.device("cpu"))
    assert next(model.parameters()).is_meta
    assert measured(model, tape).error == 0
    with tape.recording(model, 1):
        draw(pipe, PROMPTS[:1], [0], settings("z_image"))
    outputs = [[call.output for call in tape.calls(picture)] for picture in tape.pictures]
    for first, second in zip(*outputs, strict=True):
        assert all(map(torch.equal, first, second))


def killed_while_drawing(folder: Path) -> None:
    pipe, tape, _ = record("flux", folder)
    calls = iter([False, True])

    def kill(*_: object) -> None:
        if next(calls):
            os.kill(os.getpid(), signal.SIGKILL)

    with tape.recording(denoiser(pipe), 1):
        denoiser(pipe).register_forward_hook(kill)
        draw(pipe, PROMPTS[1:], [1], settings("flux"))


def test_what_a_killed_process_recorded_is_kept_by_picture(tmp_path: Path) -> None:
    assert exit_code(killed_while_drawing, tmp_path) == -signal.SIGKILL
    tape = Tape(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".picture-0001.writing", "picture-0000"]
    assert tape.pictures == (0,)
    assert 1 not in tape
    pipe = make_pipeline("flux")
    with tape.recording(denoiser(pipe), 1):
        draw(pipe, PROMPTS[1:], [1], settings("flux"))
    assert tape.pictures == (0, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["picture-0000", "picture-0001"]
    assert measured(denoiser(pipe), tape).error == 0


def test_a_picture_that_fails_leaves_nothing(tmp_path: Path) -> None:
    pipe, tape = make_pipeline("flux"), Tape(tmp_path)
    model = denoiser(pipe)

    def stopped() -> None:
        draw(pipe, PROMPTS[:1], [0], settings("flux"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), tape.recording(model, 0):
        stopped()
    model.proj_out.bias.fill_(math.nan)
    with pytest.raises(EvaluationError, match="not finite, in step 1"), tape.recording(model, 0):
        draw(pipe, PROMPTS[:1], [0], settings("flux"))
    assert not list(tmp_path.iterdir())
    assert not model._forward_hooks
    with pytest.raises(KeyError):
        next(tape.calls(0))
    with pytest.raises(EvaluationError, match="called with a object"), tape.recording(model, 0):
        model(object())


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
        check_faithful(
            "file", fewest_bits([type]), Fidelity.of([PredictionError(0, 0, math.nan), PredictionError(1, 0, 0.1)])
        )
    check_faithful("file", fewest_bits(["IQ1_S"]), Fidelity.of([PredictionError(0, 0, 1.2)]))


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
