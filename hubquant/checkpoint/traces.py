"""What quantized weights leave in the headers of safetensors files: names, dtypes and shapes, by which they are told.

The layouts are those that the libraries themselves wrote: bitsandbytes 0.50, optimum-quanto 0.2, torchao 0.18, nncf
3.4 and sdnq 0.2. Those of GPTQ, AWQ, compressed-tensors, ModelOpt, MXFP4, MLX, HQQ, AQLM, EETQ and ComfyUI are as
published files have them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from hubquant.checkpoint.float8 import FLOAT8
from hubquant.checkpoint.headers import FLOATS, TensorInfo

NF4 = ".quant_state.bitsandbytes__nf4"
FP4 = ".quant_state.bitsandbytes__fp4"
_NNCF = re.compile(r"(^|\.)__nncf_hooks\.")
_INTEGERS = ("U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F4", "F6_E2M3", "F6_E3M2")
_NOT_WEIGHTS = re.compile(
    r"(zero_point|zeros|absmax|quant_map|scales?|_scale_inv|_shape|g_idx|weight_format|comfy_quant|bitsandbytes__\w+"
    r"|scaled_fp8|bias|mask|position_ids|index|_shift)$"
)
_FLOAT8_NAMES = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
_BY_NAME = (
    (re.compile(r"\.W_q$"), "hqq"),
    (re.compile(r"\.codebooks$"), "aqlm"),
    (re.compile(r"(?<!\.mixer)\.q_weight$|\.trellis$"), "exl"),
    (re.compile(r"\.weight\._packed$"), "quanto"),
)


@dataclass(frozen=True)
class Layout:
    """How a weight is stored. ``methods`` can have written it, the likeliest first, none where nothing is known to;
    ``type`` is what they call it, None where the header does not tell; ``signs`` are what it was told by."""

    methods: tuple[str, ...]
    type: str | None
    signs: str


@dataclass(frozen=True)
class Traces:
    """The names of quantized weights by their layout, most weights first; matrices in floats by their dtype."""

    quantized: Mapping[Layout, tuple[str, ...]]
    floats: Mapping[str, int]


@dataclass(frozen=True)
class _Marks:
    """What one tensor says of a whole file."""

    of_nncf: bool
    of_comfyui: bool


METHODS = frozenset(
    {
        *("bitsandbytes", "quanto", "torchao", "sdnq", "nncf", "gptq", "awq", "compressed-tensors", "fp8", "mxfp4"),
        *("modelopt", "fbgemm_fp8", "mlx", "hqq", "aqlm", "eetq", "comfy fp8", "comfy int8"),
    }
)
"""Those whose weights are recognised: where one of them is said to be, and nothing of it is there, it is not."""


def find_traces(tensors: Mapping[str, TensorInfo]) -> Traces:
    marks = _Marks(any(map(_NNCF.search, tensors)), any(name.rpartition(".")[2] == "scaled_fp8" for name in tensors))
    found: dict[Layout, list[str]] = {}
    floats: dict[str, int] = {}
    for name, info in tensors.items():
        if (layout := _layout(name, info, tensors, marks)) is not None:
            found.setdefault(layout, []).append(name)
        elif info.dtype in FLOATS and len(info.shape) > 1 and not _NOT_WEIGHTS.search(name):
            floats[info.dtype] = floats.get(info.dtype, 0) + 1
    most = sorted(found, key=lambda layout: -len(found[layout]))
    return Traces({layout: tuple(found[layout]) for layout in most}, _sorted(floats))


def _layout(name: str, info: TensorInfo, tensors: Mapping[str, TensorInfo], marks: _Marks) -> Layout | None:
    """Of a tensor that is a quantized weight."""
    if name.endswith(".qweight"):
        return _gptq_or_awq(name, info, tensors)
    if name.endswith(".weight_packed"):
        four = f"{name.removesuffix('packed')}global_scale" in tensors
        return Layout(("compressed-tensors",), "nvfp4" if four else None, f"{info.dtype} .weight_packed")
    if name.endswith("_blocks") and name.removesuffix("blocks") + "scales" in tensors and info.dtype == "U8":
        return Layout(("mxfp4",), "mxfp4", "U8 _blocks and _scales")
    if re.search(r"\._\w+_qdata$", name):
        return Layout(("torchao",), _whole(info, "int4"), f"{info.dtype} _weight_qdata and _weight_scale")
    if name.endswith("._data._data") or (name.endswith("._data") and f"{name}._data" not in tensors):
        return _quanto(name, info, tensors)
    for pattern, method in _BY_NAME:
        if pattern.search(name):
            return Layout((method,), None, f"{info.dtype} {name.rpartition('.')[2]}")
    if _is_weight(name, info):
        return _eight_bits(name, info, tensors, marks)
    return None


def _is_weight(name: str, info: TensorInfo) -> bool:
    if info.dtype in FLOAT8:
        return len(info.shape) > 0 and not _NOT_WEIGHTS.search(name)
    if info.dtype not in _INTEGERS or _NNCF.search(name) or _NOT_WEIGHTS.search(name):
        return False
    return name.endswith("weight") or (info.dtype in ("U8", "I8") and len(info.shape) > 1)


def _eight_bits(name: str, info: TensorInfo, tensors: Mapping[str, TensorInfo], marks: _Marks) -> Layout:
    """Of what lies under the name that it has as floats: what lies beside it tells."""
    stem, dtype = name.removesuffix("weight"), info.dtype
    comfy = f"{stem}comfy_quant" in tensors

    def beside(*names: str) -> bool:
        return any(each in tensors for each in names)

    if beside(name + NF4, name + FP4):
        kind = "nf4" if name + NF4 in tensors else "fp4"
        double = "-double" if beside(f"{name}.nested_absmax") else ""
        return Layout(("bitsandbytes",), kind + double, f"{dtype} with quant_state.bitsandbytes__{kind}")
    if beside(f"{name}.absmax"):
        return Layout(("bitsandbytes",), None, f"{dtype} with absmax")
    if beside(f"{stem}SCB"):
        return Layout(("bitsandbytes",), "int8", f"{dtype} with SCB")
    if beside(f"{name}_scale_2"):
        return Layout(("modelopt",), "nvfp4", f"{dtype} with weight_scale_2")
    if beside(f"{stem}scales") and dtype == "U32":
        return Layout(("mlx",), None, "U32 with scales")
    if beside(f"{stem}scale") and _is_sdnq(info, tensors[f"{stem}scale"]):
        return Layout(("sdnq",), _whole(info, None), f"{dtype} with scale")
    if dtype in FLOAT8:
        return _float8(name, info, tensors, "comfy_quant" if comfy else "scaled_fp8" if marks.of_comfyui else None)
    if beside(f"{name}_scale"):
        methods = ("comfy int8",) if comfy else ("compressed-tensors", "quark")
        return Layout(methods, _whole(info, None), f"{dtype} with weight_scale{' and comfy_quant' if comfy else ''}")
    if beside(f"{name}_scales"):
        return Layout(("eetq",), "int8", f"{dtype} with weight_scales")
    if marks.of_nncf:
        kinds = {"I8": "int8_sym", "U8": "int8_asym"}
        flat = info.shape[-1:] == (1,) and info.shape[0] > 1
        return Layout(("nncf",), "int4" if flat else kinds.get(dtype), f"{dtype} with __nncf_hooks")
    return Layout((), _whole(info, None), f"{dtype} without scales")


def _float8(name: str, info: TensorInfo, tensors: Mapping[str, TensorInfo], comfy: str | None) -> Layout:
    stem, kind = name.removesuffix("weight"), _FLOAT8_NAMES[info.dtype]
    sign = "scale_weight" if f"{stem}scale_weight" in tensors else comfy
    if sign is not None:
        return Layout(("comfy fp8",), kind, f"{info.dtype} with {sign}")
    if f"{name}_scale_inv" in tensors:
        return Layout(("fp8",), kind, f"{info.dtype} with weight_scale_inv")
    if f"{name}_scale" in tensors:
        others = ("compressed-tensors", "fbgemm_fp8", "modelopt", "quark")
        return Layout(("fp8", *others), kind, f"{info.dtype} with weight_scale")
    if f"{stem}scale" in tensors:
        return Layout(("fp8",), kind, f"{info.dtype} with scale")
    return Layout(("fp8",), kind, f"{info.dtype} without scales")


def _gptq_or_awq(name: str, info: TensorInfo, tensors: Mapping[str, TensorInfo]) -> Layout:
    """Both hold so many numbers in one of 32 bits, GPTQ along the inputs and AWQ along the outputs."""
    stem = name.removesuffix("qweight")
    scales, zeros = tensors.get(f"{stem}scales"), tensors.get(f"{stem}qzeros")
    bits = None
    if scales and zeros and scales.shape[-1:] > (0,) and zeros.shape:
        bits = f"int{32 * zeros.shape[-1] // scales.shape[-1]}"
    along_inputs = not scales or info.shape[-1:] == scales.shape[-1:]
    methods = ("gptq", "awq") if along_inputs else ("awq", "gptq")
    return Layout((*methods, "auto-round"), bits, f"{info.dtype} qweight with scales and qzeros")


def _quanto(name: str, info: TensorInfo, tensors: Mapping[str, TensorInfo]) -> Layout:
    if not name.endswith("._data._data"):
        found = {"I8": "qint8", "F8_E4M3": "qfloat8", "F8_E5M2": "qfloat8_e5m2"}.get(info.dtype)
        return Layout(("quanto",), found, f"{info.dtype} weight._data")
    scale = tensors.get(name.removesuffix("_data._data") + "_scale")
    groups = math.prod(scale.shape) if scale else 0  # each the scale of as many weights as a row has bytes
    bits = 8 * info.shape[0] // groups if groups and info.shape else 0
    return Layout(("quanto",), f"qint{bits}" if bits in (2, 4) else None, f"{info.dtype} weight._data._data")


def _is_sdnq(info: TensorInfo, scale: TensorInfo) -> bool:
    """Its scales have a last dimension of one; those of FP8 in DeepSeek's own files are a grid of blocks."""
    return info.dtype not in FLOAT8 or scale.shape[-1:] == (1,)


def _whole(info: TensorInfo, packed: str | None) -> str | None:
    """The type of numbers that take a byte each; ``packed`` of what may hold several in one."""
    if info.dtype in _FLOAT8_NAMES:
        return _FLOAT8_NAMES[info.dtype]
    if info.dtype == "I8":
        return "int8"
    return packed


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: counts[name] for name in sorted(counts, key=lambda name: -counts[name])}
