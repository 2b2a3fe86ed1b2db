"""Which tensors stay unquantized, and the float type they are stored in."""

from __future__ import annotations

import re

KEPT_SUBSTRINGS = (
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    ".conv_dw.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
    "mm.input_projection",  # which llama.cpp's graph turns round, and its own program leaves to its users' luck
)
KEPT_NAMES = ("position_embd.weight", "token_types.weight")
KEPT_TIME_MIX = re.compile(r"time_mix_(first|[wva][012]|g[12]|decay_w[12]|lerp_fused)\.weight")

# A kept matrix of these is F32 whatever the float type of the others: llama.cpp's graphs read them as float.
FLOAT32_NAMES = re.compile(
    r"_norm\.weight$|ffn_gate_inp(_shexp)?\.weight$|^(position_embd|token_types)\.weight$|ssm_conv1d|shortconv\.conv\.weight$"
    r"|\.conv_dw\.weight$"
    r"|time_mix_(first|w[12]|decay_w[12]|lerp_fused)\.weight$|posnet\.\d+\.norm[12]|^[va]\.position_embd"
    r"|altup_(correct|predict)_coef|indexer\.([qk]_)?proj\.weight$"
)

# llama.cpp has no convolution, nor a copy that is turned round, of BF16.
FLOAT16_NAMES = re.compile(r"\.patch_(embd|merger)\.weight|mm\.input_projection\.weight$|\.conv\dd?\.\d+\.weight$")


def n_dims(shape: tuple[int, ...]) -> int:
    """ggml's number of dimensions: leading ones (its trailing ones) do not count."""
    return next((len(shape) - i for i, size in enumerate(shape) if size != 1), 1)


def kept(name: str, shape: tuple[int, ...]) -> bool:
    """Whether llama-quantize leaves the tensor as it is (reference: ``tensor_allows_quantization``)."""
    return (
        n_dims(shape) < 2
        or not name.endswith("weight")
        or name in KEPT_NAMES
        or any(part in name for part in KEPT_SUBSTRINGS)
        or KEPT_TIME_MIX.search(name) is not None
    )


def storage_type(name: str, shape: tuple[int, ...], float_type: str) -> str:
    """The type in which the converter writes a tensor that is not quantized: F32, or ``float_type`` if it can be; whole
    numbers are I32."""
    if name.endswith("ffn_gate_tid2eid.weight"):
        return "I32"
    if FLOAT16_NAMES.search(name) and n_dims(shape) > 1 and float_type == "BF16":
        return "F16"
    if n_dims(shape) < 2 or not name.endswith((".weight", ".weight.1")) or FLOAT32_NAMES.search(name):
        return "F32"
    return float_type
