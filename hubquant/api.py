"""The public Python API behind ``import hubquant``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hubquant.mix import check_recipe
from hubquant.recipe import Override, Recipe, load_recipe, override_recipe

if TYPE_CHECKING:
    from hubquant.engine.progress import Progress
    from hubquant.engine.store import Store
    from hubquant.pipeline.plan import Plan
    from hubquant.publish.report import Report

RECIPE_FILE = "recipe.yaml"


def plan(
    recipe: Recipe | str | Path,
    *,
    overrides: Sequence[str | Override] = (),
    out: Path | str | None = None,
    store: Path | str | None = None,
    progress: Progress | None = None,
) -> Plan:
    """What ``run`` would do: steps, types, exact sizes, memory, disk and downloads. Raises ``hubquant.HubquantError``.

    ``recipe`` is a ``Recipe``, the path of one, a Hub id, a model folder, a GGUF file, ``hub:org/repo``, "quickstart"
    or "default"; ``overrides`` are "quantize.mode=exact" and the like; ``out`` is the output folder, ``<model>-GGUF``
    by default; ``store`` is where what was made is kept, by default in ``$HUBQUANT_HOME``.
    """
    if isinstance(overrides, str):
        overrides = (overrides,)
    if isinstance(recipe, Recipe):
        loaded = override_recipe(recipe, overrides)
    else:
        loaded = load_recipe(str(recipe), overrides, fetch=_fetch_recipe)
    checked = check_recipe(loaded)
    from hubquant.engine.progress import Silent
    from hubquant.pipeline.plan import make_plan  # after mistakes in the recipe are found: it imports torch

    return make_plan(checked, None if out is None else Path(out), _store(store), progress or Silent())


def run(
    recipe: Recipe | str | Path,
    *,
    overrides: Sequence[str | Override] = (),
    out: Path | str | None = None,
    store: Path | str | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Make, measure, verify and publish what ``recipe`` asks for, going on from what is there unless ``fresh``.

    Arguments as for ``plan``. Raises ``hubquant.HubquantError``.
    """
    made = plan(recipe, overrides=overrides, out=out, store=store, progress=progress)
    from hubquant.engine.progress import Silent
    from hubquant.pipeline.run import execute

    return execute(made, _store(store), progress or Silent(), fresh=fresh)


def _store(root: Path | str | None) -> Store:
    from hubquant.engine.store import Store

    return Store(None if root is None else Path(root))


def _fetch_recipe(repository: str) -> Path:
    from hubquant.hub.pull import fetch_file

    return fetch_file(repository, RECIPE_FILE)
