"""Which files of a diffusers pipeline are a component's weights, in the order in which diffusers looks for them."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from hubquant.checkpoint.headers import listed
from hubquant.checkpoint.json_files import read_table
from hubquant.checkpoint.weight_files import WeightFiles
from hubquant.errors import CheckpointError

PIPELINE = "model_index.json"
LEFT_OUT = ("safety_checker", "watermark")
"""Parts of a pipeline that paint over what was drawn, and so would be measured in its place."""
NAME = "diffusion_pytorch_model"
_PREFERRED = ("fp32", "bf16", "fp16")
AGAIN = "get it again from where the model comes from"


def component_files(folder: Path, available: Collection[str], component: str, stem: str = NAME) -> WeightFiles:
    """The safetensors files of a component, of the ``available`` ones (paths from the pipeline's ``folder``, which
    holds the indices); ``component`` is its subfolder, or "" where it lies in ``folder`` itself. Their names begin with
    ``stem``: those of transformers' models do so with "model".

    Of a component that has only variants one in larger floats comes before one in smaller ones. Raises
    ``CheckpointError`` when a shard is missing or there are no weights that can be read.
    """
    prefix = f"{component}/" if component else ""
    names = {name.removeprefix(prefix) for name in available if name.startswith(prefix)}
    pattern = re.compile(rf"{stem}\.(?:safetensors\.index\.)?(\w+)\.(?:safetensors|json)")
    found = sorted({match[1] for name in names if (match := pattern.fullmatch(name))} - {"index"})
    variants = sorted(found, key=lambda each: (_PREFERRED.index(each) if each in _PREFERRED else len(_PREFERRED), each))
    for variant in ("", *variants):
        single, index = _file_names(stem, variant)
        if single in names:
            files: tuple[str, ...] = (single,)
        elif index in names:
            files = _listed_in(folder / component / index, names)
        else:
            continue
        others = [each for each in variants if each != variant]
        notes = [f"the variant {variant} is read: there are no weights without one"] if variant else []
        notes += [f"the variants {', '.join(others)} are not read"] if others and not variant else []
        return WeightFiles(tuple(prefix + file for file in files), tuple(notes))
    place = component or "the folder"
    if pickles := sorted(name for name in names if name.endswith((".bin", ".ckpt", ".pt", ".pth"))):
        raise CheckpointError(
            f"{place} has pickled weights only",
            why=f"{listed(pickles)} could run code when loaded",
            hint="if you trust them, load the pipeline with diffusers and save it: pipe.save_pretrained(DIR) writes "
            "safetensors",
        )
    raise CheckpointError(
        f"{place} has no {stem}.safetensors",
        why="diffusers looks for no other file" + (f", and there are {listed(sorted(names))}" if names else ""),
        hint=AGAIN,
    )


def _file_names(stem: str, variant: str) -> tuple[str, str]:
    """Of weights in one file, and of the index of several."""
    dotted = f".{variant}" if variant else ""
    return f"{stem}{dotted}.safetensors", f"{stem}.safetensors.index{dotted}.json"


def variant_of(file: str) -> str | None:
    """Of a weight file; None of those without one."""
    match = re.search(r"^[a-z_]+(?:-\d+-of-\d+)?\.(\w+)(?:-\d+-of-\d+)?\.safetensors$", file.rpartition("/")[2])
    return match and match[1]


def _listed_in(index: Path, names: Collection[str]) -> tuple[str, ...]:
    weight_map = read_table(index, hint=AGAIN).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index.name} has no weight_map", why="it lists no files")
    files = tuple(sorted({PurePosixPath(str(file)).as_posix() for file in weight_map.values()}))
    if outside := [file for file in files if "/" in file or "\\" in file or not file.endswith(".safetensors")]:
        raise CheckpointError(
            f"{index.name} names {listed(outside)}", why="only safetensors files beside it can be read"
        )
    if missing := [file for file in files if file not in names]:
        raise CheckpointError(
            f"{len(missing)} of {len(files)} weight files are missing: {listed(missing)}",
            why=f"{index.name} lists them",
            hint="put them there from where the model comes from; without them diffusers cannot load it either",
        )
    return files
