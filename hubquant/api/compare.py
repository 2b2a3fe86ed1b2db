"""Compare formats on one scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.api.arguments import Overrides, Types, as_overrides, listed_types, open_store, quietly, read_recipe
from hubquant.bars import Bars
from hubquant.mix import check_recipe
from hubquant.recipe import Override, Recipe

if TYPE_CHECKING:
    from hubquant.commands.compare import Comparison
    from hubquant.devices import Device


def compare(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    *,
    types: Types | None = None,
    overrides: Overrides = (),
    out: Path | str | None = None,
    store: Path | str | None = None,
    device: Device = "auto",
    progress: Bars = "auto",
) -> Comparison:
    """One model in several formats, such as ``types=["gguf:Q4_K_M", "bitsandbytes:nf4", "sdnq:uint4"]``, by default
    some of each format whose package is installed: size, divergence from the source, loading time, memory and speed.

    What is made stays in the ``store``; ``out`` is a Markdown file for the table, beside which the plot stands. Other
    arguments as for ``plan``. ``print(comparison)`` shows the table. Raises ``HubquantError``.
    """
    checked = comparison_recipe(recipe, None if types is None else listed_types(types), as_overrides(overrides))
    with quietly(progress) as seen:
        from hubquant.commands.compare import compare as plan_compare
        from hubquant.commands.job import carry_out

        opened = open_store(store)
        job = plan_compare(checked, None if out is None else Path(out), opened, seen, device)
        return carry_out(job, opened, seen)


def comparison_recipe(
    recipe: Recipe | Mapping[str, Any] | str | Path, types: Sequence[Any] | None, given: Sequence[str | Override]
) -> Recipe:
    """The recipe with ``types``, or the usual ones where none are named, that publishes nothing."""
    from hubquant.commands.compare import usual_types

    chosen = Override("quantize.types", list(types) if types else usual_types(), "types")
    nowhere = Override("publish.to", None, "publish.to")
    return check_recipe(read_recipe(recipe, [chosen, *given, nowhere]))
