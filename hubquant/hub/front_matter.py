"""The front matter of a foreign model card: data to be read with care."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hubquant.plain_yaml import load_yaml

BLOCK = re.compile(r"\A\s*---\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
LARGEST = 1 << 20  # characters
# Also within a tag, as tools write them: base_model:adapter:/home/me/model.
_PLACE = re.compile(r"(?:^|:)(?!//)(?:[/~\\]|\.\.?[/\\]|[A-Za-z]:[/\\])|^file:")
MOST_TOKENS = 200_000  # the longest cards, of embedding models, have some 50,000


@dataclass(frozen=True)
class Result:
    """A measurement on a ``dataset`` of the Hub; ``metric`` is the Hub's name of its kind, ``name`` in words."""

    dataset: str
    dataset_name: str
    metric: str
    name: str
    value: float


# huggingface_hub's metadata_load has no limit on what aliases expand to, and raises for what is no mapping.
def read_front_matter(text: str) -> dict[str, Any]:
    """The mapping between the ``---`` lines as plain JSON values; empty where there is none or it is not plain YAML.

    Paths of the machine that the card was written on are left out.
    """
    block = BLOCK.match(text[:LARGEST])
    if block is None:
        return {}
    try:
        data = plain(load_yaml(block[1], most_tokens=MOST_TOKENS, unique_keys=False))
    except yaml.YAMLError:
        return {}
    return {key: _public(value) for key, value in data.items()} if isinstance(data, dict) else {}


def read_card(folder: Path) -> dict[str, Any]:
    """The front matter of a folder's README.md; empty where there is none."""
    readme = folder / "README.md"
    if not readme.is_file():
        return {}
    with readme.open(encoding="utf-8", errors="replace") as file:
        return read_front_matter(file.read(LARGEST))


def write_front_matter(data: Mapping[str, Any], results: Sequence[Result] = (), model_name: str = "model") -> str:
    """YAML for between the ``---`` lines, in the order of ``data``; ``results`` stand in ``model-index``."""
    from huggingface_hub import EvalResult, ModelCardData

    found = [
        EvalResult(
            task_type="text-generation",
            dataset_type=result.dataset,
            dataset_name=result.dataset_name,
            metric_type=result.metric,
            metric_name=result.name,
            metric_value=result.value,
        )
        for result in results
    ]
    own: dict[str, Any] = {"eval_results": found, "model_name": model_name} if found else {}
    return ModelCardData(**data, **own).to_yaml(original_order=list(data))


def _public(value: Any) -> Any:
    if isinstance(value, list):
        return [item for item in value if not _is_place(item)]
    return None if _is_place(value) else value


def _is_place(value: Any) -> bool:
    return isinstance(value, str) and _PLACE.search(value) is not None


def plain(value: Any) -> Any:
    """``value`` in JSON's types: dates become text, keys become text."""
    match value:
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple() | set():
            return [plain(item) for item in value]
        case datetime.date():
            return value.isoformat()
        case None | bool() | int() | float() | str():
            return value
    return str(value)
