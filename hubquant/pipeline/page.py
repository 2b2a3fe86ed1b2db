"""The page of a repository: card, recipe, plot and measurements of all files that are there, not of one run alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from hubquant.backends.folder import folder_fingerprint
from hubquant.backends.gguf.files import common_part, quantize_part
from hubquant.engine.task import Context, fingerprint
from hubquant.pipeline.contents import CARD, CURVE, GRID, IMATRIX, MEASUREMENTS, PLOT, RECIPE
from hubquant.pipeline.drawing.page import drawing_of, made_of_pictures, text_encoder_of
from hubquant.pipeline.output_folder import OutputFolder
from hubquant.pipeline.plan_text import count_types
from hubquant.pipeline.publishing import gating, names_in_files
from hubquant.publish.card import Card, CardText, EarlierFile, render
from hubquant.publish.drawing import Drawing, TextEncoder
from hubquant.publish.measurements import FileMeasurement, MadeWith, dump_measurements, read_measurements
from hubquant.publish.plot import plot
from hubquant.publish.recommendation import measure_of
from hubquant.publish.step_plot import plot_steps
from hubquant.publish.template import CardTemplate
from hubquant.publish.usage import Usage
from hubquant.recipe import dump_recipe
from hubquant.recipe.backends import is_of_library
from hubquant.recipe.pictures import PromptSource
from hubquant.recipe.public import base_models, local_recipe, needed_files, placed, public_recipe
from hubquant.recipe.schema import NamedType, Recipe, TextSource
from hubquant.sources.projector import MMPROJ
from hubquant.version import __version__

if TYPE_CHECKING:
    from hubquant.pipeline.plan import Plan
    from hubquant.pipeline.work import Work

STATE = "page.json"
CHAT_TEMPLATE = "tokenizer.chat_template"


class Page(BaseModel):
    """What there is to tell besides the files; it is kept so that they can be published later. Neither recipe names a
    place to publish to, and the one that is published none of this machine."""

    model_config = ConfigDict(frozen=True)

    version: str
    model_name: str
    model_id: str | None
    revision: str | None
    base_models: tuple[str, ...]
    source: dict[str, Any]
    has_imatrix: bool
    calibration: tuple[CardText, ...]
    tokens_calibrated: int
    evaluation: tuple[CardText, ...]
    recipe: Recipe
    local_recipe: Recipe
    made_with: MadeWith
    own_settings: dict[str, str] = {}
    """By the name of a file that has settings of its own, their fingerprint."""
    folder_settings: str = ""
    """That of the settings of folders."""
    not_as_source: tuple[str, ...] = ()
    usage: Usage = Usage()
    template: CardTemplate | None = None
    gated: Literal["auto", "manual"] | None = None
    embeds: bool = False
    """Whether it is an encoder."""
    in_llamacpp_alone: bool = False
    """Whether nothing else runs the model."""
    ranks: bool = False
    """Whether it gives pairs of texts a score."""
    drawing: Drawing | None = None
    """Of a denoiser; where it has prompts, the grid of their pictures is in the folder."""
    text_encoder: TextEncoder | None = None
    mixes: dict[str, str] = {}
    """By the name of a file with rules of its own, how many tensors of each type it has."""

    @classmethod
    def of(cls, plan: Plan, matrix_sha256: str | None, context: Context) -> Page:
        """``matrix_sha256`` is that of the importance matrix as it is published."""
        recipe, source = plan.recipe, plan.source
        component = recipe.model.component
        model = source.reference(component)
        return cls(
            version=__version__,
            model_name=_model_name(plan),
            model_id=source.id,
            revision=source.revision if source.id else None,
            base_models=base_models(recipe, source.id, source.card),
            source=dict(source.card),
            has_imatrix=plan.work.importance is not None,
            calibration=_calibration(plan.work),
            tokens_calibrated=plan.work.texts.calibration.n_tokens if plan.work.texts.calibration else 0,
            evaluation=_evaluation(plan.work),
            recipe=public_recipe(recipe, model),
            local_recipe=local_recipe(recipe, model),
            made_with=_made_with(plan, matrix_sha256),
            own_settings=_own_settings(recipe),
            folder_settings=folder_fingerprint(recipe.quantize.skip_modules),
            not_as_source=(*plan.work.component.conversion.notes, *plan.work.drafting_notes),
            usage=_usage(plan),
            template=plan.template,
            gated=gating(recipe.publish, source),
            embeds=plan.work.component.embeds,
            in_llamacpp_alone=plan.work.component.conversion.lacks_code,
            ranks=plan.work.component.ranks,
            drawing=drawing_of(plan.work, context) if plan.work.component.denoises else None,
            text_encoder=text_encoder_of(plan.work.component),
            mixes=_mixes(plan),
        )

    @classmethod
    def load(cls, folder: OutputFolder) -> Page | None:
        """None where a version made the folder that kept no page."""
        try:
            return cls.model_validate_json(folder.state(STATE))
        except (OSError, ValidationError):
            return None

    def made_with_of(self, name: str) -> MadeWith:
        """Of the file that a recipe calls ``name``."""
        if is_of_library(name):
            return self.made_with.model_copy(update={"settings": self.folder_settings, "imatrix": None})
        return self.made_with.model_copy(update={"settings": self.own_settings.get(name, self.made_with.settings)})

    def _as_made_now(self, file: FileMeasurement) -> MadeWith:
        """What ``file`` would be made with by this recipe: of a matrix that it did not ask for nothing is known."""
        found = self.made_with_of(file.type)
        no_gguf = not self.recipe.quantize.of_gguf.types and not is_of_library(file.type)
        return found.model_copy(update={"imatrix": file.made_with.imatrix}) if no_gguf else found

    def save(self, folder: OutputFolder) -> None:
        folder.keep_state(STATE, self.model_dump_json(indent=1).encode())

    def contents(self, files: Sequence[FileMeasurement], others: Sequence[str], to: str | None) -> dict[str, bytes]:
        """The page by path. ``others`` are files that are there without measurements; ``to`` is the repository."""
        made_with = {file.type: self._as_made_now(file) for file in files}
        current = [file.measured for file in files if not file.made_with.differences(made_with[file.type])]
        reproduced = [file.type for file in files if file.made_with.is_reproduced_by(made_with[file.type])]
        recipe = placed(self.recipe if to else self.local_recipe, reproduced, to)
        contents = {RECIPE: dump_recipe(recipe).encode()}
        texts = [found for file in current if (found := file.divergence or file.similarity)]
        if any(file.distance is not None for file in current):
            contents[PLOT] = plot(current, f"{self.model_name}: size and {measure_of(current).name}")
        if any(file.fidelity for file in current):
            contents[CURVE] = plot_steps(current, f"{self.model_name}: prediction error by step")
        needs = needed_files(placed(self.recipe, reproduced, to))
        card = Card(
            model_name=self.model_name,
            files=tuple(current),
            earlier=tuple(
                EarlierFile(file.measured, tuple(differences))
                for file in files
                if (differences := file.made_with.differences(made_with[file.type]))
            ),
            others=tuple(name for name in others if not is_projector(name)),
            projectors=tuple(filter(is_projector, others)),
            reproduce=f"hubquant run hub:{to}" if to and not needs else f"hubquant run {RECIPE}",
            needs=needs,
            version=self.version,
            model_id=self.model_id,
            revision=self.revision,
            base_models=self.base_models,
            repo_id=to,
            source=self.source,
            imatrix=IMATRIX if self.has_imatrix else None,
            calibration=self.calibration,
            tokens_calibrated=self.tokens_calibrated,
            evaluation=self.evaluation,
            tokens_scored=max((found.n_tokens for found in texts), default=0),
            plot=PLOT if PLOT in contents else None,
            verified=True,
            not_as_source=self.not_as_source,
            usage=self.usage,
            quantized_by=self.recipe.publish.quantized_by,
            embeds=self.embeds,
            in_llamacpp_alone=self.in_llamacpp_alone,
            ranks=self.ranks,
            drawing=self.drawing,
            text_encoder=self.text_encoder,
            grid=GRID if self.drawing and self.drawing.prompts else None,
            curve=CURVE if CURVE in contents else None,
            mixes=self.mixes,
        )
        text = render(card, self.template).encode()
        return {**contents, MEASUREMENTS: dump_measurements(files, hashlib.sha256(text).hexdigest()), CARD: text}


def measurements_in(folder: OutputFolder) -> tuple[FileMeasurement, ...]:
    """Of the files that are still in ``folder`` as they were measured."""
    if MEASUREMENTS not in folder or not folder.is_unchanged(MEASUREMENTS):
        return ()
    found = read_measurements((folder.root / MEASUREMENTS).read_bytes()).files
    digests = {path: folder.sha256(path) for path in folder}
    return tuple(file for file in found if file.is_what(digests))


def is_projector(path: str) -> bool:
    """Whether llama.cpp takes a file to be what a model sees or hears with, by its name."""
    return path.rpartition("/")[2].startswith(f"{MMPROJ}-")


def undescribed(names: Iterable[str], files: Sequence[FileMeasurement]) -> list[str]:
    """Models among ``names`` of which ``files`` do not tell."""
    described = {path for file in files for path in file.paths} | {IMATRIX}
    return sorted(name for name in set(names) - described if name.endswith(".gguf"))


def _model_name(plan: Plan) -> str:
    """Of a denoiser that of its pipeline: files of the second one are called after their part."""
    source = plan.source
    return source.name.removesuffix(f"-{source.component}") if plan.work.component.denoises else source.name


def _mixes(plan: Plan) -> dict[str, str]:
    own = {each.name for each in plan.recipe.quantize.types if isinstance(each, NamedType) and each.rules}
    return {file.label: count_types(file.types) for file in plan.files if file.label in own}


def _made_with(plan: Plan, matrix_sha256: str | None) -> MadeWith:
    recipe, importance = plan.recipe, plan.work.importance
    matrix = None
    if importance is not None:
        # by the text it was collected on, where that is known: sums differ in their last bits between machines
        source = importance.facts.tokens_sha256 or matrix_sha256
        use = recipe.imatrix.model_dump(include={"process_output", "include_weights", "exclude_weights"})
        matrix = fingerprint({"matrix": source, **use})
    return MadeWith(
        model=plan.source.identity["model"],
        imatrix=matrix,
        settings=fingerprint({**common_part(recipe.quantize), **_other_settings(recipe)}),
        evaluation=_measured_on(plan.work),
        hubquant=__version__,
    )


def _measured_on(work: Work) -> str | None:
    """A fingerprint of the text or of the pictures."""
    if (pictures := made_of_pictures(work)) is not None:
        return fingerprint(pictures)
    return work.texts.evaluation.fingerprint if work.texts.evaluation else None


def _calibration(work: Work) -> tuple[CardText, ...]:
    settings, drawn = work.recipe.calibration, work.prompts and work.prompts.calibration
    if drawn:
        return tuple(map(_text, settings.pictures.prompts))
    return tuple(map(_text, settings.sources)) if work.texts.calibration else ()


def _evaluation(work: Work) -> tuple[CardText, ...]:
    settings, drawn = work.recipe.evaluate, work.prompts and work.prompts.evaluation
    if drawn:
        return tuple(map(_text, settings.pictures.prompts))
    return tuple(map(_text, settings.sources)) if work.texts.evaluation else ()


def _own_settings(recipe: Recipe) -> dict[str, str]:
    parts = {
        entry.name: quantize_part(entry.type, recipe.quantize.of(entry))
        for entry in recipe.quantize.types
        if isinstance(entry, NamedType)
    }
    return {name: fingerprint({**part, **_other_settings(recipe)}) for name, part in parts.items()}


def _other_settings(recipe: Recipe) -> dict[str, Any]:
    chosen = {"layout": recipe.publish.layout, "component": recipe.model.component}
    named = {key: value for key, value in chosen.items() if value is not None}
    return {**recipe.convert.model_dump(mode="json", exclude={"mmproj"}), **names_in_files(recipe.publish), **named}


def _usage(plan: Plan) -> Usage:
    if plan.work.component.denoises:
        return Usage()
    metadata, prompt = plan.work.checked.weights.metadata, None
    if CHAT_TEMPLATE in metadata:
        from hubquant.calibration.chat import prompt_format

        prompt = prompt_format(plan.source.tokenizer())
    usage = Usage.of(metadata, prompt)
    return replace(usage, cache_bytes=None) if plan.work.component.embeds else usage  # which keeps no keys and values


def _text(source: TextSource | PromptSource) -> CardText:
    detail = ", ".join(part for part in (source.config, source.split) if part) if source.dataset else ""
    return CardText(source.display_name, is_dataset=source.dataset is not None, detail=detail)
