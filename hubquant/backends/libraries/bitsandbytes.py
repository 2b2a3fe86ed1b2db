"""bitsandbytes: 4-bit floats in blocks of 64, and LLM.int8()."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hubquant.backends.libraries.layers import linear_layers
from hubquant.backends.libraries.library import DataType, Framework, Package
from hubquant.backends.libraries.pretrained import ListingBackend
from hubquant.errors import NotSupportedYet

if TYPE_CHECKING:
    import torch

_BLOCK = 64
_ROWS = 32
"""Kernels for CPUs with AVX512-BF16 take multiples of these only: widths of whole blocks, and so many rows."""
_OUTLIER = 6.0
"""Columns of inputs that hold a larger value are multiplied in floats: the threshold of LLM.int8()'s authors."""


class Bitsandbytes(ListingBackend):
    name = "bitsandbytes"
    package = Package("bitsandbytes", "0.50", "bitsandbytes")
    types: ClassVar[Mapping[str, DataType]] = {
        "nf4": DataType("nf4", 4, _BLOCK, mantissa=1),
        "fp4": DataType("fp4", 4, _BLOCK, mantissa=1),
        "nf4-double": DataType("nf4-double", 4, _BLOCK, mantissa=1),
        "int8": DataType("int8", 8),
    }

    def made(self, type: str, framework: Framework, floats: Sequence[str] | None) -> Any:
        # It computes in float32, the default: then results do not depend on the dtype that a folder is loaded in.
        settings: Mapping[str, Any]
        if type == "int8":
            settings = {"load_in_8bit": True, "llm_int8_threshold": _OUTLIER}
        else:
            settings = {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": type.removesuffix("-double"),
                "bnb_4bit_use_double_quant": type.endswith("-double"),
            }
        return import_module(framework).BitsAndBytesConfig(llm_int8_skip_modules=floats, **settings)

    def quantized(
        self,
        model: Any,
        type: str,
        skip: Sequence[str] = (),
        inputs: Sequence[Mapping[str, torch.Tensor]] = (),  # noqa: ARG002
    ) -> Any:
        self.package.check()
        for name, layer in list(linear_layers(model, skip)):
            if self.fits(type, layer):
                model.set_submodule(name, _int8(layer) if type == "int8" else _four_bits(layer, type))
        return model

    def fits(self, type: str, layer: torch.nn.Linear) -> bool:
        return type == "int8" or not (layer.in_features % _BLOCK or layer.out_features % _ROWS)

    def save(self, model: Any, type: str, folder: Path, framework: Framework) -> None:
        import torch

        if framework == "diffusers" and not torch.cuda.is_available():
            raise NotSupportedYet(
                "models of diffusers saved with bitsandbytes on a machine without a GPU",
                why="diffusers loads them only where there is one, so what was saved cannot be checked",
                hint="use sdnq:uint4 or sdnq:int8, which need none",
            )
        if any(getattr(one.weight.quant_state, "packing_format_for_cpu", False) for one in _of_four_bits(model)):
            raise NotSupportedYet(
                "a model in bitsandbytes' four bits saved after it has computed on this CPU",
                why="bitsandbytes has packed its weights for the CPU, and would save scales that are not its own",
                hint="save it before it computes",
            )
        super().save(model, type, folder, framework)

    def is_quantized(self, module: torch.nn.Module) -> bool:
        import bitsandbytes

        return isinstance(module, (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt))


def _of_four_bits(model: Any) -> Iterator[Any]:
    import bitsandbytes

    return (module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit))


def _int8(layer: torch.nn.Linear) -> Any:
    import bitsandbytes
    import torch

    with torch.device("meta"):
        made = bitsandbytes.nn.Linear8bitLt(
            layer.in_features,
            layer.out_features,
            layer.bias is not None,
            has_fp16_weights=False,
            threshold=_OUTLIER,
        )
    # Only what is moved from the CPU is quantized.
    weight = bitsandbytes.nn.Int8Params(layer.weight.data.cpu(), requires_grad=False, has_fp16_weights=False)
    return _dressed(made, weight.to(layer.weight.device), layer)


def _four_bits(layer: torch.nn.Linear, type: str) -> Any:
    import bitsandbytes
    import torch

    settings = {"quant_type": type.removesuffix("-double"), "compress_statistics": type.endswith("-double")}
    with torch.device("meta"):
        made = bitsandbytes.nn.Linear4bit(
            layer.in_features, layer.out_features, layer.bias is not None, torch.float32, **settings
        )
    weight = bitsandbytes.nn.Params4bit(layer.weight.data, requires_grad=False, module=made, **settings)
    return _dressed(made, weight.to(layer.weight.device), layer)


def _dressed(made: Any, weight: Any, layer: torch.nn.Linear) -> Any:
    from torch import nn

    made.weight = weight
    made.bias = layer.bias
    made.source_cls = nn.Linear  # transformers looks at it when it goes back to floats
    return made.requires_grad_(False).train(layer.training)
