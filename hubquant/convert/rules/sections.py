"""Rotary embeddings in sections (M-RoPE, https://arxiv.org/abs/2409.12191): parts of the rotated pairs turn with time,
height and width, which are all the position in a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.convert.rules.rope import Rope, raw_parameters
from hubquant.convert.rules.rule import Rule, Settings, check_list, head_size, out_of_range
from hubquant.gguf_file.metadata import Metadata, i32s, u32

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedConfig

SECTIONS = "mrope_section"
SECTIONS_KEY = "rope.dimension_sections"


@dataclass(frozen=True)
class Sections(Rule):
    """How many pairs each section has; ``default`` where a config.json does not tell. A file is read back as a language
    model with one position for each token, which knows none."""

    default: tuple[int, ...]
    reads = (SECTIONS,)

    def check(self, settings: Settings) -> None:
        _check(settings.get(SECTIONS))

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        return _written(getattr(config, SECTIONS, None) or self.default, config)


class SectionedRope(Rope):
    """Rope and its sections in one table of settings."""

    default = (11, 11, 10)

    def check(self, settings: Settings) -> None:
        super().check(settings)
        _check(raw_parameters(settings).get(SECTIONS))

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        sections = config.rope_parameters.get(SECTIONS) or self.default
        return {**super().metadata(config), **_written(sections, config)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        found = metadata[SECTIONS_KEY].value if SECTIONS_KEY in metadata else None
        sections = list(found[:3]) if isinstance(found, tuple) else list(self.default)
        return {"rope_parameters": super().settings(metadata)["rope_parameters"] | {SECTIONS: sections}}


@dataclass(frozen=True)
class DeepstackLayers(Rule):
    """So many of the first layers are given a picture's features beside its embeddings
    (https://arxiv.org/abs/2406.04334); in a text there are none."""

    reads = ("deepstack_visual_indexes",)

    def check(self, settings: Settings) -> None:
        check_list(settings, self.reads[0])

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        return {"n_deepstack_layers": u32(len(getattr(config, self.reads[0], None) or ()))}


def _check(sections: Any) -> None:
    if sections is not None and not (
        isinstance(sections, list)
        and len(sections) in (3, 4)
        and all(type(size) is int and 0 <= size <= 1 << 16 for size in sections)
    ):
        raise out_of_range(f"rope's {SECTIONS}", sections, "three whole numbers")


def _written(sections: Sequence[int], config: PreTrainedConfig) -> Metadata:
    four = [*sections, 0][:4]
    if sum(four) > head_size(config):
        raise out_of_range(f"rope's {SECTIONS}", four, f"no more than the head's {head_size(config)} together")
    return {SECTIONS_KEY: i32s(four)}
