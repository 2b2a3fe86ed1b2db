"""What a LoRA adapter of peft says: how strong it is, and the A and B of each weight that it changes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.checkpoint.headers import FLOATS, TensorInfo, listed
from hubquant.checkpoint.storage import QUANTIZATION
from hubquant.convert.architecture import Architecture
from hubquant.convert.config import read_architecture
from hubquant.convert.plain import plain_checkpoint
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.units import counted

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

FACTOR = re.compile(r"(?P<module>.+?)\.(lora_(?P<linear>[AB])\.weight|lora_embedding_(?P<embedding>[AB]))")
WRAPPED = "base_model.model."
BY_PEFT = "load the base with the adapter in peft, then merge_and_unload() and save_pretrained(DIR), and name DIR"
MERGED = ("use_dora", "modules_to_save")
"""Settings that a model of base and adapter can have, and a GGUF adapter not."""
_LEAVES_THE_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
_PLAIN_PATTERN = re.compile(r"[\w.^$\\]+")  # without repetition, which a stranger's expression could hang in


@dataclass(frozen=True)
class Strength:
    """``alpha`` is that of the file; ``of`` tells what alpha a module of the base has for its own rank."""

    alpha: float
    of: Callable[[str, int], float]


def read_strength(settings: Mapping[str, Any]) -> Strength:
    """What adapter_config.json says. Raises ``NotSupportedYet`` and ``CheckpointError``."""
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise NotSupportedYet(f"adapters of {listed([str(kind)])}", why="only LoRA is read", hint=BY_PEFT)
    if (start := settings.get("init_lora_weights")) not in _LEAVES_THE_BASE:
        raise NotSupportedYet(
            f"init_lora_weights {listed([str(start)])} in adapter_config.json",
            why="peft changes the base's own weights before it applies such an adapter",
            hint="save it with path_initial_model_for_weight_conversion in peft, which makes a plain adapter of it",
        )
    alpha, rank = _number(settings, "lora_alpha"), _number(settings, "r")
    patterns = settings.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise CheckpointError("alpha_pattern in adapter_config.json is no table", hint="save the adapter anew")
    own = [(_pattern(name), _number(patterns, name)) for name in patterns]
    stabilized = bool(settings.get("use_rslora"))  # alpha / sqrt(r) in the place of alpha / r

    def of(module: str, rank: int) -> float:
        found = next((value for pattern, value in own if pattern.match(module)), alpha)
        return found * math.sqrt(rank) if stabilized else found

    return Strength(alpha * math.sqrt(rank) if stabilized else alpha, of)


def _number(settings: Mapping[str, Any], name: str) -> float:
    value = settings.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1 << 31:
        raise CheckpointError(
            f"{name} in adapter_config.json is {listed([str(value)])}",
            why="it must be a number above 0",
            hint="save the adapter anew",
        )
    return float(value)


def _pattern(text: str) -> re.Pattern[str]:
    """As peft's get_pattern_key reads a key: it fits the end of a module's name."""
    try:
        if _PLAIN_PATTERN.fullmatch(text):
            return re.compile(rf"(.*\.)?({text})$")
    except re.error:
        pass
    raise NotSupportedYet(
        f"the pattern {listed([text])} in adapter_config.json",
        why="modules are found by their names, or the ends of these",
        hint=BY_PEFT,
    )


def read_pairs(tensors: Mapping[str, TensorInfo], hint: str) -> dict[str, tuple[TensorInfo, TensorInfo, bool]]:
    """A and B of every module, by its name, and whether it is an embedding."""
    found: dict[str, dict[str, TensorInfo]] = {}
    embeddings = set()
    for name, info in tensors.items():
        match = FACTOR.fullmatch(name)
        if match is None:
            raise NotSupportedYet(
                f"{listed([name])} in the adapter",
                why="it is neither an A nor a B of a matrix, and llama.cpp applies no others",
                hint=hint,
            )
        found.setdefault(match["module"], {})[match["linear"] or match["embedding"]] = info
        if match["embedding"]:
            embeddings.add(match["module"])
    if not found:
        raise CheckpointError("the adapter holds no tensors", hint="save it anew")
    for module, pair in found.items():
        if len(pair) < 2:
            raise CheckpointError(f"{listed([module])} has no {'B' if 'A' in pair else 'A'}", hint="save it anew")
        for info in pair.values():
            if info.dtype not in (*FLOATS, "F64"):
                raise NotSupportedYet(f"adapters stored as {info.dtype}", hint="save it in F32, F16 or BF16")
        if any(len(info.shape) != 2 for info in pair.values()) or pair["A"].shape[0] != pair["B"].shape[1]:
            raise CheckpointError(
                f"A {list(pair['A'].shape)} and B {list(pair['B'].shape)} of {listed([module])} do not fit each other",
                why="they are [r, columns] and [rows, r]",
                hint="save the adapter anew",
            )
        if not pair["A"].shape[0]:
            raise CheckpointError(f"{listed([module])} has rank 0", hint="save the adapter anew")
    return {module: (pair["A"], pair["B"], module in embeddings) for module, pair in found.items()}


def in_base(
    base: Mapping[str, Any], changed: Mapping[str, TensorInfo]
) -> tuple[Architecture, PreTrainedConfig, dict[str, str]]:
    """What config.json of a ``base`` describes, and each name of a header of what is ``changed`` -> that of a plain
    checkpoint; ``changed`` has them by the base's own names, which are put through what those go through.

    Raises ``NotSupportedYet`` for changes of what is no text, and of weights that are two in one.
    """
    config_json = {name: value for name, value in base.items() if name not in QUANTIZATION}
    plain = plain_checkpoint(Checkpoint(config_json, changed))
    architecture, config = read_architecture(plain.config)
    _check_text(changed, plain)
    _check_tied(changed, architecture, tied=bool(config.tie_word_embeddings))
    return architecture, config, {info.name: name for name, info in plain.tensors.items()}


def _check_text(headers: Mapping[str, TensorInfo], plain: Checkpoint) -> None:
    kept = {info.name for info in plain.tensors.values()}
    if others := [name for name, info in headers.items() if info.name not in kept]:
        raise NotSupportedYet(
            f"{counted(len(others), 'weight')} of what sees or hears: {listed(others)}",
            why="the GGUF file of the base has the language model alone",
            hint=BY_PEFT,
        )


def _check_tied(headers: Mapping[str, TensorInfo], architecture: Architecture, *, tied: bool) -> None:
    ends = tuple(f"{module}.weight" for module in (architecture.output, architecture.embedding) if module)
    if tied and (shared := [name for name in headers if name.endswith(ends)]):
        raise NotSupportedYet(
            f"{listed(shared)} in the adapter",
            why="the embedding and the output layer of the base are one matrix, and it would change both",
            hint=BY_PEFT,
        )
