"""``general.*`` metadata that a user gives in a file, as convert_hf_to_gguf.py's ``--metadata`` takes it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hubquant.disk import check_ends
from hubquant.errors import GGUFError
from hubquant.gguf_file.metadata import KV, Metadata, f32, i32, string, strings, u32

LARGEST = 1 << 20  # bytes
_TEXTS = (
    *("name", "author", "version", "organization", "finetune", "basename", "description", "quantized_by", "size_label"),
    *("license", "license.name", "license.link", "url", "doi", "uuid", "repo_url"),
    *("source.url", "source.doi", "source.uuid", "source.repo_url", "sampling.sequence"),
)
_LISTS = ("tags", "languages")
_WHOLE = ("sampling.top_k", "sampling.penalty_last_n", "sampling.mirostat")
_NUMBERS = (
    *("sampling.top_p", "sampling.min_p", "sampling.xtc_probability", "sampling.xtc_threshold", "sampling.temp"),
    *("sampling.penalty_repeat", "sampling.mirostat_tau", "sampling.mirostat_eta"),
)
_ORIGINS = {"base_models": "base_model", "datasets": "dataset"}
_OF_AN_ORIGIN = ("name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url")
_HINT = 'write keys such as "general.name": "My model"'


def read_authorship(path: Path) -> Metadata:
    """The keys that a JSON file gives. Raises ``GGUFError`` for a file that cannot be read, for keys that do not exist
    and for values of another kind."""
    try:
        check_ends(path)
        if path.stat().st_size > LARGEST:
            raise GGUFError(f"{path} is too large for metadata", hint="name a JSON file")
        given = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise GGUFError(f"{path} cannot be read", why=error.strerror, hint="check the path") from None
    except (ValueError, RecursionError) as error:
        raise GGUFError(f"{path} is not JSON", why=str(error)[:200], hint=_HINT) from None
    if not isinstance(given, dict):
        raise GGUFError(f"{path} holds no keys", hint=_HINT)
    return authorship(given)


def authorship(given: Mapping[str, Any]) -> Metadata:
    """Typed keys of ``given``, in its order. Raises ``GGUFError``."""
    keys: Metadata = {}
    for key, value in given.items():
        name = key.removeprefix("general.")
        if name == key or name not in (*_READ, *_ORIGINS):
            near = difflib.get_close_matches(name, [*_READ, *_ORIGINS], n=1)
            hint = f"did you mean general.{near[0]}?" if near else _HINT
            raise GGUFError(f"there is no metadata {key}", hint=hint)
        if name in _ORIGINS:
            keys |= _origins(key, _ORIGINS[name], value)
        else:
            keys[key] = _read(key, value, *_READ[name])
    return keys


def replaced(metadata: Metadata, own: Metadata) -> Metadata:
    """``metadata`` with ``own`` keys; of lists of origins no earlier one is left."""
    lists = tuple(key.removesuffix("count") for key in own if key.endswith(".count"))
    return {key: kv for key, kv in metadata.items() if not lists or not key.startswith(lists)} | own


def _origins(key: str, kind: str, value: Any) -> Metadata:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise GGUFError(f"{key} must be a list of objects", hint=f'write "{key}": [{{"name": "Base"}}]')
    keys: Metadata = {f"general.{kind}.count": u32(len(value))}
    for number, origin in enumerate(value):
        for name, text in origin.items():
            if name not in _OF_AN_ORIGIN:
                raise GGUFError(f"{key} knows no {name}", hint=f"it knows {', '.join(_OF_AN_ORIGIN)}")
            keys[f"general.{kind}.{number}.{name}"] = _read(f"{key}.{number}.{name}", text, *_TEXT)
    return keys


def _read(key: str, value: Any, kind: tuple[type, ...], noun: str, make: Callable[[Any], KV]) -> KV:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise GGUFError(f"{key} must be {noun}, not {json.dumps(value)[:80]}", hint=_HINT)
    if isinstance(value, list) and not all(isinstance(each, str) for each in value):
        raise GGUFError(f"{key} must be {noun}", hint=_HINT)
    if isinstance(value, int) and not -(2**31) <= value < 2**31:
        raise GGUFError(f"{key} cannot be {value}", hint="give a number of 32 bits")
    return make(value)


def _readers() -> Iterator[tuple[str, tuple[tuple[type, ...], str, Callable[[Any], KV]]]]:
    yield from ((name, _TEXT) for name in _TEXTS)
    yield from ((name, ((list,), "a list of texts", strings)) for name in _LISTS)
    yield from ((name, ((int,), "a whole number", i32)) for name in _WHOLE)
    yield from ((name, ((int, float), "a number", f32)) for name in _NUMBERS)


_TEXT: tuple[tuple[type, ...], str, Callable[[Any], KV]] = ((str,), "text", string)
_READ = dict(_readers())
