"""Find what is best for a model: the text of its importance matrix, the batch it is run with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hubquant.api.arguments import Names, Overrides, as_overrides, check_least, listed, open_store, quietly, read_recipe
from hubquant.bars import Bars
from hubquant.disk import user_path
from hubquant.errors import UserError
from hubquant.mix import check_recipe, file_type, is_name
from hubquant.recipe import Override, Recipe

if TYPE_CHECKING:
    from hubquant.commands.refine import Refined
    from hubquant.commands.tune import Found
    from hubquant.devices import Device


def refine(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    *,
    type: str,
    sizes: str | Sequence[int] = (),
    factor: float = 2.0,
    mixes: Names = (),
    confidence: float | None = None,
    out: Path | str | None = None,
    plot: Path | str | None = None,
    overrides: Overrides = (),
    device: Device = "auto",
    store: Path | str | None = None,
    progress: Bars = "auto",
) -> Refined:
    """Let the calibration text grow until files of ``type`` get no better, and keep the best importance matrix.

    ``recipe`` is whatever stands for one as in ``run``, with ``overrides``. The text has ``sizes`` tokens, growing
    ([25_000, 50_000] or "25k,50k"); without them each is ``factor`` times the one before, up to the recipe's own.
    ``mixes`` are calibration texts to race: files of recipes, or of lists of sources. A gain counts where it is sure
    by ``confidence``, by default the recipe's ``evaluate.confidence``.

    The matrix is written to ``out``, by default beside the recipe, which then names it; ``plot`` is a PNG of the scores
    over the text.

    Returns the steps, the best of them, and the files that were written. ``print`` shows it. Raises ``HubquantError``.
    """
    if not factor >= 1.1:
        raise UserError(f"factor must be at least 1.1, not {factor:g}")
    for tokens in () if isinstance(sizes, str) else sizes:
        check_least("sizes", tokens, 1)
    changed = [] if confidence is None else [Override("evaluate.confidence", confidence, "confidence")]
    loaded = check_recipe(read_recipe(recipe, [*changed, *as_overrides(overrides)]))
    name = type if is_name(type) else file_type(type).name
    opened = open_store(store)
    with quietly(progress) as seen:
        from hubquant.commands.job import carry_out
        from hubquant.commands.refine import Request, own_path, parse_tokens, read_mix
        from hubquant.commands.refine import refine as prepare

        request = Request(
            loaded,
            own_path(recipe) if isinstance(recipe, str | Path) else None,
            name,
            (parse_tokens(sizes) if sizes else ()) if isinstance(sizes, str) else tuple(sorted(sizes)),
            factor,
            {path.stem: read_mix(path) for path in map(user_path, listed(mixes))},
            None if out is None else Path(out),
            None if plot is None else Path(plot),
            device,
        )
        return carry_out(prepare(request, opened, seen), opened, seen)


def tune(
    model: str | Path,
    *,
    context: int = 2048,
    engine: Literal["torch", "llamacpp"] = "torch",
    seconds: int = 60,
    fresh: bool = False,
    device: Device = "auto",
    store: Path | str | None = None,
    progress: Bars = "auto",
) -> Found:
    """Find the batch that is fastest within memory: ``run`` and ``collect_imatrix`` use it from then on.

    Batches are of chunks of ``context`` tokens, and timed for about so many ``seconds``. The ``engine`` ``llamacpp``
    times batch and ubatch of llama.cpp for the GGUF file ``model``. With ``fresh`` is measured again what was measured
    before.

    Returns the candidates with their speeds and memory, and which of them won. ``print`` shows it. Raises
    ``HubquantError``.
    """
    check_least("context", context, 16)
    check_least("seconds", seconds, 0)
    if engine not in ("torch", "llamacpp"):
        raise UserError(f"engine must be one of torch, llamacpp, not {engine}")
    opened = open_store(store)
    with quietly(progress) as seen:
        from hubquant.commands.job import carry_out
        from hubquant.commands.tune import Request
        from hubquant.commands.tune import tune as prepare

        job = prepare(Request(str(model), context, engine, device, seconds, fresh), opened, seen)
        return carry_out(job, opened, seen)
