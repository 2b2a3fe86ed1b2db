"""What sentence-transformers does with a model's states, which stands in modules of their own beside the model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from hubquant.checkpoint.json_files import CONFIG, read_list, read_table
from hubquant.checkpoint.weight_files import SINGLE, WeightFiles
from hubquant.errors import CheckpointError

MODULES = "modules.json"
POOLING, DENSE, SCORE = "pooling_module", "dense_modules", "score_module"
"""Settings that tell of them beside those of config.json: the module's own config.json, of each dense one by its
folder."""
MODULE_SETTINGS = (POOLING, DENSE, SCORE)
YES_OR_NO = "yes_or_no"
"""In ``SCORE``: the model is asked as Qwen3's rerankers are."""
_KINDS = {"Pooling": POOLING, "Dense": DENSE, "LogitScore": SCORE}
_USUAL = {POOLING: ("1_Pooling",)}  # where there is no modules.json, as older repositories have it
_QWEN3_RERANKER = "qwen3-reranker"
_ANSWERS = {"true": "yes", "false": "no"}
_HINT = "get it again from where the model comes from"


def module_folders(folder: Path) -> Mapping[str, tuple[str, ...]]:
    """By the setting that tells of them, in the order of use. Raises ``CheckpointError`` for a broken modules.json."""
    if not (folder / MODULES).is_file():
        return {name: usual for name, usual in _USUAL.items() if (folder / usual[0] / CONFIG).is_file()}
    found: dict[str, tuple[str, ...]] = {}
    for module in read_list(folder / MODULES, _HINT):
        kind, path = (str(module.get(key)) if isinstance(module, dict) else "" for key in ("type", "path"))
        if name := _KINDS.get(kind.rpartition(".")[2]):
            if not path.replace("_", "").isalnum():
                raise CheckpointError(f"{MODULES} names the folder {path[:40]!r}", why="it must lie beside it")
            found[name] = (*found.get(name, ()), path)
    return found


def with_dense(files: WeightFiles, folder: Path, available: Collection[str]) -> WeightFiles:
    """The files of the model in ``folder`` and of its dense modules, as far as they are ``available``."""
    found = {module: f"{module}/{SINGLE}" for module in module_folders(folder).get(DENSE, ())}
    there = {module: file for module, file in found.items() if file in available}
    notes = tuple(f"{module} has no {SINGLE}, and is left out" for module in found if module not in there)
    return WeightFiles((*files.names, *there.values()), (*files.notes, *notes), tuple(there))


def module_settings(folder: Path, config: Mapping[str, Any], dense: Collection[str]) -> Mapping[str, Any]:
    """Under ``MODULE_SETTINGS``, of those that there are; ``config`` is config.json, ``dense`` are the dense modules
    that have weights. Raises ``CheckpointError`` for files that cannot be read."""
    found = module_folders(folder)
    single = {name: read_table(folder / found[name][0] / CONFIG, _HINT) for name in (POOLING, SCORE) if name in found}
    if config.get("model_type") == "qwen3" and _is_reranker(folder):
        single[SCORE] = {**_answers(folder, config), **single.get(SCORE, {}), YES_OR_NO: True}
    return single | ({DENSE: {each: read_table(folder / each / CONFIG, _HINT) for each in dense}} if dense else {})


def _is_reranker(folder: Path) -> bool:
    """By config.json it is a language model, which only its card or its name tells from others."""
    card = folder / "README.md"
    names = {folder.name, folder.parent.parent.name}  # the latter in the Hub's cache
    return any(_QWEN3_RERANKER in name.lower() for name in names) or (
        card.is_file() and f"# {_QWEN3_RERANKER}" in card.read_text("utf-8", "replace").lower()
    )


def _answers(folder: Path, config: Mapping[str, Any]) -> Mapping[str, int]:
    """The tokens of a language model that are its answers, as a LogitScore names them."""
    if config.get("architectures") != ["Qwen3ForCausalLM"]:
        return {}
    vocabulary = read_table(folder / "tokenizer.json", _HINT).get("model", {}).get("vocab")
    if not isinstance(vocabulary, dict) or not {*_ANSWERS.values()} <= vocabulary.keys():
        raise CheckpointError(
            f"tokenizer.json has no tokens {' and '.join(_ANSWERS.values())}", why="a reranker of Qwen3 answers so"
        )
    return {f"{answer}_token_id": vocabulary[text] for answer, text in _ANSWERS.items()}
