"""What importance does to a denoiser's predictions: ``python -m benchmarks.diffusion_quality [TYPE ...]``.

Every linear layer whose rows a block of the type divides is quantized (mode "best"), and predicts where the source was
while it drew the held-out prompts: mean of ‖o - y‖ / ‖y‖ over all predictions, with the standard error over pictures.
Importance is collected while the calibration prompts are drawn, and weighs all steps alike, by the share of noise in
what the denoiser is given, or by the share of picture. The bundled pipeline, by default.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.kernels import machine
from benchmarks.weights import DATA, linear_layers
from hubquant.calibration.prompts import read_prompts
from hubquant.convert.diffusion.importance import weight_names
from hubquant.evaluate.pictures import Fidelity, Tape, replay
from hubquant.models.diffusion import denoiser, draw, load_pipeline
from hubquant.observe.pictures import PictureSums, TimestepWeight
from hubquant.quants import TYPES, dequantize, implemented, needs_importance, quantize
from hubquant.recipe.pictures import Pictures, PromptSource
from hubquant.units import measured

WEIGHTINGS: Mapping[str, TimestepWeight | None] = {
    "all steps": None,
    "by noise": lambda level: level,
    "by picture": lambda level: 1 - level,
}


def importances(pipe: Any, settings: Pictures) -> dict[str, dict[str, Tensor]]:
    """By weighting, the mean squared input of each column of the denoiser's linear layers: float32 [n_in] by name."""
    observers = {name: PictureSums(pipe, timestep_weight=weight) for name, weight in WEIGHTINGS.items()}
    with ExitStack() as observing:
        for sums in observers.values():
            observing.enter_context(sums.observing())
        for prompt, seed in zip(read_prompts(settings), settings.seeds, strict=True):
            pictures = draw(pipe, [prompt], [seed], settings).pictures[:, 0]
            for sums in observers.values():
                sums.settle(pictures)
    model = denoiser(pipe)
    names = weight_names({name: tuple(weight.shape) for name, weight in model.state_dict().items()})
    found: dict[str, dict[str, Tensor]] = {}
    for weighting, sums in observers.items():
        entries = sums.matrix({}).entries
        found[weighting] = {
            name: entries[names[f"{name}.weight"]].means()[0].float()
            for name in linear_layers(model)
            if names.get(f"{name}.weight") in entries
        }
    return found


def record(pipe: Any, settings: Pictures, folder: Path) -> Tape:
    tape = Tape(folder)
    for prompt, seed in zip(read_prompts(settings), settings.seeds, strict=True):
        with tape.recording(denoiser(pipe), seed):
            draw(pipe, [prompt], [seed], settings)
    return tape


def quantized(model: nn.Module, type: str, importance: Mapping[str, Tensor] | None) -> nn.Module:
    """A copy, with its linear layers as a file of this type has them."""
    model = copy.deepcopy(model)
    for name, layer in linear_layers(model).items():
        weight = layer.weight.detach().float()
        if weight.shape[1] % TYPES[type].block_size == 0 and (importance is None or name in importance):
            data = quantize(weight, type, importance[name] if importance else None, "best")
            layer.weight.data = dequantize(data, type, weight.shape[1])
    return model


def error(model: nn.Module, tape: Tape) -> Fidelity:
    return Fidelity.of(each for picture in tape.pictures for each in replay(model, tape, picture))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", metavar="TYPE")
    parser.add_argument("--model", type=Path, default=DATA / "demo-diffusion", help="folder of a pipeline")
    parser.add_argument("--prompts", type=Path, help="to calibrate with (default: those of the demo)")
    parser.add_argument("--test-prompts", type=Path, help="to measure with (default: those of the demo)")
    parser.add_argument("--count", type=int, nargs=2, default=(24, 8), help="how many pictures of each")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    calibration, test = (
        Pictures(
            prompts=(PromptSource(file=str(given)) if given else PromptSource(bundled=bundled),),
            count=count,
            steps=args.steps,
            guidance=args.guidance,
            seed=seed,
        )
        for given, bundled, count, seed in zip(
            (args.prompts, args.test_prompts), ("demo-prompts", "demo-prompts-test"), args.count, (0, 1000), strict=True
        )
    )
    pipe = load_pipeline(args.model, "cpu")
    found = importances(pipe, calibration)
    print(f"{machine()}; {args.count[0]} pictures to calibrate, {args.count[1]} to measure, {args.steps} steps\n")
    print(f"| type | plain | {' | '.join(found)} |\n|---|---|{'---|' * len(found)}")
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        tape = record(pipe, test, Path(folder))
        for type in args.types or [t for t, fmt in TYPES.items() if implemented(t) and fmt.block_size > 1]:
            cells = ["–" if needs_importance(type) else _cell(error(quantized(denoiser(pipe), type, None), tape))]
            cells += [_cell(error(quantized(denoiser(pipe), type, each), tape)) for each in found.values()]
            print(f"| {type} | {' | '.join(cells)} |", flush=True)


def _cell(found: Fidelity) -> str:
    return measured(found.error, found.standard_error)


if __name__ == "__main__":
    main()
