"""Compare a vocabulary, as a file will hold it, in llama.cpp with the tokenizer it was read from."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gguf import Keys, TokenType

from hubquant.convert.vocab import Vocabulary, known_differences
from hubquant.errors import TokenizerError
from hubquant.evaluate.llama_process import NOT_INSTALLED, LlamaCppFailure, ask, is_installed
from hubquant.evaluate.texts import TEXTS
from hubquant.gguf_file import GGUFWriter, Metadata, TensorEntry, plan_layout
from hubquant.gguf_file.metadata import f32, string, u32

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPECIAL = "special tokens"
MOST_SPECIALS = 256
WIDTH = 32


@dataclass(frozen=True)
class VocabularyCheck:
    """``skipped`` tells why nothing was compared. ``differing`` names those of the ``n_texts`` texts that llama.cpp is
    known to split otherwise for such tokenizers, and did. ``left_out`` are tokens that transformers puts around a text
    and llama.cpp cannot, ``put_before`` is one that llama.cpp puts before every text and transformers does not."""

    skipped: str | None = None
    n_texts: int = 0
    differing: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    put_before: str | None = None

    def __str__(self) -> str:
        if self.skipped:
            return f"not compared with llama.cpp: {self.skipped}"
        same = f"{self.n_texts - len(self.differing)} of {self.n_texts}" if self.differing else f"{self.n_texts}"
        return f"same tokens in llama.cpp for {same} texts"

    @property
    def note(self) -> str | None:
        """What the user should know of."""
        if self.skipped:
            return f"the tokenizer is {self}"
        notes = []
        if self.differing:
            notes.append(f"is known to split some text otherwise than this tokenizer: {', '.join(self.differing)}")
        if self.left_out:
            notes.append(f"does not put {' '.join(self.left_out)} around a text: prompts must hold them")
        if self.put_before:
            notes.append(f"puts {self.put_before} before every text, as this tokenizer does not")
        return f"llama.cpp {', and '.join(notes)}" if notes else None


def check_vocabulary(
    vocabulary: Vocabulary,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str = "model",
    texts: Mapping[str, str] = TEXTS,
    timeout: float = 120.0,
) -> VocabularyCheck:
    """Raises ``TokenizerError`` with the first difference, or when llama.cpp does not load the vocabulary.

    ``name`` is the file's general.name, which llama.cpp looks at. The tokens of special texts are matched as well.
    """
    if not is_installed():
        return VocabularyCheck(skipped=NOT_INSTALLED)
    compared = {**texts, SPECIAL: _specials(vocabulary)}
    with tempfile.TemporaryDirectory(prefix="hubquant-") as folder:
        path = write_vocabulary(Path(folder) / "vocabulary.gguf", vocabulary.metadata(), name)
        request = {
            "path": str(path),
            "texts": list(compared.values()),
            "parse_special": True,
            "prompts": [],
            "plain_token": 0,
            "n_probs": 0,
            "n_ctx": 64,
            "threads": 1,
        }
        try:
            found: Sequence[list[int]] = ask(request, timeout)["ids"]
        except LlamaCppFailure as failure:
            raise TokenizerError(
                "llama.cpp cannot use the tokenizer as it would be written",
                why=str(failure),
                hint="report it with the name of the model",
            ) from None
    tolerated = known_differences(vocabulary)
    differing = []
    around: list[int] = tokenizer("")["input_ids"]
    left_out = around if len(around) > 1 and not (vocabulary.add_bos or vocabulary.add_eos) else []
    # llama.cpp insists on it for Gemma 4.
    forced = [vocabulary.specials["bos"]] if vocabulary.model == "gemma4" else []
    put_before = forced if around[:1] != forced else []
    for (kind, text), ids in zip(compared.items(), found, strict=True):
        expected = [*put_before, *tokenizer(text, add_special_tokens=not left_out)["input_ids"]]
        if ids == expected:
            continue
        if kind not in tolerated:
            raise _difference(kind, ids, expected, vocabulary, tokenizer)
        differing.append(kind)
    return VocabularyCheck(
        n_texts=len(compared),
        differing=tuple(differing),
        left_out=tuple(vocabulary.tokens[id] for id in left_out),
        put_before=vocabulary.tokens[put_before[0]] if put_before else None,
    )


def write_vocabulary(path: Path, vocabulary: Metadata, name: str = "model") -> Path:
    """The smallest model that llama.cpp loads, without meaning, around the vocabulary's keys."""
    tokens = vocabulary[Keys.Tokenizer.LIST].value
    n_vocab = len(tokens) if isinstance(tokens, tuple) else 0
    metadata: Metadata = {
        "general.architecture": string("llama"),
        "general.name": string(name),
        "general.file_type": u32(0),
        "llama.block_count": u32(1),
        "llama.context_length": u32(64),
        "llama.embedding_length": u32(WIDTH),
        "llama.feed_forward_length": u32(WIDTH),
        "llama.attention.head_count": u32(1),
        "llama.attention.head_count_kv": u32(1),
        "llama.rope.dimension_count": u32(WIDTH),
        "llama.attention.layer_norm_rms_epsilon": f32(1e-5),
        "llama.vocab_size": u32(n_vocab),
        **{key: value for key, value in vocabulary.items() if not key.startswith(Keys.Tokenizer.CHAT_TEMPLATE)},
    }
    matrices = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    entries = [
        TensorEntry("token_embd.weight", (n_vocab, WIDTH), "Q4_0"),
        TensorEntry("output_norm.weight", (WIDTH,), "F32"),
        TensorEntry("blk.0.attn_norm.weight", (WIDTH,), "F32"),
        TensorEntry("blk.0.ffn_norm.weight", (WIDTH,), "F32"),
        *(TensorEntry(f"blk.0.{matrix}.weight", (WIDTH, WIDTH), "F32") for matrix in matrices),
    ]
    with GGUFWriter(path, plan_layout(metadata, entries)) as writer:
        for entry in entries:
            writer.write(entry.name, np.zeros(entry.nbytes, np.uint8))
        return writer.finish()


def first_difference(found: Sequence[int], expected: Sequence[int]) -> int:
    pairs = enumerate(zip(found, expected, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(found), len(expected)))


def _specials(vocabulary: Vocabulary) -> str:
    """Control tokens side by side."""
    found = (text for text, type in zip(vocabulary.tokens, vocabulary.types, strict=True) if type == TokenType.CONTROL)
    return "".join(text for _, text in zip(range(MOST_SPECIALS), found, strict=False))


def _difference(
    kind: str,
    found: Sequence[int],
    expected: Sequence[int],
    vocabulary: Vocabulary,
    tokenizer: PreTrainedTokenizerBase,
) -> TokenizerError:
    at = first_difference(found, expected)

    def tokens(ids: Sequence[int]) -> str:
        return repr([vocabulary.tokens[id] if id < len(vocabulary.tokens) else id for id in ids[at : at + 3]])

    decode: Any = tokenizer.decode
    why = f"token {at} of the text with {kind}, after {decode(expected[max(0, at - 3) : at])!r}, "
    return TokenizerError(
        "the tokenizer gives other tokens in llama.cpp than in transformers",
        why=f"{why}begins {tokens(found)} instead of {tokens(expected)}",
        hint="choose the pre-tokenizer that fits with --pre-tokenizer, and report it with the name of the model"
        if vocabulary.model == "gpt2"
        else "report it with the name of the model",
    )
