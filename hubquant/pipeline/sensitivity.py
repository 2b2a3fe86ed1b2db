"""How far a model's predictions go from its own when one tensor after the other is quantized."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from hubquant.backends.gguf.writing import Mode, matrices
from hubquant.convert.conversion import stream
from hubquant.convert.factored import weights_alone
from hubquant.convert.tables import Bundle
from hubquant.devices import Device
from hubquant.engine.store import Store
from hubquant.engine.task import FP32_BYTES, Context, Cost, Task
from hubquant.mix.budget import CANDIDATES, candidate_types
from hubquant.mix.fallback import Shape
from hubquant.mix.storage import kept
from hubquant.pipeline.costs import LIBRARIES_BYTES, LOGIT_COPIES
from hubquant.pipeline.held import other_device, rate_on
from hubquant.pipeline.offload import output_bytes, scratch_bytes, stream_of, streaming_bytes
from hubquant.pipeline.results import SNAPSHOT, Measurement, describe
from hubquant.sources.component import Component
from hubquant.units import counted
from hubquant.version import __version__

if TYPE_CHECKING:
    import torch

    from hubquant.backends.backend import Importance
    from hubquant.calibration import Chunks
    from hubquant.evaluate.sensitivity import Sensitivities, TensorSensitivity
    from hubquant.evaluate.snapshot import Rows
    from hubquant.imatrix import ImportanceMatrix

MOST_CHUNKS = 8
MEASURED, CHECKED = "Q3_K", "Q5_K"
"""With what every tensor is measured, and with what a handful is measured again, to see how good estimates are."""
N_CHECKED = 8
SCORED_BYTES = 1 << 29  # of the source's predictions, which are held in memory
LEAST_SCORED = 32  # tokens of a chunk
OUTSIDE = -1  # what is in no block
COPIES = 6  # of a tensor in float32: as it is, quantized to three types, as the model takes it, and a difference

_BLOCK = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True, eq=False)
class SensitivityTask(Measurement["Sensitivities"]):
    """Of all tensors of ``component`` that can be quantized, over ``chunks`` of text. ``importance`` weighs errors as
    it does in files of the same ``mode``. The model streams: for the tensors of a block it runs from that block on."""

    kind = "sensitivity"

    component: Component
    chunks: Chunks
    importance: Importance | None
    mode: Mode
    device: Device = "auto"

    @classmethod
    def of(
        cls, component: Component, text: Chunks, importance: Importance | None, mode: Mode, device: Device
    ) -> SensitivityTask:
        """Over some chunks of ``text``, from its beginning to its end."""
        return cls(component.complete, text.spread(MOST_CHUNKS), importance, mode, device)

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
        conversion = self.component.conversion
        stay = {*conversion.quantized, *conversion.drafting}
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
        logits, n_tokens = self.n_scored * self.component.n_vocab, self.chunks.n_tokens
        together: Counter[str] = Counter()
        for name, shape in self.measured.items():
            together[_group(name)] += math.prod(shape)
        held = COPIES * max(together.values(), default=0) + (len(self.chunks) + LOGIT_COPIES) * logits
        return Cost(
            LIBRARIES_BYTES
            + streaming_bytes(self.component, self._waiting_tokens)
            + output_bytes(self.component)
            + FP32_BYTES * held,
            scratch_bytes=scratch_bytes(self.component, self._waiting_tokens),
            work=float(self.component.n_parameters) * n_tokens * self._layers(self.measured) / self._n_blocks,
        )

    @property
    def rate(self) -> str:
        return rate_on(self.kind, self.device)

    def measure(self, folder: Path, context: Context) -> Sensitivities:
        from hubquant.evaluate.sensitivity import Sensitivities
        from hubquant.evaluate.snapshot import FinishedChunks

        names, snapshot = list(self.measured), folder / SNAPSHOT
        order, n_layers = self._order(), self._layers(names)
        done = FinishedChunks(snapshot, bytes.fromhex(self.key), 2 + len(CANDIDATES))
        try:
            left = order[len(done) :]
            with context.progress.bar("measure", len(self.chunks) * n_layers, "layers") as advance:
                advance(len(self.chunks) * (n_layers - self._layers(left)))
                if left:
                    for values in self._measured(left, folder, context, advance):
                        done.append(values)
            found = {name: self._sensitivity(name, values) for name, values in zip(order, done, strict=True)}
        finally:
            done.close()
        snapshot.unlink(missing_ok=True)
        return Sensitivities.of([found[name] for name in names], len(self.chunks) * self.n_scored)

    def matrix(self, context: Context) -> ImportanceMatrix | None:
        """What weighs errors."""
        if self.importance is None:
            return None
        whole = self.component.fitted(context.read(self.importance.task))
        return whole.select(self.importance.include, self.importance.exclude)

    @property
    def _waiting_tokens(self) -> int:
        """Whose hidden states there are at a time: of each tensor of a block, and twice those of the model as it is."""
        at_once: Counter[int] = Counter()
        for name in self.measured:
            at_once[_block(name)] += self._n_types(name)
        return (max(at_once.values(), default=0) + 2) * self.chunks.n_tokens

    @property
    def _n_blocks(self) -> int:
        return 1 + max(map(_block, self.component.shapes.keys() - self.component.conversion.drafting))

    @cached_property
    def _checked(self) -> frozenset[str]:
        """The tensors that are measured with a second type."""
        names = list(self.measured)
        step = max(1, len(names) // N_CHECKED)
        return frozenset(names[step // 2 :: step][:N_CHECKED])

    def _measured_types(self, name: str) -> list[str]:
        """With what a tensor is measured, in the order of candidates."""
        types = self.types(name)
        return [*dict.fromkeys(types[t] for t in (MEASURED, CHECKED) if t == MEASURED or name in self._checked)]

    def _n_types(self, name: str) -> int:
        return len(self._measured_types(name))

    def _layers(self, names: Iterable[str]) -> int:
        """How many layers each chunk passes for these, and for the model as it is."""
        return self._n_blocks + sum(self._n_types(name) * (self._n_blocks - max(0, _block(name))) for name in names)

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
        """In which tensors are measured: what is in no block first, then block by block as they are read."""
        measured = self.measured
        return sorted((name for bundle in self._bundles() for name in bundle.targets if name in measured), key=_block)

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

    def types(self, name: str, *, weighted: bool = True) -> Mapping[str, str]:
        """What each of the candidates is for a tensor."""
        return candidate_types(name, self.component.shapes[name], weighted=weighted)

    def _measured(
        self, names: Sequence[str], folder: Path, context: Context, advance: Callable[[int], None]
    ) -> Iterator[Rows]:
        """Of each of ``names``, in their order: its divergence with the first type, with the second where it is
        measured again, and the error of each of the candidates; not a number for what there is none of."""
        import numpy as np

        from hubquant.evaluate.perturbed import perturbing

        matrix = self.matrix(context)
        weights = context.read(self.component.pulled).open_weights(self.device)
        stream = stream_of(weights, self.component, self._waiting_tokens, folder, self.device)
        first = next((block for block in map(_block, names) if block != OUTSIDE), 0)
        with perturbing(stream, self.chunks, self.n_scored, first, advance) as model:
            for block, in_block in groupby(names, _block):
                group, errors = list(in_block), dict[str, dict[str, float]]()
                others = self._others(group, matrix, context, errors)
                if block == OUTSIDE:
                    klds = [*map(model.outside, others)]
                else:
                    klds = model.in_block(block, sum(map(self._n_types, group)), others)
                left = iter(klds)
                for name in group:
                    types = self.types(name)
                    found = {type: next(left) for type in self._measured_types(name)}
                    second = found[types[CHECKED]] if name in self._checked else math.nan
                    known = (errors[name].get(types.get(type, ""), math.nan) for type in CANDIDATES)
                    yield np.array([found[types[MEASURED]], second, *known])

    def _others(
        self,
        names: Sequence[str],
        matrix: ImportanceMatrix | None,
        context: Context,
        errors: dict[str, dict[str, float]],
    ) -> Iterator[Mapping[str, torch.Tensor]]:
        """Weights of the model with each tensor of each type that it is measured with. ``errors`` gets those of all its
        types."""
        from hubquant.evaluate.sensitivity import weighted_squared_error

        for name, x, put in self._tensors(names, context):
            importance = None if matrix is None else matrix.importance(name)
            types = self.types(name, weighted=importance is not None)
            errors[name] = dict.fromkeys(types.values(), 0.0)
            others: dict[str, list[torch.Tensor]] = {type: [] for type in self._measured_types(name)}
            for type in errors[name]:
                for rows, weights in matrices(x.float(), importance):
                    y = self._rounded(rows, type, weights)
                    errors[name][type] += weighted_squared_error(rows, y, weights)
                    if type in others:
                        others[type].append(y)
            for type in self._measured_types(name):
                yield put(_joined(others.pop(type), x.shape))

    def _rounded(self, rows: torch.Tensor, type: str, importance: torch.Tensor | None) -> torch.Tensor:
        from hubquant.quants import dequantize, quantize

        return dequantize(quantize(rows, type, importance, self.mode), type, rows.shape[-1])

    def _sensitivity(self, name: str, values: Rows) -> TensorSensitivity:
        from hubquant.evaluate.sensitivity import TensorSensitivity

        kld, second, *errors = values.tolist()
        types = self.types(name)
        known = {types[t]: error for t, error in zip(CANDIDATES, errors, strict=True) if not math.isnan(error)}
        again = None if math.isnan(second) else second
        return TensorSensitivity(name, types[MEASURED], kld, known, None if again is None else types[CHECKED], again)


def measured_before(task: Task[Sensitivities], store: Store) -> Sensitivities | None:
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
            made |= weights_alone(bundle.inverse([there[name].float() for name in bundle.targets]))
        return {name: x.contiguous() for name, x in made.items()}


def _fused(one: Bundle, other: Bundle) -> bool:
    """Whether transformers may hold both in one weight, as it does those of experts of a block."""
    return len({_group(name) for bundle in (one, other) for name in bundle.targets}) == 1


def _group(name: str) -> str:
    """What is read together: all experts of a block, or one tensor."""
    return name.rsplit(".", 2)[0] if "_exps." in name else name


def _block(name: str) -> int:
    match = _BLOCK.match(name)
    return int(match[1]) if match else OUTSIDE


def _joined(parts: Sequence[torch.Tensor], shape: Shape) -> torch.Tensor:
    import torch

    return torch.cat(list(parts)).reshape(shape)
