"""The text encoder of a diffusers pipeline as a language model: its weights lie in one folder, its tokenizer in
another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hubquant.checkpoint.checkpoint import Checkpoint, TensorInfo, local_header
from hubquant.checkpoint.diffusers_files import AGAIN, PIPELINE, component_files
from hubquant.checkpoint.json_files import read_config
from hubquant.checkpoint.links import check_links
from hubquant.checkpoint.weight_files import WeightFiles, local_files
from hubquant.convert.architectures import CLASSES, WITHOUT_CODE
from hubquant.convert.conversion import Conversion
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.hub.front_matter import read_card
from hubquant.models.identify import identify
from hubquant.sources.checkpoint import content_fingerprint, hub_headers, state_fingerprint
from hubquant.sources.pipeline import DESCRIBING, TEXT_ENCODER, components, is_text_encoder, not_there, read_index
from hubquant.sources.source import SourceModel

if TYPE_CHECKING:
    from hubquant.hub.pull import RemoteModel

_STEM = "model"  # transformers' name for weight files
IN_COMFYUI = ("t5encoder", "llama", "qwen2vl", "qwen3", "qwen3vl")
"""Architectures of text encoders that ComfyUI-GGUF loads: https://github.com/city96/ComfyUI-GGUF (loader.py)."""


@dataclass(frozen=True)
class TextEncoderSource(SourceModel):
    """``folder`` is the pipeline's, and ``component`` the name of the folder in it that holds the weights."""

    @property
    def model_folder(self) -> Path:
        return self.folder / self.component

    @property
    def tokenizer_folder(self) -> Path:
        return self.folder / self.component.replace(TEXT_ENCODER, "tokenizer")

    def conversion(self) -> Conversion:
        found = super().conversion()
        if found.architecture in IN_COMFYUI:
            return found
        note = f"ComfyUI-GGUF loads text encoders of {', '.join(IN_COMFYUI)}: this one is {found.architecture}"
        return replace(found, notes=(*found.notes, note))


def open_text_encoder(folder: Path, name: str, component: str) -> TextEncoderSource:
    """Of a folder with model_index.json. Raises ``CheckpointError``, ``NotSupportedYet``, and ``UserError`` for a
    component that is not there."""
    check_links(folder)
    _check(folder, component, name)
    files = component_files(folder, local_files(folder), component, _STEM)
    headers = {file: local_header(folder / file, file) for file in files.names}
    checkpoint = _checkpoint(folder, component, files, headers, folder)
    source = TextEncoderSource(
        name=f"{name}-{component}",
        id=None,
        revision="local",
        folder=folder,
        checkpoint=checkpoint,
        card=read_card(folder),
        identity={},
        component=component,
    )
    described = [path for each in (source.model_folder, source.tokenizer_folder) for path in each.glob("*")]
    small = [path for path in described if path.suffix in DESCRIBING]
    return replace(
        source,
        identity={
            "model": content_fingerprint(folder, [folder / PIPELINE, *small], checkpoint),
            "state": state_fingerprint(folder, [folder / file for file in files.names]),
        },
    )


def open_hub_text_encoder(remote: RemoteModel, component: str) -> TextEncoderSource:
    """Of a repository that may be read; only metadata is fetched."""
    from hubquant.hub.pull import PIPELINE_METADATA, fetch_metadata, not_cached_bytes

    folder = fetch_metadata(remote, PIPELINE_METADATA)
    _check(folder, component, remote.id)
    files = component_files(folder, remote.files, component, _STEM)
    return TextEncoderSource(
        name=f"{remote.id.rsplit('/', 1)[-1]}-{component}",
        id=remote.id,
        revision=remote.revision,
        folder=folder,
        checkpoint=_checkpoint(folder, component, files, hub_headers(remote, files.names), None),
        card=remote.card,
        identity={"model": f"{remote.id}@{remote.revision}", "component": component},
        remote=remote,
        weight_files=files.names,
        download_bytes=not_cached_bytes(remote, files.names),
        component=component,
    )


def _check(folder: Path, component: str, model: str) -> None:
    """Raises for a component that no file can be made of."""
    index = read_index(folder)
    kind = components(index).get(component)
    if kind is None or not is_text_encoder(component):
        raise not_there(index, component)
    if kind.startswith("CLIPText"):
        raise NotSupportedYet(
            f"{component} as GGUF: it is a {kind}",
            why="llama.cpp has no architecture for CLIP's text encoders, and ComfyUI and stable-diffusion.cpp load "
            "their safetensors",
            hint=f"use {component}/model.safetensors of {model} as it stands",
        )
    if not (folder / component / "config.json").is_file():
        raise CheckpointError(f"{component} has no config.json", hint=AGAIN)
    identify(folder / component, CLASSES, WITHOUT_CODE)


def _checkpoint(
    folder: Path,
    component: str,
    files: WeightFiles,
    headers: Mapping[str, Mapping[str, TensorInfo]],
    weights: Path | None,
) -> Checkpoint:
    """With the ``files`` by their paths from ``folder``; those are there where it is the folder of the ``weights``."""
    tensors = {name: info for file in files.names for name, info in headers[file].items()}
    return Checkpoint(read_config(folder / component), tensors, weights, files.notes)
