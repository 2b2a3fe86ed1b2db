"""Which library and task a model folder is for. Only its small JSON files are read; nothing in it is executed."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubquant.checkpoint.config_types import checked_config
from hubquant.checkpoint.links import check_links
from hubquant.checkpoint.text_tower import is_multimodal, text_settings
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.models.classes import causal_classes

SUPPORTED_LIBRARY = "transformers"
SUPPORTED_TASK = "text-generation"
EMBEDDING_TASKS = ("feature-extraction", "fill-mask")
TASKS_OF_SOME = ("text2text-generation", "text-classification")
"""Of models whose encoder alone may be supported, and of rerankers."""
# Where none of these is found it is transformers', and optimum need not be imported to say so.
_MARKS_OF_OTHERS = ("model_index.json", "modules.json", "sentence_*.json", "config_sentence_transformers.json")
_KEYS_OF_OTHERS = ("pretrained_cfg", "architecture", "_diffusers_version")
_MODEL_HINT = "name a folder or a repository with a transformers model"


@dataclass(frozen=True)
class Identity:
    """``task`` is a Hub pipeline tag; ``model_class`` is a class of ``transformers``."""

    library: str
    task: str
    model_type: str
    model_class: str


def identify(folder: Path, supported: Collection[str] = (), without_code: Collection[str] = ()) -> Identity:
    """The identity of a model for text generation or embeddings, as optimum's ``TasksManager`` sees it.

    Of a multimodal model it is that of the language model in it.
    ``folder`` needs the repository's JSON files only. Of the ``supported`` classes messages name the nearest;
    those ``without_code`` are language models although transformers lacks them.
    Raises ``CheckpointError`` for a folder that is no model and
    ``NotSupportedYet`` for every other library or task, and for models whose code is in their repository.
    """
    check_links(folder)
    library = infer_library(folder)
    if library not in (SUPPORTED_LIBRARY, "sentence_transformers"):  # the latter adds pooling to an encoder
        raise NotSupportedYet(
            f"{library} models", hint=f"use a {SUPPORTED_TASK} model of {SUPPORTED_LIBRARY}, such as Qwen/Qwen3-0.6B"
        )
    config = read_config(folder)
    if (config.get("architectures") or [None])[0] in without_code:
        return Identity(library, SUPPORTED_TASK, str(config["model_type"]), config["architectures"][0])
    if is_multimodal(config):
        config = {**text_settings(config), "architectures": None}  # the type of the language model tells
    model_class, task = _class_and_task(config, supported)
    is_one = task in TASKS_OF_SOME and model_class in supported
    if task not in (SUPPORTED_TASK, *EMBEDDING_TASKS) and not is_one:
        raise NotSupportedYet(
            f"{task} models ({model_class})",
            hint=f"use a {SUPPORTED_TASK} model: its class is named like LlamaForCausalLM in config.json",
        )
    return Identity(library, task, str(config["model_type"]), model_class)


def read_config(folder: Path) -> Mapping[str, Any]:
    """config.json as a mapping; ``CheckpointError`` when it is missing or broken."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no config.json", hint=_MODEL_HINT)
    config = checked_config(_read_json(path))
    if not config.get("model_type"):
        raise CheckpointError(f"{path} names no model_type", hint=_type_hint(config))
    return config


def _type_hint(config: Mapping[str, Any]) -> str:
    types = {name: kind for kind, name in causal_classes().items()}
    names = config.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str) and names[0] in types:
        return f'add "model_type": "{types[names[0]]}" to it, which is the type of {names[0]}'
    return "it must be the config.json of a transformers model"


def infer_library(folder: Path) -> str:
    """ "transformers", "diffusers", "sentence_transformers" or "timm". Raises ``CheckpointError`` for anything else."""
    if (folder / "config.json").is_file():
        config = checked_config(_read_json(folder / "config.json"))  # TasksManager says less of a broken file
        if _plainly_transformers(folder, config):
            return SUPPORTED_LIBRARY
    from optimum.exporters.tasks import TasksManager

    try:
        return str(TasksManager.infer_library_from_model(str(folder)))
    except (ValueError, OSError):
        raise CheckpointError(
            f"{folder} is not a model of a known library",
            why="it holds neither config.json nor model_index.json",
            hint=_MODEL_HINT,
        ) from None


def _plainly_transformers(folder: Path, config: Any) -> bool:
    marked = any(next(folder.glob(pattern), None) for pattern in _MARKS_OF_OTHERS)
    return not marked and isinstance(config, dict) and "model_type" in config and not {*_KEYS_OF_OTHERS} & config.keys()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not valid JSON", why=str(error), hint="get it again from where the model comes from"
        ) from None


def _class_and_task(config: Mapping[str, Any], supported: Collection[str]) -> tuple[str, str]:
    """The class of the model by name, and its Hub pipeline tag. The class is imported only where its name does not tell
    the task: that takes seconds."""
    import transformers

    generating = causal_classes()
    known = generating.get(config["model_type"])
    architectures = config.get("architectures") or [known]
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    if isinstance(name, str) and known and _is_called(name, known, supported):
        name = known
    if isinstance(name, str) and name in generating.values():
        return name, SUPPORTED_TASK
    found = getattr(transformers, name, None) if isinstance(name, str) and name.isidentifier() else None
    if not isinstance(found, type):
        brings_code = "auto_map" in config
        if brings_code and isinstance(name, str) and name in supported:  # its weights are those of another class
            return name, SUPPORTED_TASK
        newer = name in supported
        raise NotSupportedYet(
            f"the model class {name or config['model_type']}",
            why="its code is in its repository, and hubquant never runs remote code"
            if brings_code
            else f"transformers {transformers.__version__} has no such class",
            hint="pip install -U transformers" if newer else nearest_hint(str(name or config["model_type"]), supported),
        )
    return found.__name__, _task(found)


def _is_called(name: str, known: str, supported: Collection[str]) -> bool:
    """Whether a class ``known`` to transformers is meant: LLaMAForCausalLM, or the class of code that it had before."""
    import transformers

    return name.lower() == known.lower() or (name in supported and not hasattr(transformers, name))


def nearest_hint(name: str, supported: Collection[str]) -> str:
    def alike(other: str) -> float:
        return difflib.SequenceMatcher(a=other, b=name).ratio()

    def of_one_family(other: str) -> float:
        return difflib.SequenceMatcher(a=other.partition("For")[0], b=name.partition("For")[0]).ratio()

    near = [other for other in supported if alike(other) >= 0.5]
    nearest = sorted(near, key=lambda other: (of_one_family(other), alike(other)), reverse=True)[:3]
    told = f"the nearest supported ones are {', '.join(nearest)}; " if nearest else ""
    return f"{told}docs/architectures.md lists what is converted"


def _task(model_class: type) -> str:
    """TasksManager cannot infer the task of a folder, but it can that of a class."""
    from optimum.exporters.tasks import TasksManager
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES as ENCODE

    if model_class.__name__ in ENCODE.values():
        return EMBEDDING_TASKS[0]
    try:
        return str(TasksManager.infer_task_from_model(model_class))
    except (ValueError, KeyError):
        return "other"
