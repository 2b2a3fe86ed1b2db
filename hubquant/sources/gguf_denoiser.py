"""The GGUF file of a denoiser as a source."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

from hubquant.convert.conversion import Conversion
from hubquant.convert.diffusion.conversion import FileLayout, denoiser_conversion
from hubquant.convert.diffusion.recognise import Denoiser, looks_like_denoiser, recognise
from hubquant.gguf_file import GGUFFile
from hubquant.gguf_file.layout import DIFFUSION
from hubquant.gguf_file.metadata import string
from hubquant.mix.denoisers import DENOISERS
from hubquant.sources.denoiser import DenoiserSource
from hubquant.sources.gguf import GGUFSource, open_gguf
from hubquant.units import counted

_NO_ARCHITECTURE = "pig"
"""What a converter writes as general.architecture of all models."""


@dataclass(frozen=True, kw_only=True)
class GGUFDenoiserSource(GGUFSource, DenoiserSource):
    """Its tensors keep their names unless another ``layout`` is asked for."""

    @cached_property
    def file_layout(self) -> FileLayout:
        return self.layout or FileLayout(self.denoiser.layout, self.denoiser.prefix)

    def conversion(self) -> Conversion:
        """Raises ``CheckpointError`` for tensors that are missing or left over."""
        found = denoiser_conversion(self.denoiser, self.checkpoint.tensors, self.file_layout)
        others = len(self.file.tensors) - len({source for bundle in found.bundles for source in bundle.sources})
        return replace(
            found,
            metadata={**self.lasting_metadata, **found.metadata, "general.type": string(DIFFUSION)},
            float_type=self.float_type,
            notes=(f"left out: {counted(others, 'tensor')} beside the denoiser",) if others else (),
            cannot_run="a GGUF file of a denoiser has no text encoders and VAE to draw with",
        )


def open_gguf_model(path: Path) -> GGUFSource:
    """Of a language model, or of a denoiser. Raises ``GGUFError`` as :func:`open_gguf` does, and ``NotSupportedYet``
    for a denoiser of no known family."""
    source = open_gguf(path)
    denoiser = _denoiser(source.file)
    if denoiser is None:
        return source
    return GGUFDenoiserSource(
        **{field.name: getattr(source, field.name) for field in fields(source)}, denoiser=denoiser
    )


def _denoiser(file: GGUFFile) -> Denoiser | None:
    """Some programs write denoisers without metadata: then the names of the tensors tell."""
    architecture = file.metadata.get("general.architecture")
    shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
    if architecture is None or architecture.value == _NO_ARCHITECTURE:
        return recognise(shapes) if looks_like_denoiser(shapes) else None
    return recognise(shapes) if architecture.value in DENOISERS else None
