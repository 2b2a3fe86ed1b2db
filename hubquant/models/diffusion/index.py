"""What a folder of a diffusers pipeline holds, read as input from a stranger: nothing of it is run."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubquant.checkpoint.checkpoint import local_header
from hubquant.checkpoint.diffusers_files import LEFT_OUT, PIPELINE, component_files, variant_of
from hubquant.checkpoint.diffusers_files import NAME as DIFFUSERS
from hubquant.checkpoint.headers import TensorInfo, listed
from hubquant.checkpoint.json_files import CONFIG, read_table
from hubquant.checkpoint.links import check_links
from hubquant.checkpoint.weight_files import local_files
from hubquant.errors import CheckpointError, NotSupportedYet, UserError
from hubquant.models.diffusion.quiet import quiet_diffusers
from hubquant.version import version_of

TRANSFORMERS = "model"
"""How the names of weight files of its models begin."""
_AS_SAVED = "fetch it again from where the model comes from, or save it anew with save_pretrained"


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
    """``kind`` is a pipeline of diffusers; ``models`` are the classes of its parts with weights. The ``others``, such
    as tokenizers and the scheduler, have only small files."""

    folder: Path
    kind: type[Any]
    models: Mapping[str, type[Any]]
    others: tuple[str, ...]
    left_out: tuple[str, ...]


def installed_version() -> str | None:
    """Of diffusers, without loading it."""
    return version_of("diffusers")


def check_diffusers() -> None:
    """Raises ``UserError`` where diffusers is not installed."""
    from importlib.util import find_spec

    if find_spec("diffusers") is None:
        raise UserError(
            "diffusion models need diffusers", why="it is not installed", hint="pip install 'hubquant[diffusion]'"
        )


def read_index(folder: Path) -> PipelineIndex:
    """The pipeline in ``folder``, from its model_index.json; no weights need be there.

    Raises ``CheckpointError`` for what is missing or broken, and for classes that neither diffusers nor transformers
    has: those are code of the repository, which is never run.
    """
    check_diffusers()
    import transformers

    check_links(folder)
    table = read_table(folder / PIPELINE, hint="name a folder with a diffusers pipeline, as save_pretrained writes it")
    with quiet_diffusers():
        kind = _pipeline_class(table.get("_class_name"))
        entries = dict(_entries(table))
        left_out = tuple(name for name in LEFT_OUT if name in entries)
        classes = {name: _class(name, *entry) for name, entry in entries.items() if name not in left_out}
        for name, cls in classes.items():
            if issubclass(cls, transformers.ProcessorMixin):
                _check_processor(folder / name)
        return PipelineIndex(
            folder,
            kind,
            {name: cls for name, cls in classes.items() if has_weights(cls)},
            tuple(name for name, cls in classes.items() if not has_weights(cls)),
            left_out,
        )


def read_parts(index: PipelineIndex) -> dict[str, Part]:
    """The parts with weights, from the headers of these. Raises ``CheckpointError`` for what is missing or broken, and
    for pickles; ``NotSupportedYet`` for weights that are quantized already."""
    return {name: _part(index.folder, name, kind) for name, kind in index.models.items()}


def check_weight_files(folder: Path, available: Collection[str]) -> None:
    """Raises as :func:`read_parts` does for what can be seen by the names of the ``available`` files, which are paths
    from ``folder``."""
    for name, kind in read_index(folder).models.items():
        _weight_files(folder, name, kind, available)


def class_of_diffusers(name: Any, place: str) -> type[Any]:
    """The class of diffusers that the config called ``place`` names. Raises ``CheckpointError`` for any other."""
    import diffusers

    found = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not isinstance(found, type) or not issubclass(found, diffusers.ModelMixin):
        raise CheckpointError(
            f"{place} names no model of diffusers {diffusers.__version__}",
            why="code that comes with a repository is never run",
        )
    return found


def has_weights(kind: type[Any]) -> bool:
    import torch

    return issubclass(kind, torch.nn.Module)


def _pipeline_class(name: Any) -> type[Any]:
    import diffusers

    found = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not isinstance(found, type) or not issubclass(found, diffusers.DiffusionPipeline):
        raise CheckpointError(
            f"{PIPELINE} names {listed([str(name)])}, which is no pipeline of diffusers {diffusers.__version__}",
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
                f"{PIPELINE} says of {listed([name])}: {listed([str(value)])}",
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


def _check_processor(folder: Path) -> None:
    """Of its parts transformers takes the classes that the files name, and asks the user whether to run their code."""
    for path in sorted(folder.glob("*.json")):
        if path.name.endswith("config.json") and "auto_map" in read_table(path, hint=_AS_SAVED):
            raise CheckpointError(
                f"{folder.name}/{path.name} names code of its own",
                why="code that comes with a repository is never run",
                hint="remove auto_map from the file, if the classes are those of transformers",
            )


def _kinds_of_transformers() -> tuple[type[Any], ...]:
    from transformers import FeatureExtractionMixin, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin
    from transformers.image_processing_base import ImageProcessingMixin

    return PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin, FeatureExtractionMixin, ImageProcessingMixin


def _part(folder: Path, name: str, kind: type[Any]) -> Part:
    files = _weight_files(folder, name, kind, local_files(folder))
    tensors = {tensor: info for file in files for tensor, info in local_header(folder / file, file).items()}
    return Part(kind, variant_of(files[0]), tensors)


def _weight_files(folder: Path, name: str, kind: type[Any], available: Collection[str]) -> tuple[str, ...]:
    import diffusers

    config = read_table(folder / name / CONFIG, hint=_AS_SAVED)
    if config.get("quantization_config"):
        raise NotSupportedYet(
            f"{name} is quantized already",
            why="its errors would add up with those of the files that are made of it",
            hint="use the repository that it was made from",
        )
    stem = DIFFUSERS if issubclass(kind, diffusers.ModelMixin) else TRANSFORMERS
    return component_files(folder, available, name, stem).names
