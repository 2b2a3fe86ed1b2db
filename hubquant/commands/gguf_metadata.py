"""``hubquant gguf set``, ``unset`` and ``new-metadata``: a GGUF file with other metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

from hubquant.commands.gguf_files import Writing, checked
from hubquant.disk import check_ends
from hubquant.errors import UserError
from hubquant.gguf_file.describe import shown
from hubquant.gguf_file.editing import check_key, edited, new_value, parse_type, parse_value
from hubquant.gguf_file.known_types import check_loads
from hubquant.gguf_file.metadata import KV, string, strings, u32
from hubquant.gguf_file.stored import SPLIT_COUNT, SPLIT_NO, StoredFile, decode_value, read_stored

NAME, DESCRIPTION = gguf.Keys.General.NAME, gguf.Keys.General.DESCRIPTION
CHAT_TEMPLATE, CHAT_TEMPLATES = gguf.Keys.Tokenizer.CHAT_TEMPLATE, gguf.Keys.Tokenizer.CHAT_TEMPLATES
SPECIAL_TOKENS: Mapping[str, str] = {
    key.rpartition(".")[2].removesuffix("_token_id"): key
    for name, key in vars(gguf.Keys.Tokenizer).items()
    if not name.startswith("_") and key.endswith("_token_id")
}
"""The keys by the names that gguf_new_metadata.py has for them: eos is tokenizer.ggml.eos_token_id."""
_SHARD_END = re.compile(r".*(-\d{5}-of-\d{5}\.gguf)")


@dataclass(frozen=True)
class Change:
    """A value before and after as it is shown; None where there is none."""

    key: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Edit:
    writing: Writing
    changes: Sequence[Change]

    def as_dict(self) -> dict[str, Any]:
        return {
            **self.writing.as_list()[0],
            "changes": [{"key": each.key, "before": each.before, "after": each.after} for each in self.changes],
        }


@dataclass(frozen=True)
class NewMetadata:
    """What gguf_new_metadata.py takes; ``special_tokens`` are (name, token), ``values`` KEY=VALUE."""

    name: str | None = None
    description: str | None = None
    chat_template: str | None = None
    chat_template_config: Path | None = None
    chat_template_file: Path | None = None
    pre_tokenizer: str | None = None
    special_tokens: Sequence[tuple[str, str]] = ()
    special_tokens_by_id: Sequence[tuple[str, str]] = ()
    values: Sequence[str] = ()
    removed: Sequence[str] = ()


def set_value(path: Path, key: str, text: str, type: str | None, out: Path | None, *, in_place: bool) -> Edit:
    """``type`` is for a key that is not there, or that is to have another one. Raises ``UserError``."""
    file = _first_file(path)
    return _edit(file, {key: _value(file, key, text, type)}, out, in_place=in_place)


def unset(path: Path, keys: Sequence[str], out: Path | None, *, in_place: bool) -> Edit:
    """Raises ``UserError`` for a key that is not there."""
    file = _first_file(path)
    return _edit(file, _removed(file, keys), out, in_place=in_place)


def new_metadata(path: Path, new: NewMetadata, out: Path | None, *, in_place: bool) -> Edit:
    """Raises ``UserError`` where nothing is to change, and for tokens and files that are not there."""
    file = _first_file(path)
    changes: dict[str, KV | None] = {**_removed(file, new.removed)}
    for key, text in ((NAME, new.name), (DESCRIPTION, new.description), ("tokenizer.ggml.pre", new.pre_tokenizer)):
        if text is not None:
            changes[key] = string(text)
    changes |= _chat_templates(file, new)
    changes |= _special_tokens(file, new)
    for pair in new.values:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UserError(f"{pair!r} is no value of a key", hint="write --set general.author=me")
        changes[key] = _value(file, key, text, None)
    if not changes:
        raise UserError("nothing says what to change", hint="see hubquant gguf new-metadata --help")
    return _edit(file, changes, out, in_place=in_place)


def parse_special(pairs: Sequence[str], option: str) -> list[tuple[str, str]]:
    """eos='</s>' or eos=2 as name and token. Raises ``UserError``."""
    parsed = [pair.partition("=") for pair in pairs]
    for pair, (name, _, token) in zip(pairs, parsed, strict=True):
        if not name or not token:
            raise UserError(f"{option}: {pair!r} is no special token", hint=f"write {option} eos=TOKEN")
    return [(name, token) for name, _, token in parsed]


def _first_file(path: Path) -> StoredFile:
    """The one with the metadata. Raises ``UserError`` for another shard."""
    file = read_stored(path)
    number = file.value(SPLIT_NO)
    if number is not None and number.value != 0:
        raise UserError(
            f"{path} is not the first shard", why="the metadata of the model is there", hint="name the first shard"
        )
    return file


def _edit(file: StoredFile, changes: Mapping[str, KV | None], out: Path | None, *, in_place: bool) -> Edit:
    if in_place == (out is not None):
        raise UserError(
            "--out and --in-place contradict each other" if in_place else "nothing says where the result goes",
            hint="give -o FILE.gguf, or --in-place to replace the file",
        )
    target = out or file.path
    _check_shard(file, target)
    tokens = file.value(gguf.Keys.Tokenizer.LIST)
    n_tokens = len(tokens.value) if tokens is not None and isinstance(tokens.value, tuple) else None
    for key, kv in changes.items():
        if kv is not None:
            check_loads(key, kv, n_tokens)
    made = checked({target: edited(file, changes)}, [file.path], in_place=in_place)
    after = {key: None if kv is None else shown(kv) for key, kv in changes.items()}
    return Edit(made, [Change(key, _before(file, key), value) for key, value in after.items()])


def _check_shard(file: StoredFile, target: Path) -> None:
    """Shards find each other by their names."""
    count = file.value(SPLIT_COUNT)
    if count is None or not isinstance(count.value, int) or count.value <= 1:
        return
    end = _SHARD_END.fullmatch(file.path.name)
    if end and not target.name.endswith(end[1]):
        raise UserError(
            f"{target.name} is no name for the first of {count.value} shards",
            why="the others would not be found",
            hint=f"write -o NAME{end[1]}, or hubquant gguf merge them first",
        )


def _before(file: StoredFile, key: str) -> Any:
    if key not in file.metadata:
        return None
    try:
        return shown(decode_value(key, file.metadata[key]))
    except UserError:
        return f"{len(file.metadata[key])} bytes"


def _value(file: StoredFile, key: str, text: str, type: str | None) -> KV:
    check_key(key)
    if type is not None:
        return parse_value(key, text, parse_type(type))
    there = file.value(key)
    return new_value(key, text) if there is None else parse_value(key, text, there)


def _removed(file: StoredFile, keys: Sequence[str]) -> dict[str, KV | None]:
    from difflib import get_close_matches

    for key in keys:
        if key not in file.metadata:
            near = get_close_matches(key, file.metadata, n=1)
            hint = f"did you mean {near[0]}?" if near else f"hubquant inspect {file.path} shows its keys"
            raise UserError(f"{file.path.name} has no key {key}", hint=hint)
    return dict.fromkeys(keys)


def _chat_templates(file: StoredFile, new: NewMetadata) -> dict[str, KV | None]:
    """New ones take the place of all that were there, as in gguf_new_metadata.py."""
    given = [each for each in (new.chat_template, new.chat_template_config, new.chat_template_file) if each is not None]
    if not given:
        return {}
    if len(given) > 1:
        raise UserError("there are several chat templates", hint="give one of the --chat-template options")
    old: dict[str, KV | None] = {key: None for key in file.metadata if key.startswith(CHAT_TEMPLATE)}
    return old | _templates(_template(new))


def _template(new: NewMetadata) -> Any:
    """Text, or what JSON has for several."""
    if new.chat_template is not None:
        return _json("--chat-template", new.chat_template) if new.chat_template.startswith("[") else new.chat_template
    if new.chat_template_file is not None:
        return _text(new.chat_template_file)
    path = new.chat_template_config
    if path is None:
        return None
    config = _json(str(path), _text(path))
    found = config.get("chat_template") if isinstance(config, dict) else None
    if not found:
        raise UserError(f"{path} has no chat_template", hint="name a tokenizer_config.json that has one")
    return found


def _templates(found: Any) -> dict[str, KV]:
    """The keys that llama.cpp reads: the default one, and of others the list of their names."""
    if isinstance(found, str):
        return {CHAT_TEMPLATE: string(found)}
    named = {}
    for each in found if isinstance(found, list) else [found]:
        name, text = (each.get("name"), each.get("template")) if isinstance(each, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(text, str):
            raise UserError("a chat template has no name or no text", hint='write [{"name": …, "template": …}]')
        named[name] = text
    others = {_template_name(name): text for name, text in named.items() if name != "default"}
    keys = {f"{CHAT_TEMPLATE}.{name}": string(text) for name, text in others.items()}
    if "default" in named:
        keys = {CHAT_TEMPLATE: string(named["default"]), **keys}
    return {CHAT_TEMPLATES: strings(others), **keys} if others else keys


def _template_name(name: str) -> str:
    """As gguf-py writes it into a key."""
    return re.sub(r"[^A-Za-z0-9]", "_", name)


def _special_tokens(file: StoredFile, new: NewMetadata) -> dict[str, KV]:
    if not new.special_tokens and not new.special_tokens_by_id:
        return {}
    tokens = file.value(gguf.Keys.Tokenizer.LIST)
    listed = tokens.value if tokens is not None and isinstance(tokens.value, tuple) else ()
    found = {}
    for name, token in new.special_tokens:
        if token not in listed:
            raise UserError(
                f"{token!r} is no token of {file.path.name}", hint="write the token as its vocabulary has it"
            )
        found[_special(name)] = u32(listed.index(token))
    for name, text in new.special_tokens_by_id:
        if not text.isdecimal() or int(text) >= len(listed):
            raise UserError(f"{text} is no id of a token", why=f"{file.path.name} has {len(listed)} tokens")
        found[_special(name)] = u32(int(text))
    return found


def _special(name: str) -> str:
    if name not in SPECIAL_TOKENS:
        raise UserError(f"there is no special token {name!r}", hint=f"the names are {', '.join(SPECIAL_TOKENS)}")
    return SPECIAL_TOKENS[name]


def _text(path: Path) -> str:
    try:
        check_ends(path)
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"{path} cannot be read", why=why, hint="check the path") from error


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"{name} is not JSON", hint="check that it is the file that is meant") from None
