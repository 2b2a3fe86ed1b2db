"""Which files are the model: decided once, in the order in which transformers looks for them.

transformers takes the file or index that config.json names as ``transformers_weights``, else model.safetensors, else
the files that model.safetensors.index.json lists. Of an index it uses the file names only: which tensors there are
is told by the files. Where there is none of them, those of Mistral's own format are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hubquant.checkpoint.headers import listed
from hubquant.checkpoint.json_files import CONFIG, read_config, read_table
from hubquant.errors import AdapterError, CheckpointError, HubquantError, NotSupportedYet

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER = "adapter_config.json"
_EXPLICIT = "transformers_weights"
_PIPELINE = "model_index.json"
_SAFETENSORS = ".safetensors"
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.safetensors")
_ADAPTER_WEIGHTS = re.compile(r"adapter_model\.(safetensors|bin)")
PARAMS = "params.json"
CONSOLIDATED = re.compile(r"consolidated(-\d{5}-of-\d{5})?\.safetensors")
"""Weights in Mistral's own format, which params.json tells of."""
_CONSOLIDATED_INDEX = "consolidated.safetensors.index.json"
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
PICKLED_INDEX = "pytorch_model.bin.index.json"
_PICKLED = "pytorch_model.bin"
_SNAPSHOTS = "snapshots"


@dataclass(frozen=True)
class WeightFiles:
    """``names`` in the order in which transformers reads them, so that of a tensor in two files the last one counts.

    ``notes`` name what lies beside them and is not read. ``modules`` are folders of which each has one of the files and
    names its tensors for itself.
    """

    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()


def weight_files(folder: Path, available: Collection[str], *, pickles: bool = False) -> WeightFiles:
    """The safetensors files that are the model, of the ``available`` ones (paths from the repository's root), or with
    ``pickles`` those of pytorch_model.bin where there are none.

    ``folder`` holds config.json, the index and adapter_config.json, as far as there are any. Raises ``CheckpointError``
    when a shard is missing or there are no weights that can be read.
    """
    explicit = read_config(folder).get(_EXPLICIT) if CONFIG in available else None
    if explicit is not None:
        names = _named(folder, explicit, available)
    elif SINGLE in available:
        names = (SINGLE,)
    elif INDEX in available:
        names = _listed_in(folder, INDEX, available)
    elif pickles and _PICKLED in available:
        names = (_PICKLED,)
    elif pickles and PICKLED_INDEX in available:
        names = _listed_in(folder, PICKLED_INDEX, available, ".bin")
    elif names_of_mistral := _consolidated(folder, available):
        return WeightFiles(names_of_mistral, tuple(_beside_mistral(available)))
    else:
        raise _no_weights(folder, available)
    if ADAPTER in available and CONFIG not in available:
        raise _adapter(folder)
    return WeightFiles(names, tuple(_notes(names, available)))


def _consolidated(folder: Path, available: Collection[str]) -> tuple[str, ...]:
    """Those of Mistral's own format; none where params.json is missing."""
    if PARAMS not in available:
        return ()
    if _CONSOLIDATED_INDEX in available:
        return _listed_in(folder, _CONSOLIDATED_INDEX, available)
    names = sorted(name for name in available if CONSOLIDATED.fullmatch(name))
    if shards := [name for name in names if _SHARD.fullmatch(name)]:
        whole = _shards(shards[0])
        _require(whole, available, f"{shards[0]} is one of {len(whole)}")
        return whole
    return tuple(names)


def _beside_mistral(available: Collection[str]) -> Iterator[str]:
    if CONFIG in available:
        yield f"{CONFIG} is not read: it belongs to weights for transformers, which are not there"


def local_files(folder: Path) -> set[str]:
    """The files of a folder and of the folders in it, as paths from ``folder``."""
    paths = [*folder.glob("*"), *folder.glob("*/*")]
    return {path.relative_to(folder).as_posix() for path in paths if path.is_file()}


def _named(folder: Path, explicit: Any, available: Collection[str]) -> tuple[str, ...]:
    if not isinstance(explicit, str) or not _is_inside(explicit, _SAFETENSORS):
        raise CheckpointError(
            f"{_EXPLICIT} in config.json is {listed([str(explicit)])}", why="it must name a safetensors file beside it"
        )
    if explicit.endswith(".index.json"):
        return _listed_in(folder, explicit, available)
    _require([explicit], available, f"{_EXPLICIT} in config.json names it")
    return (explicit,)


def _listed_in(folder: Path, index: str, available: Collection[str], suffix: str = _SAFETENSORS) -> tuple[str, ...]:
    _require([index], available, f"{_EXPLICIT} in config.json names it")
    weight_map = read_table(folder / index, hint="get it again from where the model comes from").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map", why="it lists no files")
    for file in weight_map.values():
        if not isinstance(file, str) or not _is_inside(file, suffix):
            raise CheckpointError(
                f"{index} names {listed([str(file)])}", why=f"only {suffix[1:]} files beside it can be read"
            )
    names = tuple(sorted({PurePosixPath(file).as_posix() for file in weight_map.values()}))  # some say ./model-…
    _require(names, available, f"{index} lists them")
    return names


def _require(names: Collection[str], available: Collection[str], why: str) -> None:
    if missing := [name for name in names if name not in available]:
        raise CheckpointError(
            f"{len(missing)} of {len(names)} weight files are missing: {listed(missing)}",
            why=why,
            hint="put them there from where the model comes from; without them transformers cannot load it either",
        )


def _is_inside(file: str, suffix: str) -> bool:
    path = PurePosixPath(file)
    known = file.endswith((suffix, f"{suffix}.index.json"))
    return known and "\\" not in file and not path.is_absolute() and ".." not in path.parts


def _notes(names: tuple[str, ...], available: Collection[str]) -> Iterator[str]:
    used = f"as transformers does, {listed(names)} is read"
    others = sorted(name for name in available if _SHARD.fullmatch(name) and name not in names and "/" not in name)
    if names == (SINGLE,) and INDEX in available:
        yield f"{used}, and not what {INDEX} lists"
    elif others:
        yield f"{listed(others)} belong to no model that transformers would read, and are left out"
    if ADAPTER in available:
        yield f"{used}; the adapter beside it is not applied"


def _no_weights(folder: Path, available: Collection[str]) -> HubquantError:
    """The true reason, and the step that helps."""
    top = sorted(name for name in available if "/" not in name)
    safetensors = [name for name in top if name.endswith(_SAFETENSORS)]
    if ADAPTER in top or any(map(_ADAPTER_WEIGHTS.fullmatch, top)):
        return _adapter(folder)
    if _PIPELINE in top:
        return NotSupportedYet("diffusers models", hint="use a text-generation model, such as Qwen/Qwen3-0.6B")
    if CONFIG not in top and (below := _models_below(folder, available)):
        return CheckpointError(
            f"there is no {CONFIG} in {folder}",
            why=f"the model lies below it: {listed(below)}",
            hint=f"name {folder / below[0]}" if (folder / below[0]).is_dir() else "download it, and name that folder",
        )
    if gguf := [name for name in top if name.endswith(".gguf")]:
        return CheckpointError(
            "this holds GGUF files and no safetensors",
            hint=f"name the file that is meant, such as {folder / gguf[0]}"
            if (folder / gguf[0]).is_file()
            else f"download the file that is meant, such as {gguf[0]}, and name it",
        )
    if consolidated := [name for name in safetensors if CONSOLIDATED.fullmatch(name)]:
        return CheckpointError(
            f"there is no {PARAMS} in {folder}",
            why=f"it tells of {listed(consolidated)}, which are in Mistral's own format",
            hint="get it from where the model comes from",
        )
    if shards := [name for name in safetensors if _SHARD.fullmatch(name)]:
        return _without_index(shards)
    if safetensors:
        return CheckpointError(
            f"this model has neither {SINGLE} nor {INDEX}",
            why=f"transformers does not look for {listed(safetensors)}",
            hint=f"if it is the whole model, name it {SINGLE}" if len(safetensors) == 1 else None,
        )
    if pickles := [name for name in top if name.endswith((*PICKLES, ".pkl"))]:
        return CheckpointError(
            "this model has pickled weights only",
            why=f"{listed(pickles)} could run code when loaded",
            hint="https://huggingface.co/spaces/safetensors/convert makes safetensors of a repository on the Hub; or "
            "add --set model.allow_pickle=true: then tensors are read and nothing is run",
        )
    if below := sorted(name for name in available if name.endswith(_SAFETENSORS)):
        return CheckpointError(
            f"this model has no {SINGLE}",
            why=f"transformers does not look for {listed(below)}",
            hint="put config.json, the tokenizer and the weights into one folder, and name that",
        )
    return CheckpointError(
        f"this model has no {SINGLE}", hint=f"check that the folder or repository holds {SINGLE} or {INDEX}"
    )


def _models_below(folder: Path, available: Collection[str]) -> list[str]:
    """Folders with a config.json: subfolders, or the snapshots of a repository in the Hub's cache."""
    snapshots = [f"{_SNAPSHOTS}/{path.parent.name}" for path in folder.glob(f"{_SNAPSHOTS}/*/{CONFIG}")]
    return sorted(snapshots or (name.removesuffix(f"/{CONFIG}") for name in available if name.endswith(f"/{CONFIG}")))


def _without_index(shards: list[str]) -> HubquantError:
    missing = [name for name in _shards(shards[0]) if name not in shards]
    return CheckpointError(
        f"this model has no {INDEX}" + (f", and {listed(missing)} are missing" if missing else ""),
        why=f"it tells transformers what belongs to the model of {listed(shards)}",
        hint="get what is missing from where the model comes from",
    )


def _shards(name: str) -> tuple[str, ...]:
    """All of the model that the shard ``name`` is of."""
    match = _SHARD.fullmatch(name)
    assert match is not None
    return tuple(f"{match[1]}-{n:05}-of-{match[3]}.safetensors" for n in range(1, min(int(match[3]), 999) + 1))


def _adapter(folder: Path) -> HubquantError:
    settings = read_table(folder / ADAPTER, hint="save the adapter anew") if (folder / ADAPTER).is_file() else {}
    base = settings.get("base_model_name_or_path")
    named = listed([base]) if isinstance(base, str) and base else "BASE"
    return AdapterError(
        "this is an adapter, not a model",
        why="it changes the weights of another model and holds none of its own",
        hint=f"hubquant convert makes a GGUF file of it, which llama.cpp loads beside its base; for one model of both "
        f"add --set model.merge={named}",
    )
