"""Whether a model is quantized already, by which library and to what, and how it is known: no weight is read.

What hubquant or the library wrote about the weights comes first, then how the weights lie; the name of a file is a
hint. Where two of them contradict each other nothing is loaded: a library that is given the weights of another one
computes something else, often without an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hubquant.backends.detection.configured import BESIDE, QMAP, Said, said, said_by_qmap
from hubquant.backends.detection.hints import by_name, family
from hubquant.backends.detection.marker import MARKER, Marker
from hubquant.checkpoint.headers import TensorInfo, listed
from hubquant.checkpoint.json_files import CONFIG
from hubquant.checkpoint.storage import quantization_of
from hubquant.checkpoint.traces import METHODS, Layout, Traces, find_traces
from hubquant.errors import CheckpointError
from hubquant.units import counted

_READ_HERE = ("fp8", "comfy fp8")
"""FP8 is floats, and hubquant applies the scales that lie beside them (:mod:`hubquant.checkpoint.float8`)."""
_LEFTOVER = (
    "if the weights are what is meant, remove what says so; if not, get those that belong to it from where the model "
    "comes from"
)
_MAKE_ANEW = (
    "make it anew of the model in floats, by a program that says in config.json what it did, such as "
    "hubquant run MODEL --types bitsandbytes:nf4"
)


@dataclass(frozen=True)
class Metadata:
    """What is known of a model, or of one ``component`` of a pipeline, without its weights: ``config`` is config.json,
    ``beside`` holds other JSON files that tell of quantization by name, ``names`` are those of its folder or repository
    and of its files."""

    tensors: Mapping[str, TensorInfo]
    config: Mapping[str, Any] = field(default_factory=dict)
    beside: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    marker: Marker | None = None
    names: tuple[str, ...] = ()
    component: str = ""


@dataclass(frozen=True)
class Detected:
    """What a model, or a ``component`` of a pipeline, is stored as.

    ``backend`` is None for floats, and for quantized weights that nothing tells the library of; ``type`` is None where
    it cannot be told. ``evidence`` are sentences. ``problem`` is why it may not be loaded, None where it may, and
    ``hint`` what to do then.
    """

    backend: str | None
    type: str | None
    evidence: tuple[str, ...]
    component: str = ""
    problem: str | None = None
    hint: str | None = None

    @property
    def quantized(self) -> bool:
        return self.backend is not None or self.problem is not None

    def check(self) -> None:
        """Raises ``CheckpointError`` for what may not be loaded."""
        if self.problem is not None:
            place = f"{self.component} of this pipeline" if self.component else "this model"
            raise CheckpointError(f"{place} cannot be loaded", why=self.problem, hint=self.hint)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "quantized": self.quantized}

    def __str__(self) -> str:
        if self.backend is None:
            return "quantized, it is not known how" if self.quantized else "not quantized"
        return _words((self.backend, self.type))


def detect(metadata: Metadata) -> Detected:
    """Raises ``CheckpointError`` for files that tell of quantization and cannot be understood."""
    traces, told = find_traces(metadata.tensors), dict(_told(metadata))
    backend, type = _decided(list(told.values()), traces)
    evidence = (
        *(f"{place} says {_words(each)}{_written_with(metadata, place)}" for place, each in told.items()),
        *(_stored(layout, names) for layout, names in traces.quantized.items()),
        *([_left_floats(traces)] if traces.floats else []),
        *by_name(metadata.names, backend, type, _contents(backend, type, traces)),
    )
    problem, hint = _problem(told, traces) or (None, None)
    return Detected(backend, type, evidence, metadata.component, problem, hint)


def _told(metadata: Metadata) -> Iterator[tuple[str, Said]]:
    """What files say, by the file; the first is believed most."""
    if metadata.marker:
        yield MARKER, (metadata.marker.backend, metadata.marker.type)
    quantization = quantization_of(metadata.config)
    if quantization is not None:
        yield CONFIG, said(quantization, CONFIG)
    for file, table in metadata.beside.items():
        if file == QMAP:
            yield file, said_by_qmap(table)
        elif quantization is None or "quant_method" in table:  # or else the library would be a guess
            yield file, said(table, file, BESIDE.get(file))


def _decided(told: list[Said], traces: Traces) -> tuple[str | None, str | None]:
    layout = next(iter(traces.quantized), Layout((), None, ""))
    if told:
        backend = told[0][0]
        return backend, next((type for name, type in told if name == backend and type), layout.type)
    return (layout.methods[0], layout.type) if layout.methods else (None, None)


def _problem(told: Mapping[str, Said], traces: Traces) -> tuple[str, str] | None:
    """And what to do then."""
    found = (_contradiction(place, each, told, traces) for place, each in told.items())
    return next(filter(None, found), None) if told else _unexplained(traces)


def _unexplained(traces: Traces) -> tuple[str, str] | None:
    """Of weights that would be taken for plain ones without an error, and give a model that computes something else."""
    nobody = f"neither {CONFIG} nor {MARKER} says so"
    for layout, names in traces.quantized.items():
        if not layout.methods:
            return f"{_stored(layout, names)}: codes, and {nobody.removesuffix(' so')} what they stand for", _MAKE_ANEW
        if layout.methods[0] not in _READ_HERE:
            return f"{_stored(layout, names)}, and {nobody}: codes would be taken for weights", _MAKE_ANEW
    return None


def _contradiction(place: str, one: Said, told: Mapping[str, Said], traces: Traces) -> tuple[str, str] | None:
    backend, type = one
    says = f"{place} says {_words(one)}"
    for other, another in told.items():
        if not _agree(one, another):
            return f"{says}, and {other} says {_words(another)}", f"remove what is wrong, in {place} or in {other}"
    known, by_hubquant = backend in METHODS, place == MARKER
    if not (known or by_hubquant):
        return None
    if not traces.quantized:
        plain = f"{says}, and the weights are plain floats: {_counts(traces.floats)}"
        return (plain, _LEFTOVER) if traces.floats else None
    first, own = next(iter(traces.quantized)), [each for each in traces.quantized if backend in each.methods]
    if first.methods and not own:
        return f"{says}, and the weights are stored as {_words(_guess(first))}: {first.signs}", _LEFTOVER
    if not own:
        return None if by_hubquant else (f"{says}, which stores weights otherwise: these are {first.signs}", _LEFTOVER)
    types = {each.type and family(each.type) for each in own}
    if type and family(type) and None not in types and family(type) not in types:
        return f"{says}, and the weights are {' and '.join(sorted(map(str, types)))}: {own[0].signs}", _LEFTOVER
    return None


def _agree(one: Said, another: Said) -> bool:
    families = {family(type) for _, type in (one, another) if type}
    return one[0] == another[0] and len(families) < 2


def _guess(layout: Layout) -> Said:
    return layout.methods[0], layout.type


def _words(each: Said) -> str:
    return " ".join(filter(None, each))


def _stored(layout: Layout, names: tuple[str, ...]) -> str:
    known = f"stored as {_words(_guess(layout))}: {layout.signs}" if layout.methods else layout.signs
    return f"{counted(len(names), 'weight is', 'weights are')} {known}, such as {listed(names[:1])}"


def _contents(backend: str | None, type: str | None, traces: Traces) -> str:
    if backend is not None:
        return _words((backend, type))
    layout = next(iter(traces.quantized), None)
    return layout.signs if layout else " and ".join(traces.floats) or "nothing of it"


def _left_floats(traces: Traces) -> str:
    matrices = counted(sum(traces.floats.values()), "matrix is", "matrices are")
    return f"{matrices} floats: {_counts(traces.floats)}"


def _counts(floats: Mapping[str, int]) -> str:
    return ", ".join(floats) if len(floats) == 1 else ", ".join(f"{n} {dtype}" for dtype, n in floats.items())


def _written_with(metadata: Metadata, place: str) -> str:
    if place != MARKER or metadata.marker is None or not metadata.marker.versions:
        return ""
    return f", written with {', '.join(f'{name} {version}' for name, version in metadata.marker.versions.items())}"
