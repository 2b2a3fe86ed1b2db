"""What a folder of a diffusers pipeline holds, read as input from a stranger: nothing of it is run."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubquant.checkpoint.checkpoint import local_header
from hubquant.checkpoint.headers import TensorInfo, listed
from hubquant.checkpoint.json_files import CONFIG, read_table
from hubquant.checkpoint.links import check_links
from hubquant.errors import CheckpointError, NotSupportedYet, UserError
from hubquant.models.diffusion.quiet import quiet_diffusers

INDEX = "model_index.json"
LEFT_OUT = ("safety_checker", "watermark")
"""Parts that paint over what was drawn, and so would be measured in its place."""
STEMS = ("diffusion_pytorch_model", "model")
"""Names of weight files, of diffusers' models and of transformers'."""
VARIANTS = ("fp16", "bf16")
"""Which variant is taken first, where there are only such."""
_AS_SAVED = "fetch it again from where the model comes from, or save it anew with save_pretrained"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Part:
    """A part of a pipeline with weights: its class, of diffusers or transformers, the ``variant`` of its files that is
    read, None for those without one, and its tensors by name."""

    kind: type[Any]
    variant: str | None
    tensors: Mapping[str, TensorInfo]

    @property
    def n_weights(self) -> int:
        return sum(math.prod(info.shape) for info in self.tensors.values())

    @property
    def dtype(self) -> str:
        """The name that safetensors has for that of most of its bytes."""
        sizes: dict[str, int] = {}
        for info in self.tensors.values():
            sizes[info.dtype] = sizes.get(info.dtype, 0) + info.nbytes
        return max(sizes, key=lambda dtype: sizes[dtype], default="F32")


@dataclass(frozen=True)
class PipelineIndex:
    """``kind`` is a pipeline of diffusers; ``parts`` are those with weights. The ``others``, such as tokenizers and the
    scheduler, have only small files."""

    folder: Path
    kind: type[Any]
    parts: Mapping[str, Part]
    others: tuple[str, ...]
    left_out: tuple[str, ...]


def check_diffusers() -> None:
    """Raises ``UserError`` where diffusers is not installed."""
    from importlib.util import find_spec

    if find_spec("diffusers") is None:
        raise UserError(
            "diffusion models need diffusers", why="it is not installed", hint="pip install 'hubquant[diffusion]'"
        )


def read_index(folder: Path) -> PipelineIndex:
    """The pipeline in ``folder``, from its model_index.json and the headers of its weights.

    Raises ``CheckpointError`` for what is missing or broken, for pickled weights and for classes that neither diffusers
    nor transformers has: those are code of the repository, which is never run.
    """
    check_diffusers()
    check_links(folder)
    table = read_table(folder / INDEX, hint="name a folder with a diffusers pipeline, as save_pretrained writes it")
    with quiet_diffusers():
        kind = _pipeline_class(table.get("_class_name"))
        entries = dict(_entries(table))
        left_out = tuple(name for name in LEFT_OUT if name in entries)
        classes = {name: _class(name, *entry) for name, entry in entries.items() if name not in left_out}
        return PipelineIndex(
            folder,
            kind,
            {name: _part(folder / name, cls) for name, cls in classes.items() if has_weights(cls)},
            tuple(name for name, cls in classes.items() if not has_weights(cls)),
            left_out,
        )


def has_weights(kind: type[Any]) -> bool:
    import torch

    return issubclass(kind, torch.nn.Module)


def _pipeline_class(name: Any) -> type[Any]:
    import diffusers

    found = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not isinstance(found, type) or not issubclass(found, diffusers.DiffusionPipeline):
        raise CheckpointError(
            f"{INDEX} names {listed([str(name)])}, which is no pipeline of diffusers {diffusers.__version__}",
            why="code that comes with a repository is never run",
            hint="use a repository whose pipeline is one of diffusers, or a newer diffusers if it has this one",
        )
    return found


def _entries(table: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, str]]]:
    """The parts that are there, each with its library and class. Other values are settings of the pipeline."""
    for name, value in table.items():
        if name.startswith("_") or not isinstance(value, list) or value in ([None, None], [None, None, None]):
            continue
        if len(value) != 2 or not all(isinstance(each, str) for each in value) or not name.isidentifier():
            raise CheckpointError(
                f"{INDEX} says of {listed([name])}: {listed([str(value)])}",
                why="a library and a class of it are wanted",
                hint=_AS_SAVED,
            )
        yield name, (value[0], value[1])


def _class(part: str, library: str, name: str) -> type[Any]:
    """Of diffusers, a pipeline's folder in it, or transformers; only what is loaded from JSON and safetensors."""
    import diffusers
    import transformers

    known = {
        "diffusers": (diffusers, (diffusers.ModelMixin, diffusers.SchedulerMixin)),
        "transformers": (transformers, _kinds_of_transformers()),
    }
    module, kinds = known.get(library) or (
        getattr(diffusers.pipelines, library, None),
        (diffusers.ModelMixin, transformers.PreTrainedModel),
    )
    found = getattr(module, name, None)
    if not isinstance(found, type) or not issubclass(found, kinds):
        raise CheckpointError(
            f"{part} is a {listed([f'{library}.{name}'])}, which is no model, tokenizer or scheduler of diffusers "
            f"{diffusers.__version__} or transformers {transformers.__version__}",
            why="code that comes with a repository is never run",
            hint="use a repository whose parts are those of diffusers and transformers",
        )
    return found


def _kinds_of_transformers() -> tuple[type[Any], ...]:
    from transformers import FeatureExtractionMixin, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin
    from transformers.image_processing_base import ImageProcessingMixin

    return PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin, FeatureExtractionMixin, ImageProcessingMixin


def _part(folder: Path, kind: type[Any]) -> Part:
    config = read_table(folder / CONFIG, hint=_AS_SAVED)
    if config.get("quantization_config"):
        raise NotSupportedYet(
            f"{folder.name} is quantized already",
            why="its errors would add up with those of the files that are made of it",
            hint="use the repository that it was made from",
        )
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    variant, files = _weight_files(folder, names)
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        tensors |= local_header(folder / file, f"{folder.name}/{file}")
    return Part(kind, variant, tensors)


def _weight_files(folder: Path, names: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    found: dict[str | None, str] = {}
    for stem in STEMS:
        pattern = re.compile(rf"{stem}(?:\.(?!safetensors)(\w+))?\.safetensors(?:\.index(?:\.(\w+))?\.json)?")
        for name in names:
            if match := pattern.fullmatch(name):
                found.setdefault(match[1] or match[2], name)
        if found:
            break
    else:
        raise _no_weights(folder, names)
    order = (None, *VARIANTS, *sorted(str(variant) for variant in found))
    variant = next(each for each in order if each in found)
    name = found[variant]
    if not name.endswith(".json"):
        return variant, (name,)
    weight_map = read_table(folder / name, hint=_AS_SAVED).get("weight_map")
    files = sorted({str(file) for file in weight_map.values()}) if isinstance(weight_map, dict) else []
    if not files or not all(re.fullmatch(r"[\w.-]+\.safetensors", file) for file in files):
        raise CheckpointError(
            f"{folder.name}/{name} lists no safetensors files", why=listed(files) or None, hint=_AS_SAVED
        )
    if missing := [file for file in files if file not in names]:
        raise CheckpointError(
            f"{len(missing)} of {len(files)} weight files of {folder.name} are missing: {listed(missing)}",
            why=f"{name} lists them",
            hint=_AS_SAVED,
        )
    return variant, tuple(files)


def _no_weights(folder: Path, names: Sequence[str]) -> CheckpointError:
    if pickles := [name for name in names if name.endswith(_PICKLES)]:
        return CheckpointError(
            f"{folder.name} has pickled weights only",
            why=f"{listed(pickles)} could run code when loaded",
            hint="if you trust them, load the pipeline with diffusers and save_pretrained it: that writes safetensors",
        )
    return CheckpointError(
        f"{folder.name} has no weights",
        why=f"{' or '.join(f'{stem}.safetensors' for stem in STEMS)} is looked for",
        hint=_AS_SAVED,
    )
