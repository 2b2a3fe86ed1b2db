"""What is told of folders that libraries have quantized."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hubquant.units import counted

if TYPE_CHECKING:
    from hubquant.publish.drawing import Drawing
    from hubquant.publish.recommendation import MeasuredFile


@dataclass(frozen=True)
class InLibrary:
    """``backend`` has quantized all but ``n_left`` of ``n_layers`` linear layers, with these ``versions``;
    ``difference`` is that of the logits once the folder was loaded again, or of a denoiser's predictions, relative;
    ``calibrated`` tells whether it was rounded by a text. ``dtype`` is torch's name of that of its floats. ``error`` is
    that of the layer that is farthest from the source's, relative, None where layers cannot be held against it."""

    backend: str
    versions: Mapping[str, str]
    n_layers: int
    n_left: int
    difference: float
    calibrated: bool
    dtype: str = ""
    error: float | None = None


_TRANSFORMERS = """\
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained({0}, dtype="auto")"""
LOADED_BY = {
    "bitsandbytes": _TRANSFORMERS,
    "torchao": _TRANSFORMERS,
    "sdnq": f"import sdnq\n{_TRANSFORMERS}",
    "quanto": """\
from optimum.quanto import QuantizedModelForCausalLM

model = QuantizedModelForCausalLM.from_pretrained({0})""",
}
ANY = "import hubquant\n\nmodel = hubquant.load({0})"


_DIFFUSERS = """\
import torch
from diffusers import {pipeline}, {denoiser}

{part} = {denoiser}.from_pretrained({folder}, torch_dtype=torch.{dtype})
pipe = {pipeline}.from_pretrained({source}, {part}={part}, torch_dtype=torch.{dtype})"""


def snippet(file: MeasuredFile, drawing: Drawing | None = None, source: str = "") -> str:
    """Lines of Python that load a folder that was downloaded, by its library alone where that can read it: a denoiser
    into the pipeline of ``source``."""
    assert file.library
    folder = json.dumps(f"./{file.file}")
    if drawing is None:
        return LOADED_BY.get(file.library.backend, ANY).format(folder)
    lines = _DIFFUSERS.format(
        pipeline=drawing.pipeline,
        denoiser=drawing.denoiser,
        part=drawing.part,
        folder=folder,
        source=json.dumps(source, ensure_ascii=False),
        dtype=file.library.dtype,
    )
    return f"import sdnq\n{lines}" if file.library.backend == "sdnq" else lines


def library_checks(files: Sequence[MeasuredFile]) -> list[str]:
    """What was found out of the folders, in sentences for a terminal and for the card."""
    folders = [(file, file.library) for file in files if file.library]
    if not folders:
        return []
    what = "predictions" if any(file.fidelity for file, _ in folders) else "logits"
    exact = [file.type for file, found in folders if not found.difference]
    largest = max(found.difference for _, found in folders)
    same = f"{', '.join(exact)} to the last bit" if exact else ""
    nearly = f"{'the others ' if exact else ''}to {largest:.1g} of their size" if len(exact) < len(folders) else ""
    sentences = [
        f"Each folder was loaded again in a fresh process by its library alone, and its {what} were what was saved: "
        f"{', '.join(filter(None, (same, nearly)))}."
    ]
    if errors := [f"{found.error:.1%} ({file.type})" for file, found in folders if found.error is not None]:
        sentences.append(
            "Each layer was held against the source's, and so was each tensor that stayed in floats: the farthest "
            f"layer is off by {', '.join(errors)} of its size, which rounding explains."
        )
    for file, found in folders:
        if found.n_left:
            sentences.append(
                f"{file.type}: {found.n_left} of {counted(found.n_layers, 'linear layer')} are in floats still."
            )
    calibrated = {found.backend for _, found in folders if found.calibrated}
    blind = sorted(
        {file.type if found.backend in calibrated else found.backend for file, found in folders if not found.calibrated}
    )
    if blind:
        sentences.append(f"{', '.join(blind)} rounded without calibration data.")
    return sentences
