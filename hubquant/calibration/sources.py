"""What a text source holds: documents, which are texts or conversations."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from hubquant.calibration.bundled import bundled_path
from hubquant.calibration.dataset import local_folder, read_dataset
from hubquant.calibration.files import Row, read_jsonl, read_parquet, read_text_file
from hubquant.disk import check_ends, user_path
from hubquant.errors import CalibrationError
from hubquant.plugins import DEFAULT_SAMPLES, PluginRequest, plugin_texts
from hubquant.plugins.process import plugin_file
from hubquant.recipe.schema import TextSource

Message = Mapping[str, str]
Conversation = Sequence[Message]
Document = str | Conversation

# ShareGPT's names beside the ones every chat template knows.
_ROLES = {"human": "user", "gpt": "assistant"}


def documents(source: TextSource, seed: int) -> Iterator[Document]:
    """The documents of ``source``: a plain text file is one, every row of anything else is one.

    Rows come in their own order; with ``samples`` that many come in an order that ``seed`` decides. Of several
    languages the one with the fewest characters so far is next. Raises ``CalibrationError`` for whatever cannot be
    read.
    """
    if len(source.langs) > 1 or (source.langs and not source.plugin):
        yield from _in_turns([documents(each, seed) for each in source.by_language.values()])
        return
    if source.plugin is not None:
        yield from _field(source, ({source.field: text} for text in plugin_texts(_request(source, seed))))
        return
    if local_folder(source):
        yield from _field(source, _sampled(read_dataset(source, seed), source, seed))
        return
    if source.dataset is not None:
        yield from _field(source, read_dataset(source, seed))
        return
    path = _path(source)
    reader = _table_reader(path, source.field)
    if reader is not None:
        yield from _field(source, _sampled(reader(), source, seed))
        return
    for option in ("samples", "skip", "chat_template"):
        if getattr(source, option):
            raise CalibrationError(
                f"{option} needs rows", why=f"{path} is one text", hint=f"remove {option}, or use .jsonl or .parquet"
            )
    yield read_text_file(path)


def read_text(source: TextSource, seed: int, max_characters: int) -> str:
    """The source's text without a chat template, rows on lines of their own, up to about ``max_characters``."""
    parts: list[str] = []
    length = 0
    for document in documents(source, seed):
        text = plain_text(document)
        parts.append(text)
        length += len(text)
        if length >= max_characters:
            break
    return "\n".join(parts)[:max_characters]


def fingerprint(source: TextSource, seed: int) -> str:
    """sha256 of everything that decides the source's text, without tokenizing it.

    A file or folder counts by its content and not by its place; a Hub dataset by its id, revision, configuration and
    split, so it is exact only when ``revision`` is a commit; a plugin by its file, whatever that reads.
    """
    settings: dict[str, Any] = source.model_dump(mode="json", exclude={"file", "name"})
    if source.samples is not None or source.plugin is not None:
        settings["seed"] = seed
    if source.plugin is not None:
        file, name = source.plugin_parts
        settings["plugin"] = [name, _digest(plugin_file(file)).hex()]
        return _hash(settings)
    if source.langs:
        return _hash([fingerprint(each, seed) for each in source.by_language.values()])
    if folder := local_folder(source):
        settings["dataset"] = _folder_hash(folder)
    elif source.dataset is None:
        path = _path(source)
        settings["content"] = [path.suffix.lower(), _digest(path).hex()]
    return _hash(settings)


def _hash(settings: Any) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def is_one_text(source: TextSource) -> bool:
    """Whether the source, of one language, is a plain text and not rows."""
    if source.dataset is not None or source.plugin is not None or local_folder(source):
        return False
    return _table_reader(_path(source), source.field) is None


def _path(source: TextSource) -> Path:
    return bundled_path(source.bundled) if source.bundled else user_path(source.file or "")


def _table_reader(path: Path, field: str) -> Callable[[], Iterator[Row]] | None:
    match path.suffix.lower():
        case ".jsonl" | ".ndjson":
            return lambda: read_jsonl(path)
        case ".parquet":
            return lambda: read_parquet(path, field)
        case _:
            return None


def _in_turns(texts: Sequence[Iterator[Document]]) -> Iterator[Document]:
    """Of the one with the fewest characters so far, the next document; until all are at their end."""
    given = dict.fromkeys(range(len(texts)), 0)
    while given:
        turn = min(given, key=lambda i: (given[i], i))
        if (document := next(texts[turn], None)) is None:
            del given[turn]
            continue
        given[turn] += len(plain_text(document))
        yield document


def plain_text(document: Document) -> str:
    """Without a chat template: messages on lines of their own."""
    return document if isinstance(document, str) else "\n".join(message["content"] for message in document)


def _request(source: TextSource, seed: int) -> PluginRequest:
    """Of a plugin with one language."""
    path, name = source.plugin_parts
    return PluginRequest(path, name, source.langs[0], source.samples or DEFAULT_SAMPLES, source.skip, seed)


def _sampled(rows: Iterator[Row], source: TextSource, seed: int) -> Iterator[Row]:
    """Ordered by a hash of seed and position: the same rows with every Python and every version of a library."""
    if source.samples is None:
        yield from islice(rows, source.skip, None)
        return
    everything = list(rows)
    order = sorted(range(len(everything)), key=lambda i: hashlib.sha256(f"{seed}:{i}".encode()).digest())
    for index in order[source.skip : source.skip + source.samples]:
        yield everything[index]


def _field(source: TextSource, rows: Iterator[Row]) -> Iterator[Document]:
    for number, row in enumerate(rows, start=1):
        if source.field not in row:
            raise CalibrationError(
                f"{source.display_name} has no field {source.field!r}",
                why=f"row {number:,} has: {', '.join(map(str, row)) or 'nothing'}",
                hint=f"set the source's field to one of them, or rename one to {source.field!r}",
            )
        value = row[source.field]
        if value is None:
            continue
        if source.chat_template or isinstance(value, list):
            conversation = _conversation(value, source, number)
            for message in conversation:
                _check_characters(message["role"] + message["content"], source, number)
            yield conversation
        elif isinstance(value, str):
            _check_characters(value, source, number)
            yield value
        else:
            raise CalibrationError(
                f"row {number:,} of {source.display_name} holds no text",
                why=f"{source.field!r} is {_WORDS.get(type(value), 'something else')}",
                hint="a source's field must hold text, or a list of messages",
            )


_WORDS = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object", bytes: "bytes"}


def _check_characters(text: str, source: TextSource, number: int) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CalibrationError(
            f"row {number:,} of {source.display_name} holds half a character",
            why=f"{ascii(error.object[error.start])[1:-1]} stands for nothing by itself",
            hint="remove it from the row",
        ) from None


def _conversation(value: Any, source: TextSource, number: int) -> Conversation:
    """Messages with ``role`` and ``content``; a plain text becomes one message of the user."""
    messages = [{"role": "user", "content": value}] if isinstance(value, str) else value
    converted = [_message(message) for message in messages] if isinstance(messages, list) else []
    if not converted or None in converted:
        raise CalibrationError(
            f"row {number:,} of {source.display_name} is no conversation",
            why=f"{source.field!r} must be a list of messages with role and content",
            hint="set the source's field to the messages, or leave chat_template out",
        )
    return [message for message in converted if message is not None]


def _message(message: Any) -> Message | None:
    if not isinstance(message, Mapping):
        return None
    role = message.get("role", message.get("from"))
    content = message.get("content", message.get("value"))
    if not isinstance(role, str) or not isinstance(content, str):
        return None
    return {"role": _ROLES.get(role, role), "content": content}


def _digest(path: Path) -> bytes:
    """sha256 of a file."""
    try:
        check_ends(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise CalibrationError(
            f"{path} cannot be read", why=error.strerror or str(error), hint="check the path"
        ) from None


def _folder_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + _digest(path))
    return digest.hexdigest()
