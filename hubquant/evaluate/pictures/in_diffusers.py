"""Whether diffusers itself loads the file of a denoiser, and computes with the weights that the file has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hubquant.errors import VerificationError
from hubquant.evaluate.pictures.likeness import relative_error
from hubquant.evaluate.pictures.replay import predicted
from hubquant.evaluate.pictures.tape import Call

LARGEST = {torch.float32: 0.02}
LARGEST_IN_HALF = 0.1
"""Errors up to which two predictions are the same. diffusers decodes blocks in float16: tiny models of ten families are
off by 0.0011 at most in float32, by 0.0019 in float16 and by 0.013 in bfloat16."""


@dataclass(frozen=True)
class DiffusersCheck:
    """``error`` is ‖o − y‖ / ‖y‖ of the first prediction o of the file as diffusers, in this ``version``, has loaded
    it, where the file's weights predict y in the place of the source's."""

    error: float
    version: str


def check_in_diffusers(
    path: Path, kind: str, folder: Path, component: str, call: Call, expected: Sequence[Tensor], device: str
) -> DiffusersCheck:
    """Of the file ``path``, loaded as the class ``kind`` with the config of the ``component`` of the pipeline in
    ``folder``. ``expected`` is what the file's weights predict in ``call``.

    Raises ``VerificationError`` where diffusers does not load it, or predicts something else.
    """
    import diffusers

    from hubquant.models.diffusion.quiet import quiet_diffusers

    version = diffusers.__version__
    try:
        with quiet_diffusers():
            denoiser = getattr(diffusers, kind).from_single_file(
                str(path),
                config=str(folder),
                subfolder=component,
                quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=call.dtype),
                torch_dtype=call.dtype,
                local_files_only=True,
            )
            found = predicted(denoiser.to(device), call)
    except Exception as error:  # whatever it stumbles over first
        raise VerificationError(
            f"diffusers {version} cannot use {path.name}",
            why=(str(error).splitlines() or [type(error).__name__])[0][:300],
            hint="try another version of diffusers, and report it with the name of the model",
        ) from error
    worst = max(relative_error(o, y) for o, y in zip(found, expected, strict=True))
    if not worst <= LARGEST.get(call.dtype, LARGEST_IN_HALF):
        raise VerificationError(
            f"{path.name} does not predict in diffusers {version} what its weights predict",
            why=f"the first prediction is off by {worst:.3g} of its size",
            hint="report it with the name of the model",
        )
    return DiffusersCheck(worst, version)
