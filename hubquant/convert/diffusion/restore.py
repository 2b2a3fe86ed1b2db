"""The weights of a GGUF file in the place of a denoiser's own."""

from __future__ import annotations

import torch

from hubquant.checkpoint.headers import listed
from hubquant.convert.conversion import Conversion
from hubquant.convert.restore import check_tensors, read_tensor
from hubquant.errors import GGUFError
from hubquant.gguf_file.reader import GGUFFile


def put_weights(denoiser: torch.nn.Module, file: GGUFFile, conversion: Conversion) -> None:
    """Overwrite all weights of a denoiser of diffusers, each in the dtype and on the device that it has, with those of
    ``file``, which is what ``conversion`` made of its source. One tensor of the file is in memory in floats at a time.

    Raises ``GGUFError`` for a file of another denoiser.
    """
    check_tensors(file, conversion.bundles)
    own = denoiser.state_dict(keep_vars=True)
    given = {source for bundle in conversion.bundles for source in bundle.sources}
    if wrong := sorted(own.keys() ^ given):
        raise GGUFError("the tensors do not fit diffusers' model", why=f"they differ in {listed(wrong)}")
    with torch.no_grad():
        for bundle in conversion.bundles:
            for name, x in bundle.inverse([read_tensor(file, target) for target in bundle.targets]).items():
                own[name].copy_(x)
