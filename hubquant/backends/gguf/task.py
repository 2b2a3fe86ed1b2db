"""A GGUF file as a task; all files of a source are written in one pass over its weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hubquant.backends.gguf.feedback import Factors, Journal, Moments, MomentsSource, rounded_with_feedback
from hubquant.backends.gguf.files import MATRIX_KEY, FilePlan, Weights, quantize_part
from hubquant.backends.gguf.writing import Mode, Rounding, Target, TypesByTensor, quantize_files
from hubquant.checkpoint.headers import FLOATS
from hubquant.convert.conversion import read_numbers, stream
from hubquant.engine.task import FP32_BYTES, Context, Cost, Pass, Task
from hubquant.errors import CheckpointError
from hubquant.gguf_file import Split, shard_paths
from hubquant.mix import DENOISERS
from hubquant.recipe.schema import Quantize
from hubquant.sources.component import Component
from hubquant.sources.pulled import Pulled
from hubquant.version import __version__

if TYPE_CHECKING:
    import torch

    from hubquant.imatrix import ImportanceMatrix

QUANTIZE_COPIES = 3  # a tensor as read, in fp32, and its quantized forms with scratch


@dataclass(frozen=True, eq=False)
class QuantizedFile(Task[Path]):
    """Writes ``plan`` of a component, whose ``weights`` it holds.

    ``imatrix`` is None where none is used; of its entries those are that ``include`` and ``exclude`` leave, as
    :func:`hubquant.imatrix.selected` has them. A file whose ``plan`` tells of no matrix does not use it, and is made in
    the same pass as those that do. With ``moments`` weights are rounded with error feedback.
    """

    kind = "file"

    component: Component
    weights: Weights
    plan: FilePlan
    settings: Quantize
    split: Split
    imatrix: Task[ImportanceMatrix] | None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    moments: MomentsSource | None = None

    @property
    def step(self) -> str:
        return "quantize"

    @property
    def detail(self) -> str:
        return self.plan.label

    @property
    def uses_imatrix(self) -> bool:
        """Not a file of floats, which has no word of it. Any other records the matrix, as llama-quantize's do, even
        where its tensors are the same without it, as those of Q8_0 are in the exact mode."""
        return self.imatrix is not None and MATRIX_KEY in self.plan.layouts[0].metadata

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        matrix = {"imatrix": self.imatrix} if self.imatrix is not None and self.uses_imatrix else {}
        return {"weights": self.component.pulled, **matrix}

    @property
    def made_from(self) -> Mapping[str, Any]:
        parts = {"include_weights": self.include, "exclude_weights": self.exclude}
        return {
            **quantize_part(self.plan.ftype, self.settings),
            "name": self.plan.name,
            **self._shards,
            "imatrix": parts if self.uses_imatrix else None,
            **({"moments": self.moments.made_from} if self.moments else {}),
            "metadata": self.weights.metadata_fingerprint,
            **({"names": names} if (names := self.component.source.names_as) else {}),
            "hubquant": __version__,
        }

    @property
    def _shards(self) -> Mapping[str, Any]:
        if self.plan.n_shards == 1:
            return {"shard_bytes": None}
        if self.split.max_tensors is None and self.split.shards is None:
            return {"shard_bytes": self.split.max_bytes}
        return {"shards": [list(layout.tensors) for layout in self.plan.layouts]}

    @property
    def cost(self) -> Cost:
        gathering = self.moments.ram_bytes if self.moments else 0
        return Cost(
            ram_bytes=QUANTIZE_COPIES * FP32_BYTES * self.weights.largest + gathering,
            disk_bytes=self.plan.size,
            work=self.weights.n_parameters,
        )

    @property
    def rate(self) -> str:
        return f"quantize {self.plan.ftype} {self.rounding}"

    @property
    def rounding(self) -> Literal[Mode, "feedback"]:
        return "feedback" if self.moments else self.settings.mode

    @property
    def shares(self) -> WeightsPass:
        return WeightsPass(
            self.component.pulled,
            self.component.name,
            self.imatrix,
            self.include,
            self.exclude,
            self.settings.mode,
            self._as_sdcpp,
            self.moments,
            self.component,
        )

    @property
    def _as_sdcpp(self) -> bool:
        exact = self.settings.mode == "exact" and self.settings.pure
        return exact and self.component.conversion.architecture in DENOISERS

    def make(self, folder: Path, context: Context) -> None:
        self.shares.make([(self, folder)], context)

    def read(self, folder: Path) -> Path:
        """The file, or its first shard."""
        return self.paths(folder)[0]

    def paths(self, folder: Path) -> list[Path]:
        return shard_paths(folder / Path(self.plan.name).name, self.plan.n_shards)


@dataclass(frozen=True)
class WeightsPass(Pass):
    """Reads every weight of a ``part`` of the source once and writes it into all files.

    ``as_sdcpp``: with stable-diffusion.cpp's bytes. It weighs columns by the values of a .dat file, which are the means
    times a number and round in another way, and by ones where it has none.
    """

    pulled: Pulled
    part: str
    imatrix: Task[ImportanceMatrix] | None
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    mode: Mode
    as_sdcpp: bool
    moments: MomentsSource | None
    component: Component = field(compare=False)

    def make(self, tasks: Sequence[tuple[QuantizedFile, Path]], context: Context) -> None:
        source = context.read(self.pulled)
        matrix = None
        if self.imatrix is not None and any(task.uses_imatrix for task, _ in tasks):
            whole = self.component.complete.fitted(context.read(self.imatrix))
            matrix = whole.select(self.include, self.exclude)
        planned = self.component.conversion.metadata
        numbers = read_numbers(self.component.conversion, source.checkpoint)
        targets = [
            Target(
                folder / Path(task.plan.name).name,
                [layout.with_values(planned, numbers) for layout in task.plan.layouts],
                task.plan.types,
                task.uses_imatrix,
            )
            for task, folder in tasks
        ]
        total = sum(task.plan.tensor_bytes for task, _ in tasks)
        stored = source.stored(self.component.complete.conversion)
        reading = _Reading(self, {folder: task.plan.types for task, folder in tasks}, context)
        try:
            with context.progress.bar("quantize", total, "B") as advance:
                quantize_files(
                    targets,
                    reading.stream,
                    lambda name: self._importance(matrix, name),
                    self.mode,
                    advance,
                    lambda name, type: stored(self.component.origin(name), type),
                    lambda name: self._importance(None, name),
                    reading.rounding,
                )
        except CheckpointError:  # the model itself is at fault: going on would end here again
            for _, folder in tasks:
                for path in folder.iterdir():
                    path.unlink()
            raise

    def _importance(self, matrix: ImportanceMatrix | None, name: str) -> torch.Tensor | None:
        import torch

        name_there = self.component.origin(name)
        if not self.as_sdcpp:
            return None if matrix is None else matrix.importance(name_there)
        if matrix is None or name_there not in matrix.entries:
            return torch.ones(self.component.shapes[name][-1])
        return matrix.entries[name_there].by_chunks(matrix.chunk_size)[1][0]


class _Reading:
    """The weights of a pass in the order in which they are rounded, with the moments that are at hand then."""

    def __init__(self, of: WeightsPass, folders: Mapping[Path, Mapping[str, str]], context: Context) -> None:
        import torch

        self._of, self._context = of, context
        self._folder, self._journal = next(iter(folders)), Journal(folders)
        self._moments: Mapping[str, Moments] = {}
        self._n_threads = torch.get_num_threads()
        self._factors = Factors(self._n_threads)

    def stream(self, wanted: TypesByTensor) -> Iterator[tuple[str, torch.Tensor]]:
        """What is rounded without moments first."""
        component, source = self._of.component, self._context.read(self._of.pulled)
        names: dict[str, str] = {}
        if self._of.moments is not None:
            known = self._of.moments.weights
            rounded = (name for name, types in wanted.items() if not set(types) <= {*FLOATS})
            names = {component.origin(name): name for name in rounded if component.origin(name) in known}
        alone = {name: types for name, types in wanted.items() if name not in names.values()}
        yield from stream(component.conversion, source.checkpoint, alone)
        if self._of.moments is None or not names:
            return
        left = {name: wanted[name] for name in names.values()}
        for found in self._of.moments.by_block(frozenset(names), self._folder, self._context, self._n_threads):
            self._moments = {names[origin]: moments for origin, moments in found.items()}
            here = {name: left.pop(name) for name in self._moments}
            yield from stream(component.conversion, source.checkpoint, here)
            self._moments, self._factors = {}, self._factors.renewed()
            del found  # before the moments of the next block are there
        yield from stream(component.conversion, source.checkpoint, left)  # of which nothing was seen

    def rounding(self, name: str) -> tuple[int, Rounding] | None:
        if (moments := self._moments.get(name)) is None:
            return None
        threads = self._n_threads if len(self._moments) == moments.n_matrices == 1 else 1  # as the output layer is
        factors = self._factors

        def rounded(number: int, x: torch.Tensor, type: str, importance: torch.Tensor | None) -> torch.Tensor:
            return rounded_with_feedback(name, number, x, type, importance, moments, factors, self._journal, threads)

        return moments.n_matrices, rounded
