"""The tensors that the files hold against those that config.json promises."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from hubquant.checkpoint.codings.floats4 import FACTOR
from hubquant.checkpoint.headers import FLOATS, TensorInfo, listed
from hubquant.convert.architecture import Architecture
from hubquant.convert.tables import Bundle, Shape
from hubquant.errors import CheckpointError, HubquantError, NotSupportedYet
from hubquant.models.unexpected import used_by_transformers
from hubquant.units import counted

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_COMPARE = "compare config.json and the files with those of the repository that the model comes from"
_QUANTIZED = ("U8", "I64", "I32")
_OF_META = ("tok_embeddings.weight", ".attention.wq.weight")


def check_tensors(
    architecture: Architecture,
    config: PreTrainedConfig,
    bundles: Iterable[Bundle],
    found: Mapping[str, TensorInfo],
) -> tuple[str, ...]:
    """Compare headers with what the config promises; notes on what is left out.

    ``CheckpointError`` names the tensors that are missing or have another shape, ``NotSupportedYet`` those that
    transformers computes with and the architecture's table has no place for.
    """
    bundles = tuple(bundles)
    allowed = {name: shape for bundle in bundles for name, shape in bundle.source_shapes().items()}
    numbers = list(architecture.numbers(config).values())
    allowed |= {name: each.shape for each in numbers for name in each.names}
    ignored = re.compile("|".join(architecture.ignored))
    behind = architecture.behind(config, found) if architecture.ahead else {}
    further = {*(name for names in behind.values() for name in names.values()), *architecture.unused(config)}
    wanted = [*(name for bundle in bundles for name in bundle.sources), *(n for each in numbers for n in each.names)]
    missing = [name for name in wanted if name not in found]
    known = {*allowed, *further, *(name for name in found if name.endswith(FACTOR))}
    extra = [name for name in found if name not in known and not ignored.search(name)]
    if missing:
        raise _missing(missing, extra, architecture, config, len(allowed))
    packed = {name for bundle in bundles if bundle.quantized for name in bundle.sources}
    check_shapes({name: shape for name, shape in allowed.items() if name in found}, found, packed)
    return tuple(_left_out(extra, architecture, config))


def check_shapes(
    wanted: Mapping[str, Shape], found: Mapping[str, TensorInfo], packed: Collection[str] = frozenset()
) -> None:
    """Raises ``CheckpointError`` for headers of other shapes, and ``NotSupportedYet`` for what is stored neither as
    floats nor, where it is ``packed``, as bytes."""
    if wrong := [name for name, shape in wanted.items() if found[name].shape != shape]:
        first = wrong[0]
        raise CheckpointError(
            f"{counted(len(wrong), 'tensor has another shape', 'tensors have other shapes')} than config.json says: "
            f"{listed(wrong)}",
            why=f"{first} is {list(found[first].shape)} instead of {list(wanted[first])}",
            hint=_COMPARE,
        )
    if stored := [name for name in wanted if found[name].float_type not in (_QUANTIZED if name in packed else FLOATS)]:
        dtypes = ", ".join(sorted({found[name].dtype for name in stored}))
        raise NotSupportedYet(
            f"weights stored as {dtypes}",
            why=f"{counted(len(stored), 'tensor')}: {listed(stored)}",
            hint="these have no scales beside them, such as weight_scale: get them from where the model comes from"
            if dtypes.startswith("F8_")
            else "use F32, F16 or BF16 weights",
        )


def missing_tensors(names: Sequence[str], why: str | None = None) -> CheckpointError:
    """What tells that tensors of ``names`` are not there."""
    what = f"{counted(len(names), 'tensor is', 'tensors are')} missing: {listed(names)}"
    return CheckpointError(what, why=why, hint=_COMPARE)


def _left_out(extra: Sequence[str], architecture: Architecture, config: PreTrainedConfig) -> Iterator[str]:
    if not extra:
        return
    if used := extra if architecture.own_code else used_by_transformers(config, extra, architecture.generates):
        raise NotSupportedYet(
            f"{counted(len(used), 'tensor')} of this model: {listed(used)}",
            why=f"a {architecture.name} file has no place for them, and the model computes with them",
        )
    yield (
        f"{counted(len(extra), 'tensor is', 'tensors are')} not part of a {architecture.restored_as} model with this "
        f"config.json, and left out, as transformers leaves them out: {listed(extra)}"
    )


def _missing(
    missing: Sequence[str], extra: Sequence[str], architecture: Architecture, config: PreTrainedConfig, n_all: int
) -> HubquantError:
    what = f"{counted(len(missing), 'tensor is', 'tensors are')} missing: {listed(missing)}"
    why = f"{counted(len(extra), 'other is', 'others are')} not part of the model: {listed(extra)}" if extra else None
    if missing == [f"{architecture.output}.weight"] and not config.tie_word_embeddings:
        hint = 'if the output shares the embedding, config.json needs "tie_word_embeddings": true'
        return CheckpointError(what, why=why, hint=hint)
    if any(name.endswith(_OF_META) for name in extra):
        return CheckpointError(
            "the tensors have the names of Meta's and Mistral's own formats, which transformers does not read",
            why=f"they are {listed(extra)}",
            hint="use the repository's files for transformers, or convert these with transformers' own script",
        )
    if any(".switch_mlp." in name for name in extra):
        return CheckpointError(
            "experts are stacked as MLX has them, which transformers does not read",
            why=f"they are {listed(extra)}",
            hint="convert the model that this one was made from, which its card calls base_model",
        )
    if gaps := _layers_without_tensors(missing, architecture, config):
        return CheckpointError(
            f"{len(gaps)} of {architecture.dimensions(config)['n_layer']} layers are not there: {listed(gaps)}",
            why="config.json says how many there are, and they are numbered without gaps",
            hint="if layers were removed, number the others anew and say so in config.json; else a file is missing",
        )
    if len(missing) >= n_all:
        return CheckpointError(
            f"no tensor has a name that a {architecture.restored_as} model has", why=why, hint=_COMPARE
        )
    return missing_tensors(missing, why)


def _layers_without_tensors(
    missing: Collection[str], architecture: Architecture, config: PreTrainedConfig
) -> list[str]:
    """The numbers of layers of which there is nothing, though there are others."""
    n_layer = architecture.dimensions(config)["n_layer"]
    lost = dict.fromkeys(range(n_layer), 0)
    promised = dict(lost)
    number = re.compile(rf"{re.escape(architecture.blocks)}\.(\d+)\.")
    for bundle in architecture.bundles(config):
        for name in bundle.sources:
            if (match := number.match(name)) and int(match[1]) < n_layer:
                promised[int(match[1])] += 1
                lost[int(match[1])] += name in missing
    gone = [layer for layer in promised if promised[layer] and lost[layer] == promised[layer]]
    return [str(layer) for layer in gone] if len(gone) < n_layer else []
