"""Special tokens, what is put around a text, and chat templates, from the files beside a tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubquant.convert.vocab.vocabulary import DEFAULT_TEMPLATE
from hubquant.errors import TokenizerError

MAX_FILE_BYTES = 1 << 28
ROLES = ("bos", "eos", "unk", "sep", "pad", "mask")
_LOOKS_SPECIAL = re.compile(r"<\|.*\|>|<｜.*｜>|<unused\d+>|<pad>|<mask>|<2mass>|\[@BOS@\]", re.DOTALL)


@dataclass(frozen=True)
class AddedToken:
    """A token that is matched in the text before anything else."""

    id: int
    content: str
    special: bool


@dataclass(frozen=True)
class Files:
    """The parsed files of a tokenizer's folder; what is missing is empty."""

    folder: Path
    tokenizer: Mapping[str, Any]
    tokenizer_config: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    config: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path, config: Mapping[str, Any]) -> Files:
        """``TokenizerError`` for files that are not JSON objects."""
        return cls(
            folder,
            load_json(folder / "tokenizer.json"),
            load_json(folder / "tokenizer_config.json"),
            load_json(folder / "generation_config.json"),
            config,
        )

    def vocab_size(self) -> int | None:
        """Rows of the embedding, which may be more than there are tokens."""
        for source in (self.config, self.config.get("text_config")):
            size = source.get("vocab_size") if isinstance(source, Mapping) else None
            if isinstance(size, int) and size > 0:
                return size
        return None

    def n_token_types(self) -> int:
        """Embeddings for the parts of a text, as BERT has them."""
        size = self.config.get("type_vocab_size")
        return size if isinstance(size, int) and size > 0 else 0

    def added_tokens(self) -> list[AddedToken]:
        """Of tokenizer.json, then those that only tokenizer_config.json has.

        Left out are those that the model has no embedding for, such as Gemma 3's token for images in a text model.
        """
        listed = self.tokenizer.get("added_tokens") or []
        decoder = self.tokenizer_config.get("added_tokens_decoder") or {}
        more = [{"id": int(id), **token} for id, token in decoder.items() if id.isdecimal() and isinstance(token, dict)]
        found: dict[int, AddedToken] = {}
        rows = self.vocab_size()
        for token in [*listed, *more]:
            id, content = token.get("id"), token.get("content")
            if not isinstance(id, int) or id < 0 or not isinstance(content, str):
                raise TokenizerError("the tokenizer's added tokens cannot be read", why=f"{token!r:.80} is not one")
            special = bool(token.get("special")) or _LOOKS_SPECIAL.fullmatch(content) is not None
            if rows is None or id < rows:
                found.setdefault(id, AddedToken(id, content, special))
        return list(found.values())

    def named_specials(self) -> dict[str, str]:
        """Texts of bos, eos, … as tokenizer_config.json names them."""
        named = {}
        for role in ROLES:
            entry = self.tokenizer_config.get(f"{role}_token")
            text = entry.get("content") if isinstance(entry, dict) else entry
            if isinstance(text, str) and text:
                named[role] = text
        return named


def load_json(path: Path) -> dict[str, Any]:
    """The object in ``path``, or {} when there is no such file."""
    if not path.is_file():
        return {}
    if path.stat().st_size > MAX_FILE_BYTES:
        raise TokenizerError(f"{path.name} is too large", why=f"it has more than {MAX_FILE_BYTES:,} bytes")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{path.name} cannot be read", why=str(error).splitlines()[0]) from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path.name} cannot be read", why="it is not a JSON object")
    return value


def special_ids(files: Files, ids: Mapping[str, int]) -> dict[str, int]:
    """Ids by role: tokenizer_config.json's texts, then the numbers of config.json and generation_config.json.

    Where generation stops at more tokens than eos, two others become eot and eom: llama.cpp stops at them too.
    """
    size = max(ids.values(), default=-1) + 1
    specials = {role: ids[text] for role, text in files.named_specials().items() if text in ids}
    text_config = files.config.get("text_config")
    for source in (files.config, text_config, files.generation_config):
        for role in ROLES:
            numbers = _numbers(source.get(f"{role}_token_id"), size) if isinstance(source, Mapping) else []
            if numbers and role not in specials:
                specials[role] = numbers[0]
    stops = _numbers(files.generation_config.get("eos_token_id"), size)
    texts = {id: text for text, id in ids.items()}
    for id in stops:
        if id != specials.get("eos"):
            specials.setdefault("eom" if "eom" in texts.get(id, "") or "eot" in specials else "eot", id)
    return {role: specials[role] for role in (*ROLES, "eot", "eom") if role in specials}


def around(files: Files, specials: dict[str, int], *, default_bos: bool) -> tuple[bool, bool]:
    """Whether bos and eos are put around a text. ``specials`` learns the tokens that the post-processor uses as such.

    tokenizer.json's template decides, as in transformers; without one, tokenizer_config.json's add_bos_token does.
    Where it has several tokens at an end, as GLM's, there are none in llama.cpp: its chat templates write them.
    """
    processors = _processors(files.tokenizer.get("post_processor"))
    templates = [template for part in processors if (template := _as_template(part))]
    if not templates:
        configured = (files.tokenizer_config.get("add_bos_token"), files.tokenizer_config.get("add_eos_token"))
        add_bos = configured[0] if isinstance(configured[0], bool) else default_bos
        return add_bos and "bos" in specials, configured[1] is True and "eos" in specials
    single = [part for part in templates[-1].get("single") or [] if isinstance(part, dict)]
    text_at = next((index for index, part in enumerate(single) if "Sequence" in part), len(single))
    before, after = single[:text_at], single[text_at + 1 :]
    before, after = (parts if len(parts) == 1 else [] for parts in (before, after))
    known = templates[-1].get("special_tokens") or {}
    for role, parts in (("bos", before), ("eos", after)):
        for part in parts:
            id = _template_id(part, known)
            if role == "eos" and specials.get("eos") not in (None, id):
                specials.setdefault("eot", specials["eos"])
            specials[role] = id
    return bool(before), bool(after)


def chat_templates(files: Files) -> dict[str, str]:
    """By name; files of their own come before tokenizer_config.json, as in transformers."""
    folder = files.folder
    paths = {DEFAULT_TEMPLATE: folder / "chat_template.jinja"}
    paths |= {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    entry = files.tokenizer_config.get("chat_template") or load_json(folder / "chat_template.json").get("chat_template")
    if isinstance(entry, str):
        entry = {DEFAULT_TEMPLATE: entry}
    if isinstance(entry, list):
        entry = {each.get("name"): each.get("template") for each in entry if isinstance(each, dict)}
    found = dict(entry) if isinstance(entry, dict) else {}
    for name, path in paths.items():
        if path.is_file() and path.stat().st_size <= MAX_FILE_BYTES:
            found[name] = path.read_text(encoding="utf-8", errors="replace")
    return {
        _key_name(name): text
        for name, text in found.items()
        if isinstance(name, str) and isinstance(text, str) and text
    }


def _key_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", name)


def _numbers(value: Any, size: int) -> list[int]:
    numbers = value if isinstance(value, list) else [value]
    return [n for n in numbers if isinstance(n, int) and not isinstance(n, bool) and 0 <= n < size]


def _processors(part: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(part, dict):
        yield part
        for each in part.get("processors") or []:
            yield from _processors(each)


def _as_template(part: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if part.get("type") == "TemplateProcessing":
        return part
    if part.get("type") not in ("BertProcessing", "RobertaProcessing"):
        return None
    pairs = [part.get(role) for role in ("cls", "sep")]
    first, last = (pair if isinstance(pair, list) and len(pair) == 2 else [None, None] for pair in pairs)
    known = {text: {"ids": [id]} for text, id in (first, last) if isinstance(text, str)}
    one = [{"SpecialToken": {"id": first[0]}}, {"Sequence": {"id": "A"}}, {"SpecialToken": {"id": last[0]}}]
    return {"single": one, "special_tokens": known}


def _template_id(part: Mapping[str, Any], known: Mapping[str, Any]) -> int:
    name = (part.get("SpecialToken") or {}).get("id")
    ids = (known.get(name) or {}).get("ids") if isinstance(name, str) else None
    if not isinstance(ids, list) or len(ids) != 1 or not isinstance(ids[0], int):
        raise TokenizerError(
            "the tokenizer's post-processor cannot be read", why=f"special token {name!r} has no single id"
        )
    return ids[0]
