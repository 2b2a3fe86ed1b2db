"""Files that look like those of a denoiser, and hold none that can be quantized."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hubquant.checkpoint.headers import TensorInfo, listed
from hubquant.errors import NotSupportedYet

_ADAPTER = re.compile(r"lora[_.](up|down|A|B|te|unet)|\.lokr_|\.hada_|\.dora_scale|\.alpha$")
_BITSANDBYTES = re.compile(r"\.(absmax|quant_map|nested_absmax|quant_state\.bitsandbytes__\w+)$")
_ORIGINAL = "quantize the original: what was rounded twice is worse than what was rounded once"


def check_floats(tensors: Mapping[str, TensorInfo]) -> None:
    """Raises ``NotSupportedYet`` for adapters and for weights that are quantized already."""
    adapters = [name for name in tensors if _ADAPTER.search(name)]
    if adapters and len(adapters) * 2 > len(tensors):
        raise NotSupportedYet(
            "an adapter without its model",
            why=f"{listed(adapters)} change the weights of another model",
            hint="fuse it into its model with diffusers: pipe.load_lora_weights(FILE), pipe.fuse_lora(), then "
            "pipe.save_pretrained(DIR), and name DIR",
        )
    if quantized := [name for name in tensors if _BITSANDBYTES.search(name)]:
        raise NotSupportedYet(
            "weights that bitsandbytes has quantized", why=f"there are {listed(quantized)}", hint=_ORIGINAL
        )
    eight = [info for info in tensors.values() if info.dtype.startswith("F8") and len(info.shape) > 1]
    if eight:
        raise NotSupportedYet(f"weights in {eight[0].dtype}", why=f"{eight[0].name} is such a tensor", hint=_ORIGINAL)
    integers = [info for info in tensors.values() if info.dtype in ("I8", "U8", "I4", "U4") and len(info.shape) > 1]
    if integers:
        raise NotSupportedYet(
            f"weights in {integers[0].dtype}", why=f"{integers[0].name} is such a tensor", hint=_ORIGINAL
        )
