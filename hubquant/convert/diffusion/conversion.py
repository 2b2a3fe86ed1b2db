"""From the tensors of a denoiser to those of a GGUF file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from hubquant.checkpoint.headers import TensorInfo
from hubquant.convert.conversion import Conversion, float_type
from hubquant.convert.diffusion.family import PREFIX, Family, Layout
from hubquant.convert.diffusion.recognise import Denoiser
from hubquant.convert.operations import Inverse, Reshape
from hubquant.convert.tables import Bundle, Shape
from hubquant.gguf_file.metadata import i32s, string
from hubquant.models.taps.tap import ModuleInput, Tap

SUPER_BLOCK = 256
_IN_ROWS = ("sd1", "sdxl")
_LEAST_REARRANGED = 512
_ORIGINAL_SHAPE = "comfy.gguf.orig_shape"


@dataclass(frozen=True)
class FileLayout:
    """What the tensors of a file are called: ``names`` are those of a layout, after the ``prefix``. ``in_rows`` have
    weights whose rows are no super-blocks in rows of 256 instead, as ComfyUI-GGUF puts them back."""

    names: Layout
    prefix: str = ""
    in_rows: bool = False


def denoiser_conversion(denoiser: Denoiser, tensors: Mapping[str, TensorInfo], layout: FileLayout) -> Conversion:
    """What ``denoiser`` becomes in a file of ``layout``; ``tensors`` are those of the source, by the names there.

    Raises ``CheckpointError`` as :meth:`Family.bundles` does.
    """
    bundles = tuple(sorted(_bundles(denoiser, layout), key=lambda bundle: min(bundle.targets)))
    sources = {source for bundle in bundles for source in bundle.sources}
    taps, metadata = denoiser_taps(denoiser, layout), {"general.architecture": string(denoiser.family.architecture)}
    if layout.in_rows:
        bundles, shapes = in_rows(bundles)
        taps = {name: tap for name, tap in taps.items() if name not in shapes}
        metadata |= {f"{_ORIGINAL_SHAPE}.{name}": i32s(shape) for name, shape in shapes.items()}
    return Conversion(
        denoiser.family.architecture,
        {"n_layer": 0},
        metadata,
        bundles,
        taps,
        float_type(tensors[name] for name in tensors if name in sources),
    )


def default_layout(denoiser: Denoiser) -> FileLayout:
    """That of the family which most programs load."""
    return preferred_layout(denoiser.family)


def preferred_layout(family: Family) -> FileLayout:
    """Original names, but for Sana; diffusers needs the prefix before those of UNets, and only there."""
    return _with_prefix(family, family.preferred)


def layout_of(denoiser: Denoiser, names: Layout | Literal["comfyui"]) -> FileLayout:
    """With ``names`` of a layout, and the prefix that the family needs before original ones. That of ComfyUI-GGUF is
    the original one without a prefix; of Stable Diffusion 1, 2 and XL it takes convolutions in K-quants too."""
    if names == "comfyui":
        return FileLayout("original", in_rows=denoiser.family.architecture in _IN_ROWS)
    return _with_prefix(denoiser.family, names)


def _with_prefix(family: Family, names: Layout) -> FileLayout:
    return FileLayout(names, PREFIX if family.prefixed and names == "original" else "")


def denoiser_taps(denoiser: Denoiser, layout: FileLayout) -> dict[str, Tap]:
    """Where what flows into the linear layers is seen in diffusers' model, by the names of the weights in a file.

    Weights that stand in one tensor of the file have one input.
    """
    found: dict[str, Tap] = {}
    for bundle in denoiser.bundles():
        modules = [name.removesuffix(".weight") for name in bundle.targets if name.endswith(".weight")]
        shapes = list(bundle.targets.values())
        if len(modules) == len(bundle.targets) and all(len(shape) == 2 for shape in shapes):
            names = bundle.sources if layout.names == "original" else tuple(bundle.targets)
            found |= {layout.prefix + name: ModuleInput(modules[0]) for name in names}
    return found


def _bundles(denoiser: Denoiser, layout: FileLayout) -> Iterator[Bundle]:
    """From the source's layout, with its prefix, to that of the file."""
    given, wanted = denoiser.prefix, layout.prefix
    for bundle in denoiser.bundles():
        originals = bundle.source_shapes()
        if denoiser.layout == layout.names:
            shapes = originals if layout.names == "original" else bundle.targets
            for name, shape in shapes.items():
                yield Bundle((given + name,), {wanted + name: shape})
        elif denoiser.layout == "original":
            targets = {wanted + name: shape for name, shape in bundle.targets.items()}
            yield Bundle(_with(given, bundle.sources), targets, bundle.operations)
        else:
            targets = {wanted + name: shape for name, shape in originals.items()}
            operations = tuple(Inverse(operation) for operation in reversed(bundle.operations))
            yield Bundle(_with(given, bundle.targets), targets, operations)


def in_rows(bundles: Iterable[Bundle]) -> tuple[tuple[Bundle, ...], dict[str, Shape]]:
    """``bundles`` whose weights have rows of ``SUPER_BLOCK``, where they can and have not, and the shapes that these
    tensors had: the rule of ComfyUI-GGUF's converter for its architectures with ``shape_fix``."""
    found, shapes = [], dict[str, Shape]()
    for bundle in bundles:
        ((name, shape),) = bundle.targets.items()
        n = math.prod(shape)
        if len(shape) > 1 and n >= _LEAST_REARRANGED and n % SUPER_BLOCK == 0 and shape[-1] % SUPER_BLOCK:
            rows = (n // SUPER_BLOCK, SUPER_BLOCK)
            shapes[name] = shape
            found.append(replace(bundle, targets={name: rows}, operations=(*bundle.operations, Reshape(shape, rows))))
        else:
            found.append(bundle)
    return tuple(found), shapes


def _with(prefix: str, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(prefix + name for name in names)
