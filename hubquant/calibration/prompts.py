"""Prompts: what a diffusion model is asked to draw."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from itertools import cycle, islice

from hubquant.calibration.sources import documents, is_one_text
from hubquant.errors import CalibrationError
from hubquant.recipe.pictures import Pictures, PromptSource
from hubquant.recipe.schema import TextSource

COMMENT = "#"
BYTE_ORDER_MARK = "\ufeff"


def read_prompts(settings: Pictures) -> tuple[str, ...]:
    """A prompt for each of ``settings.count`` pictures. The sources take turns; no more of one is read than is needed.

    When all are at their end, they begin again. Raises ``CalibrationError`` for what cannot be read, and for a source
    without any prompt.
    """
    found = tuple(islice(_in_turns([_prompts(source) for source in settings.prompts]), settings.count))
    return tuple(islice(cycle(found), settings.count))


def _in_turns(sources: list[Iterator[str]]) -> Iterator[str]:
    while sources:
        for source in list(sources):
            if (prompt := next(source, None)) is None:
                sources.remove(source)
            else:
                yield prompt


def _prompts(source: PromptSource) -> Iterator[str]:
    text = _as_text_source(source)
    is_empty = True
    for prompt in _lines(text) if is_one_text(text) else _rows(text):
        is_empty = False
        yield prompt
    if is_empty:
        raise CalibrationError(
            f"{source.display_name} holds no prompts",
            why="whatever is there is empty or a comment",
            hint='write one prompt on each line, or rows such as {"prompt": "a lighthouse at dusk"}',
        )


def _as_text_source(source: PromptSource) -> TextSource:
    file = source.file
    if source.bundled:
        file = str(resources.files("hubquant").joinpath(f"data/prompts/{source.bundled}.txt"))
    shared = source.model_dump(include={"dataset", "config", "split", "revision", "field"})
    return TextSource.model_construct(file=file, **shared)  # validated before, and braces in names mean nothing here


def _lines(source: TextSource) -> Iterator[str]:
    for text in documents(source, seed=0):
        for line in str(text).removeprefix(BYTE_ORDER_MARK).splitlines():
            prompt = line.strip()
            if prompt and not prompt.startswith(COMMENT):
                yield prompt


def _rows(source: TextSource) -> Iterator[str]:
    for number, row in enumerate(documents(source, seed=0), start=1):
        if not isinstance(row, str):
            raise CalibrationError(
                f"row {number:,} of {source.display_name} holds no prompt",
                why=f"{source.field!r} is a conversation",
                hint="set the source's field to one that holds a text",
            )
        if prompt := row.strip():
            yield prompt
