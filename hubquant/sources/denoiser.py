"""Where a denoiser comes from: a diffusers pipeline, the folder of its denoiser alone, or a file that holds one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.checkpoint.checkpoint import Checkpoint, TensorInfo, local_header
from hubquant.checkpoint.diffusers_files import AGAIN, LEFT_OUT, NAME, PIPELINE, component_files
from hubquant.checkpoint.float8 import as_floats
from hubquant.checkpoint.json_files import CONFIG, read_table
from hubquant.checkpoint.links import check_links
from hubquant.checkpoint.pickled import PickledCheckpoint
from hubquant.checkpoint.weight_files import WeightFiles, local_files
from hubquant.convert.conversion import Conversion
from hubquant.convert.diffusion.blocks import check_blocks
from hubquant.convert.diffusion.conversion import FileLayout, default_layout, denoiser_conversion
from hubquant.convert.diffusion.foreign import check_floats
from hubquant.convert.diffusion.recognise import Denoiser, parts, recognise
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.layout import DIFFUSION
from hubquant.gguf_file.metadata import Metadata, string
from hubquant.hub.front_matter import read_card
from hubquant.sources.checkpoint import content_fingerprint, hub_headers, state_fingerprint
from hubquant.sources.pipeline import DENOISERS, DESCRIBING, components, denoisers, not_there, read_index
from hubquant.sources.source import SourceModel
from hubquant.units import counted

if TYPE_CHECKING:
    from hubquant.hub.pull import RemoteModel


@dataclass(frozen=True, kw_only=True)
class DenoiserSource(SourceModel):
    """``pipeline`` is the name of the class that draws with it, "" of a denoiser alone, ``denoiser_class`` that of its
    own. ``pipeline_files`` are all that the pipeline loads as weights, of ``pipeline_bytes``, of which
    ``pipeline_download`` are not on this machine yet. ``described`` is a fingerprint of all files of a folder that
    describe the pipeline."""

    denoiser: Denoiser
    pipeline: str = ""
    denoiser_class: str = ""
    pipeline_files: tuple[str, ...] = ()
    pipeline_bytes: int = 0
    pipeline_download: int = 0
    described: str = ""
    layout: FileLayout | None = None

    @property
    def converts_tokenizer(self) -> bool:
        return False

    @cached_property
    def file_layout(self) -> FileLayout:
        return self.layout or default_layout(self.denoiser)

    @property
    def names_as(self) -> str:
        chosen = self.layout
        if chosen is None or chosen == default_layout(self.denoiser):
            return _suffix(self.component)
        return f"{chosen.prefix}{chosen.names}{' in rows' if chosen.in_rows else ''}{_suffix(self.component)}"

    def conversion(self) -> Conversion:
        """Raises ``CheckpointError`` for tensors that are missing or left over."""
        found = denoiser_conversion(self.denoiser, self.checkpoint.tensors, self.file_layout)
        alone = "there is nothing to draw with: it is a denoiser alone, without text encoders and VAE"
        return replace(found, notes=self.checkpoint.notes, cannot_run=None if self.pipeline else alone)

    def general_metadata(self, shapes: Mapping[str, tuple[int, ...]]) -> Metadata:
        return {**super().general_metadata(shapes), "general.type": string(DIFFUSION)}

    @property
    def pipeline_weights(self) -> int:
        """An estimate: published ones are stored in half precision."""
        return self.pipeline_bytes // 2

    @property
    def whole_pipeline(self) -> DenoiserSource:
        """The same with all files that the pipeline loads as its weights, whichever of its denoisers this is."""
        identity = {**self.identity, "model": self.described} if self.described else self.identity
        return replace(self, weight_files=self.pipeline_files, download_bytes=self.pipeline_download, identity=identity)


def open_pipeline(folder: Path, name: str, component: str | None = None) -> DenoiserSource:
    """Of a folder with model_index.json. Raises ``CheckpointError`` and ``NotSupportedYet``."""
    check_links(folder)
    index, chosen = _chosen(folder, component)
    available = local_files(folder)
    files = component_files(folder, available, chosen)
    headers = [local_header(folder / file, file) for file in files.names]
    checkpoint, denoiser = _read(_config(folder / chosen), headers, folder, files)
    loaded = _pipeline_files(index, available, files.names)
    weights = [folder / file for file in loaded]
    small = [path for path in folder.glob("*/*") if path.suffix in DESCRIBING]
    described = [folder / PIPELINE, *small]
    return DenoiserSource(
        name=name + _suffix(chosen),
        id=None,
        revision="local",
        folder=folder,
        checkpoint=checkpoint,
        card=read_card(folder),
        identity={
            "model": content_fingerprint(folder, described, checkpoint),
            "state": state_fingerprint(folder, weights),
        },
        denoiser=denoiser,
        pipeline=str(index["_class_name"]),
        denoiser_class=str(index[chosen][-1]),
        component=chosen,
        pipeline_files=loaded,
        pipeline_bytes=sum(path.stat().st_size for path in weights),
        described=content_fingerprint(folder, described, Checkpoint({}, {}, None)),
    )


def open_hub_pipeline(remote: RemoteModel, component: str | None = None) -> DenoiserSource:
    """Of a repository that may be read; only metadata is fetched."""
    from hubquant.hub.pull import PIPELINE_METADATA, fetch_metadata, not_cached_bytes

    folder = fetch_metadata(remote, PIPELINE_METADATA)
    index, chosen = _chosen(folder, component)
    files = component_files(folder, remote.files, chosen)
    headers = hub_headers(remote, files.names).values()
    checkpoint, denoiser = _read(_config(folder / chosen), headers, None, files)
    loaded = _pipeline_files(index, remote.files, files.names)
    return DenoiserSource(
        name=remote.id.rsplit("/", 1)[-1] + _suffix(chosen),
        id=remote.id,
        revision=remote.revision,
        folder=folder,
        checkpoint=checkpoint,
        card=remote.card,
        identity={"model": f"{remote.id}@{remote.revision}"},
        remote=remote,
        weight_files=files.names,
        download_bytes=not_cached_bytes(remote, files.names),
        denoiser=denoiser,
        pipeline=str(index["_class_name"]),
        denoiser_class=str(index[chosen][-1]),
        component=chosen,
        pipeline_files=loaded,
        pipeline_bytes=sum(remote.files[file].size for file in loaded),
        pipeline_download=not_cached_bytes(remote, loaded),
    )


def is_denoiser_folder(folder: Path) -> bool:
    """Whether it is the folder of a model of diffusers, as those in a pipeline's are, or has files of such names."""
    return "_class_name" in _config(folder) or any(folder.glob(f"{NAME}*"))


def open_denoiser_folder(folder: Path, name: str) -> DenoiserSource:
    """Of a denoiser that diffusers saved by itself."""
    check_links(folder)
    files = component_files(folder, local_files(folder), "")
    checkpoint, denoiser = _read(
        _config(folder), [local_header(folder / file, file) for file in files.names], folder, files
    )
    described = [folder / CONFIG] if (folder / CONFIG).is_file() else []
    return _alone(name, folder, checkpoint, denoiser, described, [folder / file for file in files.names])


def open_single_file(path: Path) -> DenoiserSource:
    """Of a safetensors file, in whichever layout, with or without text encoders and VAE beside the denoiser."""
    check_links(path.parent)
    header = local_header(path, path.name)
    checkpoint, denoiser = _read({}, [header], path.parent, WeightFiles((path.name,)))
    return _alone(path.stem, path.parent, checkpoint, denoiser, [], [path])


def open_pickle(path: Path) -> DenoiserSource:
    """Of a pickled file like that, of which nothing but tensors is read."""
    check_links(path.parent)
    found = PickledCheckpoint.from_file(path)
    checkpoint, denoiser = _read({}, [found.tensors], path.parent, WeightFiles((path.name,), found.notes))
    pickled = replace(found, tensors=checkpoint.tensors, notes=checkpoint.notes)
    return _alone(path.stem, path.parent, pickled, denoiser, [], [path])


def _alone(
    name: str, folder: Path, checkpoint: Checkpoint, denoiser: Denoiser, described: list[Path], weights: list[Path]
) -> DenoiserSource:
    return DenoiserSource(
        name=name,
        id=None,
        revision="local",
        folder=folder,
        checkpoint=checkpoint,
        card={},
        identity={
            "model": content_fingerprint(folder, described, checkpoint),
            "state": state_fingerprint(folder, weights),
        },
        denoiser=denoiser,
    )


def _read(
    config: Mapping[str, Any], headers: Iterable[Mapping[str, TensorInfo]], folder: Path | None, files: WeightFiles
) -> tuple[Checkpoint, Denoiser]:
    """The tensors as a checkpoint, and what they are. The checkpoint has no config: nothing is to be made of it."""
    stored = {name: info for header in headers for name, info in header.items()}
    check_floats(stored)
    tensors = as_floats(stored)
    shapes = {name: info.shape for name, info in tensors.items()}
    denoiser, found = recognise(shapes), parts(shapes)
    check_blocks(denoiser, config)
    others = (
        (found.text_encoders, "of text encoders"),
        (found.vae, "of a VAE"),
        ((*found.left_out, *denoiser.unused), "that the denoiser does not compute with"),
    )
    left_out = [f"{counted(len(names), 'tensor')} {what}" for names, what in others if names]
    notes = [f"left out: {each}" for each in left_out]
    eight = [info for name in denoiser.shapes if (info := tensors[denoiser.prefix + name]).scale]
    if eight:
        notes.append(
            f"{counted(len(eight), 'weight was', 'weights were')} rounded to {eight[0].dtype} before: what that lost "
            "is lost, and the original model gives better files"
        )
    return Checkpoint({}, tensors, folder, (*files.notes, *notes)), denoiser


def _chosen(folder: Path, component: str | None) -> tuple[Mapping[str, Any], str]:
    """model_index.json, and the component that is quantized."""
    index = read_index(folder)
    found = denoisers(index)
    if not found:
        there = components(index)
        raise NotSupportedYet(
            "a pipeline without a denoiser",
            why=f"{index['_class_name']} has {', '.join(there) or 'no components'}, and no {' or '.join(DENOISERS)}",
            hint="name a pipeline that draws by diffusion",
        )
    if component is None:
        return index, min(found, key=lambda name: (name not in DENOISERS, name))
    if component not in found:
        raise not_there(index, component)
    return index, component


def _suffix(component: str) -> str:
    """What follows the model's name in those of its files, where the component is not the first of its pipeline."""
    return "" if component in ("", *DENOISERS) else f"-{component}"


def _config(folder: Path) -> Mapping[str, Any]:
    return read_table(folder / CONFIG, hint=AGAIN) if (folder / CONFIG).is_file() else {}


def _pipeline_files(index: Mapping[str, Any], available: Collection[str], denoiser: Collection[str]) -> tuple[str, ...]:
    """All that the components load: of one with weights in several forms those that diffusers takes."""
    loaded = components(index).keys() - {*LEFT_OUT}
    others = sorted(name for name in available if "/" in name and name.partition("/")[0] in loaded)
    own = {name.partition("/")[0] for name in denoiser}
    weights = [name for name in others if name.endswith(".safetensors") and name.partition("/")[0] not in own]
    plain = {name.partition("/")[0] for name in weights if not _has_variant(name)}
    return (*denoiser, *(name for name in weights if not _has_variant(name) or name.partition("/")[0] not in plain))


def _has_variant(name: str) -> bool:
    """As in model.fp16.safetensors and model.fp16-00001-of-00002.safetensors."""
    return any(f".{variant}" in name.rpartition("/")[2] for variant in ("fp16", "bf16", "fp32", "non_ema"))
