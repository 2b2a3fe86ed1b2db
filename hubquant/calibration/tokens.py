"""From documents to token ids, by llama-imatrix's rules."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from hubquant.calibration.chat import ChatTemplate
from hubquant.calibration.sources import Document, documents
from hubquant.errors import CalibrationError
from hubquant.panics import tokenizer_panics
from hubquant.recipe.schema import TextSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")

# Cutting a text changes at most the tokens next to the cut: those of the last word, or of a run of spaces.
_CUT_MARGIN = 64
_CHARACTERS_PER_TOKEN = 6


@dataclass(frozen=True)
class SourceTokens:
    """``complete``: there are no more than these."""

    ids: list[int]
    complete: bool


@dataclass(frozen=True)
class Frame:
    """The ids of the special tokens that a tokenizer puts around a text: [CLS] and [SEP]."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.before) + len(self.after)

    @classmethod
    @tokenizer_panics()
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Frame:
        """Raises ``CalibrationError`` for a tokenizer that changes the tokens between them."""
        plain, framed = (tuple(tokenizer("a", add_special_tokens=special)["input_ids"]) for special in (False, True))
        for begin in range(len(framed) - len(plain) + 1):
            if framed[begin : begin + len(plain)] == plain:
                return cls(framed[:begin], framed[begin + len(plain) :])
        raise CalibrationError(
            "the tokenizer cannot be used for an encoder", why="what it puts around a text changes the text's tokens"
        )


@tokenizer_panics()
def bos_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id that the tokenizer puts before a text, None when it puts none."""
    bos: Any = tokenizer.bos_token_id
    ids = tokenizer("a", add_special_tokens=True)["input_ids"]
    return int(bos) if bos is not None and len(ids) > 1 and ids[0] == bos else None


def tokenize(
    source: TextSource, tokenizer: PreTrainedTokenizerBase, needed: int, seed: int, *, add_special: bool = True
) -> SourceTokens:
    """At least ``needed`` token ids of ``source``, or all of them when it is shorter.

    The documents are tokenized as one text, if ``add_special`` with the tokens that the tokenizer adds; one trailing
    newline is removed. Rows end with a newline each. Special tokens are recognised in rendered conversations, and where
    the source says so. No more of the source is read than ``needed`` takes.
    """
    first, texts = _rendered(source, tokenizer, seed)
    special = source.parse_special or not isinstance(first, str)
    buffer = io.StringIO()
    wanted = needed * _CHARACTERS_PER_TOKEN
    while True:
        exhausted = _fill(buffer, texts, wanted)
        text = buffer.getvalue()
        complete = exhausted and len(text) <= wanted
        ids = encode(tokenizer, text.removesuffix("\n") if complete else text[:wanted], special, add_special)
        if complete:
            return SourceTokens(ids, complete=True)
        if len(ids) - _CUT_MARGIN >= needed:
            return SourceTokens(ids[:-_CUT_MARGIN], complete=False)
        wanted *= 2


def _rendered(
    source: TextSource, tokenizer: PreTrainedTokenizerBase, seed: int
) -> tuple[Document | None, Iterator[str]]:
    """The first document, which tells what the source holds, and the texts of all."""
    iterator = documents(source, seed)
    first = next(iterator, None)

    def texts() -> Iterator[str]:
        template: ChatTemplate | None = None
        for document in iterator if first is None else chain([first], iterator):
            if isinstance(document, str):
                yield document if document.endswith("\n") else document + "\n"
                continue
            try:
                template = template or ChatTemplate(tokenizer)
                yield template(document)
            except CalibrationError as error:
                raise CalibrationError(f"{source.display_name}: {error.what}", why=error.why, hint=error.hint) from None

    return first, texts()


def _fill(buffer: io.StringIO, texts: Iterator[str], wanted: int) -> bool:
    """Append texts until ``buffer`` holds ``wanted`` characters; whether the texts are at their end."""
    while buffer.tell() <= wanted:
        text = next(texts, None)
        if text is None:
            return True
        buffer.write(text)
    return False


@tokenizer_panics()
def count_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """Without special tokens, whose names in the text stand for themselves."""
    settings: dict[str, Any] = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
    return _aside(lambda: len(tokenizer(text, **settings)["input_ids"]))


@tokenizer_panics()
def encode(tokenizer: PreTrainedTokenizerBase, text: str, special: bool, add_special: bool = True) -> list[int]:
    """Token ids, if ``add_special`` with those that the tokenizer adds; with ``special`` the names of special tokens
    stand for these."""
    bos: Any = tokenizer.bos_token
    has_bos = special and bos is not None and text.startswith(bos)

    def encode() -> list[int]:
        encoded = tokenizer(
            text,
            add_special_tokens=add_special and not has_bos,
            split_special_tokens=not special,
            verbose=False,  # transformers would warn that the text is longer than the model's context
        )
        return list(encoded["input_ids"])

    return _aside(encode)


def _aside(action: Callable[[], T]) -> T:
    """In another thread: a signal is not seen while the main one is inside a library."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(action())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=work, daemon=True).start()
    return future.result()
