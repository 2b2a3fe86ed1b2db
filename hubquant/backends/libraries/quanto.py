"""optimum-quanto: weights in 8, 4 or 2 bits, in torch alone."""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hubquant.backends.libraries.layers import framework_of, linear_layers
from hubquant.backends.libraries.library import DataType, Framework, LibraryBackend, Package
from hubquant.backends.libraries.skeleton import given_device, given_dtype, skeleton
from hubquant.checkpoint.aligned import LINE, align
from hubquant.errors import UserError

if TYPE_CHECKING:
    import torch

QMAP = "quanto_qmap.json"
_PACKED = ("qint4", "qint2")
_ROW = 16  # bytes


class Quanto(LibraryBackend):
    """Language models are saved as ``QuantizedModelForCausalLM`` of optimum.quanto saves them, and it loads them, in
    the dtype that they were saved in::

        from optimum.quanto import QuantizedModelForCausalLM
        model = QuantizedModelForCausalLM.from_pretrained(folder)

    Their config.json keeps transformers' own ``from_pretrained`` from taking the folder for a model in floats, which
    it would fill with random weights.

    diffusers finds the layers to leave by the last part of their name alone: a layer that is called as one of those
    that are skipped, such as ``linear``, is left in floats too.
    """

    name = "quanto"
    package = Package("optimum-quanto", "0.2.7", "quanto", "optimum.quanto")
    types: ClassVar[Mapping[str, DataType]] = {
        "qint8": DataType("qint8", 8),
        "qfloat8": DataType("qfloat8", 8, mantissa=3),
        "qint4": DataType("qint4", 4, 128),
        "qint2": DataType("qint2", 2, 128),
    }

    def configuration(self, type: str, framework: Framework, skip: Sequence[str] = ()) -> Any:
        """In transformers without output embeddings; in diffusers ``skip`` are whole last parts of names."""
        weights = type.removeprefix("q")
        if framework == "diffusers":
            from diffusers import QuantoConfig

            return QuantoConfig(weights_dtype=weights, modules_to_not_convert=list(skip))
        import re

        from transformers import QuantoConfig as OfTransformers

        # Patterns that match from the start. A list of our own replaces the default, which is the output.
        parts = [f".*{re.escape(part)}.*" for part in skip]
        return OfTransformers(weights=weights, modules_to_not_convert=[*parts, "lm_head"] if parts else None)

    def quantized(
        self,
        model: Any,
        type: str,
        skip: Sequence[str] = (),
        inputs: Sequence[Mapping[str, torch.Tensor]] = (),  # noqa: ARG002 (nothing is calibrated)
    ) -> Any:
        """Raises ``UserError`` where nothing is left to quantize, or the type needs a compiler that is not there."""
        from optimum.quanto import freeze, quantize

        _check_compiler(type)
        layers = {name: layer for name, layer in linear_layers(model, skip) if self.fits(type, layer)}
        if framework_of(model) == "diffusers":
            left = _last_parts(model, layers)
            layers = {name: layer for name, layer in layers.items() if name.rpartition(".")[2] not in left}
        if not layers:
            raise UserError(f"no layer is left to quantize to {type}", hint="skip fewer modules")
        quantize(model, weights=type, include=[glob.escape(name) for name in layers])
        freeze(model)
        return model.eval()

    def save(self, model: Any, type: str, folder: Path, framework: Framework) -> None:
        from optimum.quanto import quantization_map

        quantization_config = {"quant_method": "quanto"}
        if framework == "diffusers":
            left = sorted(_last_parts(model, quantization_map(model)))
            described = {"weights_dtype": type.removeprefix("q"), "modules_to_not_convert": left}
            model.register_to_config(quantization_config=quantization_config | described)
            model.save_pretrained(folder)
            _align(folder)
            return
        if quantizer := getattr(model, "hf_quantizer", None):
            quantizer.remove_quantization_config(model)  # it refuses to save
        model.save_pretrained(folder)
        _align(folder)
        (folder / QMAP).write_text(json.dumps(quantization_map(model), indent=2) + "\n", "utf-8")
        path = folder / "config.json"
        config = json.loads(path.read_text("utf-8"))
        # transformers knows types by other names, without the q: it raises instead of making weights up.
        config["quantization_config"] = quantization_config | {"weights": type}
        path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")

    def load(self, folder: Path, kind: Any, framework: Framework, **options: Any) -> Any:
        """Raises ``UserError`` for more than one device, and where the type needs a compiler that is not there."""
        if framework == "diffusers":
            _check_compiler(
                "q" + json.loads((folder / "config.json").read_text())["quantization_config"]["weights_dtype"]
            )
            return kind.from_pretrained(folder, **options).eval()
        from accelerate import init_empty_weights
        from optimum.quanto import requantize
        from safetensors.torch import load_file

        dtype, device = given_dtype(options), given_device(options, "quanto")
        qmap = json.loads((folder / QMAP).read_text("utf-8"))
        for type in {each["weights"] for each in qmap.values()}:
            _check_compiler(type)
        with init_empty_weights():
            model = skeleton(kind, folder, framework, dtype)
        state: dict[str, torch.Tensor] = {}
        for path in sorted(folder.glob("*.safetensors")):
            state |= {name: _aligned(x) for name, x in load_file(path).items()}
        if dtype:  # a weight computes in the dtype of its scale
            floats = {k for k, v in state.items() if v.is_floating_point() and not k.endswith("._data")}
            state |= {k: state[k].to(dtype) for k in floats}
        requantize(model, state, qmap, device)
        model.tie_weights()
        return model.eval()

    def fits(self, type: str, layer: torch.nn.Linear) -> bool:
        """Rows of eight bits have to begin where torch's kernels can read them, see :func:`_align`."""
        return type != "qint8" or not layer.in_features % _ROW

    def notes(self, type: str) -> tuple[str, ...]:
        _check_compiler(type)
        return () if _is_compiled(type) else (f"quanto compiles C++ for {type} on its first use, for minutes",)

    def is_quantized(self, module: torch.nn.Module) -> bool:
        from optimum.quanto import QModuleMixin

        return isinstance(module, QModuleMixin) and module.frozen


def _align(folder: Path) -> None:
    """torch's product of bfloat16 with eight bits crashes on CPUs with AVX-512 where rows do not begin at 16 bytes, and
    the single numbers that quanto saves besides push most out of place."""
    for path in folder.glob("*.safetensors"):
        align(path)


def _aligned(x: torch.Tensor) -> torch.Tensor:
    return x.clone() if x.data_ptr() % LINE else x


def _last_parts(model: Any, quantized: Mapping[str, Any]) -> set[str]:
    """Of the names of linear layers that are not ``quantized``."""
    from torch import nn

    layers = (name for name, module in model.named_modules() if isinstance(module, nn.Linear))
    return {name.rpartition(".")[2] for name in layers if name not in quantized}


def _is_compiled(type: str) -> bool:
    """quanto unpacks 4 and 2 bits with C++ that torch compiles on its first use, for a minute or more, into the
    package's folder, where later processes find it with ninja alone."""
    import torch

    built_for = _extension() / "build/pytorch_version.txt"
    return type not in _PACKED or (built_for.is_file() and built_for.read_text() == torch.__version__)


def _extension() -> Path:
    spec = find_spec("optimum.quanto")
    assert spec
    assert spec.origin
    return Path(spec.origin).parent / "library/extensions/cpp"


def _check_compiler(type: str) -> None:
    """Raises ``UserError`` where the type has to be compiled and cannot be."""
    if type not in _PACKED:
        return
    import ninja

    if not shutil.which("ninja"):  # where the environment that has it was not activated
        os.environ["PATH"] = f"{ninja.BIN_DIR}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    if _is_compiled(type):
        return
    folder = _extension()
    what, hint = f"quanto compiles C++ for {type}", "choose quanto:qint8, which needs none"
    compiler = os.environ.get("CXX", "c++")
    if not shutil.which(compiler):
        raise UserError(what, why=f"there is no compiler {compiler}", hint=hint)
    if not os.access(folder, os.W_OK):
        raise UserError(what, why=f"{folder} cannot be written to", hint=hint)
