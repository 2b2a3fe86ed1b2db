"""The files of a tokenizer's folder, and the tokens that they add to its vocabulary."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, RootModel

from hubquant.errors import TokenizerError
from hubquant.typed import Kind, Typed, read_typed

MAX_FILE_BYTES = 1 << 28
ROLES = ("bos", "eos", "unk", "sep", "pad", "mask")
# What llama.cpp's converter takes for control tokens although Command-R, DeepSeek-Coder and Gemma do not mark them so.
_LOOKS_SPECIAL = re.compile(r"<\|.*\|>|<｜.*｜>|<unused.*>|<pad>|<mask>|<2mass>|\[@BOS@\]", re.DOTALL)


class _Token(Typed):
    content: str
    special: bool = False
    rstrip: bool = False


class _AddedToken(_Token):
    id: Annotated[int, Field(ge=0)]


_Named = str | _Token


class _Template(Typed):
    name: str
    template: str


_Templates = str | list[_Template] | dict[str, str | None] | None


class TokenizerConfig(Typed):
    """tokenizer_config.json, or special_tokens_map.json, which has the tokens only."""

    model_config = ConfigDict(extra="allow")

    bos_token: _Named | None = None
    eos_token: _Named | None = None
    unk_token: _Named | None = None
    sep_token: _Named | None = None
    pad_token: _Named | None = None
    cls_token: _Named | None = None
    mask_token: _Named | None = None
    additional_special_tokens: list[_Named] | None = None
    extra_special_tokens: list[_Named] | dict[str, _Named] | None = None
    added_tokens_decoder: dict[Annotated[str, Field(pattern=r"^[0-9]+$")], _Token] | None = None
    add_bos_token: bool | None = None
    add_eos_token: bool | None = None
    model_max_length: float | None = None
    chat_template: _Templates = None

    def named(self) -> dict[str, str]:
        """Texts of bos, eos, … by role."""
        entries = {role: getattr(self, f"{role}_token") for role in (*ROLES, "cls")}
        return {role: _text(entry) for role, entry in entries.items() if entry is not None and _text(entry)}

    def further(self) -> Iterator[str]:
        """Other special tokens: those that only some models have, such as image_token, and those without a name."""
        for key, value in (self.model_extra or {}).items():
            if key.endswith("_token") and isinstance(value, str) and value:
                yield value
        more = self.extra_special_tokens or self.additional_special_tokens or []
        yield from map(_text, more.values() if isinstance(more, dict) else more)


class _ChatTemplate(Typed):
    chat_template: _Templates = None


class _AddedJson(RootModel[dict[str, Annotated[int, Field(ge=0)]]]):
    model_config = ConfigDict(strict=True)


class _Ids(Typed):
    """The tokens by number that config.json and generation_config.json name."""

    bos_token_id: int | list[int] | None = None
    eos_token_id: int | list[int] | None = None
    unk_token_id: int | list[int] | None = None
    sep_token_id: int | list[int] | None = None
    pad_token_id: int | list[int] | None = None
    mask_token_id: int | list[int] | None = None

    def of(self, role: str) -> list[int]:
        ids = getattr(self, f"{role}_token_id")
        return ids if isinstance(ids, list) else [] if ids is None else [ids]


class _Config(_Ids):
    text_config: _Ids | None = None


class _Special(Typed):
    id: str


class _Piece(Typed):
    special: _Special | None = Field(None, alias="SpecialToken")
    sequence: dict[str, Any] | None = Field(None, alias="Sequence")


class _Known(Typed):
    ids: list[int]


class Processor(Typed):
    """What is put around a text: one of tokenizer.json's post-processors, whatever its type."""

    type: str | None = None
    processors: list[Processor] = Field(default_factory=list)
    single: list[_Piece] = Field(default_factory=list)
    pair: list[_Piece] = Field(default_factory=list)
    special_tokens: dict[str, _Known] = Field(default_factory=dict)
    cls: Annotated[list[str | int], Field(min_length=2, max_length=2)] | None = None
    sep: Annotated[list[str | int], Field(min_length=2, max_length=2)] | None = None


class _Step(Typed):
    """A normalizer or pre-tokenizer of tokenizer.json, whatever its type."""

    type: str | None = None
    normalizers: list[_Step] = Field(default_factory=list)
    pretokenizers: list[_Step] = Field(default_factory=list)
    pattern: dict[str, str] | None = None
    precompiled_charsmap: str | None = None


class _Model(Typed):
    type: str | None = None
    unk_token: str | None = None
    unk_id: int | None = None
    byte_fallback: bool | None = None
    ignore_merges: bool | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None
    dropout: float | None = None


class _Tokenizer(Typed):
    """tokenizer.json but for its vocabulary and merges, which are checked where they are read."""

    model: _Model | None = None
    added_tokens: list[_AddedToken] | None = None
    normalizer: _Step | None = None
    pre_tokenizer: _Step | None = None
    post_processor: Processor | None = None


@dataclass(frozen=True)
class AddedToken:
    """A token that is matched in the text before anything else; with ``rstrip`` the white space after it is dropped."""

    id: int
    content: str
    special: bool
    rstrip: bool = False


@dataclass(frozen=True)
class ModelFacts:
    """What is known of the model that a tokenizer is for.

    ``architecture`` is llama.cpp's name. ``rows`` are those of its embedding, which may be more than there are tokens;
    without it there are as many. ``n_token_types`` are the embeddings for the parts of a text, as BERT has them.
    ``ids`` are the defaults of its config class for bos, eos, …, which count where no file names a token.
    """

    architecture: str = ""
    rows: int | None = None
    n_token_types: int = 0
    ids: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Files:
    """The files of a tokenizer's folder with the types they must have; what is missing is empty."""

    folder: Path
    tokenizer: Mapping[str, Any]
    post_processor: Processor | None
    tokenizer_config: TokenizerConfig
    special_tokens_map: TokenizerConfig
    generation_config: _Ids
    config: _Config
    chat_template_json: _Templates
    added_tokens: tuple[AddedToken, ...]
    facts: ModelFacts

    @classmethod
    def read(
        cls,
        folder: Path,
        config: Mapping[str, Any],
        facts: ModelFacts,
        *,
        tokenizer: Mapping[str, Any] | None = None,
        named: Mapping[str, str] | None = None,
    ) -> Files:
        """``config`` is config.json's content. ``tokenizer`` stands for tokenizer.json, and ``named`` are special
        tokens that tokenizer_config.json may leave out.

        Raises ``TokenizerError`` for files that are not JSON objects and for values of other types.
        """
        tokenizer = load_json(folder / "tokenizer.json") if tokenizer is None else tokenizer
        typed = read_typed(_Tokenizer, tokenizer, "tokenizer.json", TokenizerError)
        settings = _typed(TokenizerConfig, folder / "tokenizer_config.json", named)
        legacy = settings.added_tokens_decoder is None
        map = _typed(TokenizerConfig, folder / "special_tokens_map.json") if legacy else TokenizerConfig()
        added = {token.id: token for token in typed.added_tokens or []}
        for number, entry in (settings.added_tokens_decoder or {}).items():
            added.setdefault(int(number), _AddedToken(**entry.model_dump(), id=int(number)))
        if legacy or not tokenizer:
            marked = {*settings.named().values(), *settings.further(), *map.named().values(), *map.further()}
            for text, id in _typed(_AddedJson, folder / "added_tokens.json").root.items():
                if text not in {token.content for token in added.values()}:
                    added.setdefault(id, _AddedToken(id=id, content=text, special=text in marked))
        return cls(
            folder,
            tokenizer,
            typed.post_processor,
            settings,
            map,
            _typed(_Ids, folder / "generation_config.json"),
            read_typed(_Config, dict(config), "config.json", TokenizerError),
            _typed(_ChatTemplate, folder / "chat_template.json").chat_template,
            tuple(
                AddedToken(t.id, t.content, t.special or _looks_special(t.content), t.rstrip) for t in added.values()
            ),
            facts,
        )

    @cached_property
    def named_specials(self) -> dict[str, str]:
        """Texts of bos, eos, … by role, as transformers reads them."""
        return {**self.tokenizer_config.named(), **self.special_tokens_map.named()}

    @cached_property
    def special_texts(self) -> tuple[str, ...]:
        """Every token that is special by its name, whether the vocabulary has it or not."""
        further = (*self.tokenizer_config.further(), *self.special_tokens_map.further())
        return tuple(dict.fromkeys([*self.named_specials.values(), *further]))

    def join(self, ids: dict[str, int]) -> dict[str, int]:
        """``ids`` of the vocabulary, with the added tokens.

        Special tokens that are named and stand nowhere get the ids after the last, as transformers gives them. Raises
        ``TokenizerError`` for a token with two ids.
        """
        for token in self.added_tokens:
            if ids.setdefault(token.content, token.id) != token.id:
                raise TokenizerError(f"token {token.content!r} has two ids", why=f"{ids[token.content]} and {token.id}")
        last = max(ids.values(), default=-1)
        for text in self.special_texts:
            if text not in ids:
                last += 1
                ids[text] = last
        return ids


def check_size(path: Path) -> None:
    """Raises ``TokenizerError`` for a file that is too large to be read."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise TokenizerError(f"{path.name} is too large", why=f"it has more than {MAX_FILE_BYTES:,} bytes")


def of_another_model(n_ids: int, rows: int) -> TokenizerError:
    """Of ids that do not fit the ``rows`` of the embedding."""
    return TokenizerError(
        f"the tokenizer has ids up to {n_ids - 1}, the model {rows} embeddings",
        hint="the tokenizer files and config.json must belong to one model",
    )


def load_json(path: Path) -> dict[str, Any]:
    """The object in ``path``, or {} when there is no such file. Raises ``TokenizerError`` for anything else."""
    if not path.is_file():
        return {}
    check_size(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{path.name} cannot be read", why=str(error).splitlines()[0]) from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path.name} cannot be read", why="it is not a JSON object")
    return value


def _typed(kind: type[Kind], path: Path, defaults: Mapping[str, Any] | None = None) -> Kind:
    return read_typed(kind, {**(defaults or {}), **load_json(path)}, path.name, TokenizerError)


def _looks_special(text: str) -> bool:
    return _LOOKS_SPECIAL.fullmatch(text) is not None


def _text(entry: _Named) -> str:
    return entry.content if isinstance(entry, _Token) else entry
