"""Observe a pipeline while its owner makes pictures with it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hubquant.api.arguments import Names, listed
from hubquant.units import counted


@contextmanager
def observe(
    pipe: Any,
    path: Path | str,
    *,
    continue_from: Names = (),
    convolutions: bool = False,
    timestep_weight: Callable[[float], float] | None = None,
) -> Iterator[None]:
    """While the block runs, collect the importance of every weight column of a diffusers pipeline; then save it.

        with hubquant.observe(pipe, "imatrix.gguf", continue_from=["old.gguf"]):
            pipe("a lighthouse at dusk", num_inference_steps=28)

    All linear layers of its denoisers (``transformer``, ``unet``, ``transformer_2``) and text encoders are observed,
    with ``convolutions`` those of the denoisers too unless they are grouped, whatever sampler, scheduler, LoRA or
    offloading is used. Rows of a batch, of frames and of both branches of guidance all count. Entries have the names
    that the weights have in GGUF files, in the original layout; those of text encoders are stable-diffusion.cpp's.

    Matrices that ``continue_from`` names, .gguf or .dat files or ``hub:org/repo/file``, are added, each weighing as
    many rows as it saw. ``timestep_weight`` tells how often a call of the denoiser counts, from the share of noise that
    it is given: 1 at the start of a picture, 0 at the end.

    Pictures with activations that are not finite do not count, nor do those that an exception stopped: what was made
    before is saved even then. Denoisers may also be called without the pipeline; what they see up to the end of the
    block then counts as one picture.

    Raises ``HubquantError``: at once for a pipeline, file or place that cannot be used, and at the end when no picture
    was made.
    """
    from hubquant.commands.targets import check_target
    from hubquant.imatrix import load_imatrix, save
    from hubquant.observe.continuing import continued, matching
    from hubquant.observe.pictures import PictureSums
    from hubquant.pipeline.given_imatrix import imatrix_path

    path = Path(path)
    check_target(path, "imatrix")
    sums = PictureSums(pipe, convolutions=convolutions, timestep_weight=timestep_weight)
    given = [matching(load_imatrix(imatrix_path(name)), sums) for name in listed(continue_from)]
    whole = False
    try:
        with sums.observing(), sums.each_call():
            yield
        whole = True
        if sums.draws:
            sums.settle([None])
    finally:
        if sums.skipped:
            warnings.warn(
                f"{counted(len(sums.skipped), 'picture does', 'pictures do')} not count: an activation is not finite",
                stacklevel=3,
            )
        if whole or sums.pictures:
            save(continued(sums.matrix({}), given), path)
