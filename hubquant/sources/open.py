"""What a recipe or a command names becomes a source. Only metadata is read: config, tokenizer files and headers."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hubquant.checkpoint.pickled import refusal
from hubquant.checkpoint.weight_files import PICKLES
from hubquant.disk import user_path
from hubquant.errors import CheckpointError, NotSupportedYet, UserError
from hubquant.recipe.references import GGUF_SUFFIX, model_reference
from hubquant.recipe.schema import Convert, ModelReference
from hubquant.sources.adapter import open_adapter
from hubquant.sources.checkpoint import folder_name, folder_of, open_folder, open_hub
from hubquant.sources.component import Component
from hubquant.sources.denoiser import (
    DenoiserSource,
    is_denoiser_folder,
    open_denoiser_folder,
    open_hub_pipeline,
    open_pickle,
    open_pipeline,
    open_single_file,
)
from hubquant.sources.drafter import drafter
from hubquant.sources.gguf_denoiser import open_gguf_model
from hubquant.sources.merged import merge
from hubquant.sources.pipeline import is_pipeline, is_text_encoder
from hubquant.sources.projector import MMPROJ, ProjectorSource, needed_projector
from hubquant.sources.source import SourceModel
from hubquant.sources.text_encoder import open_hub_text_encoder, open_text_encoder

if TYPE_CHECKING:
    from hubquant.hub.access import Token
    from hubquant.hub.pull import RemoteModel


def open_source(reference: ModelReference, convert: Convert | None = None, token: Token = None) -> SourceModel:
    """A repository of the Hub is read with ``token``. Raises ``HubAccessError``, ``CheckpointError`` or
    ``NotSupportedYet`` when the model cannot be used, ``UserError`` for a component of what has none."""
    source = _open(reference, token)
    if reference.component == MMPROJ and not source.component:
        source = needed_projector(source)
    if reference.component and not source.component:
        raise UserError(
            f"{reference.display_name} has no component {reference.component}",
            why="it is no pipeline of diffusers",
            hint="leave model.component out",
        )
    how = convert or Convert()
    return replace(source, pre_tokenizer=how.pre_tokenizer, no_mtp=how.no_mtp)


def open_component(reference: ModelReference, convert: Convert | None = None, token: Token = None) -> Component:
    """What of a source is quantized: a language model, which may be the text encoder of a pipeline, the denoiser of
    one, or the projector of a multimodal model."""
    return component_of(open_source(reference, convert, token))


def component_of(source: SourceModel) -> Component:
    if isinstance(source, ProjectorSource):
        return Component.projector(source)
    return Component.denoiser(source) if isinstance(source, DenoiserSource) else Component.language_model(source)


def open_remote(remote: RemoteModel, component: str | None = None, *, pickles: bool = False) -> SourceModel:
    """Of a repository that may be read; with ``pickles`` also pytorch_model.bin of one that is no pipeline."""
    if not is_pipeline(remote.files):
        return open_hub(remote, pickles=pickles)
    if is_text_encoder(component or ""):
        return open_hub_text_encoder(remote, str(component))
    return open_hub_pipeline(remote, component)


def _open(reference: ModelReference, token: Token) -> SourceModel:
    pickled = Path(reference.file or "").suffix in PICKLES
    if reference.allow_pickle and not (pickled or reference.id or reference.folder):
        raise NotSupportedYet(
            "pickled weights in what is no pickle",
            why="allow_pickle is for a repository, a folder or a pickled file",
            hint="remove allow_pickle",
        )
    if reference.merge is not None:
        return _open_merged(reference, reference.merge, token)
    if reference.target is not None:
        target = ModelReference.model_validate(model_reference(reference.target))
        return drafter(_open(reference.model_copy(update={"target": None}), token), _open(target, token))
    if reference.id is not None:
        from hubquant.hub.pull import resolve

        remote = resolve(reference.id, reference.revision, token=token)
        return open_remote(remote, reference.component, pickles=reference.allow_pickle)
    if reference.file is not None:
        path = user_path(reference.file)
        if pickled and not reference.allow_pickle:
            raise refusal(path)
        if pickled:
            return open_pickle(path)
        return open_gguf_model(path) if path.suffix.lower() == GGUF_SUFFIX else open_single_file(path)
    if reference.bundled is not None:
        name = f"hubquant-{reference.bundled}"
        folder = folder_of(reference)
        return open_pipeline(folder, name) if is_pipeline(os.listdir(folder)) else open_folder(folder, name)
    folder = folder_of(reference)
    if not os.path.isdir(folder):
        raise CheckpointError(
            f"there is no folder {folder}", hint="check the path, or name a Hub id such as Qwen/Qwen3-0.6B"
        )
    name = folder_name(folder.resolve())
    if is_pipeline([path.name for path in folder.iterdir()]):
        if is_text_encoder(reference.component or ""):
            return open_text_encoder(folder, name, str(reference.component))
        return open_pipeline(folder, name, reference.component)
    if is_denoiser_folder(folder):
        return open_denoiser_folder(folder, name)
    return open_folder(folder, name, pickles=reference.allow_pickle)


def _open_merged(reference: ModelReference, base: str, token: Token) -> SourceModel:
    """The adapter that is referred to, in ``base``."""
    named = {**model_reference(base), "component": reference.component, "allow_pickle": reference.allow_pickle}
    adapter = open_adapter(reference.model_copy(update={"merge": None}), token)
    return merge(_open(ModelReference.model_validate(named), token), adapter)
