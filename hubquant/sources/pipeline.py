"""What a diffusers pipeline is made of, as its model_index.json tells."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from hubquant.checkpoint.diffusers_files import AGAIN, PIPELINE
from hubquant.checkpoint.json_files import read_table
from hubquant.errors import CheckpointError, UserError

DESCRIBING = (".json", ".txt", ".model", ".jinja")
"""Suffixes of the small files that describe a component."""
DENOISERS = ("transformer", "unet")
"""What pipelines call theirs."""
TEXT_ENCODER = "text_encoder"
"""What begins the names of those that read prompts."""


def is_pipeline(files: Collection[str]) -> bool:
    return PIPELINE in files


def read_index(folder: Path) -> Mapping[str, Any]:
    """model_index.json. Raises ``CheckpointError`` where it names no pipeline."""
    index = read_table(folder / PIPELINE, hint=AGAIN)
    if not isinstance(index.get("_class_name"), str):
        raise CheckpointError(f"{PIPELINE} names no _class_name", why="it tells which pipeline this is")
    return index


def components(index: Mapping[str, Any]) -> Mapping[str, str]:
    """The class of each component that is there, by its name."""
    found = {name: value[-1] for name, value in index.items() if isinstance(value, list) and value and value[0]}
    return {name: str(kind) for name, kind in found.items()}


def denoisers(index: Mapping[str, Any]) -> list[str]:
    return [name for name in components(index) if name.partition("_")[0] in DENOISERS]


def is_text_encoder(component: str) -> bool:
    return component.startswith(TEXT_ENCODER)


def not_there(index: Mapping[str, Any], component: str) -> UserError:
    """Of a component that cannot be quantized, or that the pipeline has not."""
    possible = [*denoisers(index), *filter(is_text_encoder, components(index))]
    return UserError(
        f"{component} cannot be quantized",
        why=f"of {index['_class_name']} that can be {', '.join(possible)}",
        hint="run it once for each" if "," in component else f"name {possible[0]}" if possible else None,
    )
