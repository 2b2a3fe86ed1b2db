"""A tokenizer as a GGUF file holds it, and its ``tokenizer.*`` keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from gguf import Keys, TokenType

from hubquant.convert.vocab.pretokenizers import structure_of
from hubquant.errors import NotSupportedYet, TokenizerError
from hubquant.gguf_file.metadata import KV, Metadata, boolean, f32s, i32s, string, strings, u32

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

T = Keys.Tokenizer
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
# Needed to rebuild a tokenizer whose Unicode normal form is not the one that goes with its pre-tokenizer's name.
NORMALIZER_KEY = "hubquant.tokenizer.normalizer"
DEFAULT_TEMPLATE = "default"
_DAMAGED = "the file's vocabulary cannot be read"


@dataclass(frozen=True)
class Vocabulary:
    """Everything a GGUF file says about its tokenizer.

    ``model`` is "gpt2" (byte-level BPE) or "llama" (SentencePiece BPE). ``types`` are ``gguf.TokenType`` numbers.
    ``merges`` and ``pre``, llama.cpp's pre-tokenizer name, belong to "gpt2"; ``scores`` and ``add_space_prefix`` to
    "llama". ``specials`` maps bos, eos, unk, sep, pad, mask, eot, eom to ids. ``chat_templates`` are by name, the usual
    one is "default".
    """

    model: Literal["gpt2", "llama"]
    tokens: tuple[str, ...] = field(repr=False)
    types: tuple[int, ...] = field(repr=False)
    merges: tuple[str, ...] = field(default=(), repr=False)
    scores: tuple[float, ...] = field(default=(), repr=False)
    pre: str = "default"
    normalizer: str | None = None
    specials: Mapping[str, int] = field(default_factory=dict)
    add_bos: bool = False
    add_eos: bool = False
    add_space_prefix: bool = False
    chat_templates: Mapping[str, str] = field(default_factory=dict, repr=False)

    def metadata(self) -> Metadata:
        """The keys of llama.cpp's converter, in its order."""
        keys: Metadata = {T.MODEL: string(self.model), T.PRE: string(self.pre), T.LIST: strings(self.tokens)}
        if self.model == "llama":
            keys[T.SCORES] = f32s(self.scores)
        keys[T.TOKEN_TYPE] = i32s(self.types)
        if self.model == "gpt2":
            keys[T.MERGES] = strings(self.merges)
        keys |= {SPECIAL_KEYS[role]: u32(id) for role, id in self.specials.items()}
        # Always written: what llama.cpp assumes without them depends on the pre-tokenizer.
        keys |= {T.ADD_BOS: boolean(self.add_bos), T.ADD_EOS: boolean(self.add_eos)}
        if self.model == "llama":
            keys[T.ADD_PREFIX] = boolean(self.add_space_prefix)
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
        read = _Reader(metadata)
        model = read.text(T.MODEL)
        if model not in ("gpt2", "llama"):
            raise NotSupportedYet(f"GGUF tokenizers of model {model!r}", hint="gpt2 and llama can be read")
        tokens = read.texts(T.LIST)
        types = read.numbers(T.TOKEN_TYPE, default=TokenType.NORMAL, length=len(tokens))
        names = read.texts(T.CHAT_TEMPLATES, optional=True)
        templates = {name: read.text(T.CHAT_TEMPLATE_N.format(name=name), "") for name in names}
        templates |= {DEFAULT_TEMPLATE: read.text(T.CHAT_TEMPLATE, "")}
        specials = {role: read.number(key) for role, key in SPECIAL_KEYS.items() if key in metadata}
        pre = read.text(T.PRE, "default")
        normalizer = read.text(NORMALIZER_KEY, _usual_normalizer(pre) or "none") if model == "gpt2" else "none"
        return cls(
            model="gpt2" if model == "gpt2" else "llama",
            tokens=tokens,
            types=tuple(int(type) for type in types),
            merges=read.texts(T.MERGES) if model == "gpt2" else (),
            scores=read.numbers(T.SCORES, default=0.0, length=len(tokens)) if model == "llama" else (),
            pre=pre,
            normalizer=None if normalizer == "none" else normalizer,
            specials={role: id for role, id in specials.items() if 0 <= id < len(tokens)},
            add_bos=read.flag(T.ADD_BOS, default=model == "llama" or _adds_bos(pre)),
            add_eos=read.flag(T.ADD_EOS, default=False),
            add_space_prefix=model == "llama" and read.flag(T.ADD_PREFIX, default=True),
            chat_templates={name: text for name, text in templates.items() if text},
        )

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The transformers tokenizer that gives the ids of the one this was read from."""
        from hubquant.convert.vocab.rebuild import build_tokenizer

        return build_tokenizer(self)


def _usual_normalizer(pre: str) -> str | None:
    try:
        return structure_of(pre).normalizer
    except TokenizerError:
        return None


def _adds_bos(pre: str) -> bool:
    """What llama.cpp assumes of files without ``add_bos_token``."""
    try:
        return structure_of(pre).ignore_merges and pre != "minicpm5"
    except TokenizerError:
        return False


@dataclass(frozen=True)
class _Reader:
    metadata: Metadata

    def kv(self, key: str) -> KV | None:
        return self.metadata.get(key)

    def text(self, key: str, default: str | None = None) -> str:
        return str(self._scalar(key, str, default))

    def number(self, key: str) -> int:
        return int(self._scalar(key, int, None))

    def flag(self, key: str, *, default: bool) -> bool:
        return bool(self._scalar(key, bool, default))

    def texts(self, key: str, *, optional: bool = False) -> tuple[str, ...]:
        kv = self.kv(key)
        if kv is None and optional:
            return ()
        if kv is None or not isinstance(kv.value, tuple) or not all(isinstance(item, str) for item in kv.value):
            raise TokenizerError(_DAMAGED, why=f"{key} is missing or not a list of strings")
        return tuple(str(item) for item in kv.value)

    def numbers(self, key: str, *, default: float, length: int) -> tuple[float, ...]:
        kv = self.kv(key)
        if kv is None:
            return (default,) * length
        if not isinstance(kv.value, tuple) or len(kv.value) != length:
            raise TokenizerError(_DAMAGED, why=f"{key} does not have {length} numbers")
        return tuple(item if isinstance(item, int | float) else default for item in kv.value)

    def _scalar(self, key: str, type: type[Any], default: Any) -> Any:
        value = default if key not in self.metadata else self.metadata[key].value
        if not isinstance(value, type):
            raise TokenizerError(_DAMAGED, why=f"{key} is missing or of another type")
        return value
