"""SDNQ: integers and floats of 2 to 8 bits, in groups of a row, on any device."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hubquant.backends.libraries.layers import framework_of, left_in_floats, linear_layers
from hubquant.backends.libraries.library import DataType, Framework, Package
from hubquant.backends.libraries.pretrained import PretrainedBackend
from hubquant.errors import NotSupportedYet

if TYPE_CHECKING:
    import torch

_BITS: Mapping[str, int] = {
    **{f"int{bits}": bits for bits in range(8, 1, -1)},
    **{f"uint{bits}": bits for bits in range(8, 1, -1)},
    "float8_e4m3fn": 8,
    "float8_e5m2": 8,
    "float7_e3m3fn": 7,
    "float6_e3m2fn": 6,
    "float5_e2m2fn": 5,
    "float4_e2m1fn": 4,
}
"""Of the 180 that it knows. Floats of 3 and 2 bits lose more than integers of as many, and one bit saves nothing: its
scales take more than the weights."""
_PACKED = 8
"""Weights that are put into whole bytes together, at most."""
CAST = "float8_e5m2"
"""That diffusers takes for a float like any other when it loads what was saved."""
_COMPILE = "SDNQ_USE_TORCH_COMPILE"


def _mantissa(name: str) -> int | None:
    found = re.search(r"m(\d)", name)
    return int(found[1]) if found else None


class Sdnq(PretrainedBackend):
    """It also leaves out layers of less than 16384 weights, and those that it knows to be delicate in a model."""

    name = "sdnq"
    package = Package("sdnq", "0.2.8", "sdnq")
    types: ClassVar[Mapping[str, DataType]] = {
        name: DataType(name, bits, 4 << bits, mantissa=_mantissa(name)) for name, bits in _BITS.items()
    }

    def configuration(self, type: str, framework: Framework, skip: Sequence[str] = ()) -> Any:
        parts = [f"*{part}*" for part in skip]
        return self._library().SDNQConfig(**_settings(type, framework), modules_to_not_convert=parts)

    def of_saved(self, type: str, framework: Framework, floats: Sequence[str]) -> Any:
        made = self._library().SDNQConfig(**_settings(type, framework), add_skip_keys=False)
        made.modules_to_not_convert = [f"{name}.weight" for name in floats]  # in this order, which it would lose
        return made

    def quantized(
        self,
        model: Any,
        type: str,
        skip: Sequence[str] = (),
        inputs: Sequence[Mapping[str, torch.Tensor]] = (),  # noqa: ARG002
    ) -> Any:
        library = self._library()
        wanted = {name for name, layer in linear_layers(model, skip) if self.fits(type, layer)}
        floats = [f"{name}.weight" for name in left_in_floats(model, self.is_quantized) if name not in wanted]
        settings = _settings(type, framework_of(model))
        return library.sdnq_post_load_quant(model, **settings, modules_to_not_convert=floats)

    def fits(self, type: str, layer: torch.nn.Linear) -> bool:
        return _BITS[type] == 8 or not layer.weight.numel() % _PACKED

    def save(self, model: Any, type: str, folder: Path, framework: Framework) -> None:
        layers = [module for module in model.modules() if self.is_quantized(module)]
        if framework == "diffusers" and any(one.scale.dtype != one.sdnq_dequantizer.result_dtype for one in layers):
            raise NotSupportedYet(
                f"models of diffusers saved as sdnq:{type} in another dtype than float32",
                why="SDNQ keeps their scales in float32, and diffusers would round them when it loads them",
                hint="use sdnq:int8 or sdnq:float8_e4m3fn",
            )
        super().save(model, type, folder, framework)

    def load(self, folder: Path, kind: Any, framework: Framework, **options: Any) -> Any:
        import torch

        self._library()  # transformers does not know it before it is imported
        model = super().load(folder, kind, framework, **options)
        for layer in filter(self.is_quantized, model.modules()):
            # diffusers casts it, whatever the model computes in, and SDNQ then multiplies the only copy by the scales.
            if layer.sdnq_dequantizer.weights_dtype == CAST:
                layer.weight.data = layer.weight.data.to(getattr(torch, CAST))
        return model

    def is_quantized(self, module: torch.nn.Module) -> bool:
        return hasattr(module, "sdnq_dequantizer")

    def _library(self) -> Any:
        import torch

        self.package.check()
        if _COMPILE in os.environ or torch.cuda.is_available():
            return import_module("sdnq")
        # On a CPU what it compiles is no faster, takes ten seconds for each model and rounds otherwise. It looks only
        # once, when it is imported.
        os.environ[_COMPILE] = "0"
        try:
            return import_module("sdnq")
        finally:
            del os.environ[_COMPILE]


def _settings(type: str, framework: Framework) -> dict[str, Any]:
    """diffusers rounds scales to the dtype that it loads a model in: they are of that dtype at once, or what was saved
    would be another model."""
    return {"weights_dtype": type, "dequantize_fp32": framework == "transformers"}
