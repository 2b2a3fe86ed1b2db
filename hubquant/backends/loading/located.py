"""What a reference names, as far as loading has to know: where it lies, what it is, and how its weights are stored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hubquant.backends.detection.detect import Detected
from hubquant.backends.detection.recognise import begins_as_gguf, detect_file, detect_folder, detect_remote
from hubquant.backends.libraries.nncf import WEIGHTS
from hubquant.checkpoint.checkpoint import TensorInfo, local_header
from hubquant.checkpoint.diffusers_files import AGAIN, NAME, component_files
from hubquant.checkpoint.json_files import CONFIG, read_table
from hubquant.checkpoint.weight_files import local_files, weight_files
from hubquant.disk import user_path
from hubquant.engine.progress import Progress
from hubquant.errors import NotSupportedYet, UserError
from hubquant.gguf_file import GGUFFile
from hubquant.recipe.references import GGUF_SUFFIX
from hubquant.recipe.schema import ModelReference
from hubquant.sources.checkpoint import folder_of, hub_headers
from hubquant.sources.pipeline import is_pipeline

if TYPE_CHECKING:
    from hubquant.hub.access import Token
    from hubquant.hub.pull import RemoteModel

Kind = Literal["language model", "gguf", "pipeline", "denoiser", "denoiser file"]
_SMALL = re.compile(r"([\w.-]+/)?[\w.-]+\.(json|txt|model|jinja)")
_TRANSFORMERS = "model"


@dataclass(frozen=True)
class Located:
    """A model of which only metadata was read. ``folder`` holds its small files; ``found`` has one for each component
    of a pipeline. ``weights`` are its files by component, "" where it has none, as paths from ``folder``; ``remote``
    has those that are not on this machine."""

    name: str
    kind: Kind
    folder: Path
    found: tuple[Detected, ...]
    weights: Mapping[str, tuple[str, ...]]
    remote: RemoteModel | None = None

    @property
    def n_bytes(self) -> int:
        """Of all weights, as they are stored."""
        if self.remote is not None:
            return sum(self.remote.files[file].size for files in self.weights.values() for file in files)
        return sum((self.folder / file).stat().st_size for files in self.weights.values() for file in files)

    def detected(self, component: str = "") -> Detected:
        """How the weights of a component are stored."""
        return next((each for each in self.found if each.component == component), Detected(None, None, (), component))

    def tensors(self, component: str = "") -> dict[str, TensorInfo]:
        """From the headers of a component's files."""
        files = self.weights[component]
        headers = (
            hub_headers(self.remote, files)
            if self.remote
            else {file: local_header(self.folder / file, file) for file in files}
        )
        return {name: info for header in headers.values() for name, info in header.items()}

    def pulled(self, progress: Progress) -> Located:
        """With its weights on this machine."""
        if self.remote is None:
            return self
        from hubquant.hub.pull import fetch_weights, not_cached_bytes

        files = [file for files in self.weights.values() for file in files]
        with progress.bar("pull", not_cached_bytes(self.remote, files), "B") as advance:
            return replace(self, folder=fetch_weights(self.remote, files, advance), remote=None)


def locate(reference: ModelReference, token: Token = None) -> Located:
    """Raises ``HubAccessError`` for what is not there or may not be seen, ``CheckpointError`` and ``GGUFError`` for
    what is broken, and ``UserError`` for what holds no model or several."""
    name = reference.display_name
    if reference.id is not None:
        from hubquant.hub.pull import fetch_metadata, resolve

        remote = resolve(reference.id, reference.revision, token=token)
        found = detect_remote(remote)
        if any(each.backend == "gguf" for each in found):
            raise NotSupportedYet(
                "GGUF files of the Hub",
                why="such files are read from this machine only",
                hint=f"hf download {reference.id} NAME{GGUF_SUFFIX} --local-dir ., and name the file",
            )
        return _of_files(name, fetch_metadata(remote, _SMALL), {*remote.files}, found, remote)
    if reference.file is not None:
        return _of_file(name, user_path(reference.file))
    folder = folder_of(reference)
    found = detect_folder(folder)
    if [each.backend for each in found] == ["gguf"]:
        return _of_file(name, next(path for path in sorted(folder.iterdir()) if path.suffix.lower() == GGUF_SUFFIX))
    return _of_files(name, folder, local_files(folder), found, None)


def _of_file(name: str, path: Path) -> Located:
    found = detect_file(path)
    kind: Kind = "gguf" if begins_as_gguf(path) and not _holds_denoiser(path) else "denoiser file"
    return Located(name, kind, path.parent, found, {"": (path.name,)})


def _holds_denoiser(path: Path) -> bool:
    from hubquant.convert.diffusion.recognise import looks_like_denoiser
    from hubquant.mix.denoisers import DENOISERS

    file = GGUFFile.open(path)
    architecture = file.metadata.get("general.architecture")
    if architecture is not None and architecture.value in DENOISERS:
        return True
    return looks_like_denoiser({name: tensor.shape for name, tensor in file.tensors.items()})


def _of_files(
    name: str, folder: Path, available: set[str], found: tuple[Detected, ...], remote: RemoteModel | None
) -> Located:
    if is_pipeline(available):
        parts = [each.component for each in found]
        return Located(
            name, "pipeline", folder, found, {each: _part(folder, available, each) for each in parts}, remote
        )
    if len(found) > 1:
        what = ", ".join(each.component for each in found)
        raise UserError(f"{name} holds several models", why=f"they are {what}", hint="name the file of one")
    of_diffusers = any(file.startswith(NAME) for file in available) or "_class_name" in _config(folder, available)
    if found[0].backend == "nncf" and WEIGHTS in available:
        files: tuple[str, ...] = (WEIGHTS,)
    else:
        files = (component_files(folder, available, "") if of_diffusers else weight_files(folder, available)).names
    return Located(name, "denoiser" if of_diffusers else "language model", folder, found, {"": files}, remote)


def _config(folder: Path, available: set[str]) -> Mapping[str, Any]:
    return read_table(folder / CONFIG, hint=AGAIN) if CONFIG in available else {}


def _part(folder: Path, available: set[str], component: str) -> tuple[str, ...]:
    of_diffusers = any(file.startswith(f"{component}/{NAME}") for file in available)
    return component_files(folder, available, component, NAME if of_diffusers else _TRANSFORMERS).names
