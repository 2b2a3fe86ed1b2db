"""A source has components, each one model that is quantized by itself: a language model is a source with one."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from gguf import PoolingType

from hubquant.convert.conversion import Conversion
from hubquant.convert.diffusion.importance import fit_denoiser, fit_text_encoder
from hubquant.convert.rules.rule import integer
from hubquant.errors import NotSupportedYet
from hubquant.models.encoder import Pooling
from hubquant.sources.projector import MMPROJ, ProjectorSource
from hubquant.sources.pulled import Pulled

if TYPE_CHECKING:
    from hubquant.imatrix import ImportanceMatrix
    from hubquant.sources.denoiser import DenoiserSource
    from hubquant.sources.source import SourceModel

LANGUAGE_MODEL = "language model"
DENOISER = "denoiser"
FIRST_STEPS = "transformer"
"""The denoiser that makes the first steps, in pipelines that have another one for the last."""
Inputs = Literal["tokens", "prompts"]
_POOLINGS: Mapping[Any, Pooling] = {
    PoolingType.MEAN: "mean",
    PoolingType.CLS: "cls",
    PoolingType.LAST: "last",
}
"""GGUF's ``pooling_type``."""


@dataclass(frozen=True)
class Component:
    """``conversion`` is what becomes of its weights; ``blocks`` are its lists of blocks, by the name that begins those
    of their weights in a GGUF file. ``inputs`` is what it is run on, None where it cannot be run. ``width`` is how many
    numbers a token has in a hidden state, and ``n_vocab`` how many it has in the end.

    Of a component without some of its layers, ``whole`` is that with all of them, and ``origins`` are the names that
    tensors have there, where these are others."""

    name: str
    pulled: Pulled
    conversion: Conversion
    blocks: tuple[str, ...]
    inputs: Inputs | None
    width: int
    n_vocab: int
    origins: Mapping[str, str] = field(default_factory=dict)
    whole: Component | None = None

    @classmethod
    def language_model(cls, source: SourceModel) -> Component:
        conversion = source.conversion()
        inputs: Inputs | None = None if conversion.cannot_run else "tokens"
        n_vocab, width = conversion.shapes.get("token_embd.weight", (0, 0))
        return cls(LANGUAGE_MODEL, Pulled(source), conversion, ("blk", "enc.blk"), inputs, width, n_vocab)

    @classmethod
    def denoiser(cls, source: DenoiserSource) -> Component:
        """It is run on prompts where the source has all that draws with it."""
        conversion = source.conversion()
        inputs: Inputs | None = None if conversion.cannot_run else "prompts"
        return cls(source.component or DENOISER, Pulled(source), conversion, (), inputs, 0, 0)

    @classmethod
    def projector(cls, source: ProjectorSource) -> Component:
        """It is not run by itself."""
        return cls(MMPROJ, Pulled(source), source.conversion(), ("v.blk", "a.blk"), None, 0, 0)

    @property
    def denoises(self) -> bool:
        """Whether it is the denoiser of pictures or videos."""
        return self.name not in (LANGUAGE_MODEL, MMPROJ)

    @property
    def has_vocabulary(self) -> bool:
        return self.name == LANGUAGE_MODEL

    @property
    def source(self) -> SourceModel:
        return self.pulled.source

    @property
    def complete(self) -> Component:
        """With all its layers."""
        return self.whole or self

    def origin(self, name: str) -> str:
        """The name of a tensor in the complete component."""
        return self.origins.get(name, name)

    @property
    def config(self) -> Mapping[str, Any]:
        """config.json as it stands; empty for a GGUF file."""
        return self.source.checkpoint.config

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of every weight, by its name in a GGUF file, in torch order."""
        return self.conversion.shapes

    def fitted(self, matrix: ImportanceMatrix) -> ImportanceMatrix:
        """``matrix`` by the names and shapes of these weights. Raises ``ImatrixError`` when it belongs to another
        model."""
        if self.denoises:
            return fit_denoiser(matrix, self.shapes, self.conversion.taps, high_noise=self.name == FIRST_STEPS)
        if self.source.component:
            return fit_text_encoder(matrix, self.conversion.bundles, self.shapes)
        return matrix.fit(self.shapes)

    @cached_property
    def n_parameters(self) -> int:
        return sum(map(math.prod, self.shapes.values()))

    @property
    def hidden_size(self) -> int:
        """Numbers that a token has between two blocks: some models have several hidden states there."""
        streams = integer(self.conversion.metadata, f"{self.conversion.architecture}.altup.num_inputs")
        return (streams or 1) * self.width

    @cached_property
    def largest_block(self) -> int:
        """Weights of the block that has the most."""
        number_of = re.compile(rf"({'|'.join(map(re.escape, self.blocks))})\.(\d+)\.")
        sizes: dict[str, int] = {}
        for name, shape in self.shapes.items():
            if match := number_of.match(name):
                sizes[match[0]] = sizes.get(match[0], 0) + math.prod(shape)
        return max(sizes.values(), default=0)

    @property
    def embeds(self) -> bool:
        """Whether it gives a text an embedding and predicts no next token."""
        return self.conversion.embeds

    @property
    def fills_in(self) -> bool:
        """Whether it sees the whole text and fills in masked tokens of it."""
        return not self.embeds and self._told("attention.causal") is False

    @property
    def ranks(self) -> bool:
        """Whether what it makes of a text is a score of the pair that the text is."""
        return bool(self._pooling_type == PoolingType.RANK)

    @property
    def names_pooling(self) -> bool:
        """Whether the model says how a text's states become one embedding."""
        return self.ranks or self._pooling_type in _POOLINGS

    @property
    def pooling(self) -> Pooling:
        """That of the model, or the mean where it names none; of a reranker, what its score is made of."""
        if not self.ranks:
            return _POOLINGS.get(self._pooling_type, "mean")
        usual = PoolingType.LAST if self._told("attention.causal") is None else PoolingType.CLS
        return _POOLINGS.get(self._told("classifier.pooling_type"), _POOLINGS[usual])

    @property
    def _pooling_type(self) -> Any:
        return self._told("pooling_type")

    def _told(self, key: str) -> Any:
        found = self.conversion.metadata.get(f"{self.conversion.architecture}.{key}")
        return None if found is None else found.value

    @property
    def context_length(self) -> int | None:
        """Tokens that it takes at most, where that is known."""
        key = self.conversion.metadata.get(f"{self.conversion.architecture}.context_length")
        return key.value if key is not None and isinstance(key.value, int) else None

    def check_runs(self, doing: str, hint: str | None = None) -> None:
        """Raises ``NotSupportedYet`` for a component that cannot read a text; ``doing`` says what would need it."""
        if self.denoises:
            why = "a denoiser reads no text: it is measured by what it draws"
            raise NotSupportedYet(
                f"{doing} {self.conversion.architecture} models", why=why, hint=hint or "hubquant run"
            )
        if self.inputs is None:
            raise NotSupportedYet(
                f"{doing} {self.conversion.architecture} models", why=self.conversion.cannot_run, hint=hint
            )

    def check_draws(self, doing: str, hint: str | None = None) -> None:
        """Raises ``NotSupportedYet`` for a denoiser without what draws with it."""
        if self.inputs != "prompts":
            raise NotSupportedYet(f"{doing} this denoiser", why=self.conversion.cannot_run, hint=hint)

    def check_predicts(self, doing: str, hint: str | None = None) -> None:
        """Raises ``NotSupportedYet`` for an encoder too; ``doing`` says what would need a next token's prediction."""
        self.check_runs(doing, hint)
        if self.embeds:
            raise NotSupportedYet(
                f"{doing} {self.conversion.architecture} models", why="an encoder predicts no next token", hint=hint
            )
