"""Where a model comes from: a Hub repository, a local folder, the demo model in the package, or a GGUF file.

Opening a source reads metadata only: config, tokenizer files and headers.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.convert.architectures import CLASSES
from hubquant.convert.checkpoint import Checkpoint, read_header
from hubquant.convert.conversion import Conversion, check_copies, plan_conversion
from hubquant.convert.weight_files import weight_files
from hubquant.disk import user_path
from hubquant.engine.progress import Progress
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.gguf_file import Metadata
from hubquant.hub.front_matter import read_card
from hubquant.models.identify import identify
from hubquant.recipe.schema import ModelReference

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hubquant.hub.pull import RemoteModel
    from hubquant.models.load import Placement

METADATA_PATTERN = re.compile(r".*\.(json|jinja|model)$|(vocab|merges)\.txt$|README\.md$")
LARGEST_METADATA = 100 << 20  # bytes


@dataclass(frozen=True)
class SourceModel:
    """``identity`` is what every artifact made from these weights depends on, its "model" part is the same on every
    machine. ``folder`` holds the weights once ``remote`` is None. ``pre_tokenizer`` stands in the place of that which
    would be recognised."""

    name: str
    id: str | None
    revision: str
    folder: Path
    checkpoint: Checkpoint
    card: Mapping[str, Any]
    identity: Mapping[str, str]
    remote: RemoteModel | None = None
    weight_files: tuple[str, ...] = ()
    download_bytes: int = 0
    pre_tokenizer: str | None = None

    @property
    def can_stream(self) -> bool:
        """Whether the model can be run block by block."""
        return True

    @property
    def quantized_types(self) -> tuple[str, ...]:
        """What the weights were quantized to before, if that lost something."""
        return ()

    def conversion(self) -> Conversion:
        """What becomes of the weights; see :func:`plan_conversion`."""
        conversion = plan_conversion(self.folder, self.checkpoint, pre_tokenizer=self.pre_tokenizer)
        if self.checkpoint.folder is not None:
            check_copies(conversion, self.checkpoint)
        return conversion

    @property
    def stored_types(self) -> Mapping[str, str]:
        """Of the tensors of the file that :meth:`stored` has."""
        return {}

    def stored(self, name: str, type: str) -> torch.Tensor | None:  # noqa: ARG002
        """The bytes that the source itself has of a tensor of the file in that type, uint8 [rows, row_bytes]."""
        return None

    def general_metadata(self, n_parameters: int) -> Metadata:
        """The keys that come before those of the conversion."""
        from hubquant.convert.general import general_metadata

        return general_metadata(self.folder, self.card, self.full_name, n_parameters, quantized_by="hubquant")

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's own, which gives a text the tokens that llama.cpp will."""
        from hubquant.convert.vocab.gemma4 import begin_with_bos, is_gemma4
        from hubquant.models import load_tokenizer

        tokenizer = load_tokenizer(self.folder)
        return begin_with_bos(tokenizer) if is_gemma4(self.checkpoint.config) else tokenizer

    def load(self, placement: Placement | None = None) -> PreTrainedModel:
        """The model in memory; the weights must be on disk."""
        from hubquant.models import load

        return load(self.folder, placement=placement)

    @property
    def full_name(self) -> str:
        """With its owner where it is on the Hub."""
        return self.id or self.name

    @property
    def exact_revision(self) -> str:
        """Of a folder, the state of its files."""
        return self.revision if self.id else self.identity["state"]

    def download(self, progress: Progress) -> SourceModel:
        """The same source with its weights on disk."""
        if self.remote is None:
            return self
        from hubquant.hub.pull import fetch_weights

        progress.step("pull", f"{self.id} at {self.revision[:12]}", reused=self.download_bytes == 0)
        with progress.bar("pull", self.download_bytes, "B") as advance:
            folder = fetch_weights(self.remote, self.weight_files, advance)
        return replace(self, folder=folder, checkpoint=self.checkpoint.with_folder(folder), remote=None)


def open_source(reference: ModelReference, pre_tokenizer: str | None = None) -> SourceModel:
    """Raises ``HubAccessError``, ``CheckpointError`` or ``NotSupportedYet`` when the model cannot be used."""
    return replace(_open(reference), pre_tokenizer=pre_tokenizer)


def _open(reference: ModelReference) -> SourceModel:
    if reference.allow_pickle:
        raise NotSupportedYet(
            "pickled weights", hint="convert the repository to safetensors first, then remove allow_pickle"
        )
    if reference.id is not None:
        return _open_hub(reference.id, reference.revision)
    if reference.file is not None:
        from hubquant.engine.gguf_source import open_gguf

        return open_gguf(user_path(reference.file))
    if reference.bundled is not None:
        folder = Path(str(resources.files("hubquant") / "data" / "demo"))
        return _open_folder(folder, f"hubquant-{reference.bundled}")
    folder = user_path(str(reference.folder))
    if not os.path.isdir(folder):
        raise CheckpointError(
            f"there is no folder {folder}", hint="check the path, or name a Hub id such as Qwen/Qwen3-0.6B"
        )
    return _open_folder(folder, _folder_name(folder.resolve()))


def _folder_name(folder: Path) -> str:
    """A snapshot in the Hub's cache, models--org--name/snapshots/<commit>, has its repository's name."""
    kind, *names = folder.parent.parent.name.split("--")
    return names[-1] if names and kind == "models" and folder.parent.name == "snapshots" else folder.name


def _open_folder(folder: Path, name: str) -> SourceModel:
    checkpoint = Checkpoint.from_folder(folder)
    identify(folder, CLASSES)
    return SourceModel(
        name=name,
        id=None,
        revision="local",
        folder=folder,
        checkpoint=checkpoint,
        card=read_card(folder),
        identity={"model": _content_fingerprint(folder, checkpoint), "state": _state_fingerprint(folder, checkpoint)},
    )


def _open_hub(repo_id: str, revision: str) -> SourceModel:
    from hubquant.hub import cache
    from hubquant.hub.pull import fetch_metadata, range_reader, resolve

    remote = resolve(repo_id, revision)
    folder = fetch_metadata(remote)
    files = weight_files(folder, remote.files)
    identify(folder, CLASSES)
    headers = {file: read_header(range_reader(remote, file), file, remote.files[file].size) for file in files.names}
    missing = [file for file in files.names if not cache.cached_file(remote.id, remote.revision, file)]
    return SourceModel(
        name=repo_id.rsplit("/", 1)[-1],
        id=repo_id,
        revision=remote.revision,
        folder=folder,
        checkpoint=Checkpoint.from_headers(folder, files, headers),
        card=remote.card,
        identity={"model": f"{repo_id}@{remote.revision}"},
        remote=remote,
        weight_files=files.names,
        download_bytes=sum(remote.files[file].size for file in missing),
    )


def _content_fingerprint(folder: Path, checkpoint: Checkpoint) -> str:
    """Config, tokenizer and tensor table by content: the same on every machine, and cheap for any size of model."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file() and METADATA_PATTERN.match(p.name)):
        if path.stat().st_size <= LARGEST_METADATA:
            digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    for name, info in sorted(checkpoint.tensors.items()):
        digest.update(f"{name}\0{info.dtype}\0{info.shape}\0{info.file}\0{info.begin}\0{info.end}\0".encode())
    return digest.hexdigest()


def _state_fingerprint(folder: Path, checkpoint: Checkpoint) -> str:
    """Size and time of change of the weight files, as ``make`` looks at them: weights changed in place are others."""
    digest = hashlib.sha256()
    for file in sorted({info.file for info in checkpoint.tensors.values()}):
        status = (folder / file).stat()
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()
