"""Files that look like those of a denoiser, and hold none that can be quantized."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hubquant.checkpoint.headers import TensorInfo, listed
from hubquant.errors import NotSupportedYet

_ADAPTER = re.compile(
    r"(^|[._])lora([_.](up|down|mid|A|B|te\d?|unet|transformer)|_embedding_[AB])([._]|$)"
    r"|\.(lokr_|hada_|oft_|on_input$|dora_scale|alpha$|diff(_b)?$|lora_magnitude_vector)"
)
"""As kohya, diffusers, PEFT and LyCORIS name what they trained."""
_QUANTIZERS = {
    "bitsandbytes": re.compile(r"\.(absmax|quant_map|nested_absmax|quant_state\.bitsandbytes__\w+)$"),
    "nunchaku (SVDQuant)": re.compile(r"\.(wscales|wcscales|wtscale|smooth(_factor)?(_orig)?|proj_down)$"),
    "quanto": re.compile(r"\.weight\._(data|scale)(\._data|\._scale)?$"),
    "GPTQ or AWQ": re.compile(r"\.(qweight|qzeros|g_idx)$"),
}
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
    for quantizer, pattern in _QUANTIZERS.items():
        if quantized := [name for name in tensors if pattern.search(name)]:
            raise NotSupportedYet(
                f"weights that {quantizer} has quantized", why=f"there are {listed(quantized)}", hint=_ORIGINAL
            )
    integers = [info for info in tensors.values() if info.dtype in ("I8", "U8", "F4") and len(info.shape) > 1]
    if integers:
        raise NotSupportedYet(
            f"weights in {integers[0].dtype}", why=f"{integers[0].name} is such a tensor", hint=_ORIGINAL
        )
