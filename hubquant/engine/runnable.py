"""A model that can be run: a checkpoint or a GGUF file, with the tokenizer that belongs to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hubquant.convert.conversion import Conversion, plan_conversion
from hubquant.convert.operations import Input
from hubquant.engine.gguf_source import gguf_identity
from hubquant.engine.progress import Progress
from hubquant.engine.source import SourceModel, open_source
from hubquant.engine.steps import device, load_source, source_revision
from hubquant.errors import UserError
from hubquant.gguf_file import GGUFFile
from hubquant.models import load_tokenizer
from hubquant.recipe.load import model_reference
from hubquant.recipe.schema import ModelReference

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Runnable:
    """``modules`` are its linear modules and the GGUF weights that they become; ``load`` reads the weights."""

    name: str
    revision: str
    tokenizer: PreTrainedTokenizerBase
    modules: Mapping[str, str]
    inputs: Mapping[str, Input]
    load: Callable[[Progress], PreTrainedModel]


def open_runnable(model: str, pre_tokenizer: str | None = None) -> Runnable:
    """A Hub id, a folder or a GGUF file of any type; no weight is read yet."""
    if model.endswith(".gguf"):
        return _open_gguf(Path(model).expanduser(), pre_tokenizer)
    source, conversion = open_model(model, pre_tokenizer)
    return Runnable(
        source.id or source.name,
        source_revision(source),
        load_tokenizer(source.folder),
        conversion.modules,
        conversion.inputs,
        lambda progress: load_source(source.download(progress)),
    )


def open_model(model: str, pre_tokenizer: str | None = None) -> tuple[SourceModel, Conversion]:
    reference = {"bundled": "demo"} if model == "demo" else model_reference(model)
    source = open_source(ModelReference.model_validate(reference))
    return source, plan_conversion(source.folder, source.checkpoint, pre_tokenizer=pre_tokenizer)


def check_no_pre_tokenizer(pre_tokenizer: str | None) -> None:
    """Raises ``UserError`` for a pre-tokenizer beside a GGUF file."""
    if pre_tokenizer is not None:
        raise UserError("--pre-tokenizer is for checkpoints", why="a GGUF file has a tokenizer already")


def _open_gguf(path: Path, pre_tokenizer: str | None) -> Runnable:
    from hubquant.convert.restore import load_model, read_config
    from hubquant.convert.vocab import Vocabulary

    check_no_pre_tokenizer(pre_tokenizer)
    file = GGUFFile.open(path)
    architecture, config = read_config(file)
    return Runnable(
        path.stem,
        gguf_identity(path)["state"],
        Vocabulary.from_metadata(file.metadata).tokenizer(),
        architecture.linear_modules(config),
        architecture.inputs(config),
        lambda _: load_model(file, device()),
    )
