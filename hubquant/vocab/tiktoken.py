"""Ranks of byte sequences (tiktoken.model) as the tokenizer.json that they stand for."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from hubquant.errors import TokenizerError
from hubquant.vocab.bpe import MAX_TOKENS
from hubquant.vocab.files import Files, check_size
from hubquant.vocab.letters import written

FILE = "tiktoken.model"
_KIMI = "tokenization_kimi."  # the module that config files name, in which Kimi's regex stands


def pre_tokenizer_of(files: Files) -> str:
    """llama.cpp's name for the regex, which stands in the model's code alone. ``TokenizerError`` where it is not
    Kimi's."""
    named = (files.tokenizer_config.model_extra or {}).get("auto_map")
    classes = named.get("AutoTokenizer") if isinstance(named, dict) else None
    if any(str(name).startswith(_KIMI) for name in (classes if isinstance(classes, list) else [classes])):
        return "kimi-k2"
    raise TokenizerError(
        f"{FILE} does not tell how text is split",
        why="the regex stands in the model's own code, which never runs here",
        hint="add --pre-tokenizer NAME, by llama.cpp's name for it",
    )


def tokenizer_json(files: Files) -> dict[str, Any]:
    """With merges for what two shorter sequences make, and Kimi's names for embeddings without a token."""
    ranks = _read(files.folder / FILE)
    named = {int(id) for id in files.tokenizer_config.added_tokens_decoder or {}}
    reserved = (id for id in range(len(ranks), files.facts.rows or 0) if id not in named)
    return {
        "model": {
            "type": "BPE",
            "vocab": {written(token): rank for token, rank in ranks.items()},
            "merges": [[written(half) for half in halves] for halves in _merges(ranks)],
        },
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        "added_tokens": [{"id": id, "content": f"<|reserved_token_{id}|>", "special": True} for id in reserved],
    }


def _read(path: Path) -> dict[bytes, int]:
    """Rank by byte sequence, from lines of base64 and a number. ``TokenizerError`` for any other file."""
    check_size(path)
    try:
        lines = [line.split() for line in path.read_bytes().splitlines() if line]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
    except (OSError, ValueError, binascii.Error) as error:
        raise TokenizerError(f"{path.name} cannot be read", why=str(error).splitlines()[0]) from error
    if len(ranks) > MAX_TOKENS or sorted(ranks.values()) != [*range(len(ranks))] or b"" in ranks:
        raise TokenizerError(f"{path.name} cannot be read", why="its ranks are not those of so many byte sequences")
    return ranks


def _merges(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """In the order of ranks; a sequence that no two others make by merges of lower rank has none."""
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            lowest, at = min((ranks.get(left + right, rank), i) for i, (left, right) in enumerate(pairwise(parts)))
            if lowest >= rank:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            yield parts[0], parts[1]
