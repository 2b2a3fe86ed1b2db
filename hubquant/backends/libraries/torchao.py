"""torchao: PyTorch's own tensors of fewer bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from hubquant.backends.libraries.layers import linear_layers
from hubquant.backends.libraries.library import DataType, Framework, Package
from hubquant.backends.libraries.pretrained import ListingBackend
from hubquant.errors import NotSupportedYet

if TYPE_CHECKING:
    import torch

_GROUP = 128


class Torchao(ListingBackend):
    name = "torchao"
    package = Package("torchao", "0.18", "torchao")
    types: ClassVar[Mapping[str, DataType]] = {
        "int8wo": DataType("int8wo", 8),
        "int8dyn": DataType("int8dyn", 8),
        "float8wo": DataType("float8wo", 8, mantissa=3),
        "int4wo": DataType("int4wo", 4, _GROUP),
    }
    only_as_saved = ("float8wo", "int4wo")

    def made(self, type: str, framework: Framework, floats: Sequence[str] | None) -> Any:
        return import_module(framework).TorchAoConfig(_config(type), modules_to_not_convert=floats)

    def quantized(
        self,
        model: Any,
        type: str,
        skip: Sequence[str] = (),
        inputs: Sequence[Mapping[str, torch.Tensor]] = (),  # noqa: ARG002
    ) -> Any:
        self.package.check()
        import torchao.quantization as ao

        for _, layer in linear_layers(model, skip):
            if type == "int4wo" and layer.weight.device.type != "cuda":
                raise NotSupportedYet(
                    "torchao:int4wo without a CUDA GPU",
                    why="its kernels are for GPUs",
                    hint="use bitsandbytes:nf4 or sdnq:uint4",
                )
            if self.fits(type, layer):
                ao.quantize_(layer, _config(type))
        return model

    def fits(self, type: str, layer: torch.nn.Linear) -> bool:
        return type != "int4wo" or not layer.in_features % _GROUP

    def is_quantized(self, module: torch.nn.Module) -> bool:
        from torchao.utils import TorchAOBaseTensor

        return isinstance(getattr(module, "weight", None), TorchAOBaseTensor)


def _config(type: str) -> Any:
    import torchao.quantization as ao

    # Otherwise it changes settings of torch for the whole process, such as how float32 matrices are multiplied.
    settings: dict[str, Any] = {"set_inductor_config": False}
    if type == "int4wo":
        # The one format that needs no further package on a CUDA GPU.
        return ao.Int4WeightOnlyConfig(group_size=_GROUP, int4_packing_format="tile_packed_to_4d", **settings)
    classes = {
        "int8wo": ao.Int8WeightOnlyConfig,
        "int8dyn": ao.Int8DynamicActivationInt8WeightConfig,
        "float8wo": ao.Float8WeightOnlyConfig,
    }
    return classes[type](**settings)
