"""A tokenizer as a GGUF file holds it, and its ``tokenizer.*`` keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from gguf import Keys, TokenType

from hubquant.errors import NotSupportedYet, TokenizerError
from hubquant.gguf_file.metadata import Metadata, boolean, f32s, i32s, string, strings, u8s, u32
from hubquant.vocab.pretokenizers import structure_of
from hubquant.vocab.reader import KeyReader

T = Keys.Tokenizer
_CLS_KEY = "tokenizer.ggml.cls_token_id"
SPECIAL_KEYS: Mapping[str, str] = {
    "bos": T.BOS_ID,
    "eos": T.EOS_ID,
    "unk": T.UNK_ID,
    "sep": T.SEP_ID,
    "pad": T.PAD_ID,
    "mask": T.MASK_ID,
    "eot": T.EOT_ID,
    "eom": T.EOM_ID,
}
# What llama.cpp puts around a text or needs where a file names none.
_ASSUMED: Mapping[str, Mapping[str, int]] = {
    "llama": {"bos": 1, "eos": 2, "unk": 0},
    "bert": {"bos": 101, "unk": 100, "sep": 102},
    "t5": {"eos": 1, "unk": 2},
}
# Not in the gguf package: what llama.cpp does to text before WordPiece.
LOWERCASE_KEY, STRIP_ACCENTS_KEY = "tokenizer.ggml.normalizer.lowercase", "tokenizer.ggml.normalizer.strip_accents"
# Needed to rebuild a tokenizer whose Unicode normal form is not the one that goes with its pre-tokenizer's name.
NORMALIZER_KEY = "hubquant.tokenizer.normalizer"
DEFAULT_TEMPLATE = "default"
VocabularyModel = Literal["gpt2", "llama", "t5", "bert", "gemma4", "plamo2", "rwkv"]
SCORED: tuple[VocabularyModel, ...] = ("llama", "t5", "gemma4", "plamo2")
MERGED: tuple[VocabularyModel, ...] = ("gpt2", "gemma4")


@dataclass(frozen=True)
class Vocabulary:
    """Everything a GGUF file says about its tokenizer.

    ``model`` is "gpt2" (byte-level BPE), "llama" (SentencePiece BPE), "gemma4" (SentencePiece's pieces with merges),
    "t5" (SentencePiece Unigram), "plamo2", "rwkv" (bytes as Python writes them) or "bert" (WordPiece, with ▁ before the
    tokens that begin a word instead of ## before the others). ``types`` are ``gguf.TokenType`` numbers. ``merges``
    belong to "gpt2" and "gemma4", and ``pre``, llama.cpp's pre-tokenizer name, to "gpt2"; ``scores`` to "plamo2" too,
    and with ``add_space_prefix`` to "llama" and "t5"; ``remove_extra_whitespaces`` and ``charsmap``, SentencePiece's
    table of replacements, to "t5";
    ``lowercase`` and
    ``strip_accents`` to "bert". ``specials`` maps bos, eos, unk, sep, pad, mask, eot, eom to ids. ``n_token_types`` is
    the number of the embeddings for parts of a text, 0 when there are none. With ``add_sep`` the texts of a pair have
    two tokens between them. ``chat_templates`` are by name, the usual
    one is "default". ``notes`` say what of the tokenizer it was read from is not in it.
    """

    model: VocabularyModel
    tokens: tuple[str, ...] = field(repr=False)
    types: tuple[int, ...] = field(repr=False)
    merges: tuple[str, ...] = field(default=(), repr=False)
    scores: tuple[float, ...] = field(default=(), repr=False)
    pre: str = "default"
    normalizer: str | None = None
    specials: Mapping[str, int] = field(default_factory=dict)
    add_bos: bool = False
    add_eos: bool = False
    add_sep: bool = False
    add_space_prefix: bool = False
    remove_extra_whitespaces: bool = False
    charsmap: bytes = field(default=b"", repr=False)
    lowercase: bool = False
    strip_accents: bool = False
    n_token_types: int = 0
    chat_templates: Mapping[str, str] = field(default_factory=dict, repr=False)
    strips_as_phi3: bool = field(default=False, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def metadata(self) -> Metadata:
        """The keys of llama.cpp's converter, in its order."""
        keys: Metadata = {T.MODEL: string(self.model)}
        if self.model != "gemma4":  # whose name stands for its pre-tokenizer too
            keys[T.PRE] = string(self.pre)
        keys[T.LIST] = strings(self.tokens)
        if self.model in SCORED:
            keys[T.SCORES] = f32s(self.scores)
        keys[T.TOKEN_TYPE] = i32s(self.types)
        if self.model in MERGED:
            keys[T.MERGES] = strings(self.merges)
        keys |= {SPECIAL_KEYS[role]: u32(id) for role, id in self.specials.items()}
        # Always written: what llama.cpp assumes without them depends on the pre-tokenizer.
        keys |= {T.ADD_BOS: boolean(self.add_bos), T.ADD_EOS: boolean(self.add_eos)}
        if self.add_sep:
            keys[T.ADD_SEP] = boolean(True)
        if self.model in SCORED:
            keys[T.ADD_PREFIX] = boolean(self.add_space_prefix)
        if self.model == "t5":
            keys[T.REMOVE_EXTRA_WS] = boolean(self.remove_extra_whitespaces)
            keys |= {T.PRECOMPILED_CHARSMAP: u8s(self.charsmap)} if self.charsmap else {}
        if self.model == "bert":
            keys |= {
                T.ADD_SEP: boolean(True),
                LOWERCASE_KEY: boolean(self.lowercase),
                STRIP_ACCENTS_KEY: boolean(self.strip_accents),
            }
        if self.n_token_types:
            keys[T.TOKEN_TYPE_COUNT] = u32(self.n_token_types)
        named = {name: text for name, text in self.chat_templates.items() if name != DEFAULT_TEMPLATE}
        keys |= {T.CHAT_TEMPLATE_N.format(name=name): string(text) for name, text in named.items()}
        if named:
            keys[T.CHAT_TEMPLATES] = strings(named)
        if DEFAULT_TEMPLATE in self.chat_templates:
            keys[T.CHAT_TEMPLATE] = string(self.chat_templates[DEFAULT_TEMPLATE])
        if self.model == "gpt2" and self.normalizer != _usual_normalizer(self.pre):
            keys[NORMALIZER_KEY] = string(self.normalizer or "none")
        return keys

    @classmethod
    def from_metadata(cls, metadata: Metadata) -> Vocabulary:
        """Inverse of :meth:`metadata`, for files of any origin. ``TokenizerError`` for a damaged vocabulary."""
        read = KeyReader(metadata)
        found = read.text(T.MODEL)
        model: VocabularyModel | None = next((known for known in get_args(VocabularyModel) if known == found), None)
        if model is None:
            raise NotSupportedYet(
                f"GGUF tokenizers of model {found!r}", hint=f"{', '.join(get_args(VocabularyModel))} can be read"
            )
        tokens = read.texts(T.LIST)
        types = read.numbers(T.TOKEN_TYPE, default=TokenType.NORMAL, length=len(tokens))
        names = read.texts(T.CHAT_TEMPLATES, optional=True)
        templates = {name: read.text(T.CHAT_TEMPLATE_N.format(name=name), "") for name in names}
        templates |= {DEFAULT_TEMPLATE: read.text(T.CHAT_TEMPLATE, "")}
        given = {role: read.number(key) for role, key in SPECIAL_KEYS.items() if key in metadata}
        if model == "bert" and _CLS_KEY in metadata:  # older files have it alone
            given.setdefault("bos", read.number(_CLS_KEY))
        specials = {**_ASSUMED.get(model, {}), **given}
        pre = read.text(T.PRE, "default")
        normalizer = read.text(NORMALIZER_KEY, _usual_normalizer(pre) or "none") if model == "gpt2" else "none"
        lowercase = model == "bert" and read.flag(LOWERCASE_KEY, default=True)
        return cls(
            model=model,
            tokens=tokens,
            types=tuple(int(type) for type in types),
            merges=read.texts(T.MERGES) if model in MERGED else (),
            scores=read.numbers(T.SCORES, default=0.0, length=len(tokens)) if model in SCORED else (),
            pre=pre,
            normalizer=None if normalizer == "none" else normalizer,
            specials={role: id for role, id in specials.items() if 0 <= id < len(tokens)},
            # llama.cpp takes no for an answer from neither.
            add_bos=model in ("gemma4", "bert") or read.flag(T.ADD_BOS, default=_adds_bos(model, pre)),
            add_eos=model == "bert" or read.flag(T.ADD_EOS, default=model == "t5"),
            add_sep=model != "bert" and read.flag(T.ADD_SEP, default=False),
            add_space_prefix=model in SCORED and read.flag(T.ADD_PREFIX, default=model == "llama"),
            remove_extra_whitespaces=model == "t5" and read.flag(T.REMOVE_EXTRA_WS, default=False),
            charsmap=read.bytes(T.PRECOMPILED_CHARSMAP) if model == "t5" else b"",
            lowercase=lowercase,
            strip_accents=model == "bert" and read.flag(STRIP_ACCENTS_KEY, default=lowercase),
            n_token_types=read.number(T.TOKEN_TYPE_COUNT, 0),
            chat_templates={name: text for name, text in templates.items() if text},
        )


def with_pre_tokenizer(metadata: Metadata, name: str) -> Metadata:
    """The metadata of a file with another pre-tokenizer. ``TokenizerError`` for one that is not known, or where there
    is none."""
    structure_of(name)
    if T.MODEL not in metadata or metadata[T.MODEL].value != "gpt2":
        raise no_pre_tokenizer(name)
    return {key: kv for key, kv in metadata.items() if key != NORMALIZER_KEY} | {T.PRE: string(name)}


def no_pre_tokenizer(name: str) -> TokenizerError:
    return TokenizerError(
        f"the tokenizer cannot have the pre-tokenizer {name!r}",
        why="it is not byte-level BPE, and llama.cpp has pre-tokenizers for that only",
        hint="leave --pre-tokenizer out",
    )


def _usual_normalizer(pre: str) -> str | None:
    try:
        return structure_of(pre).normalizer
    except TokenizerError:
        return None


def _adds_bos(model: VocabularyModel, pre: str) -> bool:
    """What llama.cpp assumes of files without ``add_bos_token``."""
    if model != "gpt2":
        return model not in ("t5", "plamo2", "rwkv")
    try:
        return structure_of(pre).ignore_merges and pre != "minicpm5"
    except TokenizerError:
        return False
