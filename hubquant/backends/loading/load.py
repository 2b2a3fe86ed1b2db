"""A model that computes, quantized while it is loaded, after that, or already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hubquant.backends.loading.asked import Asked
from hubquant.backends.loading.located import locate
from hubquant.backends.loading.offloading import check_packages
from hubquant.engine.progress import Progress
from hubquant.errors import UserError
from hubquant.recipe.schema import ModelReference

if TYPE_CHECKING:
    from hubquant.hub.access import Token


def load(reference: ModelReference, asked: Asked, progress: Progress, token: Token = None) -> Any:
    """A model of transformers or diffusers, or a pipeline, in eval mode.

    Raises ``UserError`` before any weight is read for what cannot be done, and ``CheckpointError`` for weights that do
    not fit.
    """
    with progress.doing("reading what the model's files hold"):
        model = locate(reference, token)
    for found in model.found:
        found.check()
    if model.kind != "pipeline" and asked.components is not None:
        raise UserError(f"{model.name} has no components", why="it is no pipeline", hint="leave components out")
    if asked.quantize is None and (asked.skip or asked.components is not None):
        raise UserError("nothing is to be quantized", why="quantize is left out", hint="leave out what belongs to it")
    check_packages(asked.offload)
    if model.kind == "pipeline":
        from hubquant.backends.loading.pipelines import load_pipeline

        return load_pipeline(model, asked, progress)
    if model.kind in ("denoiser", "denoiser file"):
        from hubquant.backends.loading.pipelines import load_denoiser

        return load_denoiser(model, asked, progress)
    from hubquant.backends.loading.language_models import load_language_model

    return load_language_model(model, asked, progress)
