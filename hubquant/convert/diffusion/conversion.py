"""From the tensors of a denoiser to those of a GGUF file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from hubquant.checkpoint.headers import TensorInfo
from hubquant.convert.conversion import Conversion, float_type
from hubquant.convert.diffusion.family import PREFIX, Layout
from hubquant.convert.diffusion.recognise import Denoiser
from hubquant.convert.operations import Inverse
from hubquant.convert.tables import Bundle
from hubquant.gguf_file.metadata import string
from hubquant.models.taps.tap import ModuleInput, Tap


@dataclass(frozen=True)
class FileLayout:
    """What the tensors of a file are called: ``names`` are those of a layout, after the ``prefix``."""

    names: Layout
    prefix: str = ""


def denoiser_conversion(denoiser: Denoiser, tensors: Mapping[str, TensorInfo], layout: FileLayout) -> Conversion:
    """What ``denoiser`` becomes in a file of ``layout``; ``tensors`` are those of the source, by the names there.

    Raises ``CheckpointError`` as :meth:`Family.bundles` does.
    """
    bundles = tuple(sorted(_bundles(denoiser, layout), key=lambda bundle: min(bundle.targets)))
    sources = {source for bundle in bundles for source in bundle.sources}
    return Conversion(
        denoiser.family.architecture,
        {"n_layer": 0},
        {"general.architecture": string(denoiser.family.architecture)},
        bundles,
        denoiser_taps(denoiser, layout),
        float_type(tensors[name] for name in tensors if name in sources),
    )


def default_layout(denoiser: Denoiser) -> FileLayout:
    """That of the family which most programs load: original names, but for Sana; diffusers needs the prefix before
    those of UNets, and only there."""
    return layout_of(denoiser, denoiser.family.preferred)


def layout_of(denoiser: Denoiser, names: Layout) -> FileLayout:
    """With ``names`` of a layout, and the prefix that the family needs before original ones."""
    return FileLayout(names, PREFIX if denoiser.family.prefixed and names == "original" else "")


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


def _with(prefix: str, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(prefix + name for name in names)
