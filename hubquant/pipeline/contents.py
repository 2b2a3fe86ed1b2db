"""What stands in an output folder, by name: it is laid out as the Hub repository that it becomes."""

from __future__ import annotations

from collections.abc import Sequence

from hubquant.backends.folder import FolderPlan
from hubquant.backends.gguf.files import FilePlan
from hubquant.recipe.schema import Recipe, TextSource

CARD = "README.md"
RECIPE = "recipe.yaml"
PLOT = "plot.png"
GRID = "grid.webp"
CURVE = "curve.png"
IMATRIX = "imatrix.gguf"
MEASUREMENTS = "measurements.json"
METRICS = {"kld_mean", "perplexity"}  # by the names that tasks of benchmarks would have


def planned_names(
    recipe: Recipe, files: Sequence[FilePlan | FolderPlan], *, has_imatrix: bool, has_results: bool, draws: bool = False
) -> list[str]:
    """Everything that a run may write; a file that fails its gate is left out in the end. ``has_results`` tells whether
    the Hub has a place for the measurements."""
    names = [path for file in files for path in file.paths]  # of folders as far as it is known
    if has_imatrix:
        names.append(IMATRIX)
    if not recipe.evaluate.skip:
        names.append(PLOT)
        names += [GRID, CURVE] if draws else []
    if has_results and (dataset := dataset_of_results(recipe)):
        from hubquant.hub.eval_results import eval_results

        names += eval_results(dataset.dataset, {file.label: {} for file in files})
    return [*names, MEASUREMENTS, RECIPE, CARD]


def dataset_of_results(recipe: Recipe) -> TextSource | None:
    """The Hub's own format for measurements knows Hub datasets only, and one of them for a value."""
    sources = () if recipe.evaluate.skip else recipe.evaluate.sources
    return sources[0] if len(sources) == 1 and sources[0].dataset else None


def tasks_of_results(recipe: Recipe) -> frozenset[str]:
    """Those of the ``METRICS`` that the Hub's own format has a place for."""
    if (dataset := dataset_of_results(recipe)) is None:
        return frozenset()
    from hubquant.hub.eval_results import benchmark_tasks

    return benchmark_tasks(str(dataset.dataset), dataset.revision) & METRICS
