"""Weights that are quantized, whatever config.json says: told by the names and types of the tensors."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.checkpoint.codings.bytes8 import find_bitsandbytes
from hubquant.checkpoint.codings.compressed import find_compressed, is_known
from hubquant.checkpoint.codings.floats4 import find_deepseek, find_floats
from hubquant.checkpoint.codings.found import Found
from hubquant.checkpoint.codings.gptq import find_awq, find_gptq
from hubquant.checkpoint.codings.levels4 import find_four_bits
from hubquant.checkpoint.codings.ternary import find_ternary
from hubquant.checkpoint.float8 import FLOAT8, SCALES, with_scales
from hubquant.checkpoint.headers import FLOATS, TensorInfo
from hubquant.checkpoint.storage import QUANTIZATION, block_size, method_of, quantization_of, refusal

_TRACES = tuple(
    (re.compile(pattern), method)
    for pattern, method in (
        (r"\.(SCB|weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..*))$", "bitsandbytes"),
        (r"\.(qweight|qzeros)$", "GPTQ or AWQ"),
        (r"\.weight_packed$", "compressed-tensors"),
        (r"\.weight_scale_2$", "NVFP4"),
        (r"\.scales$", "MLX"),
        (r"(?<!\.mixer)\.q_weight$|\.trellis$", "ExLlama"),  # but PLaMo's norm of queries
        (r"\.codebooks$", "AQLM"),
        (r"\.W_q$", "HQQ"),
        (r"\.weight\._(data|packed)$", "quanto"),
        (r"\.weight_scale$", "8-bit integers"),
    )
)


def in_floats(checkpoint: Checkpoint, read_as_they_are: Collection[str]) -> Checkpoint:
    """The same tensors, matrices that are quantized with what belongs to them; config.json says no more that they are.

    Weights by methods of quantization that are ``read_as_they_are`` stay. Raises ``NotSupportedYet`` for other
    quantized weights.
    """
    tensors, method = _with_codings(checkpoint.tensors, checkpoint.config), method_of(checkpoint.config)
    codings = quantized_before(tensors)
    if packed := next(_packed(tensors), None):
        raise refusal(checkpoint.config, checkpoint.base_model, packed)
    if method is None and not any(info.dtype in FLOAT8 for info in tensors.values()):
        return checkpoint
    if _has_integers(tensors):
        if codings or (method is not None and method not in read_as_they_are):
            raise refusal(checkpoint.config, checkpoint.base_model)
        return checkpoint
    settings = {name: value for name, value in checkpoint.config.items() if name not in QUANTIZATION}
    scaled = with_scales(tensors, block_size(checkpoint.config))
    plain = replace(checkpoint, config=settings, tensors=scaled)
    if codings:
        return plain.noting(f"the weights were quantized before ({'; '.join(codings)}), and are read as floats")
    if method is None or any(info.dtype in FLOAT8 for info in tensors.values()):
        return plain
    return plain.noting(
        f"config.json says that the weights are quantized ({method}); they are floats, and read as such"
    )


def quantized_before(tensors: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    """How, of the matrices that have a coding."""
    return tuple(sorted({info.coding.label for info in tensors.values() if info.coding}))


def _with_codings(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> Mapping[str, TensorInfo]:
    """The same tensors, those that are parts of one matrix no longer among them but each with it."""
    found = list(_codings(tensors, config))
    parts = {part for _, _, names in found for part in names}
    whole = {name: info for name, info in tensors.items() if name not in parts}
    return whole | {name: info for name, info, _ in found}


def _codings(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> Iterator[Found]:
    settings, method = quantization_of(config), method_of(config)
    if not isinstance(settings, Mapping):
        return
    if method == "gptq":
        yield from find_gptq(tensors, settings)
    elif method == "awq":
        yield from find_awq(tensors, settings)
    elif method == "compressed-tensors" and is_known(settings):
        yield from find_compressed(tensors, settings)
        yield from find_floats(tensors)
    elif method == "modelopt":
        yield from find_floats(tensors)
    elif method == "fp8":
        yield from find_deepseek(tensors)
    elif method == "bitsandbytes":
        yield from find_bitsandbytes(tensors)
        yield from find_four_bits(tensors)
    elif method == "bitnet":
        yield from find_ternary(tensors, settings)


def _packed(tensors: Mapping[str, TensorInfo]) -> Iterator[str]:
    """The methods that quantized weights are there of; what they leave beside weights in floats does not count."""
    for name in tensors:
        for trace, method in _TRACES:
            if match := trace.search(name):
                weight = tensors.get(f"{name[: match.start()]}.weight")
                if weight is None or weight.dtype not in (*FLOATS, *FLOAT8):
                    yield method


def _has_integers(tensors: Mapping[str, TensorInfo]) -> bool:
    others = (*SCALES, ".scale", ".tid2eid")  # DeepSeek V4's factors, and the experts that its tokens choose
    matrices = (info for name, info in tensors.items() if len(info.shape) > 1 and not name.endswith(others))
    return any(info.dtype not in (*FLOATS, *FLOAT8, "F64", "BOOL") for info in matrices)
