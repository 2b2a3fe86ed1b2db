"""What a quantization_config says: the library, and the type as the library calls it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from hubquant.checkpoint.headers import listed
from hubquant.errors import CheckpointError

BESIDE = {
    "quantization_config.json": None,
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
}
"""Files in which a quantization_config stands alone, with the library that is meant where it names none."""
QMAP = "quanto_qmap.json"
LONGEST = 40  # characters of a name that are told

Said = tuple[str, str | None]
"""A library, and a type where one is named."""


def said(quantization: Any, place: str, default: str | None = None) -> Said:
    """``place`` is the file; ``default`` the library that is meant where it names none. Raises ``CheckpointError`` for
    what tells of no quantization."""
    hint = "save the model anew with the library that quantized it"
    if not isinstance(quantization, Mapping):
        raise CheckpointError(f"what {place} says of quantization is no table", why=_shown(quantization), hint=hint)
    method = quantization.get("quant_method") or default or _by_keys(quantization)
    if not isinstance(method, str) or not re.fullmatch(rf"[\w .+-]{{1,{LONGEST}}}", method, re.ASCII):
        raise CheckpointError(f"{place} does not name how weights are quantized", why=_shown(method), hint=hint)
    method = method.lower()
    backend = _ALIASES.get(method, method)
    type = _TYPES[backend](quantization) if backend in _TYPES else _by_bits(quantization)
    return backend, type


def said_by_qmap(table: Mapping[str, Any]) -> Said:
    """quanto's own file: a type for each layer by its name."""
    types = {each.get("weights") for each in table.values() if isinstance(each, Mapping)} - {None, "none"}
    return "quanto", _text(types.pop()) if len(types) == 1 else None


def _by_keys(quantization: Mapping[str, Any]) -> str | None:
    if "load_in_4bit" in quantization or "load_in_8bit" in quantization:
        return "bitsandbytes"
    if "w_bit" in quantization:
        return "awq"
    if "quant_algo" in quantization:
        return "modelopt"
    return "mlx" if {"bits", "group_size"} <= quantization.keys() else None


def _bitsandbytes(quantization: Mapping[str, Any]) -> str | None:
    if quantization.get("load_in_8bit"):
        return "int8"
    if quantization.get("load_in_4bit"):
        kind = _text(quantization.get("bnb_4bit_quant_type", "fp4"))
        return kind and kind + ("-double" if quantization.get("bnb_4bit_use_double_quant") else "")
    return None


def _quanto(quantization: Mapping[str, Any]) -> str | None:
    kind = _text(quantization.get("weights_dtype") or quantization.get("weights"))
    return kind and f"q{kind.removeprefix('q')}"


def _torchao(quantization: Mapping[str, Any]) -> str | None:
    named = quantization.get("quant_type")
    if isinstance(named, Mapping):
        default = named.get("default")
        named = default.get("_type") if isinstance(default, Mapping) else None
    found = _text(named)
    return found and _TORCHAO.get(found, found)


def _compressed_tensors(quantization: Mapping[str, Any]) -> str | None:
    groups = quantization.get("config_groups")
    kinds = {_of_group(group) for group in groups.values()} if isinstance(groups, Mapping) else set()
    return kinds.pop() if len(kinds) == 1 else None


def _of_group(group: Any) -> str | None:
    weights = group.get("weights") if isinstance(group, Mapping) else None
    if not isinstance(weights, Mapping) or type(weights.get("num_bits")) is not int:
        return None
    return f"{'float' if weights.get('type') == 'float' else 'int'}{weights['num_bits']}"


def _by_bits(quantization: Mapping[str, Any]) -> str | None:
    bits = next((quantization[name] for name in ("bits", "w_bit", "nbits") if name in quantization), None)
    return f"int{bits}" if type(bits) is int and 0 < bits <= 16 else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and re.fullmatch(rf"\w{{1,{LONGEST}}}", value, re.ASCII) else None


def _shown(value: Any) -> str:
    return f"it says {listed([str(value)[:LONGEST]])}"


_ALIASES = {
    "bitsandbytes_4bit": "bitsandbytes",
    "bitsandbytes_8bit": "bitsandbytes",
    "compressed_tensors": "compressed-tensors",
    "intel/auto-round": "auto-round",
}
_TORCHAO = {
    "Int8WeightOnlyConfig": "int8wo",
    "Int8DynamicActivationInt8WeightConfig": "int8dyn",
    "Float8WeightOnlyConfig": "float8wo",
    "Float8DynamicActivationFloat8WeightConfig": "float8dyn",
    "Int4WeightOnlyConfig": "int4wo",
    "int8_weight_only": "int8wo",
    "int8_dynamic_activation_int8_weight": "int8dyn",
    "float8_weight_only": "float8wo",
    "int4_weight_only": "int4wo",
}
_TYPES: Mapping[str, Callable[[Mapping[str, Any]], str | None]] = {
    "bitsandbytes": _bitsandbytes,
    "quanto": _quanto,
    "torchao": _torchao,
    "sdnq": lambda quantization: _text(quantization.get("weights_dtype")),
    "compressed-tensors": _compressed_tensors,
    "fp8": lambda _: "float8_e4m3fn",
    "mxfp4": lambda _: "mxfp4",
}
