"""A model that can be run: a checkpoint or a GGUF file, with the tokenizer that belongs to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hubquant.convert.conversion import Conversion, plan_conversion
from hubquant.engine.collecting import Observable, Shapes, observe_checkpoint
from hubquant.engine.gguf_source import gguf_identity
from hubquant.engine.progress import Progress
from hubquant.engine.source import SourceModel, open_source
from hubquant.errors import UserError
from hubquant.gguf_file import GGUFFile
from hubquant.models import load_tokenizer
from hubquant.models.load import Placement, default_device
from hubquant.recipe.load import model_reference
from hubquant.recipe.schema import ModelReference

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Runnable:
    """``tokenizer`` is there at once; ``fetch`` brings the weights to this machine."""

    name: str
    revision: str
    tokenizer: PreTrainedTokenizerBase
    shapes: Shapes
    can_stream: bool
    fetch: Callable[[Progress], Observable]

    def load(self, progress: Progress) -> PreTrainedModel:
        """The model in memory, spread over all devices."""
        return self.fetch(progress).load(Placement(spread=True))


def open_runnable(model: str, pre_tokenizer: str | None = None) -> Runnable:
    """A Hub id, a folder or a GGUF file of any type; no weight is read yet."""
    if model.endswith(".gguf"):
        return _open_gguf(Path(model).expanduser(), pre_tokenizer)
    source, conversion = open_model(model, pre_tokenizer)
    return Runnable(
        source.id or source.name,
        source.exact_revision,
        load_tokenizer(source.folder),
        conversion.shapes,
        True,
        lambda progress: observe_checkpoint(source.download(progress), conversion),
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
    shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
    revision = gguf_identity(path)["state"]
    observable = Observable(
        path.stem,
        gguf_identity(path)["model"],
        shapes,
        architecture.taps(config),
        lambda _: load_model(file, default_device()),
        None,
    )
    tokenizer = Vocabulary.from_metadata(file.metadata).tokenizer()
    return Runnable(path.stem, revision, tokenizer, shapes, False, lambda _: observable)
