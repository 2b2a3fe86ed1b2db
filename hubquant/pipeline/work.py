"""What a recipe comes to: the source, the texts, the files and the tasks, and every mistake that can be known now.

Only metadata is read: config and tokenizer files, safetensors headers, the sizes of things.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hubquant.backends.gguf.files import FilePlan, ImatrixFacts, Weights, check_quantized, fork_note, idle_rules
from hubquant.backends.gguf.target import check_tokenizer, conversion_weights, plan_file
from hubquant.convert.conversion import Conversion
from hubquant.engine.progress import Progress
from hubquant.errors import NotSupportedYet
from hubquant.observe import collected_names
from hubquant.pipeline.contents import IMATRIX
from hubquant.pipeline.given_imatrix import open_imatrix, use_notes, used_names
from hubquant.pipeline.tasks import RecipeTasks, Texts, recipe_tasks
from hubquant.pipeline.ways import choose_way
from hubquant.recipe.schema import ModelReference, Recipe
from hubquant.sources.open import open_source
from hubquant.sources.pulled import Pulled
from hubquant.sources.source import SourceModel

if TYPE_CHECKING:
    from hubquant.calibration import Chunks
    from hubquant.llamacpp.vocabulary import VocabularyCheck

COMPARED_CHARACTERS = 4_000_000  # of each source; more than a calibration run reads


@dataclass(frozen=True)
class Work:
    """``vocabulary`` is None where the tokenizer is that of a file already; ``facts`` are of the importance matrix,
    None where none is used."""

    recipe: Recipe
    pulled: Pulled
    conversion: Conversion
    vocabulary: VocabularyCheck | None
    weights: Weights
    facts: ImatrixFacts | None
    texts: Texts
    tasks: RecipeTasks
    notes: Sequence[str]

    @property
    def source(self) -> SourceModel:
        return self.pulled.source

    @property
    def files(self) -> list[FilePlan]:
        return [each.plan for each in self.tasks.files]


def open_model(reference: ModelReference, pre_tokenizer: str | None, progress: Progress) -> tuple[Pulled, Conversion]:
    """The source, not pulled yet, and what becomes of its weights."""
    with progress.doing("reading what the model's files hold"):
        source = open_source(reference, pre_tokenizer)
        return Pulled(source), source.conversion()


def prepare(
    recipe: Recipe,
    pulled: Pulled,
    conversion: Conversion,
    shard_bytes: int,
    without_imatrix: str,
    progress: Progress,
) -> Work:
    """Raises a ``UserError`` for everything that would fail later and can be known now.

    ``pulled`` and ``conversion`` are those of the recipe's model. ``without_imatrix`` is the hint where a type needs an
    importance matrix and there is none.
    """
    source = pulled.source
    check_quantized(source, recipe.quantize)
    if conversion.cannot_run and (collects(recipe) or not recipe.evaluate.skip):
        raise NotSupportedYet(
            f"calibrating or evaluating {conversion.architecture} models",
            why=conversion.cannot_run,
            hint="add --set imatrix.skip=true --set evaluate.skip=true",
        )
    weights = conversion_weights(source, conversion)
    vocabulary = None
    if source.converts_tokenizer or not recipe.evaluate.skip:
        with progress.doing("comparing the tokenizer with llama.cpp's"):
            vocabulary = check_tokenizer(source, weights)
    given, facts, entries = open_imatrix(recipe.imatrix, weights) if recipe.imatrix.given else (None, None, ())
    texts = _tokenize(recipe, source, progress)
    if texts.calibration is not None:
        entries = collected_names(conversion.taps, recipe.imatrix.process_output)
        facts = _collected_facts(texts.calibration, len(used_names(entries, recipe.imatrix)))
    covered = used_names(entries, recipe.imatrix)
    files = [
        plan_file(weights, source, recipe.quantize, ftype, facts, covered, shard_bytes, without_imatrix)
        for ftype in recipe.quantize.types
    ]
    way = choose_way(recipe.imatrix, weights.shapes, can_stream=source.can_stream) if texts.calibration else "none"
    return Work(
        recipe=recipe,
        pulled=pulled,
        conversion=conversion,
        vocabulary=vocabulary,
        weights=weights,
        facts=facts,
        texts=texts,
        tasks=recipe_tasks(recipe, pulled, conversion, weights, files, texts, way, given, vocabulary, shard_bytes),
        notes=[
            *([vocabulary.note] if vocabulary and vocabulary.note else []),
            *conversion.notes,
            *use_notes(len(entries), len(covered), recipe.imatrix),
            *idle_rules(weights, recipe.quantize),
            *(note for file in files for note in (*file.notes, *fork_note(file.ftype, file.types))),
            *(_check_overlap(recipe) if texts.calibration and texts.evaluation else []),
        ],
    )


def collects(recipe: Recipe) -> bool:
    return not recipe.imatrix.skip and not recipe.imatrix.given


def _tokenize(recipe: Recipe, source: SourceModel, progress: Progress) -> Texts:
    """The calibration and the evaluation tokens; text that cannot be used raises."""
    first, second = recipe.calibration, recipe.evaluate
    if not collects(recipe) and second.skip:
        return Texts(None, None)
    from hubquant.calibration import build

    with progress.doing("tokenizing"):
        tokenizer = source.tokenizer()
        return Texts(
            build(first.sources, tokenizer, first.chunk_size, first.chunks, first.seed) if collects(recipe) else None,
            None if second.skip else build(second.sources, tokenizer, second.chunk_size, second.chunks, 0),
        )


def _collected_facts(chunks: Chunks, n_entries: int) -> ImatrixFacts:
    """What a file will record of the matrix that is yet to be collected."""
    return ImatrixFacts(IMATRIX, chunks.datasets[0], n_entries, len(chunks), chunks.fingerprint)


def _check_overlap(recipe: Recipe) -> list[str]:
    """A note when the model is evaluated on text that it was calibrated on."""
    from hubquant.calibration import overlap, read_text

    seed = recipe.calibration.seed
    calibration = [read_text(source, seed, COMPARED_CHARACTERS) for source in recipe.calibration.sources]
    evaluation = [read_text(source, 0, COMPARED_CHARACTERS) for source in recipe.evaluate.sources]
    found = overlap(calibration, "\n".join(evaluation))
    if found.shared == 0:
        return []
    return [
        f"{found.share:.0%} of the evaluation text's lines also stand in the calibration text: "
        "the divergence looks better than it is"
    ]
