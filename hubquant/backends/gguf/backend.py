"""GGUF as a format to quantize to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hubquant.backends.backend import Backend, Checked, Importance
from hubquant.backends.gguf.feedback import MomentsSource
from hubquant.backends.gguf.files import (
    FilePlan,
    Weights,
    assign_types,
    check_quantized,
    exact_note,
    file_metadata,
    file_name,
    idle_rules,
    plan_layouts,
)
from hubquant.backends.gguf.target import check_tokenizer, conversion_weights, settle_types, without_layers
from hubquant.backends.gguf.task import QuantizedFile
from hubquant.checkpoint.headers import FLOATS
from hubquant.devices import Device, chosen_device
from hubquant.engine.progress import Progress
from hubquant.errors import ImatrixError
from hubquant.gguf_file import Metadata, Split
from hubquant.mix import COPY
from hubquant.recipe.schema import NamedType, Quantize, name_of
from hubquant.sources.component import Component
from hubquant.sources.pruning import pruned

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hubquant.llamacpp.vocabulary import VocabularyCheck


@dataclass(frozen=True)
class CheckedGGUF(Checked[QuantizedFile]):
    """``weights`` are what every file holds; ``vocabulary`` is None where the tokenizer is that of a file already, and
    nothing is to be tokenized with it."""

    component: Component
    settings: Quantize
    weights: Weights
    vocabulary: VocabularyCheck | None
    backend: GGUF

    @property
    def tokenizer(self) -> str:
        return "as it is in the file" if self.vocabulary is None else str(self.vocabulary)

    @property
    def notes(self) -> list[str]:
        vocabulary = [self.vocabulary.note] if self.vocabulary and self.vocabulary.note else []
        return [*vocabulary, *self.component.conversion.notes, *idle_rules(self.weights, self.settings)]

    def tasks(self, importance: Importance | None, moments: MomentsSource | None = None) -> Sequence[QuantizedFile]:
        """One for each of the settings' types. Raises ``ImatrixError`` where a type needs a matrix and there is none,
        ``NotSupportedYet`` for a type that no kernel writes. ``moments`` are what errors are fed back by."""
        return [self._task(entry, importance, moments) for entry in self.settings.types]

    def without_feedback(self, importance: Importance | None) -> Sequence[QuantizedFile]:
        """As :meth:`tasks` with each weight rounded by itself."""
        settings = self.settings.model_copy(update={"rounding": "nearest"})
        return replace(self, settings=settings).tasks(importance)

    def without_imatrix(self, importance: Importance | None) -> list[QuantizedFile | None]:
        """As :meth:`tasks` without a matrix: None in the place of what cannot be made so. They are made in one pass
        with those of ``importance``."""

        def plain(entry: str | NamedType) -> QuantizedFile | None:
            try:
                return self._task(entry, importance, plain=True)
            except ImatrixError:
                return None

        return list(map(plain, self.settings.types))

    @property
    def _split(self) -> Split:
        split, shapes = self.backend.split, self.weights.shapes
        if split.shards is None:
            return split
        return replace(split, shards={name: split.shards[self.component.origin(name)] for name in shapes})

    def _task(
        self,
        entry: str | NamedType,
        importance: Importance | None,
        moments: MomentsSource | None = None,
        *,
        plain: bool = False,
    ) -> QuantizedFile:
        settings = self.settings.of(entry)
        plan = self._plan(name_of(entry), settings, None if plain else importance)
        return QuantizedFile(
            self.component,
            self.weights,
            plan,
            settings,
            self._split,
            importance.task if importance else None,
            importance.include if importance else (),
            importance.exclude if importance else (),
            None if set(plan.types.values()) <= {*FLOATS} else moments,
        )

    def _plan(self, label: str, settings: Quantize, importance: Importance | None) -> FilePlan:
        weights, source = self.weights, self.component.source
        (ftype,) = settings.names
        assigned = assign_types(weights, ftype, settings, has_imatrix=importance is not None)
        used = frozenset(importance.covered if importance else ())
        covered = [name for name in assigned if self.component.origin(name) in used]
        types, notes = (
            (assigned, ())
            if ftype == COPY.name
            else settle_types(assigned, ftype, label, covered, where_from=self.backend.without_imatrix)
        )
        facts = importance.facts if importance else None
        metadata = file_metadata(weights, ftype, types, settings, source.identity["model"], facts)
        layouts = plan_layouts(weights, types, metadata, self._split)
        return FilePlan(
            label=label,
            ftype=ftype,
            name=file_name(source.name, label, len(layouts)),
            types=types,
            n_parameters=weights.n_parameters,
            layouts=layouts,
            notes=(*notes, *exact_note(weights, label, types)),
        )


@dataclass(frozen=True)
class GGUF(Backend[Quantize, QuantizedFile]):
    """Files that ``split`` cuts into shards; ``without_imatrix`` is the hint where a type needs an importance matrix
    and there is none. The tokenizer is compared with llama.cpp's where it is converted, or always with ``compares``.
    ``named`` are keys of ``general.*`` that stand in the place of the source's, and so is ``authorship``."""

    split: Split
    without_imatrix: str
    compares: bool
    named: Mapping[str, str] = field(default_factory=dict)
    authorship: Metadata = field(default_factory=dict)

    def check(self, component: Component, settings: Quantize, progress: Progress) -> CheckedGGUF:
        source, component = component.source, pruned(component, settings.prune_layers)
        check_quantized(source, settings)
        weights = conversion_weights(source, component.conversion, self.named, self.authorship)
        if component.whole:
            weights = without_layers(weights, component)
        vocabulary = None
        if component.has_vocabulary and (source.converts_tokenizer or self.compares):
            with progress.doing("comparing the tokenizer with llama.cpp's"):
                vocabulary = check_tokenizer(source, weights)
        return CheckedGGUF(component, settings, weights, vocabulary, self)

    @staticmethod
    def restore(path: Path, device: Device = "auto") -> PreTrainedModel:
        from hubquant.convert.restore import load_model

        return load_model(path, chosen_device(device))
