"""What a checkpoint would be if it held nothing but a language model, in floats, under the names of today."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.checkpoint.codings.floats4 import FACTOR
from hubquant.checkpoint.codings.levels4 import flat, in_shape
from hubquant.checkpoint.headers import listed
from hubquant.checkpoint.modules import DENSE, POOLING
from hubquant.checkpoint.packed import in_floats
from hubquant.checkpoint.storage import method_of, refusal
from hubquant.checkpoint.text_tower import TEXT_NAMES, as_alone, is_multimodal, is_text, text_settings
from hubquant.checkpoint.wrappers import without_wrappers
from hubquant.convert.architectures import QUANTIZED
from hubquant.convert.config import read_architecture
from hubquant.convert.factored import ARCHITECTURES as FACTORED
from hubquant.convert.rules.rule import Settings
from hubquant.devices import Device
from hubquant.errors import NotSupportedYet

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from hubquant.convert.architecture import Architecture
    from hubquant.models.load import Placement

_NO_OUTPUT = "there is no output layer: the file is good for embeddings"


LANGUAGE_MODEL_ONLY = "only the language model is converted"
"""How the note on what else a checkpoint has begins."""


def plain_checkpoint(checkpoint: Checkpoint) -> Checkpoint:
    """The language model alone, as its architecture's table names it; ``notes`` say how it was read.

    Matrices of FP8 have their scales with them. Raises ``NotSupportedYet`` for other quantized weights and for models
    that hubquant does not convert, ``CheckpointError`` for an adapter that is not merged.
    """
    if not checkpoint.config:  # a GGUF file, which has been here before
        return checkpoint
    plain = in_floats(without_wrappers(checkpoint), QUANTIZED)
    if is_multimodal(plain.config):
        plain = _language_model(plain)
    architecture, config = read_architecture(plain.config)
    if method_of(plain.config) not in (None, *architecture.quantized):
        raise refusal(plain.config, plain.base_model)
    if DENSE in plain.config and DENSE not in architecture.reads(config):
        plain = _without_dense(plain, architecture.name)
    plain = plain.renamed(architecture.renames_for(plain.tensors))
    embedding, output = f"{architecture.embedding}.weight", f"{architecture.output}.weight"
    needs_output = architecture.generates and not config.tie_word_embeddings
    if POOLING in plain.config and needs_output and output not in plain.tensors:
        plain = replace(plain, config={**plain.config, "tie_word_embeddings": True}).noting(_NO_OUTPUT)
    if embedding not in plain.tensors and output in plain.tensors and config.tie_word_embeddings:
        plain = plain.renamed([(f"^{re.escape(output)}$", embedding)])  # the one that is stored is both
    plain = replace(plain, config=_as_known(plain.config, architecture, config))
    plain = replace(plain, tensors=architecture.with_single_experts(config, plain.tensors))
    if architecture.name not in FACTORED:
        plain = replace(plain, tensors={k: info for k, info in plain.tensors.items() if not k.endswith(FACTOR)})
    if not flat(plain.tensors):
        return plain
    bundles = architecture.reading(plain.tensors, config).bundles(config)
    shapes = {name: shape for bundle in bundles for name, shape in bundle.source_shapes().items()}
    return replace(plain, tensors=in_shape(plain.tensors, shapes))


def _as_known(settings: Settings, architecture: Architecture, config: PreTrainedConfig) -> Settings:
    """``settings`` as transformers runs the model by them, with a model type of ``config`` where it does not know their
    own."""
    from transformers import CONFIG_MAPPING

    translated = settings if architecture.own_code else {**settings, **architecture.translate(settings)}
    known = settings.get("model_type") in CONFIG_MAPPING
    return translated if known else {**translated, "model_type": config.model_type}


def checkpoint_ahead(checkpoint: Checkpoint) -> Checkpoint:
    """As :func:`plain_checkpoint`, with the layers that predict further tokens under the numbers that follow those of
    the others."""
    if not checkpoint.config:
        return checkpoint
    plain = plain_checkpoint(checkpoint)
    architecture, config = read_architecture(plain.config)
    if architecture.ahead is None:
        return plain
    n_layer = architecture.dimensions(config)["n_layer"]
    return plain.renamed(architecture.ahead.renames_behind(architecture.blocks, n_layer))


def load_plain(
    checkpoint: Checkpoint, folder: Path, device: Device = "auto", placement: Placement | None = None
) -> PreTrainedModel:
    """The model of ``checkpoint`` in ``folder`` as it is converted; see :func:`hubquant.models.load`."""
    from hubquant.models import load

    plain = plain_checkpoint(checkpoint)
    architecture, config = read_architecture(plain.config)
    return load(plain, folder, device, placement, encoder=None if architecture.generates else config)


def load_whole(
    checkpoint: Checkpoint,
    folder: Path,
    device: Device = "auto",
    quantization: Any = None,
    dtype: torch.dtype | None = None,
) -> PreTrainedModel:
    """The model of ``checkpoint`` in ``folder`` for a library to quantize; see :func:`hubquant.models.load.load_whole`.

    Raises ``NotSupportedYet`` for an encoder."""
    from hubquant.models.load import load_whole

    plain = plain_checkpoint(checkpoint)
    if not read_architecture(plain.config)[0].generates:
        raise NotSupportedYet("encoders in the formats of libraries", hint="choose types of GGUF, such as Q8_0")
    return load_whole(plain, folder, device, quantization, dtype)


def _without_dense(checkpoint: Checkpoint, name: str) -> Checkpoint:
    modules = [*checkpoint.config[DENSE]]
    tensors = {k: v for k, v in checkpoint.tensors.items() if k.partition(".")[0] not in modules}
    config = {k: v for k, v in checkpoint.config.items() if k != DENSE}
    return replace(checkpoint, config=config, tensors=tensors).noting(
        f"embeddings are those before {listed(modules)} of sentence-transformers, for which a {name} file has no place"
    )


def _language_model(checkpoint: Checkpoint) -> Checkpoint:
    text = {name: info for name, info in checkpoint.tensors.items() if is_text(name)}
    settings = text_settings(checkpoint.config, text)
    plain = replace(checkpoint, config=settings, tensors=as_alone(settings, text)).renamed(TEXT_NAMES)
    n_others = len(checkpoint.tensors) - len(text)
    if not n_others:
        return plain
    return plain.noting(f"{LANGUAGE_MODEL_ONLY}, not the {n_others} tensors for images or sound")
