"""What is told of folders that libraries have quantized."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hubquant.units import counted

if TYPE_CHECKING:
    from hubquant.publish.recommendation import MeasuredFile


@dataclass(frozen=True)
class InLibrary:
    """``backend`` has quantized all but ``n_left`` of ``n_layers`` linear layers, with these ``versions``;
    ``difference`` is that of the logits once the folder was loaded again, relative; ``calibrated`` tells whether it was
    rounded by a text."""

    backend: str
    versions: Mapping[str, str]
    n_layers: int
    n_left: int
    difference: float
    calibrated: bool


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


def snippet(file: MeasuredFile) -> str:
    """Lines of Python that load a folder that was downloaded, by its library alone where that can read it."""
    assert file.library
    return LOADED_BY.get(file.library.backend, ANY).format(json.dumps(f"./{file.file}"))


def library_checks(files: Sequence[MeasuredFile]) -> list[str]:
    """What was found out of the folders, in sentences for a terminal and for the card."""
    folders = [(file, file.library) for file in files if file.library]
    if not folders:
        return []
    exact = [file.type for file, found in folders if not found.difference]
    largest = max(found.difference for _, found in folders)
    same = f"{', '.join(exact)} to the last bit" if exact else ""
    nearly = f"{'the others ' if exact else ''}to {largest:.1g} of their size" if len(exact) < len(folders) else ""
    sentences = [
        "Each folder was loaded again in a fresh process by its library alone, and its logits were what was saved: "
        f"{', '.join(filter(None, (same, nearly)))}."
    ]
    for file, found in folders:
        if found.n_left:
            sentences.append(
                f"{file.type}: {found.n_left} of {counted(found.n_layers, 'linear layer')} are in floats still."
            )
    blind = sorted({found.backend for _, found in folders if not found.calibrated})
    if blind:
        sentences.append(f"{', '.join(blind)} rounded without calibration data.")
    return sentences
