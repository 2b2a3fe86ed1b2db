"""How far a model's predictions go from its own when one tensor after the other is quantized."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from hubquant.backends.gguf.writing import Mode, matrices
from hubquant.convert.conversion import stream
from hubquant.convert.tables import Bundle
from hubquant.devices import Device
from hubquant.engine.store import Store
from hubquant.engine.task import FP32_BYTES, Context, Cost, Task
from hubquant.mix.budget import CANDIDATES, candidate_types
from hubquant.mix.fallback import Shape
from hubquant.mix.storage import kept
from hubquant.pipeline.costs import running_cost
from hubquant.pipeline.held import LoadedModel, other_device, rate_on
from hubquant.pipeline.results import SNAPSHOT, Measurement, describe
from hubquant.sources.component import Component
from hubquant.units import counted
from hubquant.version import __version__

if TYPE_CHECKING:
    import torch

    from hubquant.backends.backend import Importance
    from hubquant.calibration import Chunks
    from hubquant.evaluate.sensitivity import Sensitivities, TensorSensitivity
    from hubquant.imatrix import ImportanceMatrix
    from hubquant.models.language_model import LanguageModel

MOST_CHUNKS = 8
MEASURED, CHECKED = "Q3_K", "Q5_K"
"""With what every tensor is measured, and with what a handful is measured again, to see how good estimates are."""
N_CHECKED = 8
SCORED_BYTES = 1 << 29  # of the source's predictions, which are held in memory
LEAST_SCORED = 32  # tokens of a chunk
COPIES = 4  # of a tensor in float32: as it is, quantized, as the model takes it, and their difference


@dataclass(frozen=True, eq=False)
class SensitivityTask(Measurement["Sensitivities"]):
    """Of all tensors of ``component`` that can be quantized, over ``chunks`` of text, by ``model``, which is the
    component's as a whole. ``importance`` weighs errors as it does in files of the same ``mode``."""

    kind = "sensitivity"

    component: Component
    chunks: Chunks
    model: LoadedModel
    importance: Importance | None
    mode: Mode
    device: Device = "auto"

    @classmethod
    def of(
        cls,
        component: Component,
        text: Chunks,
        model: LoadedModel,
        importance: Importance | None,
        mode: Mode,
        device: Device,
    ) -> SensitivityTask:
        """Over some chunks of ``text``, from its beginning to its end."""
        n = min(MOST_CHUNKS, len(text))
        chunks = text.part([i * len(text) // n for i in range(n)])
        return cls(component.complete, chunks, model, importance, mode, device)

    @property
    def type(self) -> type[Sensitivities]:
        from hubquant.evaluate.sensitivity import Sensitivities

        return Sensitivities

    @property
    def step(self) -> str:
        return "measure"

    @property
    def detail(self) -> str:
        return f"{counted(len(self.measured), 'tensor')} by {describe(self.chunks)}"

    @property
    def label(self) -> str:
        return "sensitivity"

    @property
    def measured(self) -> dict[str, Shape]:
        """The tensors, in the order of a file."""
        stay = self.component.conversion.quantized
        return {
            name: shape
            for name, shape in self.component.shapes.items()
            if not kept(name, shape) and name not in stay and candidate_types(name, shape, weighted=True)
        }

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        matrix = {"imatrix": self.importance.task} if self.importance else {}
        return {"weights": self.component.pulled, **matrix}

    @property
    def made_from(self) -> Mapping[str, Any]:
        used = self.importance and {"include": self.importance.include, "exclude": self.importance.exclude}
        return {
            "tokens": self.chunks.fingerprint,
            "types": CANDIDATES,
            "measured": [MEASURED, CHECKED, N_CHECKED],
            "imatrix": used,
            "mode": self.mode,
            "hubquant": __version__,
            **other_device(self.device),
        }

    @property
    def n_scored(self) -> int:
        """Tokens of a chunk whose predictions are compared: the last ones, fewer where a vocabulary is large."""
        from hubquant.evaluate.scoring import n_scored

        fitting = SCORED_BYTES // (FP32_BYTES * self.component.n_vocab * len(self.chunks))
        return min(n_scored(self.chunks.chunk_size), max(LEAST_SCORED, fitting))

    @property
    def cost(self) -> Cost:
        logits = self.n_scored * self.component.n_vocab
        passes = 1 + len(self.measured) + min(N_CHECKED, len(self.measured))
        together: Counter[str] = Counter()
        for name, shape in self.measured.items():
            together[_group(name)] += math.prod(shape)
        largest = max(together.values(), default=0)
        found = running_cost(
            self.component.n_parameters,
            passes * self.chunks.n_tokens,
            logits,
            device=self.device,
            bytes_of_weight=self.component.source.bytes_of_weight,
        )
        held = FP32_BYTES * (COPIES * largest + len(self.chunks) * logits)
        return Cost(found.ram_bytes + held, found.device_bytes, work=found.work)

    @property
    def rate(self) -> str:
        return rate_on(self.kind, self.device)

    @property
    def shares(self) -> LoadedModel:
        return self.model

    def measure(self, folder: Path, context: Context) -> Sensitivities:
        import numpy as np

        from hubquant.evaluate.sensitivity import Sensitivities
        from hubquant.evaluate.snapshot import FinishedChunks
        from hubquant.models.language_model import LanguageModel

        matrix: ImportanceMatrix | None = None
        if self.importance is not None:
            whole = self.component.fitted(context.read(self.importance.task))
            matrix = whole.select(self.importance.include, self.importance.exclude)
        names, snapshot = list(self.measured), folder / SNAPSHOT
        step = max(1, len(names) // N_CHECKED)
        checked = set(names[step // 2 :: step][:N_CHECKED])
        done = FinishedChunks(snapshot, bytes.fromhex(self.key), 2 + len(CANDIDATES))
        found: dict[str, TensorSensitivity] = {}
        try:
            order = self._order()
            finished = dict(zip(order, done, strict=False))
            found |= {name: self._sensitivity(name, list(values)) for name, values in finished.items()}
            with context.progress.bar("measure", len(order), "tensors") as advance:
                advance(len(finished))
                if len(finished) < len(order):
                    runner = _Compared(LanguageModel(context.held), self.chunks, self.n_scored)
                    for name, x, put in self._tensors(order[len(finished) :], context):
                        weights = None if matrix is None else matrix.importance(name)
                        values = self._measured(runner, name, x, weights, put, again=name in checked)
                        done.append(np.array(values))
                        found[name] = self._sensitivity(name, values)
                        advance(1)
        finally:
            done.close()
        snapshot.unlink(missing_ok=True)
        return Sensitivities.of([found[name] for name in names], len(self.chunks) * self.n_scored)

    def _bundles(self) -> Sequence[Bundle]:
        """From tensors of the file to weights of the model: those of a GGUF file are only its own names."""
        from hubquant.convert.restore import read_config
        from hubquant.sources.gguf import GGUFSource

        source = self.component.source
        if isinstance(source, GGUFSource):
            architecture, config = read_config(source.file)
            return list(architecture.bundles(config))
        return self.component.conversion.bundles

    def _order(self) -> list[str]:
        """In which tensors are read."""
        measured = self.measured
        return [name for bundle in self._bundles() for name in bundle.targets if name in measured]

    def _tensors(self, names: Sequence[str], context: Context) -> Iterator[tuple[str, torch.Tensor, _Put]]:
        """Each with what makes weights of the model from another in its place."""
        checkpoint, conversion = context.read(self.component.pulled).checkpoint, self.component.conversion
        left, bundles = set(names), [bundle for bundle in self._bundles() if bundle.sources]
        for bundle in bundles:
            if not (wanted := [name for name in bundle.targets if name in left]):
                continue
            group = [bundle, *(each for each in bundles if each is not bundle and _fused(each, bundle))]
            together = {name: ("F32",) for each in group for name in each.targets}
            tensors = dict(stream(conversion, checkpoint, together))
            for name in wanted:
                yield name, tensors[name], _Put(group, tensors, name)

    def _types(self, name: str, *, weighted: bool) -> Mapping[str, str]:
        return candidate_types(name, self.component.shapes[name], weighted=weighted)

    def _measured(
        self,
        runner: _Compared,
        name: str,
        x: torch.Tensor,
        importance: torch.Tensor | None,
        put: _Put,
        *,
        again: bool,
    ) -> list[float]:
        """Divergence with the first type, with the second where it is measured ``again``, and the error of each of the
        candidates; not a number for what there is none of."""
        from hubquant.evaluate.sensitivity import weighted_squared_error
        from hubquant.models.replaced import replaced

        types = self._types(name, weighted=importance is not None)
        errors: dict[str, float] = {}
        klds = {}
        x = x.float()
        for type in dict.fromkeys(types.values()):
            errors[type], parts = 0.0, []
            for rows, weights in matrices(x, importance):
                y = self._rounded(rows, type, weights)
                errors[type] += weighted_squared_error(rows, y, weights)
                parts.append(y)
            if type == types[MEASURED] or (again and type == types[CHECKED]):
                with replaced(runner.model.model, put(_joined(parts, x.shape))):
                    klds[type] = runner()
        second = klds.get(types[CHECKED], math.nan) if again else math.nan
        return [klds[types[MEASURED]], second, *(errors[types[t]] if t in types else math.nan for t in CANDIDATES)]

    def _rounded(self, rows: torch.Tensor, type: str, importance: torch.Tensor | None) -> torch.Tensor:
        from hubquant.quants import dequantize, quantize

        return dequantize(quantize(rows, type, importance, self.mode), type, rows.shape[-1])

    def _sensitivity(self, name: str, values: Sequence[float]) -> TensorSensitivity:
        from hubquant.evaluate.sensitivity import TensorSensitivity

        kld, second, *errors = map(float, values)
        types = self._types(name, weighted=True)
        known = {types[t]: error for t, error in zip(CANDIDATES, errors, strict=True) if not math.isnan(error)}
        again = None if math.isnan(second) else second
        return TensorSensitivity(name, types[MEASURED], kld, known, None if again is None else types[CHECKED], again)


def measured_before(task: SensitivityTask, store: Store) -> Sensitivities | None:
    """None where it was not made yet, or is damaged."""
    if store.has(task):
        with suppress(OSError, ValidationError):
            return task.read(store.path(task))
    return None


@dataclass(frozen=True)
class _Put:
    """Weights of the model, of the tensors of a group of bundles in which another stands in the place of ``name``."""

    group: Sequence[Bundle]
    tensors: Mapping[str, torch.Tensor]
    name: str

    def __call__(self, other: torch.Tensor) -> dict[str, torch.Tensor]:
        there = {**self.tensors, self.name: other}
        made: dict[str, torch.Tensor] = {}
        for bundle in self.group:
            made |= bundle.inverse([there[name].float() for name in bundle.targets])
        return {name: x.contiguous() for name, x in made.items()}


class _Compared:
    """Runs a model again and again, and tells how far it is from what it was at first."""

    def __init__(self, model: LanguageModel, chunks: Chunks, n_scored: int) -> None:
        self.model, self._chunks, self._n_scored = model, chunks, n_scored
        self._base = [logits.float().log_softmax(1) for logits in self._logits()]

    def _logits(self) -> Iterator[torch.Tensor]:
        from hubquant.evaluate.scoring import scored_logits

        return (scored_logits(self.model, ids, self._n_scored) for ids in self._chunks.ids)

    def __call__(self) -> float:
        """Mean divergence over all scored tokens."""
        from hubquant.evaluate.sensitivity import mean_kld

        found = [mean_kld(logits, base) for logits, base in zip(self._logits(), self._base, strict=True)]
        return math.fsum(found) / len(found)


def _fused(one: Bundle, other: Bundle) -> bool:
    """Whether transformers may hold both in one weight, as it does those of experts of a block."""
    return len({_group(name) for bundle in (one, other) for name in bundle.targets}) == 1


def _group(name: str) -> str:
    """What is read together: all experts of a block, or one tensor."""
    return name.rsplit(".", 2)[0] if "_exps." in name else name


def _joined(parts: Sequence[torch.Tensor], shape: Shape) -> torch.Tensor:
    import torch

    return torch.cat(list(parts)).reshape(shape)
