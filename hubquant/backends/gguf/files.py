"""The files a run will write: which tensor gets which type, the metadata, and the size to the byte."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hubquant.backends.backend import ImatrixFacts
from hubquant.checkpoint.headers import FLOATS
from hubquant.engine.task import fingerprint
from hubquant.errors import GGUFError
from hubquant.gguf_file import Layout, Split, TensorEntry, overridden, shard, shard_paths
from hubquant.gguf_file.metadata import Metadata, string, u32
from hubquant.mix import COPY, FTYPES, assign
from hubquant.mix.patterns import check_rules
from hubquant.mix.storage import storage_type
from hubquant.quants.formats import fork_of
from hubquant.recipe.schema import NamedType, Quantize, Rule
from hubquant.sources.source import SourceModel
from hubquant.units import counted
from hubquant.version import __version__

MATRIX_KEY = "quantize.imatrix.file"
QUANTIZED_BY = "general.quantized_by"
LATER = ("prune_layers", "leave_output_tensor", "override_kv", "rounding")
"""Settings that files of earlier versions do not know."""
OF_NO_FILE = ("types", "skip_modules", "allow_fork_types", "allow_requantize")  # settings that change none


@dataclass(frozen=True)
class Weights:
    """What is written, whatever it was read from: a checkpoint in conversion or a GGUF file.

    ``quantized`` are the types of tensors that a checkpoint has quantized already, and that they stay in; ``exact``
    those that may hold without rounding what a checkpoint has in codes; ``stored``
    those of a GGUF file's tensors, whose bytes a file of the same type takes over, and ``stored_metadata`` its
    keys.
    """

    architecture: str
    hparams: Mapping[str, int]
    metadata: Metadata
    shapes: Mapping[str, tuple[int, ...]]
    float_type: str
    quantized: Mapping[str, str] = field(default_factory=dict)
    stored: Mapping[str, str] = field(default_factory=dict)
    stored_metadata: Metadata = field(default_factory=dict)
    quantized_by: str = "hubquant"
    exact: Mapping[str, str] = field(default_factory=dict)

    @property
    def n_parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())

    @cached_property
    def metadata_fingerprint(self) -> str:
        return fingerprint({key: [repr(kv.value), int(kv.type)] for key, kv in self.metadata.items()})

    @property
    def largest(self) -> int:
        """Elements of the largest tensor."""
        return max(math.prod(shape) for shape in self.shapes.values())


@dataclass(frozen=True)
class FilePlan:
    """One file of the recipe; ``layouts`` are its shards, ``name`` is relative to the repository. ``notes`` say
    where ``types`` are not those of llama-quantize. ``label`` is what the recipe calls the file, ``ftype`` or a name of
    its own."""

    label: str
    ftype: str
    name: str
    types: Mapping[str, str]
    n_parameters: int
    layouts: Sequence[Layout]
    notes: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "type": self.label,
            "size": self.size,
            "bpw": self.bpw,
            "shards": self.n_shards,
            "tensors": dict(self.types),
        }

    @property
    def n_shards(self) -> int:
        return len(self.layouts)

    @property
    def paths(self) -> list[str]:
        """Every shard's path in the repository."""
        return [path.as_posix() for path in shard_paths(Path(self.name), self.n_shards)]

    @property
    def size(self) -> int:
        """Exact bytes of all shards."""
        return sum(layout.size for layout in self.layouts)

    @property
    def tensor_bytes(self) -> int:
        return sum(entry.nbytes for layout in self.layouts for entry in layout.tensors.values())

    @property
    def fork(self) -> str | None:
        """The only llama.cpp that loads the file; None where any does."""
        return fork_of(self.types.values())

    @property
    def bpw(self) -> float:
        return self.size * 8 / self.n_parameters


def check_quantized(source: SourceModel, settings: Quantize) -> None:
    """Raises ``GGUFError`` for weights that were quantized before, unless the settings allow to do it again, and where
    there is no file to copy."""
    types = {type for entry in settings.types for type in settings.of(entry).names}
    if COPY.name in types and not source.stored_types:
        raise GGUFError(
            "there is no file to copy",
            why="COPY takes the tensors of a GGUF file as they are, and the source is none",
            hint="hubquant convert writes a GGUF file of it",
        )
    if source.quantized_types and not settings.allow_requantize and types != {COPY.name}:
        found, is_file = ", ".join(source.quantized_types), bool(source.stored_types)
        made_from = source.checkpoint.base_model
        original = "the F16, BF16 or F32 file" if is_file else made_from or "the 16-bit model that they were made from"
        raise GGUFError(
            f"the file is quantized already: it holds {found} tensors"
            if is_file
            else f"the weights are quantized already ({found})",
            why="quantizing again loses more than quantizing the original",
            hint=f"start from {original}, or add --set quantize.allow_requantize=true",
        )


def fork_note(ftype: str, types: Mapping[str, str]) -> list[str]:
    """A warning when not every llama.cpp loads a file with these types of tensors."""
    fork = fork_of(types.values())
    return [f"{ftype}: only {fork}, a fork of llama.cpp, loads this file; llama.cpp itself does not"] if fork else []


def exact_note(weights: Weights, label: str, types: Mapping[str, str]) -> list[str]:
    """Of tensors whose codes a file takes over."""
    kept = [name for name, type in types.items() if weights.exact.get(name) == type]
    if not kept:
        return []
    return [
        f"{label}: {counted(len(kept), 'tensor keeps', 'tensors keep')} the codes and scales of the source, first "
        f"{kept[0]} ({types[kept[0]]}); one with a scale that F16 cannot hold is quantized anew"
    ]


def assign_types(weights: Weights, ftype: str, settings: Quantize, *, has_imatrix: bool) -> dict[str, str]:
    """What the checkpoint has quantized already stays as it is, unless a rule of the recipe says otherwise."""
    if ftype == COPY.name:
        return dict(weights.stored)
    check_rules(settings.rules, weights.shapes)
    types = assign(
        weights.shapes,
        ftype,
        weights.architecture,
        weights.hparams,
        has_imatrix,
        rules=settings.rules,
        pure=settings.pure,
        output_tensor=settings.output_tensor,
        token_embedding=settings.token_embedding,
        float_type=weights.float_type,
    )
    patterns = list(map(_pattern, settings.rules))
    stay = {name: type for name, type in weights.quantized.items() if not any(p.search(name.lower()) for p in patterns)}
    types |= stay
    if settings.leave_output_tensor and (output := "output.weight") in types:
        shape = weights.shapes[output]
        as_it_is = weights.stored.get(output) or weights.quantized.get(output)
        types[output] = as_it_is or storage_type(output, shape, weights.float_type)
    return types


def idle_rules(weights: Weights, settings: Quantize) -> list[str]:
    """A note for each rule that fits no tensor. The rules are those that :func:`assign_types` has read."""
    own = [rule for entry in settings.types if isinstance(entry, NamedType) for rule in entry.rules]
    return [
        f"the rule {rule.match}={rule.type} fits no tensor and changes nothing"
        for rule in dict.fromkeys([*settings.rules, *own])
        if not any(map(_pattern(rule).search, map(str.lower, weights.shapes)))
    ]


def _pattern(rule: Rule) -> re.Pattern[str]:
    return re.compile(rule.match.lower())


def file_metadata(
    weights: Weights,
    ftype: str,
    types: Mapping[str, str],
    settings: Quantize,
    model: str,
    imatrix: ImatrixFacts | None,
) -> Metadata:
    """The source's keys, then what llama-quantize adds, then hubquant's provenance, and what the settings override.

    How it was quantized stands only in a file of which something was: llama-quantize takes over what it finds in a file
    of floats.
    """
    found = _metadata(weights, ftype, types, settings, model, imatrix)
    return overridden(found, settings.override_kv)


def _metadata(
    weights: Weights,
    ftype: str,
    types: Mapping[str, str],
    settings: Quantize,
    model: str,
    imatrix: ImatrixFacts | None,
) -> Metadata:
    version = {"general.quantization_version": u32(2)}
    if ftype == COPY.name:
        return {**weights.stored_metadata, **version}
    metadata = {**weights.metadata, **version, "general.file_type": u32(FTYPES[ftype].id)}
    quantized_by = {QUANTIZED_BY: string(weights.quantized_by)}
    kept = {**weights.stored, **weights.quantized}
    if all(type in FLOATS or type == kept.get(name) for name, type in types.items()):
        return {key: value for key, value in metadata.items() if (key, value) not in quantized_by.items()}
    made_from = {"model": model, "imatrix": imatrix and imatrix.dataset, **quantize_part(ftype, settings)}
    return {
        **metadata,
        **quantized_by,
        **(_imatrix_metadata(imatrix) if imatrix else {}),
        "hubquant.version": string(__version__),
        "hubquant.mode": string(settings.mode),
        **({"hubquant.rounding": string(settings.rounding)} if settings.rounding != "nearest" else {}),
        "hubquant.recipe_sha256": string(fingerprint(made_from)),
    }


def _imatrix_metadata(facts: ImatrixFacts) -> Metadata:
    """llama-quantize's keys, and the token ids' sha256."""
    longest = 127  # bytes that llama-quantize leaves for a string override
    tokens = {"hubquant.calibration_sha256": string(facts.tokens_sha256)} if facts.tokens_sha256 else {}
    return {
        MATRIX_KEY: string(_cut(facts.file, longest)),
        "quantize.imatrix.dataset": string(_cut(facts.dataset, longest)),
        "quantize.imatrix.entries_count": u32(facts.entries),
        "quantize.imatrix.chunks_count": u32(facts.chunks),
        **tokens,
    }


def plan_layouts(weights: Weights, types: Mapping[str, str], metadata: Metadata, split: Split) -> list[Layout]:
    entries = [TensorEntry(name, shape, types[name]) for name, shape in weights.shapes.items()]
    return shard(metadata, entries, split)


def file_name(model_name: str, label: str, n_shards: int) -> str:
    """Relative to the repository; a file in several shards stands in a folder named like its type."""
    return f"{model_name}-{label}.gguf" if n_shards == 1 else f"{label}/{model_name}-{label}.gguf"


def quantize_part(ftype: str, settings: Quantize) -> dict[str, object]:
    """The settings one file depends on: not the list of types, so that a type can be added to a finished run,
    nor a permission."""
    return {"ftype": ftype, **common_part(settings)}


def common_part(settings: Quantize) -> dict[str, object]:
    """The settings that all files have in common."""
    found = settings.model_dump(mode="json", exclude=set(OF_NO_FILE))
    usual = Quantize().model_dump(mode="json", include=set(LATER))
    return {name: value for name, value in found.items() if name not in usual or value != usual[name]}


def _cut(text: str, n_bytes: int) -> str:
    return text.encode()[:n_bytes].decode(errors="ignore")
