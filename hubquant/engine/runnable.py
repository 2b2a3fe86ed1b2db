"""A model that can be run: a checkpoint or a GGUF file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hubquant.convert.conversion import Conversion
from hubquant.engine.collecting import Observable, observe_source
from hubquant.engine.progress import Progress
from hubquant.engine.source import SourceModel, open_source
from hubquant.errors import NotSupportedYet
from hubquant.models.load import Placement
from hubquant.recipe.references import model_reference
from hubquant.recipe.schema import ModelReference

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


def open_runnable(model: str, pre_tokenizer: str | None = None) -> Runnable:
    """A Hub id, a folder or a GGUF file of any type; no weight is read yet."""
    source, conversion = open_model(model, pre_tokenizer)
    if conversion.cannot_run:
        raise NotSupportedYet(f"running {conversion.architecture} models", why=conversion.cannot_run)
    return Runnable(source, conversion)


def open_model(model: str, pre_tokenizer: str | None = None) -> tuple[SourceModel, Conversion]:
    reference = {"bundled": "demo"} if model == "demo" else model_reference(model)
    source = open_source(ModelReference.model_validate(reference), pre_tokenizer)
    return source, source.conversion()
