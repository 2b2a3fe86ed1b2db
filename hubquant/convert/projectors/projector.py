"""What is known about one family of projectors: an encoder of pictures or sound, and what makes of its states the
embeddings that a language model takes in the place of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hubquant.checkpoint.json_files import read_table
from hubquant.convert.operations import Dimensions
from hubquant.convert.tables import Bundle, Place, Row
from hubquant.gguf_file.metadata import Metadata

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

TOKENIZER = "tokenizer.json"
AGAIN = "take the file from the repository that the model comes from"


@dataclass(frozen=True)
class Multimodal:
    """A multimodal model as its files describe it: ``config`` with transformers' defaults, what its processor is told
    (``processor``, of preprocessor_config.json and processor_config.json), its ``folder``, and the ``shapes`` of the
    tensors that it has beside the language model."""

    config: PreTrainedConfig
    processor: Mapping[str, Any]
    folder: Path
    shapes: Mapping[str, tuple[int, ...]]

    @cached_property
    def tokens(self) -> Mapping[str, int]:
        """The number of each token that was added to the vocabulary."""
        from hubquant.vocab.tekken import NAME, read_tekken

        if (self.folder / TOKENIZER).is_file():
            added = read_table(self.folder / TOKENIZER, AGAIN).get("added_tokens") or []
        elif (self.folder / NAME).is_file():
            added = read_tekken(self.folder / NAME)[0]["added_tokens"]
        else:
            return {}
        return {each["content"]: each["id"] for each in added if isinstance(each, dict) and "content" in each}

    @property
    def vision(self) -> Any:
        """The configuration of what sees."""
        return self.config.vision_config

    @property
    def sound(self) -> Any:
        """The configuration of what hears."""
        return self.config.audio_config

    @property
    def text(self) -> Any:
        """That of the language model."""
        return self.config.get_text_config()


@dataclass(frozen=True)
class Projector:
    """The table of one family.

    ``classes`` are transformers' names of whole models. ``metadata`` makes the keys after "clip.", of a file of that
    architecture, and ``dimensions`` the names of sizes that rows have, "n_layer" among them. The rows ``outside`` the
    layers and those of each ``layer`` make the tensors: names of GGUF are written out, those of a layer after
    "v.blk.N." or "a.blk.N.", as its ``encoder`` has it, and what is named as a setting is one of the encoder's.
    ``layers`` is what the checkpoint calls the list of them. ``renames`` bring the names of other versions to those of
    the table, and names of what it has of the language model to others than that one's; ``ignored`` are regular
    expressions of tensors that nothing is computed with. ``takes`` tells by config.json which of several tables of one
    class it is for, ``as_transformers`` makes the config.json that transformers has of one that came with code of its
    own, ``notes`` say what llama.cpp computes otherwise, and ``beside`` is the table of a second encoder in the same
    file, whose keys are among those of the first.
    """

    classes: tuple[str, ...]
    metadata: Callable[[Multimodal], Metadata]
    dimensions: Callable[[Multimodal], Dimensions]
    outside: Callable[[Multimodal], tuple[Row, ...]]
    layer: tuple[Row, ...]
    layers: str
    encoder: Literal["v", "a"] = "v"
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    as_transformers: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
    takes: Callable[[Mapping[str, Any]], bool] = lambda _: True
    notes: Callable[[Multimodal], tuple[str, ...]] = lambda _: ()
    beside: Callable[[Multimodal], Projector | None] = lambda _: None

    def bundles(self, model: Multimodal) -> Iterator[Bundle]:
        """Every tensor of the file."""
        dimensions, config = self.dimensions(model), model.config
        outside = Place(config, dimensions, "", "", {})
        for row in self.outside(model):
            yield from row.bundles(outside)
        described = model.vision if self.encoder == "v" else model.sound
        for number in range(dimensions["n_layer"]):
            place = Place(described, dimensions, f"{self.layers}.{number}.", f"{self.encoder}.blk.{number}.", {})
            for row in self.layer:
                yield from row.bundles(place)
        if second := self.beside(model):
            yield from second.bundles(model)
