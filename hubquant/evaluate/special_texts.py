"""Texts with special tokens in them: each added token, and a conversation as the chat template writes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gguf import TokenType

from hubquant.convert.vocab import Vocabulary
from hubquant.errors import CalibrationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPECIAL, CONVERSATION = "special tokens", "a conversation"
MOST_ALONE = 256
_APART = ","
_MESSAGES = (
    {"role": "user", "content": "What is 12 + 30?\n\nAnswer in one word, please."},
    {"role": "assistant", "content": "  Forty-two.\n"},
    {"role": "user", "content": "Thank you!"},
)


def special_texts(vocabulary: Vocabulary) -> dict[str, str]:
    """Every added token by itself: those that are words apart from each other in one text, the others alone."""
    added = added_tokens(vocabulary)
    words = [text for text in added if any(map(str.isalnum, text)) and _APART not in text]
    others = [text for text in added if text not in {*words}][:MOST_ALONE]
    texts = {SPECIAL: _APART.join([*words, ""])} if words else {}
    return texts | {f"the special token {text!r}": text for text in others}


def added_tokens(vocabulary: Vocabulary) -> dict[str, int]:
    """Those that llama.cpp looks for in a text before it splits it, by text."""
    types = (TokenType.CONTROL, TokenType.USER_DEFINED)
    pairs = enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
    return {text: id for id, (text, type) in pairs if type in types and text}


def conversation(tokenizer: PreTrainedTokenizerBase) -> tuple[str | None, str | None]:
    """A conversation of three messages, or of one where a template takes no more; and why there is none."""
    if not tokenizer.chat_template:
        return None, None
    from hubquant.calibration.chat import ChatTemplate

    try:
        template = ChatTemplate(tokenizer)
        try:
            return template(_MESSAGES), None
        except CalibrationError:
            return template(_MESSAGES[:1]), None
    except CalibrationError as error:
        return None, str(error)


def strips(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether white space beside some special token is taken away."""
    return any(token.lstrip or token.rstrip for token in tokenizer.added_tokens_decoder.values())


def tokens_apart(tokenizer: PreTrainedTokenizerBase, added: Mapping[str, int], text: str) -> list[int]:
    """The ids of a text when every part between special tokens is tokenized as if it stood alone, as llama.cpp does.

    transformers may take white space beside special tokens away, or put a space before the first part only.
    """
    longest_first = sorted(added, key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", text) if longest_first else [text]
    ids: list[int] = []
    for part in filter(None, parts):
        ids += [added[part]] if part in added else tokenizer(part, add_special_tokens=False)["input_ids"]
    return ids
