"""From a multimodal checkpoint to its projector's file: the plan, as for a language model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.checkpoint.json_files import read_table
from hubquant.checkpoint.text_tower import is_text
from hubquant.checkpoint.transformers_config import config_of
from hubquant.checkpoint.weight_files import PARAMS
from hubquant.checkpoint.wrappers import without_wrappers
from hubquant.convert.conversion import Conversion
from hubquant.convert.matching import check_shapes, missing_tensors
from hubquant.convert.projectors import PROJECTORS
from hubquant.convert.projectors.projector import AGAIN, Multimodal, Projector
from hubquant.convert.projectors.vision import PREPROCESSOR
from hubquant.convert.tables import Bundle
from hubquant.errors import CheckpointError, HubquantError, NotSupportedYet
from hubquant.gguf_file.metadata import string

CLIP = "clip"
"""llama.cpp's architecture of them all."""
_PROCESSOR = "processor_config.json"
_OF_MISTRAL = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
"""What mistral-common has in its code: beside params.json there need be no such file."""
_INNER = ("media_proc_cfg", "image_processor", "feature_extractor")
_CONFIG_HINT = "compare config.json with the one of the original repository"


def projector_of(config: Mapping[str, Any]) -> Projector | None:
    """Of a model with this config.json; None where it has none that can be converted."""
    names = {*(config.get("architectures") or ())}
    return next((each for each in PROJECTORS if names & {*each.classes} and each.takes(config)), None)


def tower(projector: Projector, checkpoint: Checkpoint) -> Checkpoint:
    """What ``checkpoint`` has beside the language model, by the names of the table, with no config."""
    named = without_wrappers(checkpoint).renamed(projector.renames)
    others = {name: info for name, info in named.tensors.items() if not is_text(name)}
    return replace(named, config={}, tensors=others, notes=())


def plan_projector(projector: Projector, config: Mapping[str, Any], folder: Path, tensors: Checkpoint) -> Conversion:
    """Plan from config.json, what ``folder`` has for the processor, and the headers of a :func:`tower`.

    Raises ``CheckpointError`` where they contradict each other or something is missing, ``NotSupportedYet`` for what
    llama.cpp does not compute.
    """
    model = _read(projector, config, folder, tensors)
    try:
        keys, bundles = projector.metadata(model), tuple(projector.bundles(model))
        n_layer = projector.dimensions(model)["n_layer"]
    except (AttributeError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        why = " ".join(str(error).split())[:200]
        raise CheckpointError("config.json cannot be used", why=why, hint=_CONFIG_HINT) from error
    _check(projector, bundles, tensors)
    metadata = {"general.architecture": string(CLIP), **{f"{CLIP}.{key}": value for key, value in keys.items()}}
    return Conversion(CLIP, {"n_layer": n_layer}, metadata, bundles, {}, "F16", projector.notes(model))


def _check(projector: Projector, bundles: Iterable[Bundle], checkpoint: Checkpoint) -> None:
    wanted = {name: shape for bundle in bundles for name, shape in bundle.source_shapes().items()}
    if missing := [name for name in wanted if name not in checkpoint.tensors]:
        raise missing_tensors(missing)
    check_shapes(wanted, checkpoint.tensors)
    ignored = re.compile("|".join(projector.ignored) or "(?!)")
    if others := [name for name in checkpoint.tensors if name not in wanted and not ignored.search(name)]:
        raise NotSupportedYet(
            f"{len(others)} tensors for pictures or sound, such as {others[0]}",
            why="a file for llama.cpp has no place for them",
            hint="add --set convert.mmproj=[] for the language model alone",
        )


def _read(projector: Projector, config: Mapping[str, Any], folder: Path, tensors: Checkpoint) -> Multimodal:
    try:
        settings = projector.as_transformers(config)
        whole = config_of(str(settings["model_type"]), settings)
    except HubquantError:
        raise
    except Exception as error:  # transformers raises almost anything for values it did not expect
        why = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"config.json is no {config.get('model_type')} configuration", why=why, hint=_CONFIG_HINT
        ) from error
    shapes = {name: info.shape for name, info in tensors.tensors.items()}
    return Multimodal(whole, _processor(folder), folder, shapes)


def _processor(folder: Path) -> dict[str, Any]:
    """What newer files say counts more; they have the settings of pictures and of sound in tables of their own."""
    found: dict[str, Any] = dict(_OF_MISTRAL) if (folder / PARAMS).is_file() else {}
    for name in (PREPROCESSOR, _PROCESSOR):
        if (folder / name).is_file():
            table = read_table(folder / name, AGAIN)
            found |= table
            for inner in _INNER:
                found |= table[inner] if isinstance(table.get(inner), dict) else {}
    return found
