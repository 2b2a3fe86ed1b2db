"""Second moments of the inputs of weights, gathered while the files are written that are rounded by them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.backends.gguf.feedback import FACTOR_COPIES, MomentsSource
from hubquant.devices import Device
from hubquant.engine.task import FP32_BYTES, Context
from hubquant.errors import CalibrationError, NotSupportedYet
from hubquant.pipeline.costs import LIBRARIES_BYTES, LOGIT_COPIES
from hubquant.pipeline.held import other_device
from hubquant.pipeline.offload import output_bytes, stream_of, streaming_bytes
from hubquant.sources.component import Component

if TYPE_CHECKING:
    from hubquant.calibration import Chunks
    from hubquant.observe.moments import WeightMoments

LEAST_CHUNKS = 2


@dataclass(frozen=True, eq=False)
class StreamedMoments(MomentsSource):
    """Of ``component`` over ``chunks``: a block at a time is in memory, with the moments of its inputs."""

    component: Component
    chunks: Chunks
    device: Device = "auto"

    @classmethod
    def of(cls, component: Component, chunks: Chunks, device: Device) -> StreamedMoments:
        """Raises ``NotSupportedYet`` for an encoder, ``CalibrationError`` for too little text."""
        if component.embeds:
            raise NotSupportedYet(
                "an encoder rounded with error feedback",
                why="the moments of its inputs are gathered of language models only",
                hint="leave quantize.rounding out",
            )
        if len(chunks) < LEAST_CHUNKS:
            raise CalibrationError(
                "one chunk of text is too little for error feedback",
                why="some is held out, to tell whether it is good",
                hint="raise calibration.chunks",
            )
        return cls(component, chunks, device)

    @property
    def held_out(self) -> Chunks:
        """The chunks that tell how good the rounding is."""
        from hubquant.observe.moments import held_out

        return held_out(self.chunks)

    @property
    def made_from(self) -> Mapping[str, Any]:
        return {"tokens": self.chunks.fingerprint, **other_device(self.device)}

    @property
    def weights(self) -> frozenset[str]:
        """What inputs are seen of, and the token embedding."""
        from hubquant.observe.moments import TOKEN_EMBEDDING

        return frozenset({*self.component.complete.conversion.taps, TOKEN_EMBEDDING})

    @property
    def ram_bytes(self) -> int:
        """Two moments of each distinct input of a block or of the output layer, what streaming takes, and the factor of
        one of these moments while it is made; or in the end a block, the output layer, and logits with their
        gradients."""
        from hubquant.observe.collection import keys_of
        from hubquant.observe.lookups import chunks_at_once

        component, of_block, widest = self.component, Counter[str](), 0
        for name in set(keys_of(component.conversion.taps).values()):
            shape = component.shapes[name]
            n_matrices = math.prod(shape[:-2])
            of_block[".".join(name.split(".")[:2])] += 2 * FP32_BYTES * n_matrices * shape[-1] ** 2
            widest = max(widest, shape[-1])
        streaming = streaming_bytes(component, self.chunks.n_tokens) + max(of_block.values(), default=0)
        streaming += FACTOR_COPIES * FP32_BYTES * widest**2
        n_tokens = self.chunks.chunk_size * chunks_at_once(self.chunks.chunk_size, component.n_vocab)
        lookups = (
            2 * FP32_BYTES * component.largest_block
            + output_bytes(component)
            + LOGIT_COPIES * FP32_BYTES * n_tokens * component.n_vocab
            + 4 * FP32_BYTES * component.width**2
        )
        return LIBRARIES_BYTES + max(streaming, lookups)

    def by_block(
        self, weights: frozenset[str], folder: Path, context: Context, n_threads: int
    ) -> Iterator[Mapping[str, WeightMoments]]:
        from hubquant.observe.moments import moments_by_block

        whole = self.component.complete
        opened = context.read(self.component.pulled).open_weights(self.device)
        stream = stream_of(opened, whole, self.chunks.n_tokens, folder, self.device)
        yield from moments_by_block(stream, self.chunks, weights, whole.conversion.taps, n_threads)
