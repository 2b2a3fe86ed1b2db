"""``hubquant dataset build``: one text of many sources.

What was found stays beside the output until that is whole, so that a killed process goes on. Nothing is kept after:
what plugins and streams give is not known by its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from hubquant.calibration.corpus.collecting import Collector, Counts, Stream, open_spools, streams_of
from hubquant.calibration.corpus.duplicates import NearDuplicates
from hubquant.calibration.corpus.mixing import mixed
from hubquant.calibration.corpus.spool import Record, Spool
from hubquant.calibration.overlap import overlap
from hubquant.calibration.sources import fingerprint as source_fingerprint
from hubquant.calibration.sources import plain_text, read_text
from hubquant.calibration.tokens import count_tokens
from hubquant.commands.corpus_files import PartWriter
from hubquant.commands.corpus_report import CorpusReport, Evaluated, FilePart, SourcePart
from hubquant.commands.flags import model as reference
from hubquant.commands.targets import check_target
from hubquant.disk import user_path, write_at_once, writing
from hubquant.engine.progress import Progress
from hubquant.engine.task import fingerprint
from hubquant.errors import HubquantError, UserError
from hubquant.recipe.schema import Evaluate, ModelReference, Recipe, TextSource
from hubquant.sources.open import open_source
from hubquant.sources.source import SourceModel
from hubquant.version import __version__

COMPARED_CHARACTERS = 4_000_000  # of a text to evaluate on
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(%|[kKmM]?)")
_SPOOLS = "[0-9][0-9][0-9][0-9].jsonl"
_FACTORS = {"": 1, "k": 1000, "m": 1_000_000}


@dataclass(frozen=True)
class HeldOut:
    """The beginning of a corpus that is for measuring: at least so much, or this share of the whole."""

    size: int | None = None
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> HeldOut:
        """ "20%", "50000" or "50k" tokens. Raises ``UserError``."""
        match = _SIZE.fullmatch(text.strip())
        value = float(match[1]) if match else 0.0
        if match is None or value <= 0 or (match[2] == "%" and value >= 100):
            raise UserError(f"--split-test: {text!r} is no part", hint="write --split-test 20%, or 50k for tokens")
        return cls(share=value / 100) if match[2] == "%" else cls(size=round(value * _FACTORS[match[2].lower()]))


@dataclass(frozen=True)
class Request:
    """``recipe`` gives its sources, its tokenizer and what is evaluated on; ``sources`` come after its own. ``out`` is
    None where nothing is written. Sizes are tokens of ``tokenizer``, or else of the recipe's model, or characters."""

    out: Path | None
    recipe: Recipe | None = None
    sources: tuple[TextSource, ...] = ()
    tokenizer: str | None = None
    balance: bool = True
    keep_duplicates: bool = False
    max_size: int | None = None
    test: HeldOut | None = None
    seed: int = 0

    @property
    def all_sources(self) -> tuple[TextSource, ...]:
        return (*(self.recipe.calibration.sources if self.recipe else ()), *self.sources)

    @property
    def test_out(self) -> Path | None:
        """The file of the test part, beside the other."""
        if self.out is None or self.test is None:
            return None
        return self.out.with_name(f"{self.out.stem}-test{self.out.suffix}")

    @property
    def outs(self) -> list[Path]:
        return [path for path in (self.out, self.test_out) if path is not None]

    @property
    def evaluated(self) -> tuple[TextSource, ...]:
        return self.recipe.evaluate.sources if self.recipe else Evaluate().sources


def build(request: Request, progress: Progress) -> CorpusReport:
    """Raises ``UserError`` for what cannot be read or written, and for parts that are empty."""
    streams = streams_of(request.all_sources)
    _check(request, streams)
    made_from = [source_fingerprint(stream.source, request.seed) for stream in streams]  # finds what is not there
    count, model = _counter(request, progress)
    duplicates = None if request.keep_duplicates else NearDuplicates()
    collector = Collector(count, duplicates, request.seed, progress, request.max_size)
    if request.out is None:
        return _report(request, model, streams, [collector.collect(stream, None) for stream in streams])
    settings = [request.keep_duplicates, request.max_size, __version__]
    key = fingerprint([made_from, model and model.identity["model"], *settings])
    with _working_folder(request.out, key) as folder:
        spools = open_spools(folder, streams)
        counts = [collector.collect(stream, spool) for stream, spool in zip(streams, spools, strict=True)]
        mixture = _Mixture(request, streams, spools)
        with progress.doing(f"writing {' and '.join(path.name for path in request.outs)}"):
            used, parts = _write(mixture, folder)
            found = _overlap(mixture, progress)
    return _report(request, model, streams, counts, used, parts, found)


def _check(request: Request, streams: Sequence[Stream]) -> None:
    """Mistakes that are known before anything is read."""
    if not streams:
        raise UserError(
            "there is nothing to build a text of",
            hint="name a recipe, a text or dataset with -f, or a plugin with --datasource-plugin",
        )
    for path in request.outs:
        _check_out(path, [stream.source for stream in streams_of([*request.all_sources, *request.evaluated])])
    for stream in streams:
        if stream.source.dataset and stream.source.samples is None and request.max_size is None:
            raise UserError(
                f"how much of {stream.source.dataset}?",
                why="a dataset of the Hub may hold more than a disk",
                hint="add --max-tokens 500000, or --samples 5000 (in a recipe samples: 5000 at this text)",
            )


def _counter(request: Request, progress: Progress) -> tuple[Callable[[str], int], SourceModel | None]:
    """How large a text is, and the model whose tokens these are."""
    named: ModelReference | None = request.recipe.model if request.recipe else None
    if request.tokenizer is not None:
        named = reference(request.tokenizer)
    if named is None:
        progress.note("sizes are characters: --tokenizer MODEL counts tokens")
        return len, None
    with progress.doing("reading the tokenizer"):
        model = open_source(named)
        tokenizer = model.tokenizer()
    return lambda text: count_tokens(tokenizer, text), model


def _check_out(path: Path, read: Iterable[TextSource]) -> None:
    """That nothing else is written over, and none of the texts that are ``read``."""
    if path.suffix.lower() not in PartWriter.SUFFIXES:
        raise UserError(
            f"{path} is no name for a text", hint=f"end it with {' or '.join(PartWriter.SUFFIXES)}: rows or plain text"
        )
    check_target(path, "text")
    for source in read if path.exists() else ():
        given = user_path(source.file or source.plugin_parts[0])
        if given.exists() and path.samefile(given):
            raise UserError(f"{path} would be written over", why="it is one of the texts", hint="give -o another name")


@contextmanager
def _working_folder(out: Path, key: str) -> Iterator[Path]:
    """Beside ``out``, with what a killed process found of the same sources; gone when the work is done."""
    folder = out.with_name(f".{out.name}.building")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(
                f"{out} is being built by another process", hint="wait for it, or give -o another name"
            ) from None
    try:
        stored = folder / "key"
        if not stored.is_file() or stored.read_text("utf-8") != key:
            _empty(folder)
            write_at_once(stored, key.encode())
        yield folder
        _empty(folder)
    finally:
        if not any(path.stat().st_size for path in folder.glob(_SPOOLS)):
            _empty(folder)
        lock.release()
        if not (folder / "key").exists():
            (folder / "lock").unlink(missing_ok=True)
            with suppress(OSError):  # somebody has put something there
                folder.rmdir()


def _empty(folder: Path) -> None:
    """Of what hubquant puts there, but the lock."""
    for path in [folder / "key", *folder.glob(_SPOOLS), *folder.glob("*.part")]:
        path.unlink(missing_ok=True)


class _Mixture:
    """The documents that are used, in their order, and where the test part of them ends."""

    def __init__(self, request: Request, streams: Sequence[Stream], spools: Sequence[Spool]) -> None:
        self.request, self.streams, self._spools = request, streams, spools
        self._test_size = 0.0
        if request.test is not None:
            self._test_size = request.test.size or (request.test.share or 0) * sum(r.size for _, r in self._records())

    def __iter__(self) -> Iterator[tuple[bool, int, Record]]:
        """Whether it is of the test part, the number of the stream, the document."""
        total = 0
        for number, record in self._records():
            yield total < self._test_size, number, record
            total += record.size

    def _records(self) -> Iterator[tuple[int, Record]]:
        return mixed(self.streams, self._spools, balance=self.request.balance, most=self.request.max_size)


def _write(mixture: _Mixture, folder: Path) -> tuple[list[Counts], list[FilePart]]:
    """What is used of each stream, and the files, which appear when all of them are whole."""
    request, streams = mixture.request, mixture.streams
    assert request.out is not None
    used = [Counts() for _ in streams]
    writers = {False: PartWriter(request.out, folder)}
    if request.test_out is not None:
        writers[True] = PartWriter(request.test_out, folder)
    try:
        for is_test, number, record in mixture:
            used[number].add(record)
            writers[is_test].write(record, streams[number])
        for is_test, writer in writers.items():
            if not writer.documents:
                raise _empty_part(request, is_test)
        return used, [writer.finish("test" if is_test else "pool") for is_test, writer in sorted(writers.items())]
    finally:
        for writer in writers.values():
            writer.close()


def _empty_part(request: Request, is_test: bool) -> UserError:
    if not is_test and request.test is not None:
        return UserError(
            f"nothing is left for {request.out}",
            why="the test part takes all of the text",
            hint="use more text, or a smaller --split-test",
        )
    return UserError(
        f"nothing of the text fits into --max-tokens {request.max_size}", hint="use a larger one, or shorter texts"
    )


def _overlap(mixture: _Mixture, progress: Progress) -> Evaluated | None:
    """With the test part, or else with what the recipe evaluates on, where that can be read."""
    request = mixture.request
    try:
        name, evaluation = _test_text(mixture) if request.test_out else _evaluated_text(request)
    except HubquantError as error:
        progress.note(f"how much of it is evaluated on too is not known: {error}")
        return None
    pool = (plain_text(record.document) for is_test, _, record in mixture if not is_test)
    return Evaluated(name, overlap(pool, evaluation))


def _test_text(mixture: _Mixture) -> tuple[str, str]:
    texts: list[str] = []
    left = COMPARED_CHARACTERS
    for is_test, _, record in mixture:
        if not is_test or left <= 0:
            break
        texts.append(plain_text(record.document)[:left])
        left -= len(texts[-1])
    return str(mixture.request.test_out and mixture.request.test_out.name), "\n".join(texts)


def _evaluated_text(request: Request) -> tuple[str, str]:
    names = (source.display_name for source in request.evaluated)
    return ", ".join(names), "\n".join(read_text(source, 0, COMPARED_CHARACTERS) for source in request.evaluated)


def _report(
    request: Request,
    model: SourceModel | None,
    streams: Sequence[Stream],
    counts: Sequence[Counts],
    used: Sequence[Counts] | None = None,
    files: Sequence[FilePart] = (),
    evaluated: Evaluated | None = None,
) -> CorpusReport:
    parts = [
        SourcePart(stream.source.display_name, stream.lang or None, found, used[number] if used else None)
        for number, (stream, found) in enumerate(zip(streams, counts, strict=True))
    ]
    return CorpusReport(parts, list(files), evaluated, model.full_name if model else None, request.seed)
