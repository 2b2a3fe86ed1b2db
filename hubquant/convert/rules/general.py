"""``general.*`` metadata: what a model is and where it comes from, taken from its card, its id and its files."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gguf import Metadata as ModelNames
from gguf.utility import size_label

from hubquant.gguf_file.metadata import KV, Metadata, f32, i32, string, strings, u32

HUB = "https://huggingface.co/"
MAX_TEXT = 500
MAX_ITEMS = 100
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_ADDRESS = re.compile(r"https?://.+")

# general.sampling.* key, names in generation_config.json, type
_SAMPLING: tuple[tuple[str, tuple[str, ...], Callable[[Any], KV]], ...] = (
    ("top_k", ("top_k",), i32),
    ("top_p", ("top_p",), f32),
    ("min_p", ("min_p",), f32),
    ("temp", ("temperature",), f32),
    ("penalty_repeat", ("repetition_penalty", "penalty_repeat"), f32),
)


def experts_of(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
    """How many experts the tensors of a file are of, [n_expert, …] in torch order, on average; and how many weights one
    of them has in all of these."""
    stacks = [
        shape for name, shape in shapes.items() if "_exps." in name and len(shape) >= (2 if ".bias" in name else 3)
    ]
    counts = [shape[0] for shape in stacks]
    return sum(counts) // max(1, len(counts)), sum(math.prod(shape[1:]) for shape in stacks)


def general_metadata(
    folder: Path,
    card: Mapping[str, Any] | None,
    model_id: str | None,
    n_parameters: int,
    *,
    n_experts: int = 0,
    n_expert_parameters: int = 0,
    quantized_by: str | None = None,
    repo_url: str | None = None,
) -> Metadata:
    """Keys in the order of llama.cpp's converter, after ``general.architecture``.

    ``card`` is the front matter of the model card; values that are not plain text, or lists of it, are left out.
    ``folder`` may hold generation_config.json. ``model_id`` is a Hub id or any name. ``n_expert_parameters`` counts the
    weights of one of ``n_experts`` over all layers. ``repo_url`` is where the GGUF file will be. As for the gguf
    package, a negative ``n_parameters`` is that of the weights that an adapter changes, and no size to be told.
    """
    card = card or {}
    names = _names(model_id, n_parameters)
    n_shared = n_parameters - n_experts * n_expert_parameters
    size = size_label(n_parameters, n_shared, n_expert_parameters, n_experts) if n_parameters > 0 else None
    texts = {
        "name": _text(card.get("model_name")) or names.get("name") or "model",
        "author": _text(card.get("author")) or _text(card.get("model_creator")),
        "version": names.get("version"),
        "organization": names.get("organization"),
        "finetune": names.get("finetune"),
        "basename": names.get("basename"),
        "quantized_by": quantized_by,
        "size_label": names.get("size_label") or size,
        "license": ",".join(_texts(card.get("license"))),
        "license.name": _text(card.get("license_name")),
        "license.link": _link(card.get("license_link")),
        "repo_url": repo_url,
        "source.repo_url": HUB + model_id if model_id and _HUB_ID.fullmatch(model_id) else None,
    }
    tags = dict.fromkeys([*_texts(card.get("tags")), *_texts(card.get("pipeline_tag"))])
    lists = {"tags": list(tags), "languages": _texts(card.get("language"))}
    return {
        "general.type": string("model"),
        **_sampling(folder),
        **{f"general.{key}": string(text) for key, text in texts.items() if text},
        **_origins("base_model", _texts(card.get("base_model")), n_parameters),
        **_origins("dataset", _texts(card.get("datasets")), 0),
        **{f"general.{key}": strings(items) for key, items in lists.items() if items},
    }


def _names(model_id: str | None, n_parameters: int) -> dict[str, str]:
    """Parts of an id like Org/Base-8B-Instruct-v2 by the gguf package's heuristic, as every converter writes them."""
    name, organization, basename, finetune, version, size = ModelNames.get_model_id_components(model_id, n_parameters)
    parts = {
        "name": name and ModelNames.id_to_title(name),
        "organization": organization and ModelNames.id_to_title(organization),
        "basename": basename,
        "finetune": finetune,
        "version": version,
        "size_label": size,
    }
    return {key: text[:MAX_TEXT] for key, text in parts.items() if text}


def _origins(kind: str, ids: list[str], n_parameters: int) -> Metadata:
    """``general.base_model.*`` or ``general.dataset.*`` for a list of Hub ids, addresses or plain names.

    Cards that training tools write may hold paths of the machine they ran on, which are left out.
    """
    ids = [id for id in ids if ("/" not in id and "\\" not in id) or _HUB_ID.fullmatch(id) or _ADDRESS.fullmatch(id)]
    if not ids:
        return {}
    keys: Metadata = {f"general.{kind}.count": u32(len(ids))}
    for number, origin in enumerate(ids):
        id = origin.removeprefix(HUB)
        is_id = _HUB_ID.fullmatch(id) is not None
        names = {} if "://" in id else _names(id, n_parameters)
        address = (
            HUB + ("datasets/" if kind == "dataset" else "") + id if is_id else origin if "://" in origin else None
        )
        fields = {key: names.get(key) for key in ("name", "version", "organization")} | {"repo_url": address}
        keys |= {f"general.{kind}.{number}.{key}": string(text) for key, text in fields.items() if text}
    return keys


def _sampling(folder: Path) -> Metadata:
    try:
        settings = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    keys: Metadata = {}
    for key, names, make in _SAMPLING:
        value = next((settings[name] for name in names if isinstance(settings, dict) and name in settings), None)
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**31:
            keys[f"general.sampling.{key}"] = make(value)
    return keys


def _text(value: object) -> str | None:
    # YAML reads the language code of Norwegian as a boolean.
    text = "no" if value is False else value if isinstance(value, str) else str(value) if _is_number(value) else ""
    text = text.encode("utf-8", "replace").decode().strip()[:MAX_TEXT]
    return text or None


def _link(value: object) -> str | None:
    """An address, or a file beside the card."""
    text = _text(value)
    return text if text and (_ADDRESS.fullmatch(text) or not re.match(r"[/~\\]|[A-Za-z]:", text)) else None


def _texts(value: object) -> list[str]:
    items = value if isinstance(value, list | tuple) else [value]
    return [text for item in items[:MAX_ITEMS] if (text := _text(item))]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
