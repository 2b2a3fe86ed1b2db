"""A model's folder, or a repository of the Hub, as a source."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from hubquant.checkpoint.checkpoint import Checkpoint, TensorInfo, read_header
from hubquant.checkpoint.consolidated import ConsolidatedCheckpoint, is_consolidated
from hubquant.checkpoint.modules import with_dense
from hubquant.checkpoint.pickle_headers import pickled_header
from hubquant.checkpoint.pickled import PickledCheckpoint, pickles_of
from hubquant.checkpoint.weight_files import WeightFiles, local_files, weight_files
from hubquant.convert.architectures import CLASSES, WITHOUT_CODE
from hubquant.convert.plain import load_plain
from hubquant.convert.projectors import ELSEWHERE
from hubquant.devices import Device
from hubquant.disk import user_path
from hubquant.hub.front_matter import read_card
from hubquant.models.identify import identify
from hubquant.models.load import Placement
from hubquant.recent import Recent
from hubquant.recipe.schema import ModelReference
from hubquant.sources.source import SourceModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hubquant.hub.pull import RemoteModel

METADATA_PATTERN = re.compile(r".*\.(json|jinja|model)$|tokenizer\.model\.v\w+$|(vocab|merges)\.txt$|README\.md$")
LARGEST_METADATA = 100 << 20  # bytes


def folder_name(folder: Path) -> str:
    """A snapshot in the Hub's cache, models--org--name/snapshots/<commit>, has its repository's name."""
    kind, *names = folder.parent.parent.name.split("--")
    return names[-1] if names and kind == "models" and folder.parent.name == "snapshots" else folder.name


def folder_of(reference: ModelReference) -> Path:
    """That a reference to a folder or to a bundled model names."""
    if reference.bundled is not None:
        return Path(str(resources.files("hubquant") / "data" / reference.bundled))
    return user_path(str(reference.folder))


def open_folder(folder: Path, name: str, *, pickles: bool = False) -> SourceModel:
    """With ``pickles`` also one whose weights are in pytorch_model.bin."""
    checkpoint = _checkpoint(folder, pickles)
    if not isinstance(checkpoint, ConsolidatedCheckpoint):
        identify(folder, CLASSES, (*WITHOUT_CODE, *ELSEWHERE))
    return SourceModel(
        name=name,
        id=None,
        revision="local",
        folder=folder,
        checkpoint=checkpoint,
        card=read_card(folder),
        identity={
            "model": content_fingerprint(folder, _described(folder), checkpoint),
            "state": state_fingerprint(folder, {folder / info.file for info in checkpoint.tensors.values()}),
        },
    )


def _checkpoint(folder: Path, pickles: bool) -> Checkpoint:
    available = local_files(folder)
    if pickles and (files := pickles_of(folder, available)):
        return PickledCheckpoint.from_pickles(folder, files)
    files = weight_files(folder, available)
    if is_consolidated(files.names):
        return ConsolidatedCheckpoint.from_files(folder, files)
    return Checkpoint.from_folder(folder)


def load_folder(folder: Path, device: Device = "auto", placement: Placement | None = None) -> PreTrainedModel:
    """The language model of a folder as it is converted; see :func:`hubquant.models.load`."""
    return load_plain(_checkpoint(folder, pickles=False), folder, device, placement)


_opened: Recent[tuple[str, str, bool], SourceModel] = Recent(32)  # by repository and commit, with nobody's token


def open_hub(remote: RemoteModel, *, pickles: bool = False) -> SourceModel:
    """What the files hold of a repository that may be read: at one commit it never changes. With ``pickles`` also one
    whose weights are in pytorch_model.bin."""
    from hubquant.hub.pull import not_cached_bytes

    source = _opened.get((remote.id, remote.revision, pickles), lambda: _read_hub(remote, pickles))
    if not source.folder.is_dir():  # the cache was emptied
        source = _read_hub(remote, pickles)
    return replace(source, remote=remote, download_bytes=not_cached_bytes(remote, source.weight_files))


def _read_hub(remote: RemoteModel, pickles: bool) -> SourceModel:
    from hubquant.hub.pull import fetch_metadata

    folder = fetch_metadata(remote)
    files, checkpoint = _remote_checkpoint(remote, folder, pickles)
    if not isinstance(checkpoint, ConsolidatedCheckpoint):
        identify(folder, CLASSES, (*WITHOUT_CODE, *ELSEWHERE))
    return SourceModel(
        name=remote.id.rsplit("/", 1)[-1],
        id=remote.id,
        revision=remote.revision,
        folder=folder,
        checkpoint=checkpoint,
        card=remote.card,
        identity={"model": f"{remote.id}@{remote.revision}"},
        weight_files=files.names,
    )


def _remote_checkpoint(remote: RemoteModel, folder: Path, pickles: bool) -> tuple[WeightFiles, Checkpoint]:
    """``folder`` has the small files."""
    if pickles and (files := pickles_of(folder, remote.files)):
        headers = _pickled_headers(remote, files.names)
        return files, PickledCheckpoint.from_pickled_headers(folder, files, headers)
    files = weight_files(folder, remote.files)
    if is_consolidated(files.names):
        from hubquant.hub.pull import CONSOLIDATED_METADATA, fetch_metadata

        fetch_metadata(remote, CONSOLIDATED_METADATA)
        return files, ConsolidatedCheckpoint.of_headers(folder, files, hub_headers(remote, files.names))
    files = with_dense(files, folder, remote.files)
    return files, Checkpoint.from_headers(folder, files, hub_headers(remote, files.names))


def hub_headers(remote: RemoteModel, files: Iterable[str]) -> dict[str, dict[str, TensorInfo]]:
    """The tensors of safetensors files, by file and name; no more than their headers is fetched."""
    from hubquant.hub.pull import range_reader

    return {file: read_header(range_reader(remote, file), file, remote.files[file].size) for file in files}


def _pickled_headers(remote: RemoteModel, files: Iterable[str]) -> dict[str, dict[str, TensorInfo]]:
    """As :func:`hub_headers`, of pickles."""
    from hubquant.hub.pull import range_reader

    return {file: pickled_header(range_reader(remote, file), file, remote.files[file].size) for file in files}


def _described(folder: Path) -> list[Path]:
    """The files that tell of the model: config, tokenizer, card."""
    return [path for path in folder.iterdir() if path.is_file() and METADATA_PATTERN.match(path.name)]


def content_fingerprint(folder: Path, described: Iterable[Path], checkpoint: Checkpoint) -> str:
    """The files that describe a model and its tensor table, by content: the same on every machine, and cheap for any
    size of model."""
    digest = hashlib.sha256()
    for path in sorted(described):
        if path.stat().st_size <= LARGEST_METADATA:
            name = path.relative_to(folder).as_posix()
            digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    for name, info in sorted(checkpoint.tensors.items()):
        digest.update(f"{name}\0{info.dtype}\0{info.shape}\0{info.file}\0{info.begin}\0{info.end}\0".encode())
    return digest.hexdigest()


def state_fingerprint(folder: Path, weights: Iterable[Path]) -> str:
    """Size and time of change of the weight files, as ``make`` looks at them: weights changed in place are others."""
    digest = hashlib.sha256()
    for path in sorted(weights):
        status, file = path.stat(), path.relative_to(folder).as_posix()
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()
