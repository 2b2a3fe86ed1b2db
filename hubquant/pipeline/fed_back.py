"""What error feedback leaves of the divergence that each tensor causes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.backends.gguf.writing import matrices
from hubquant.convert.conversion import stream
from hubquant.engine.task import FP32_BYTES, Context, Cost, Task
from hubquant.pipeline.held import rate_on
from hubquant.pipeline.moments import StreamedMoments
from hubquant.pipeline.offload import scratch_bytes
from hubquant.pipeline.results import SNAPSHOT, Measurement, describe
from hubquant.pipeline.sensitivity import SensitivityTask
from hubquant.units import counted
from hubquant.version import __version__

if TYPE_CHECKING:
    import torch

    from hubquant.backends.gguf.feedback import Moments
    from hubquant.evaluate.sensitivity import Sensitivities

ROWS, MATRICES = 64, 4  # of a tensor, by which it is told
TOLD_BY = "Q4_K"  # the share is about a tenth less with Q3_K, and a fifth more with the codebooks of two bits
COPIES = 6  # of the moment of an input: both, and in double precision its factor and that inverted


@dataclass(frozen=True, eq=False)
class FedBackSensitivity(Measurement["Sensitivities"]):
    """``sensitivity`` with what error feedback by ``moments`` leaves of it: the error of a tensor's outputs on held-out
    text with feedback, as a share of that without, for some of its rows. One type tells it for all: the share depends
    on the inputs of a tensor far more than on its type."""

    kind = "sensitivity-fed-back"

    sensitivity: SensitivityTask
    moments: StreamedMoments

    @property
    def type(self) -> type[Sensitivities]:
        return self.sensitivity.type

    @property
    def step(self) -> str:
        return "measure"

    @property
    def detail(self) -> str:
        return f"{counted(len(self._names), 'tensor')} with error feedback by {describe(self.moments.chunks)}"

    @property
    def label(self) -> str:
        return "sensitivity with error feedback"

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return {"sensitivity": self.sensitivity, **self.sensitivity.inputs}

    @property
    def made_from(self) -> Mapping[str, Any]:
        return {"moments": dict(self.moments.made_from), "sample": [TOLD_BY, ROWS, MATRICES], "hubquant": __version__}

    @property
    def cost(self) -> Cost:
        component = self.sensitivity.component
        widest = max((component.shapes[name][-1] for name in self._names), default=0)
        return Cost(
            self.moments.ram_bytes + FP32_BYTES * (COPIES * widest**2 + component.largest_block),
            scratch_bytes=scratch_bytes(component, self.moments.chunks.n_tokens),
            work=float(component.n_parameters) * self.moments.chunks.n_tokens,
        )

    @property
    def rate(self) -> str:
        return rate_on(self.kind, self.moments.device)

    @cached_property
    def _names(self) -> list[str]:
        """The tensors that have feedback, if only their inputs are seen."""
        return [name for name in self.sensitivity.measured if name in self.moments.weights]

    def measure(self, folder: Path, context: Context) -> Sensitivities:
        import numpy as np

        from hubquant.evaluate.snapshot import FinishedChunks

        number_of = {name: number for number, name in enumerate(self._names)}
        done = FinishedChunks(folder / SNAPSHOT, bytes.fromhex(self.key), 2)
        try:
            finished = {self._names[int(number)] for number, _ in done}
            with context.progress.bar("measure", len(number_of), "tensors") as advance:
                advance(len(finished))
                for name, share in self._shares(number_of.keys() - finished, folder, context):
                    done.append(np.array([number_of[name], share]))
                    advance(1)
                advance(len(number_of) - len(done))  # of which nothing was seen
            shares = {self._names[int(number)]: float(share) for number, share in done}
        finally:
            done.close()
        (folder / SNAPSHOT).unlink(missing_ok=True)
        found = context.read(self.sensitivity)
        return replace(found, tensors=tuple(replace(t, fed_back=shares.get(t.name, 1.0)) for t in found.tensors))

    def _shares(self, names: Collection[str], folder: Path, context: Context) -> Iterator[tuple[str, float]]:
        import torch

        if not names:
            return
        component = self.sensitivity.component
        checkpoint, matrix = context.read(component.pulled).checkpoint, self.sensitivity.matrix(context)
        for found in self.moments.by_block(frozenset(names), folder, context, torch.get_num_threads()):
            for name, x in stream(component.conversion, checkpoint, dict.fromkeys(found, ("F32",))):
                yield name, self._share(name, x, None if matrix is None else matrix.importance(name), found[name])

    def _share(self, name: str, x: torch.Tensor, importance: torch.Tensor | None, moments: Moments) -> float:
        import torch

        from hubquant.quants import dequantize, quantize, quantize_with_feedback, weighted_error

        type, whole = self.sensitivity.types(name)[TOLD_BY], matrices(x, importance, moments.n_matrices)
        nearest = fed_back = 0.0
        for number in range(0, len(whole), max(1, len(whole) // MATRICES)):
            matrix, weights = whole[number]
            rows = matrix[torch.linspace(0, len(matrix) - 1, min(ROWS, len(matrix))).long()].float()
            seen, held_out = moments.of(number)
            errors = [
                weighted_error(rows, dequantize(data, type, rows.shape[1]), held_out)
                for data in (
                    quantize(rows, type, weights, self.sensitivity.mode),
                    quantize_with_feedback(rows, type, seen),
                )
            ]
            nearest += errors[0]
            fed_back += min(errors)
        return fed_back / nearest if nearest else 1.0
