"""NNCF: weights in 8 or 4 bits, which hooks on the parameters turn into floats."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hubquant.backends.libraries.library import DataType, Framework, LibraryBackend, Package
from hubquant.backends.libraries.noise import quietly
from hubquant.backends.libraries.skeleton import given_device, given_dtype, skeleton
from hubquant.errors import UserError

os.environ.setdefault("NNCF_CI", "1")  # read when nncf is imported, or each call is reported to its makers

if TYPE_CHECKING:
    import torch

WEIGHTS, SETTINGS = "nncf.safetensors", "nncf.json"
GROUP = 128
AWQ = "_awq"
_EXAMPLE = "_example_of_hubquant"


class Nncf(LibraryBackend):
    """As nncf goes about it, embeddings and the last layer have 8 bits in types of 4, and so have layers whose width no
    power of two from 32 on divides. ``int4_asym_awq`` and ``int4_sym_awq`` are AWQ and scale estimation together.

    What ``save_pretrained`` writes of such a model ``from_pretrained`` would take for weights, and compute something
    else. So the weights are in a file of another name, and nncf.json says how nncf makes the same structure again,
    which they are then loaded into::

        import json, nncf, torch
        from safetensors.torch import load_model
        from transformers import AutoConfig, AutoModelForCausalLM

        how = json.load(open(f"{folder}/nncf.json"))
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).eval()
        example = {k: torch.zeros(shape, dtype=getattr(torch, dtype)) for k, (dtype, shape) in how["example"].items()}
        adjust = nncf.AdvancedCompressionParameters(group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST)
        nncf.compress_weights(
            nncf.torch.wrap_model(model, example_input=example, trace_parameters=True),
            mode=nncf.CompressWeightsMode(how["mode"]),
            group_size=how["group_size"],
            awq=how["awq"],
            ignored_scope=nncf.IgnoredScope(names=how["ignored"], validate=False),
            advanced_parameters=adjust,
        )
        for name, scale in model.named_parameters():
            if name.endswith("_scale_value"):  # of AWQ, float32 whatever the model is
                scale.data = scale.data.to(model.dtype)
        load_model(model, f"{folder}/nncf.safetensors")
    """

    name = "nncf"
    package = Package("nncf", "3.4.0", "nncf")
    types: ClassVar[Mapping[str, DataType]] = {
        "int8_asym": DataType("int8_asym", 8),
        "int8_sym": DataType("int8_sym", 8),
        "int4_asym": DataType("int4_asym", 4, GROUP),
        "int4_sym": DataType("int4_sym", 4, GROUP),
        "int4_asym_awq": DataType("int4_asym_awq", 4, GROUP, calibrated=True),
        "int4_sym_awq": DataType("int4_sym_awq", 4, GROUP, calibrated=True),
    }
    quantizes_on_load = False
    traces = True

    def configuration(self, type: str, framework: Framework, skip: Sequence[str] = ()) -> None:
        """Neither framework knows nncf."""

    def quantized(
        self, model: Any, type: str, skip: Sequence[str] = (), inputs: Sequence[Mapping[str, torch.Tensor]] = ()
    ) -> Any:
        """One of ``inputs`` is needed for every type of a model that knows no ``dummy_inputs``, as those of diffusers:
        nncf traces the model. Raises ``UserError`` without."""
        calibrated = self.types[type].calibrated
        example = getattr(model, "dummy_inputs", None) or next(iter(inputs), None)
        if example is None or (calibrated and not inputs):
            why = "its rounding is calibrated" if calibrated else "nncf traces the model"
            raise UserError(f"{type} needs an input of the model", why=why, hint="choose sdnq:uint4, which needs none")
        ignored = _ignored(model, skip)
        _compress(model.eval(), self._how(type) | {"ignored": ignored}, example, inputs if calibrated else ())
        setattr(model, _EXAMPLE, example)
        return model

    def save(self, model: Any, type: str, folder: Path, framework: Framework) -> None:
        from safetensors.torch import save_model

        folder.mkdir(parents=True, exist_ok=True)
        how = self._how(type) | {
            "dtype": _name(model.dtype),
            "ignored": [name for name, weight in model.named_parameters() if _is_matrix_of_floats(weight)],
            "example": {name: (_name(x.dtype), [*x.shape]) for name, x in getattr(model, _EXAMPLE).items()},
        }
        (folder / SETTINGS).write_text(json.dumps(how, indent=2) + "\n", "utf-8")
        if framework == "diffusers":
            model.save_config(folder)
        else:
            model.config.architectures, model.config.dtype = [model.__class__.__name__], model.dtype
            model.config.save_pretrained(folder)
            if model.can_generate():
                model.generation_config.save_pretrained(folder)
        save_model(model, str(folder / WEIGHTS))

    def load(self, folder: Path, kind: Any, framework: Framework, **options: Any) -> Any:
        """Makes the model in floats first, with random weights. Raises ``UserError`` for more than one device."""
        import torch
        from safetensors.torch import load_model

        how = json.loads((folder / SETTINGS).read_text("utf-8"))
        device, dtype = given_device(options, "nncf"), given_dtype(options) or getattr(torch, how["dtype"])
        model = skeleton(kind, folder, framework, dtype)
        example = {k: torch.zeros(shape, dtype=getattr(torch, name)) for k, (name, shape) in how["example"].items()}
        _compress(model, how, example)
        setattr(model, _EXAMPLE, example)
        load_model(model, str(folder / WEIGHTS))
        return model.to(device)

    def computing(self, model: Any) -> AbstractContextManager[Any]:
        from nncf.torch.function_hook import get_hook_storage
        from nncf.torch.function_hook.hook_executor_mode import FunctionHookMode

        mode: AbstractContextManager[Any] = FunctionHookMode(model, get_hook_storage(model))
        return mode

    def is_quantized(self, module: torch.nn.Module) -> bool:
        """Codes are the parameters of layers of torch's own classes, as no other library has them."""
        import torch

        weight = module._parameters.get("weight")
        return type(weight) is torch.nn.Parameter and weight.dtype in (torch.int8, torch.uint8)

    def _how(self, type: str) -> dict[str, Any]:
        return {
            "mode": type.removesuffix(AWQ),
            "group_size": self.types[type].group,
            "awq": True if type.endswith(AWQ) else None,
        }


def _compress(
    model: Any,
    how: Mapping[str, Any],
    example: Mapping[str, torch.Tensor],
    inputs: Sequence[Mapping[str, torch.Tensor]] = (),
) -> None:
    """In place. Without ``inputs`` the structure is the same, with other values."""
    with quietly():
        import nncf
        import nncf.torch

        nncf.disable_logging()  # to the stdout that it found when it was imported
        place = [{name: x.to(model.device) for name, x in each.items()} for each in (example, *inputs)]
        adjust = nncf.AdvancedCompressionParameters(group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST)
        nncf.compress_weights(
            nncf.torch.wrap_model(model, example_input=place[0], trace_parameters=True),
            mode=nncf.CompressWeightsMode(how["mode"]),
            group_size=how["group_size"],
            awq=how["awq"],
            scale_estimation=True if inputs else None,
            dataset=nncf.Dataset(place[1:]) if inputs else None,
            subset_size=max(len(inputs), 1),
            ignored_scope=nncf.IgnoredScope(names=how["ignored"], validate=False),
            advanced_parameters=adjust,
        )
    for name, scale in model.named_parameters():
        if name.endswith("_scale_value"):  # of AWQ, float32 whatever the model is, which its layers do not take
            scale.data = scale.data.to(model.dtype)


def _ignored(model: Any, skip: Sequence[str]) -> list[str]:
    """All names of the parameters of modules whose name holds one of ``skip``, and of what is shared with them."""
    named = list(model.named_parameters(remove_duplicate=False))
    ignored = {id(weight) for name, weight in named if any(part in name.rpartition(".")[0] for part in skip)}
    return [name for name, weight in named if id(weight) in ignored]


def _is_matrix_of_floats(weight: torch.Tensor) -> bool:
    return weight.is_floating_point() and weight.ndim > 1


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
