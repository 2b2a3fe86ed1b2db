"""Mistral's tokenizers: tekken.json, byte-level BPE by ranks of tiktoken, and tokenizer.model with a version behind it.

What stands in tekken.json, and what mistral-common adds to older ones, is as in its ``Tekkenizer``.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hubquant.errors import TokenizerError
from hubquant.typed import Typed, read_typed
from hubquant.vocab.files import load_json
from hubquant.vocab.letters import written
from hubquant.vocab.pretokenizers import PLAIN
from hubquant.vocab.structure import TokenizerStep

NAME = "tekken.json"
NO_TEMPLATE = (
    "there is no chat template beside the tokenizer, as Mistral formats messages by code of its own (mistral-common): "
    "llama.cpp needs one for a chat (--chat-template-file)"
)
_SPECIALS = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)
"""Of files that name none."""
_ROLES = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
_VERSION = re.compile(r"tokenizer\.model(?:\.v(\d+)\w*)?")


class _Config(Typed):
    pattern: str
    default_vocab_size: int | None = None
    default_num_special_tokens: int | None = None


class _Token(Typed):
    rank: int
    token_bytes: str


class _Special(Typed):
    rank: int
    token_str: str


class _Tekken(Typed):
    config: _Config
    vocab: list[_Token]
    special_tokens: list[_Special] | None = None


def sentencepiece_file(folder: Path) -> Path | None:
    """tokenizer.model, or that of the highest version that Mistral gave it; None where there is none."""
    found = {path: match for path in folder.glob("tokenizer.model*") if (match := _VERSION.fullmatch(path.name))}
    return min(found, key=lambda path: (found[path][1] is not None, -int(found[path][1] or 0)), default=None)


def read_tekken(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The tokenizer.json that tekken.json at ``path`` stands for, and the special tokens that it names.

    Raises ``TokenizerError`` for a file that is not sound.
    """
    tekken = read_typed(_Tekken, load_json(path), NAME, TokenizerError)
    specials = _specials(tekken)
    size = tekken.config.default_vocab_size or len(tekken.vocab) + len(specials)
    ranks = _ranks(tekken.vocab[: max(0, size - len(specials))])
    texts = {token: written(token) for token in ranks}
    vocab = {texts[token]: rank + len(specials) for token, rank in ranks.items()}
    vocab |= {text: id for id, text in enumerate(specials)}
    added = [{"id": id, "content": text, "special": True} for id, text in enumerate(specials)]
    steps = [TokenizerStep("Split", tekken.config.pattern), PLAIN]
    named = {role: text for role, text in _ROLES.items() if text in specials}
    around: dict[str, Any] = {}
    if bos := named.get("bos_token"):
        around = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": bos}}, {"Sequence": {"id": "A"}}]}
        around["special_tokens"] = {bos: {"ids": [vocab[bos]]}}
    tokenizer = {
        "model": {
            "type": "BPE",
            "vocab": vocab,
            "merges": [[texts[half] for half in pair] for pair in _merges(ranks)],
            "ignore_merges": True,
        },
        "added_tokens": added,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [step.to_json() for step in steps]},
        **({"post_processor": around} if around else {}),
    }
    return tokenizer, named


def _specials(tekken: _Tekken) -> list[str]:
    """The tokens before the others, by id."""
    texts: tuple[str, ...] = _SPECIALS
    if tekken.special_tokens is not None:
        texts = tuple(token.token_str for token in sorted(tekken.special_tokens, key=lambda token: token.rank))
        if sorted(token.rank for token in tekken.special_tokens) != [*range(len(texts))]:
            raise _unsound("the ranks of its special_tokens are not 0, 1, …")
    count = tekken.config.default_num_special_tokens
    count = len(texts) if count is None else count
    if not len(texts) <= count <= 1 << 20 or len({*texts}) < len(texts):
        raise _unsound(f"it has {len(texts)} special_tokens, and default_num_special_tokens is {count}")
    return [*texts, *(f"<SPECIAL_{id}>" for id in range(len(texts), count))]


def _ranks(vocab: list[_Token]) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for rank, token in enumerate(vocab):
        try:
            text = base64.b64decode(token.token_bytes, validate=True)
        except (binascii.Error, ValueError):
            raise _unsound(f"token_bytes of token {rank} is not base64") from None
        if token.rank != rank or not text or ranks.setdefault(text, rank) != rank:
            raise _unsound(
                f"token {rank} of its vocab is {'empty' if not text else 'not in the order of ranks, or twice'}"
            )
    return ranks


def _merges(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """Every way to make a token of two others, the token of lower rank first, as transformers has them."""
    for token in ranks:
        pairs = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        known = [pair for pair in pairs if pair[0] in ranks and pair[1] in ranks]
        yield from sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))


def _unsound(why: str) -> TokenizerError:
    return TokenizerError(f"{NAME} cannot be used", why=why, hint="get it again from where the model comes from")
