"""Texts with special tokens in them: each added token, and a conversation as the chat template writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gguf import TokenType

from hubquant.errors import CalibrationError
from hubquant.vocab import Vocabulary

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
    types = (TokenType.CONTROL, TokenType.USER_DEFINED)
    added = [text for text, type in zip(vocabulary.tokens, vocabulary.types, strict=True) if type in types and text]
    words = [text for text in added if any(map(str.isalnum, text)) and _APART not in text]
    others = [text for text in added if text not in {*words}][:MOST_ALONE]
    texts = {SPECIAL: _APART.join([*words, ""])} if words else {}
    return texts | {f"the special token {text!r}": text for text in others}


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
