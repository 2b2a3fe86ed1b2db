"""Looks at folders, files and repositories of the Hub for models that are quantized already; no weight is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.backends.detection.configured import BESIDE, QMAP
from hubquant.backends.detection.detect import Detected, Metadata, detect
from hubquant.backends.detection.hints import by_name
from hubquant.backends.detection.marker import MARKER, read_marker
from hubquant.checkpoint.checkpoint import TensorInfo, local_header
from hubquant.checkpoint.diffusers_files import AGAIN, LEFT_OUT, NAME, PIPELINE, component_files
from hubquant.checkpoint.json_files import CONFIG, read_table
from hubquant.checkpoint.links import check_links
from hubquant.checkpoint.pickled import refusal
from hubquant.checkpoint.weight_files import INDEX, PICKLES, SINGLE, local_files, weight_files
from hubquant.disk import check_ends
from hubquant.errors import CheckpointError
from hubquant.gguf_file import GGUFFile
from hubquant.gguf_file.describe import describe
from hubquant.mix import FTYPES
from hubquant.recipe.references import GGUF_SUFFIX
from hubquant.sources.checkpoint import folder_name, hub_headers
from hubquant.sources.pipeline import components, is_pipeline, read_index

if TYPE_CHECKING:
    from hubquant.hub.pull import RemoteModel

_MAGIC = b"GGUF"
_SAFETENSORS = ".safetensors"
_EXPLICIT = "transformers_weights"  # in config.json: the file that is read in place of model.safetensors
_TRANSFORMERS = "model"  # how the names of weight files of its models begin
_DESCRIBING = re.compile(
    rf"([\w.-]+/)?({'|'.join(map(re.escape, (CONFIG, QMAP, MARKER, *BESIDE)))}|[\w.-]+\.index(\.\w+)?\.json)"
    rf"|{re.escape(PIPELINE)}|adapter_config\.json"
)


@dataclass(frozen=True)
class _Place:
    """A folder or a repository: ``folder`` holds its small files, ``available`` are all of them."""

    name: str
    folder: Path
    available: frozenset[str]
    headers: Callable[[Iterable[str]], Mapping[str, Mapping[str, TensorInfo]]]
    begins_as_gguf: Callable[[str], bool]


def detect_folder(folder: Path, name: str | None = None) -> tuple[Detected, ...]:
    """A model's folder gives one, a pipeline of diffusers one for each component with weights. Raises
    ``CheckpointError`` for what is missing or broken, and ``GGUFError``."""
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}", hint="check the path")
    check_links(folder)
    place = _Place(
        name or folder_name(folder.resolve()),
        folder,
        frozenset(local_files(folder)),
        lambda files: {file: local_header(folder / file, file) for file in files},
        lambda file: begins_as_gguf(folder / file),
    )
    found = _in_place(place)
    if found is not None:
        return found
    files = _gguf_names(place.available)
    return tuple(_gguf_file(folder / file, file if len(files) > 1 else "") for file in files)


def detect_remote(remote: RemoteModel) -> tuple[Detected, ...]:
    """As :func:`detect_folder`, of a repository that may be read: its small files and headers are fetched."""
    from hubquant.hub.cache import snapshot_folder
    from hubquant.hub.pull import fetch_metadata, range_reader

    described = any(map(_DESCRIBING.fullmatch, remote.files))
    place = _Place(
        remote.id.rpartition("/")[2],
        fetch_metadata(remote, _DESCRIBING) if described else snapshot_folder(remote.id, remote.revision),
        frozenset(remote.files),
        partial(hub_headers, remote),
        lambda file: remote.files[file].size >= len(_MAGIC) and range_reader(remote, file)(0, len(_MAGIC)) == _MAGIC,
    )
    found = _in_place(place)
    if found is not None:
        return found
    files = [file for file in _gguf_names(place.available) if place.begins_as_gguf(file)]
    if not files:
        raise CheckpointError(f"{remote.id} has files called {GGUF_SUFFIX} that are not GGUF", hint=AGAIN)
    return tuple(
        Detected("gguf", None, (f"{file} begins with GGUF", *by_name((file,), "gguf", None, "gguf")), file)
        for file in files
    )


def detect_file(path: Path) -> tuple[Detected, ...]:
    """Of a safetensors or GGUF file, whatever its name. Raises ``CheckpointError`` and ``GGUFError``."""
    if begins_as_gguf(path):
        return (_gguf_file(path, ""),)
    if path.suffix in PICKLES:
        raise refusal(path)
    try:
        tensors = local_header(path, path.name)
    except CheckpointError as error:
        if path.suffix.lower() != GGUF_SUFFIX:
            raise
        raise CheckpointError(f"{path} is no GGUF file", why="it does not begin with GGUF", hint=AGAIN) from error
    return (detect(Metadata(tensors, names=(path.name,))),)


def begins_as_gguf(path: Path) -> bool:
    """Raises ``CheckpointError`` for what cannot be read."""
    try:
        check_ends(path)
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read", why=error.strerror or str(error), hint="check the path"
        ) from None


def _in_place(place: _Place) -> tuple[Detected, ...] | None:
    """None where there are no weights but GGUF files."""
    if is_pipeline(place.available):
        named = [name for name in components(read_index(place.folder)) if name not in LEFT_OUT]
        return tuple(_component(place, name) for name in named if _has_weights(place, name))
    if not any(name.endswith((_SAFETENSORS, *PICKLES)) for name in place.available) and _gguf_names(place.available):
        return None
    config = _table(place, CONFIG) if CONFIG in place.available else {}
    if models := _loose(place, config):
        return tuple(_files(place, "", files, config, name) for name, files in models.items())
    return (_files(place, "", _weight_files(place, ""), config),)


def _component(place: _Place, component: str) -> Detected:
    file = f"{component}/{CONFIG}"
    config = _table(place, file) if file in place.available else {}
    return _files(place, component, _weight_files(place, component), config)


def _files(
    place: _Place, component: str, files: tuple[str, ...], config: Mapping[str, Any], called: str = ""
) -> Detected:
    """What the weights in ``files`` of a component are; it is ``called`` otherwise where it is one of several files."""
    prefix = f"{component}/" if component else ""
    try:
        headers = place.headers(files)
    except CheckpointError:
        if not (gguf := next(filter(place.begins_as_gguf, files), None)):
            raise
        said = (f"{gguf} begins with GGUF", f"the name says {gguf.rpartition('.')[2]}, the contents say gguf")
        hint = f"give it a name that ends in {GGUF_SUFFIX}"
        return Detected("gguf", None, said, component or called, f"{gguf} is a GGUF file", hint)
    beside = {name: _table(place, prefix + name) for name in (QMAP, *BESIDE) if prefix + name in place.available}
    marker = read_marker(place.folder / component) if prefix + MARKER in place.available else None
    names = (place.name, *(file.removeprefix(prefix).removesuffix(_SAFETENSORS) for file in files))
    tensors = {name: info for header in headers.values() for name, info in header.items()}
    return detect(Metadata(tensors, config, beside, marker, names[1:] if called else names, component or called))


def _table(place: _Place, name: str) -> dict[str, Any]:
    return read_table(place.folder / name, hint=AGAIN)


def _loose(place: _Place, config: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Files that neither transformers nor diffusers looks for, such as those of denoisers and of older programs: those
    of each model by its name, which is "" of one alone."""
    top = [name for name in sorted(place.available) if "/" not in name and name.endswith(_SAFETENSORS)]
    known = {SINGLE, INDEX} & place.available or _EXPLICIT in config or any(name.startswith(NAME) for name in top)
    if known or any("adapter" in name for name in top):
        return {}
    found: dict[str, list[str]] = {}
    for name in top:
        found.setdefault(re.sub(r"-\d{5}-of-\d{5}", "", name), []).append(name)
    return {name if len(found) > 1 else "": tuple(files) for name, files in found.items()}


def _weight_files(place: _Place, component: str) -> tuple[str, ...]:
    prefix = f"{component}/" if component else ""
    of_diffusers = any(name.startswith(prefix + NAME) for name in place.available)
    if not component and not of_diffusers:
        return weight_files(place.folder, place.available).names
    return component_files(place.folder, place.available, component, NAME if of_diffusers else _TRANSFORMERS).names


def _has_weights(place: _Place, component: str) -> bool:
    """Parts of a pipeline without are tokenizers, processors and schedulers."""
    if not component.isidentifier():
        raise CheckpointError(f"{PIPELINE} names a component {component[:40]!r}", why="it is no folder", hint=AGAIN)
    return any(name.startswith(f"{component}/") and name.endswith((_SAFETENSORS, *PICKLES)) for name in place.available)


def _gguf_names(available: Iterable[str]) -> list[str]:
    """One for each model: of shards the first."""
    names = sorted(name for name in available if name.lower().endswith(GGUF_SUFFIX) and "/" not in name)
    return [name for name in names if not re.search(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", name)]


def _gguf_file(path: Path, called: str) -> Detected:
    file = GGUFFile.open(path)
    found = describe(file)
    number = found.metadata.get("general.file_type")
    type = next((each.name for each in FTYPES.values() if each.id == number), None)
    held = ", ".join(f"{count} {name}" for name, count, _ in found.types)
    evidence = (
        f"{path.name} begins with GGUF",
        *([f"general.file_type says {type}"] if type else []),
        f"its tensors are {held}",
        *by_name((path.name,), "gguf", type, f"gguf {type}" if type else "gguf"),
    )
    return Detected("gguf", type, evidence, called)
