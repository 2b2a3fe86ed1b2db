"""What stands in an output folder, by name: it is laid out as the Hub repository that it becomes."""

from __future__ import annotations

from collections.abc import Sequence

from hubquant.backends.gguf.files import FilePlan
from hubquant.recipe.schema import Recipe, TextSource

CARD = "README.md"
RECIPE = "recipe.yaml"
PLOT = "plot.png"
IMATRIX = "imatrix.gguf"
MEASUREMENTS = "measurements.json"


def planned_names(recipe: Recipe, files: Sequence[FilePlan], *, has_imatrix: bool) -> list[str]:
    """Everything that a run may write; a file that fails its gate is left out in the end."""
    names = [path for file in files for path in file.paths]
    if has_imatrix:
        names.append(IMATRIX)
    if not recipe.evaluate.skip:
        names.append(PLOT)
    if dataset := dataset_of_results(recipe):
        from hubquant.hub.eval_results import eval_results

        names += eval_results(dataset.dataset, {file.label: {} for file in files})
    return [*names, MEASUREMENTS, RECIPE, CARD]


def dataset_of_results(recipe: Recipe) -> TextSource | None:
    """The Hub's own format for measurements knows Hub datasets only, and one of them for a value."""
    sources = () if recipe.evaluate.skip else recipe.evaluate.sources
    return sources[0] if len(sources) == 1 and sources[0].dataset else None
