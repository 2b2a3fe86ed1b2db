"""The process that a plugin runs in: loads its class, asks it for records, and sends their texts.

Whatever the plugin prints goes to stderr, which the other process reads as lines to tell.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import random
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.machinery import SourceFileLoader
from itertools import islice
from types import ModuleType
from typing import Any, BinaryIO

from hubquant.plugins import base

CLASSES_SHOWN = 8
KEYS_SHOWN = 12
LOOKED_AT = 100  # records without a text, after which none is expected any more
NAMES_OF_BASE = ("plugin_base", "imatrix_dataset.plugin_base")
"""What the base class is imported from where llama-gguf-optimize is not there."""


class Refused(Exception):
    """What is wrong with the plugin: what, why, and what to do."""

    def __init__(self, what: str, why: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.message = {"what": what, "why": why, "hint": hint}


def serve() -> None:
    """One request on stdin; a line of JSON on stdout for every text, for a mistake, and for the end."""
    requests, replies = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # nobody answers questions
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process ends this one

    def reply(**message: Any) -> None:
        replies.write(json.dumps(message).encode() + b"\n")
        replies.flush()

    request = json.loads(requests.readline())
    threading.Thread(target=_end_with, args=(requests,), daemon=True).start()
    try:
        missing = 0
        for text in _texts(**request):
            if text is None:
                missing += 1
            else:
                reply(text=text)
        reply(end=missing)
    except Refused as refused:
        reply(error=refused.message)
    except BrokenPipeError:
        pass
    os._exit(0)  # whatever threads the plugin has begun


def _end_with(requests: BinaryIO) -> None:
    """The process that reads this one's texts may be killed; its end of the pipe is closed then."""
    requests.read(1)
    os._exit(1)


def _texts(path: str, shown: str, name: str, lang: str, samples: int, skip: int, seed: int) -> Iterator[str | None]:
    """The texts of at most ``samples`` records; None for a record that has none."""
    random.seed(seed)
    with suppress(ImportError):
        import numpy

        numpy.random.seed(seed % 2**32)
    label = f"{shown}:{name}"

    @contextmanager
    def told(doing: str) -> Iterator[None]:
        try:
            yield
        except Refused:
            raise
        except BaseException as error:  # also SystemExit, and what a plugin derives from BaseException
            raise _explained(error, path, shown, f"{label} {doing}") from None

    with told("cannot be loaded"):
        module = _load(path)
    plugin_class = _class(module, name, shown)
    with told("cannot be made"):
        plugin = plugin_class() if _takes_nothing(plugin_class) else plugin_class(name=name)
    with told(f"failed in load_data for {lang!r}"):
        records = plugin.load_data(lang, num_samples=samples, skip_samples=skip)
        if isinstance(records, str | bytes | Mapping) or not hasattr(type(records), "__iter__"):
            what = "nothing (None)" if records is None else f"a {type(records).__name__}"
            raise Refused(
                f"load_data of {label} returned {what} for {lang!r}",
                "records are wanted: a list, or whatever gives one after the other",
                "return a list, or write yield",
            )
        iterator = iter(records)
    contents = getattr(plugin, "get_content", None) or (lambda record: _by_schema(plugin, record))
    number, n_texts, first = 0, 0, None
    while number < samples:
        with told(f"failed in load_data for {lang!r}, after {number:,} records"):
            found = list(islice(iterator, 1))
        if not found:
            break
        number += 1
        first = found[0] if number == 1 else first
        with told(f"failed in get_content, at record {number:,} of {lang!r}"):
            text = contents(found[0])
        if text is not None and not isinstance(text, str):
            raise Refused(
                f"record {number:,} of {label} for {lang!r} holds no text",
                f"its content is of the type {type(text).__name__}",
                "let get_content return a text, or let the schema's content lead to one",
            )
        text = text if text and not text.isspace() else None
        n_texts += text is not None
        if number == LOOKED_AT and not n_texts:
            break
        yield text
    if not n_texts:
        raise _no_text(plugin, label, lang, number, first)


def _load(path: str) -> ModuleType:
    """The file, with its own folder to import from, after everything that is installed."""
    sys.dont_write_bytecode = True  # beside a file of the user
    sys.path.append(os.path.dirname(path))
    for name in NAMES_OF_BASE:
        if not _is_importable(name):
            parent, _, last = name.rpartition(".")
            if parent:
                package = sys.modules.setdefault(parent, ModuleType(parent))
                setattr(package, last, base)
            sys.modules[name] = base
    loader = SourceFileLoader("plugin_module", path)
    spec = importlib.util.spec_from_loader(loader.name, loader, origin=path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


def _is_importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False


def _class(module: ModuleType, name: str, shown: str) -> Any:
    found = getattr(module, name, None)
    if inspect.isclass(found) and hasattr(found, "load_data"):
        return found
    own = [each for each, value in vars(module).items() if inspect.isclass(value) and hasattr(value, "load_data")]
    own = [each for each in own if getattr(module, each) is not base.DataSourcePluginBase]
    hint = f"it has {', '.join(own[:CLASSES_SHOWN])}" if own else "write a class with load_data and get_content"
    if found is None:
        raise Refused(f"{shown} has no class {name}", hint=hint)
    why = "it has no load_data" if inspect.isclass(found) else f"it is of the type {type(found).__name__}"
    raise Refused(f"{name} in {shown} is no data source", why, hint)


def _takes_nothing(plugin_class: Any) -> bool:
    """Whether it can be made without arguments; the base class alone wants a name."""
    try:
        inspect.signature(plugin_class).bind()
    except TypeError:
        return False
    except ValueError:  # a signature that Python cannot tell
        return True
    return True


def _by_schema(plugin: Any, record: Any) -> Any:
    return base.value_at(record, getattr(plugin, "schema", {"content": "text"})["content"])


def _no_text(plugin: Any, label: str, lang: str, number: int, first: Any) -> Refused:
    if not number:
        return Refused(
            f"{label} has no record for {lang!r}",
            hint="leave that language out, or check how the plugin names it; --verbose shows what it prints",
        )
    schema = getattr(plugin, "schema", None)
    path = schema.get("content") if isinstance(schema, Mapping) else None
    keys = ", ".join(map(str, islice(first, KEYS_SHOWN))) if isinstance(first, Mapping) else type(first).__name__
    return Refused(
        f"{label} gives no text for {lang!r}",
        f"none of its first {number:,} records has one at {path!r}; the first has: {keys}",
        "mend the path in schema['content'], or get_content",
    )


def _explained(error: BaseException, path: str, shown: str, what: str) -> Refused:
    """By the plugin's own file and line, or by those of a file that it imports."""
    kind = type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        file = shown if error.filename == path else error.filename
        return Refused(what, f"{file}, line {error.lineno}: {kind}: {error.msg}", "mend it there")
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    first = next(iter(str(error).strip().splitlines()), "")
    why = f"{kind}: {first}" if first else kind
    hint = "mend it there; --verbose shows what it prints"
    if isinstance(error, ModuleNotFoundError) and error.name:
        hint = f"install {error.name.partition('.')[0]} into {sys.prefix}, or put it beside the plugin"
    return Refused(what, f"{shown}, line {own[-1].lineno}: {why}" if own else why, hint)
