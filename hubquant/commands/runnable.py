"""A model that can be run: a checkpoint or a GGUF file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from hubquant.convert.conversion import Conversion
from hubquant.engine.progress import Progress
from hubquant.errors import NotSupportedYet, UserError
from hubquant.models.load import Placement
from hubquant.pipeline.importance import Observable, observe_source
from hubquant.recipe.references import model_reference
from hubquant.recipe.schema import ModelReference
from hubquant.sources.open import open_source
from hubquant.sources.source import SourceModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Runnable:
    """A source and what its weights become."""

    source: SourceModel
    conversion: Conversion

    def observable(self, progress: Progress) -> Observable:
        """With its weights on this machine."""
        return observe_source(self.source.download(progress), self.conversion)

    def load(self, progress: Progress) -> PreTrainedModel:
        """The model in memory, spread over all devices."""
        return self.source.download(progress).load(Placement(spread=True))


def open_runnable(model: str, pre_tokenizer: str | None, progress: Progress) -> Runnable:
    """A Hub id, a folder or a GGUF file of any type; no weight is read yet."""
    source, conversion = open_model(model, pre_tokenizer, progress)
    if conversion.cannot_run:
        raise NotSupportedYet(f"running {conversion.architecture} models", why=conversion.cannot_run)
    return Runnable(source, conversion)


def open_model(model: str, pre_tokenizer: str | None, progress: Progress) -> tuple[SourceModel, Conversion]:
    reference = {"bundled": "demo"} if model == "demo" else model_reference(model)
    try:
        checked = ModelReference.model_validate(reference)
    except ValidationError:
        raise UserError(
            f"{model!r} is no model",
            why="it is not a .gguf file, a folder, or a Hub id such as Qwen/Qwen3-0.6B",
            hint="check the spelling",
        ) from None
    with progress.doing("reading what the model's files hold"):
        source = open_source(checked, pre_tokenizer)
        return source, source.conversion()
