"""Compare a vocabulary, as a file will hold it, in llama.cpp with the tokenizer it was read from."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gguf import Keys, TokenType

from hubquant.errors import OtherTokensError, TokenizerError
from hubquant.gguf_file import GGUFWriter, Metadata, TensorEntry, plan_layout
from hubquant.gguf_file.metadata import f32, string, u32
from hubquant.llamacpp.process import HOW_TO_ADD, NOT_INSTALLED, LlamaCppFailure, ask, is_installed
from hubquant.llamacpp.special_texts import (
    CONVERSATION,
    conversation,
    special_texts,
    strips,
)
from hubquant.llamacpp.texts import TEXTS
from hubquant.panics import tokenizer_panics
from hubquant.vocab import Vocabulary, build_tokenizer, known_differences
from hubquant.vocab.phi3 import PHI3_TOKENS, is_phi3

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WIDTH = 32


@dataclass(frozen=True)
class VocabularyCheck:
    """``skipped`` tells why nothing was compared. ``differing`` names those of the ``n_texts`` texts that llama.cpp is
    known to split otherwise for such tokenizers, and did; ``beside_special`` those where it differs only in the white
    space beside special tokens. ``left_out`` are tokens that transformers puts around a text and llama.cpp cannot.
    ``not_rendered`` tells why there was no conversation although there is a chat template. ``others`` tells where
    llama.cpp gives other tokens, of a model that other programs run."""

    skipped: str | None = None
    n_texts: int = 0
    differing: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    beside_special: tuple[str, ...] = ()
    not_rendered: str | None = None
    others: str | None = None

    def __str__(self) -> str:
        if self.others:
            return "other tokens in llama.cpp"
        if self.skipped:
            return f"not compared with llama.cpp: {self.skipped}"
        others = len(self.differing) + len(self.beside_special)
        same = f"{self.n_texts - others} of {self.n_texts}" if others else f"{self.n_texts}"
        return f"same tokens in llama.cpp for {same} texts"

    @property
    def note(self) -> str | None:
        """What the user should know of."""
        if self.skipped:
            return f"the tokenizer is {self}; {HOW_TO_ADD}"
        if self.others:
            return f"{self.others}; programs that draw with a text encoder do not tokenize with llama.cpp"
        notes = []
        if self.differing:
            notes.append(f"is known to split some text otherwise than this tokenizer: {', '.join(self.differing)}")
        if self.left_out:
            notes.append(f"does not put {' '.join(self.left_out)} around a text: prompts must hold them")
        if self.beside_special:
            where = ", ".join(self.beside_special)
            notes.append(f"keeps or adds white space beside special tokens where this tokenizer does not, in {where}")
        found = [f"llama.cpp {', and '.join(notes)}"] if notes else []
        if self.not_rendered:
            found.append(f"the chat template was not compared: {self.not_rendered}")
        return "; ".join(found) or None


@tokenizer_panics()
def check_vocabulary(
    vocabulary: Vocabulary,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str = "model",
    texts: Mapping[str, str] = TEXTS,
    timeout: float = 120.0,
) -> VocabularyCheck:
    """Raises ``TokenizerError`` with the first difference, or when llama.cpp does not load the vocabulary.

    ``name`` is the file's general.name, which llama.cpp looks at. Every added token is compared as well, and where
    there is a chat template a conversation; that one must not need tokens which the vocabulary lacks.
    """
    _check_ids(vocabulary, tokenizer)
    chat, not_rendered = conversation(tokenizer)
    chats = {} if chat is None else {CONVERSATION: chat}
    for text in chats.values():
        _check_tokens(vocabulary, tokenizer, text)
    if not is_installed():
        return VocabularyCheck(skipped=NOT_INSTALLED)
    compared = {**texts, **special_texts(vocabulary), **chats}
    found = _ids_in_llama_cpp(vocabulary, name, list(compared.values()), timeout)
    tolerated = known_differences(vocabulary)
    spaces_differ = vocabulary.add_space_prefix or strips(tokenizer)
    around: list[int] = tokenizer("")["input_ids"]
    left_out = around if len(around) > 1 and not (vocabulary.add_bos or vocabulary.add_eos) else []
    differing, beside = [], []
    for (kind, text), ids in zip(compared.items(), found, strict=True):
        expected: list[int] = tokenizer(text, add_special_tokens=not left_out, verbose=False)["input_ids"]
        if ids == expected:
            continue
        if kind in tolerated or _in_bytes(vocabulary, expected):
            differing.append(kind)
        elif spaces_differ and kind not in texts and ids == build_tokenizer(vocabulary)(text)["input_ids"]:
            beside.append(kind)  # what is built from the file treats white space beside special tokens as llama.cpp
        else:
            raise _difference(kind, ids, expected, vocabulary, tokenizer)
    return VocabularyCheck(
        n_texts=len(compared),
        differing=tuple(differing),
        left_out=tuple(vocabulary.tokens[id] for id in left_out),
        beside_special=tuple(beside),
        not_rendered=not_rendered,
    )


def _in_bytes(vocabulary: Vocabulary, ids: Sequence[int]) -> bool:
    """Whether some of a text is written in bytes, where llama.cpp writes one unknown token."""
    return vocabulary.model == "t5" and any(vocabulary.types[id] == TokenType.BYTE for id in ids)


def _check_ids(vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerBase) -> None:
    """transformers numbers added tokens without gaps, whatever their files say."""
    ids = {text: id for id, text in enumerate(vocabulary.tokens)}
    for text, id in tokenizer.get_added_vocab().items():
        if ids.get(text, id) != id:
            raise TokenizerError(
                f"added token {text} is {ids[text]} in the tokenizer's files, and transformers makes it {id}",
                why="it numbers added tokens one after another, and the files leave numbers out",
                hint=f"if the model was trained with {ids[text]}, name the numbers between in added_tokens of "
                "tokenizer.json, such as <unused1>",
            )


def _ids_in_llama_cpp(vocabulary: Vocabulary, name: str, texts: list[str], timeout: float) -> Sequence[list[int]]:
    with tempfile.TemporaryDirectory(prefix="hubquant-") as folder:
        path = write_vocabulary(Path(folder) / "vocabulary.gguf", vocabulary.metadata(), name)
        request = {
            "path": str(path),
            "texts": texts,
            "parse_special": True,
            "prompts": [],
            "plain_token": 0,
            "n_probs": 0,
            "n_ctx": 64,
            "threads": 1,
        }
        try:
            ids: Sequence[list[int]] = ask(request, timeout)["ids"]
        except LlamaCppFailure as failure:
            raise _not_loaded(str(failure), name, vocabulary) from None
    return ids


def _not_loaded(why: str, name: str, vocabulary: Vocabulary) -> TokenizerError:
    if is_phi3(name) and not {*PHI3_TOKENS} <= {*vocabulary.tokens}:
        return TokenizerError(
            "llama.cpp cannot load a model of this name",
            why=f"its general.name, {name[:80]!r}, holds Phi-3's, whose tokens {' '.join(PHI3_TOKENS)} it then needs",
            hint="give the file another name: gguf-new-metadata OLD.gguf NEW.gguf --general-name NAME",
        )
    return TokenizerError(
        "llama.cpp cannot use the tokenizer as it would be written",
        why=why,
        hint="report it with the name of the model",
    )


def _check_tokens(vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    n = len(vocabulary.tokens)
    lost = dict.fromkeys(id for id in ids if id >= n)
    if lost:
        texts = " ".join(str(tokenizer.convert_ids_to_tokens(id)) for id in [*lost][:5])
        raise TokenizerError(
            f"the chat template needs tokens that the model has no embedding for: {texts}",
            why=f"the model has {n} rows",
            hint="resize the model's embeddings and train it, or take the tokenizer files of the model that it was "
            "made from",
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
    return OtherTokensError(
        "the tokenizer gives other tokens in llama.cpp than in transformers",
        why=f"{why}begins {tokens(found)} instead of {tokens(expected)}",
        hint="choose the pre-tokenizer that fits with --pre-tokenizer, and report it with the name of the model"
        if vocabulary.model == "gpt2"
        else "report it with the name of the model",
    )
