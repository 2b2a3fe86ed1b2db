"""Gemma 4's vocabulary: SentencePiece's pieces with merges (GGUF's "gemma4" model), from tokenizer.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gguf import TokenType

from hubquant.errors import TokenizerError
from hubquant.vocab.bpe import lay_out, merge_pairs, token_ids
from hubquant.vocab.files import Files
from hubquant.vocab.special import around, chat_templates, notes, special_ids
from hubquant.vocab.spm import ADDED_SCORE, SPACE, is_byte, space_prefix
from hubquant.vocab.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Shown in generated text, whatever tokenizer.json says: llama.cpp's chat parser reads tool calls and channels by them.
VISIBLE = (
    "<|channel>",
    "<channel|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|tool_response>",
    "<tool_response|>",
    '<|"|>',
)


def is_gemma4(config: Mapping[str, Any]) -> bool:
    """Of a config.json."""
    return str(config.get("model_type")).startswith("gemma4")


def begin_with_bos(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """With <bos> before every text, as llama.cpp insists on for Gemma 4, which its tokenizer.json leaves to the chat
    template."""
    from tokenizers import processors

    bos, id = tokenizer.bos_token, tokenizer.bos_token_id
    if bos is not None and tokenizer("")["input_ids"][:1] != [id]:
        template = processors.TemplateProcessing(f"{bos} $A", f"{bos} $A {bos}:1 $B:1", [(bos, id)])
        backend: Any = tokenizer
        backend.backend_tokenizer.post_processor = template
    return tokenizer


def read_gemma4(files: Files) -> Vocabulary:
    """Raises ``TokenizerError`` for a tokenizer that splits text otherwise than llama.cpp's ``gemma4``."""
    if space_prefix(files.tokenizer):
        raise TokenizerError("the tokenizer puts a space before a text", why="llama.cpp puts none for Gemma 4")
    ids = token_ids(files)
    tokens, types = lay_out(ids, files)
    for id, text in enumerate(tokens):
        if text in VISIBLE:
            types[id] = int(TokenType.USER_DEFINED)
        elif is_byte(text):
            types[id] = int(TokenType.BYTE)
        elif types[id] == TokenType.USER_DEFINED and SPACE in text:
            types[id] = int(TokenType.NORMAL)  # no text holds it before spaces are escaped
    specials = special_ids(files, ids)
    _, add_eos = around(files, specials, default_bos=True)
    if "bos" not in specials:
        raise TokenizerError("the tokenizer has no token that begins a text", why="llama.cpp needs one for Gemma 4")
    pairs = merge_pairs(files.tokenizer["model"])
    if odd := next((pair for pair in pairs if " " in "".join(pair)), None):
        raise TokenizerError("the tokenizer's merges cannot be written", why=f"{odd!r:.60} holds a space")
    return Vocabulary(
        model="gemma4",
        tokens=tuple(tokens),
        types=tuple(types),
        merges=tuple(map(" ".join, pairs)),
        scores=(ADDED_SCORE,) * len(tokens),
        specials=specials,
        add_bos=True,
        add_eos=add_eos,
        chat_templates=chat_templates(files),
        notes=notes(files, ids),
    )
