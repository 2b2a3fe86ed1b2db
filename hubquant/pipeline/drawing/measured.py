"""How well a file draws, and whether it is the better for its importance matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.backends.folder import QuantizedFolder
from hubquant.backends.gguf.task import QuantizedFile
from hubquant.disk import write_at_once
from hubquant.engine.task import Context, Cost, Task
from hubquant.engine.values import keep_value, read_value
from hubquant.errors import EvaluationError
from hubquant.evaluate.pictures import Fidelity, Likeness, PredictionError
from hubquant.pipeline.drawing.held import drawing_cost, pipeline_of_file
from hubquant.pipeline.drawing.source import DrawnBySource, SourceDrawings, numbered
from hubquant.pipeline.held import other_device, rate_on
from hubquant.pipeline.results import FileMeasurement
from hubquant.version import __version__

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from hubquant.evaluate.pictures import Call

PICTURES = "pictures"


@dataclass(frozen=True)
class Errors:
    predictions: tuple[PredictionError, ...]


@dataclass(frozen=True)
class Chosen:
    """``fidelity`` is that of the file which was chosen: ``with_imatrix`` tells which where there were two, and
    ``other_error`` is the mean prediction error of the other one."""

    fidelity: Fidelity
    with_imatrix: bool | None = None
    other_error: float | None = None


@dataclass(frozen=True, eq=False)
class DrawingEvaluation(FileMeasurement[Chosen]):
    """Of ``file``, which is called ``name``; where there is one ``plain``, made without the importance matrix, it is
    measured too, and the pictures are drawn with whichever predicts better."""

    kind = "drawing-evaluation"
    version = 2

    file: QuantizedFile | QuantizedFolder
    plain: QuantizedFile | None
    baseline: DrawnBySource
    name: str

    @property
    def type(self) -> type[Chosen]:
        return Chosen

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        plain = {"plain": self.plain} if self.plain else {}
        return {"file": self.file, **plain, "baseline": self.baseline, "weights": self.baseline.model.pulled}

    @property
    def made_from(self) -> Mapping[str, Any]:
        return {"hubquant": __version__, **other_device(self.baseline.model.device)}

    @property
    def cost(self) -> Cost:
        passes = 3 if self.plain else 2
        return drawing_cost(self.baseline.model, self.file.component, self.baseline.settings, passes)

    @property
    def rate(self) -> str:
        return rate_on("draw", self.baseline.model.device)

    def measure(self, folder: Path, context: Context) -> Chosen:
        candidates = [each for each in (self.file, self.plain) if each is not None]
        with self._opening(candidates, context) as pipeline_of:
            numbers = range(len(candidates))  # that with the matrix last: it mostly wins, and is open then to draw
            errors = {n: self._errors(n, folder, pipeline_of, context) for n in reversed(numbers)}
            means = [Fidelity.of(errors[n].predictions).error for n in numbers]
            best = min(numbers, key=means.__getitem__)
            drawn = self._drawn(folder / PICTURES, lambda: pipeline_of(best), context)
        fidelity = Fidelity.of(errors[best].predictions, drawn)
        if len(candidates) == 1:
            return Chosen(fidelity)
        return Chosen(fidelity, with_imatrix=best == 0, other_error=means[1 - best])

    def winner(self, found: Chosen) -> QuantizedFile | QuantizedFolder:
        return self.plain if self.plain and found.with_imatrix is False else self.file

    def size(self, context: Context) -> int:
        """Bytes of the winner."""
        return self.winner(context.read(self)).plan.size

    def pipeline_of(self, file: QuantizedFile | QuantizedFolder, context: Context) -> AbstractContextManager[Any]:
        """The source's, with the weights of ``file``."""
        model = self.baseline.model
        return pipeline_of_file(model.pulled, file.component, context.read(file), model.device, context)

    def picture(self, folder: Path, number: int) -> Any:
        """What the file drew, [frames, 3, height, width] in 0..1."""
        return SourceDrawings(folder / PICTURES).drawn(number).pictures[0]

    def first_prediction(self, folder: Path, found: Chosen) -> list[Tensor]:
        """What the winner's weights predict in the first call of the source's tape."""
        from safetensors.torch import load_file

        rows = load_file(folder / _first(1 if found.with_imatrix is False else 0))
        return [rows[str(number)] for number in range(len(rows))]

    def _errors(self, number: int, folder: Path, pipeline_of: Callable[[int], Any], context: Context) -> Errors:
        """On the source's way, of the candidate ``number``. They are kept in ``folder``, for a process that goes on."""
        from safetensors.torch import save

        from hubquant.evaluate.pictures import predicted, replay
        from hubquant.models.diffusion import denoisers

        path = folder / f"errors-{number}.json"
        if path.is_file():
            return read_value(path, Errors)
        tape, found = context.read(self.baseline).tape, list[PredictionError]()
        denoiser = denoisers(pipeline_of(number))[self.file.component.name]
        first = next(tape.calls(0))
        _check_same_numbers(denoiser, first)
        rows = enumerate(predicted(denoiser, first))
        write_at_once(folder / _first(number), save({str(n): row.cpu().contiguous() for n, row in rows}))
        what = f"{self.name} predicts" + (", without imatrix" if number else "")
        with context.progress.bar(what, self.baseline.settings.count, "pictures") as advance:
            for picture in range(self.baseline.settings.count):
                found += replay(denoiser, tape, picture)
                advance(1)
        keep_value(path, Errors(tuple(found)))
        return Errors(tuple(found))

    def _drawn(self, folder: Path, pipeline: Callable[[], Any], context: Context) -> list[Likeness]:
        """On its own, from the source's noise. Pictures are kept in ``folder``."""
        from hubquant.models.diffusion import draw

        source, settings, own = context.read(self.baseline), self.baseline.settings, SourceDrawings(folder)
        folder.mkdir(exist_ok=True)
        alike = []
        with context.progress.bar(f"{self.name} draws", settings.count, "pictures") as advance:
            for number, prompt, seed in numbered(settings, self.baseline.prompts):
                if not own.path(number).is_file():
                    own.keep(number, draw(pipeline(), [prompt], [seed], settings))
                drawn, theirs = own.drawn(number), source.drawn(number)
                alike.append(Likeness.of(drawn.latents, drawn.pictures, theirs.latents, theirs.pictures))
                advance(1)
        return alike

    @contextmanager
    def _opening(
        self, files: Sequence[QuantizedFile | QuantizedFolder], context: Context
    ) -> Iterator[Callable[[int], Any]]:
        """A function that gives the pipeline of a file by its number, one at a time: that of the last stays open."""
        opened = dict[int, Any]()
        with ExitStack() as stack:

            def pipeline_of(number: int) -> Any:
                if number not in opened:
                    opened.clear()
                    stack.close()
                    opened[number] = stack.enter_context(self.pipeline_of(files[number], context))
                return opened[number]

            yield pipeline_of


def _check_same_numbers(denoiser: torch.nn.Module, call: Call) -> None:
    """Raises ``EvaluationError`` where the source was run in others, as it is when there is more memory or less: of
    the same weights predictions in half precision differ by more than those of some files."""
    from hubquant.evaluate.pictures.tape import dtype_of

    if (now := dtype_of(denoiser)) != call.dtype:
        raise EvaluationError(
            f"the source drew in {str(call.dtype).removeprefix('torch.')}, and the file is in "
            f"{str(now).removeprefix('torch.')}",
            why="there is another amount of free memory than there was",
            hint="close what takes memory and run the same line again, or draw all again with --fresh",
        )


def _first(number: int) -> str:
    """Where the first prediction of a candidate is kept."""
    return f"first-{number}.safetensors"
