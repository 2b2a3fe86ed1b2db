"""What each layer of a source computes of random inputs, kept beside what a library made of it: every layer of a saved
folder is held against it, and every tensor that stayed in floats.

For inputs x with independent standard normal entries, the expected square of x·(W' − W)ᵀ is the squared Frobenius norm
of W' − W: a few inputs tell how far a matrix is from another one, whatever a library holds it in.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.backends.libraries.library import DataType, LibraryBackend

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SKETCH = "sketch.safetensors"
N_INPUTS = 16
_ACTIVATIONS = 0.01
"""What rounding the inputs adds, in libraries that do so, and computing in half precision."""
_CHANCE = 1.3
"""How far the estimate from so few inputs is above the truth, at most."""
_LARGEST = 0.9
"""Of a relative error, whatever the type: that of zeros is 1, that of another layer 1.4."""


@dataclass(frozen=True)
class Kept:
    """``limits`` of the relative error of layers by name, ``digests`` of tensors."""

    limits: Mapping[str, float]
    digests: Mapping[str, str]


@dataclass(frozen=True)
class SketchCheck:
    """Of ``n_layers`` that were quantized the ``error`` of the worst one, relative to the source. ``wrong`` says what
    is not the source's, empty where all is."""

    n_layers: int
    error: float
    wrong: str = ""


def keep_sketch(model: Any, type: DataType, path: Path) -> None:
    """Of a ``model`` in floats that is to be quantized to ``type``."""
    import torch
    from safetensors.torch import save_file

    answers, limits = {}, {}
    with torch.no_grad():
        for name, layer in _layers(model):
            answers[name] = _computed(name, layer, layer.weight.dtype)
            limits[name] = _limit(layer.weight, type)
        digests = {name: _digest(tensor) for name, tensor in model.state_dict().items()}
    save_file(answers, path, {"kept": json.dumps(asdict(Kept(limits, digests)))})


def check_sketch(model: Any, backend: LibraryBackend, path: Path) -> SketchCheck:
    """Whether ``model`` is that which was kept at ``path``, but for the rounding of ``backend``."""
    import torch
    from safetensors import safe_open

    modules = dict(model.named_modules())
    with safe_open(path, "pt") as file:
        kept = Kept(**json.loads(file.metadata()["kept"]))
        found_layers = {name: modules[name] for name in kept.limits if name in modules}
        quantized = {name: layer for name, layer in found_layers.items() if backend.is_quantized(layer)}
        error = 0.0
        with torch.no_grad(), backend.computing(model):
            for name, layer in quantized.items():
                expected = file.get_tensor(name)
                difference = _computed(name, layer, model.dtype) - expected
                found = float(difference.norm() / expected.norm()) if expected.any() else float(difference.any())
                if not found <= kept.limits[name]:
                    why = f"{name} is off by {found:.2g} of its size, where rounding explains {kept.limits[name]:.2g}"
                    return SketchCheck(len(quantized), found, why)
                error = max(error, found)
    state = model.state_dict()
    for name, digest in kept.digests.items():
        if name.rpartition(".")[0] in quantized:
            continue
        if name not in state or _digest(state[name]) != digest:
            return SketchCheck(len(quantized), error, f"{name} is not the source's")
    return SketchCheck(len(quantized), error)


def _layers(model: Any) -> Iterator[tuple[str, nn.Linear | nn.Embedding]]:
    from torch import nn

    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            yield name, module


def _computed(name: str, layer: nn.Module, dtype: torch.dtype) -> Tensor:
    """[N_INPUTS, n_out] float32: what ``layer`` makes of the inputs that belong to its ``name``."""
    import torch

    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    device = next(layer.parameters()).device
    if (n_in := getattr(layer, "in_features", None)) is not None:
        inputs = torch.randn(N_INPUTS, n_in, generator=generator).to(dtype)
    else:
        inputs = torch.randint(int(layer.num_embeddings), (N_INPUTS,), generator=generator)  # type: ignore[arg-type]
    found: Tensor = layer(inputs.to(device))
    return found.float().cpu()


def _limit(weight: Tensor, type: DataType) -> float:
    """Of the relative error of a matrix: rounding to ``type`` is off by half a step at most, and evenly so."""
    n_out, n_in = weight.shape
    group = type.group if type.group and not n_in % type.group else n_in
    largest = weight.float().reshape(n_out, -1, group).abs().amax(-1)
    mean_square = float(largest.square().mean()) * type.half_step**2 / 3
    size = float(weight.float().square().mean())
    return min(_LARGEST, _CHANCE * (mean_square / size) ** 0.5 + _ACTIVATIONS) if size else 0.0


def _digest(tensor: Tensor) -> str:
    """Of its values, whatever they are held in."""
    import torch

    values = tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
    return hashlib.sha256(values.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()
