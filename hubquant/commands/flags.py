"""What is typed after a command, as values; mistakes are told before any work."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from hubquant.disk import user_path
from hubquant.errors import UserError
from hubquant.pipeline.encoders import tokenized
from hubquant.recipe.load import Override, override_recipe
from hubquant.recipe.names import HUB_ID
from hubquant.recipe.references import model_reference
from hubquant.recipe.schema import ModelReference, TextSource
from hubquant.recipe.sizes import parse_size
from hubquant.sources.component import Component

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hubquant.calibration import Chunks
    from hubquant.commands.collect_drawn import Drawing
    from hubquant.evaluate import Precision
    from hubquant.gguf_file import Split

_PICTURES = "calibration.pictures"
CONVERTED_TYPES = ("F32", "F16", "BF16", "Q8_0")
"""What ``convert`` writes."""

_SHARD = re.compile(r"(\d+)/(\d+)")
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True)
class Text:
    """At most ``chunks`` chunks of ``chunk_size`` tokens of ``sources``, after the ``first_chunk`` that are skipped."""

    sources: tuple[TextSource, ...]
    chunks: int
    chunk_size: int
    first_chunk: int = 0

    def tokenize(self, component: Component) -> Chunks:
        """As ``component`` is run on it. Raises ``CalibrationError`` for too little text, and ``UserError`` when all of
        it is skipped."""
        chunks = tokenized(component, self.sources, self.chunk_size, self.first_chunk + self.chunks)
        if self.first_chunk >= len(chunks):
            raise UserError(
                f"there is no chunk {self.first_chunk + 1}",
                why=f"the text has {len(chunks)} chunks of {chunks.chunk_size} tokens",
                hint="use more text, or a smaller --chunk",
            )
        return chunks if self.first_chunk == 0 else chunks.part(range(self.first_chunk, len(chunks)))

    def windows(self, tokenizer: PreTrainedTokenizerBase, stride: int) -> Chunks:
        """As llama-perplexity --ppl-stride has them: of ``chunk_size`` and half a stride of tokens each. Raises
        as :meth:`check_stride`."""
        from hubquant.calibration.windows import build_windows

        self.check_stride(stride)
        return build_windows(self.sources[0], tokenizer, self.chunk_size + stride // 2, stride, self.chunks)

    def check_stride(self, stride: int) -> None:
        """Raises ``UserError`` for several texts and for a stride that leaves tokens out."""
        if len(self.sources) > 1:
            raise UserError("a stride goes over one text", hint="name one --file, or leave --ppl-stride out")
        if stride > self.chunk_size:
            raise UserError(
                f"a stride of {stride} tokens is longer than a chunk of {self.chunk_size}",
                why="the tokens between two chunks would not be scored",
                hint="use a smaller --ppl-stride",
            )


def text_sources(
    texts: Sequence[str], default: tuple[TextSource, ...], *, parse_special: bool = False
) -> tuple[TextSource, ...]:
    """Each an existing file or folder, or else a Hub dataset; ``default`` where there is none."""

    def is_dataset(text: str) -> bool:
        return HUB_ID.fullmatch(text) is not None and not os.path.exists(user_path(text))

    named = tuple(
        TextSource(dataset=text) if "/" in text and is_dataset(text) else TextSource(file=text) for text in texts
    )
    sources = named or default
    if not parse_special:
        return sources
    return tuple(source.model_copy(update={"parse_special": True}) for source in sources)


def drawing(
    prompts: Sequence[str],
    settings: Mapping[str, Any],
    *,
    convolutions: bool = False,
    keep_pictures: Path | None = None,
) -> Drawing | None:
    """What is to be drawn: each of ``prompts`` an existing file or folder, or else a Hub dataset; ``settings`` are
    fields of ``Pictures`` by the flags that set them, None where they are not given. None where nothing is asked for.
    Raises ``UserError``."""
    from hubquant.commands.collect_drawn import Drawing

    given = [Override(f"{_PICTURES}.{name}", value, name) for name, value in settings.items() if value is not None]
    if prompts:
        sources = text_sources(prompts, ())
        named = [{"dataset": each.dataset} if each.dataset else {"file": each.file} for each in sources]
        given.append(Override(f"{_PICTURES}.prompts", named, "prompts"))
    if not given and not convolutions and keep_pictures is None:
        return None
    recipe = override_recipe({"model": {"bundled": "demo"}}, given)
    return Drawing(recipe.calibration.pictures, convolutions, keep_pictures)


def picture_size(text: str) -> int | list[int]:
    """1024 or 1024x768. Raises ``UserError``."""
    if not re.fullmatch(r"\d+(x\d+)?", text):
        raise UserError(f"--size {text} is no size", hint="write pixels: --size 1024, or --size 1024x768")
    edges = [int(edge) for edge in text.split("x")]
    return edges[0] if len(edges) == 1 else edges


def model(
    text: str,
    component: str | None = None,
    *,
    pickles: bool = False,
    merge: str | None = None,
    target: str | None = None,
) -> ModelReference:
    """A Hub id, a folder, a GGUF file or "demo", and of a pipeline one ``component``; with ``pickles`` weights may be
    such, with ``merge`` it is an adapter in that base, and with ``target`` a drafter for that. Raises ``UserError`` for
    anything else."""
    named = {"bundled": "demo"} if text == "demo" else model_reference(text)
    if target and (merge or not named.keys() & {"id", "folder"}):
        raise UserError(f"{text} is no drafter", why="--target names what it drafts for", hint="leave --target out")
    if merge and not named.keys() & {"id", "folder"}:
        raise UserError(f"{text} is no adapter", why="--merge names its base", hint="leave --merge out")
    try:
        given = {**named, "component": component, "allow_pickle": pickles, "merge": merge, "target": target}
        return ModelReference.model_validate(given)
    except ValidationError:
        raise UserError(
            f"{text!r} is no model",
            why="it is not a .gguf file, a folder, or a Hub id such as Qwen/Qwen3-0.6B",
            hint="check the spelling",
        ) from None


def models(
    text: str,
    components: Sequence[str],
    *,
    pickles: bool = False,
    merge: str | None = None,
    target: str | None = None,
) -> tuple[ModelReference, ...]:
    """As :func:`model`, one for each of ``components``, by default one alone. They may stand between commas. Raises
    ``UserError`` for one that is named twice."""
    named = [name for each in components for part in each.split(",") if (name := part.strip())]
    if twice := [name for name in named if named.count(name) > 1]:
        raise UserError(f"{twice[0]} is named twice", hint="name each component once")
    return tuple(model(text, name, pickles=pickles, merge=merge, target=target) for name in (named or (None,)))


def fill(template: str, option: str, **values: str) -> str:
    """``template`` with ``values`` in the place of {their names}. Raises ``UserError`` for what names no file."""
    names = " and ".join(f"{{{name}}}" for name in values)
    try:
        parts = [(text, name) for text, name, _, _ in Formatter().parse(template)]
    except ValueError as error:
        raise UserError(f"{option}: {template!r} cannot be read", why=str(error), hint=f"write {names}") from None
    if unknown := [name for _, name in parts if name is not None and name not in values]:
        raise UserError(f"{option} knows no {{{unknown[0]}}}", hint=f"it knows {names}")
    name = "".join(text + (values[name] if name else "") for text, name in parts)
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise UserError(f"{option}: {name!r} is no name of a file", hint="name the folder with -o")
    return name


def split_settings(max_size: str | None, max_tensors: int | None, keep: bool = False) -> Split:
    """How files are cut. Raises ``UserError`` for contradictions and for what is no size."""
    from hubquant.gguf_file import Split

    if keep and (max_size is not None or max_tensors):
        raise UserError("--keep-split contradicts --split-max-size and --split-max-tensors", hint="give one of them")
    return Split(None if max_size is None else parse_size(max_size, "--split-max-size"), max_tensors)


def use_threads(n: int | None) -> None:
    """In this process, for everything that is computed."""
    if n is not None:
        import torch

        torch.set_num_threads(n)


def precision(margin: float | None, confidence: float) -> Precision | None:
    """What is asked of a measurement; None where it has no ``margin``. Raises ``UserError``."""
    if margin is None:
        return None
    if not 0 < margin < 1:
        raise UserError(f"{margin:g} is no margin", why="it is a share of what is measured", hint="write --margin 0.05")
    from hubquant.evaluate import Precision

    return Precision(confidence, margin)


def parse_shard(text: str) -> tuple[int, int]:
    """ "2/4" is the second of four."""
    match = _SHARD.fullmatch(text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"{text!r} is not a shard", hint="write --shard 2/4 for the second of four")
    return int(match[1]), int(match[2])


def parse_max_memory(pairs: Sequence[str]) -> dict[str, str]:
    """ "cpu=12GiB" by device, as transformers has it."""
    parsed = [re.fullmatch(r"(cpu|\d+)=(\d+(?:\.\d+)?\s*[KMGT]i?B)", pair, re.IGNORECASE) for pair in pairs]
    if None in parsed:
        raise UserError(f"{pairs[parsed.index(None)]!r} is no memory limit", hint="write --max-memory cpu=12GiB")
    return {match[1].lower(): match[2].replace(" ", "") for match in parsed if match}


def parse_age(text: str, example: str = "--older 30d") -> float:
    """Seconds of "30d" or "12h"."""
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise UserError(f"{text!r} is no age", hint=f"write {example}: s, m, h, d or w for seconds to weeks")
    return float(match[1]) * _SECONDS[match[2]]
