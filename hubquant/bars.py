"""Progress for people who call the Python API: bars on a terminal and in a notebook."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TextIO

from hubquant.engine.progress import Advance, Progress, Silent
from hubquant.errors import UserError
from hubquant.printable import message

Bars = Progress | Literal["auto"] | None


def shown(progress: Bars) -> Progress:
    """What ``progress=`` of a public function stands for. ``None`` is silence, and "auto" too where nobody looks: in
    pipes, logs and jobs. To be asked before any library is imported that has tqdm warn of missing widgets."""
    if isinstance(progress, str) and progress != "auto":
        raise UserError(
            f"progress={progress!r} is none", hint='leave it out, or write progress="auto" or progress=None'
        )
    notebook = in_notebook()
    if notebook:
        _import_tqdm()
    if progress == "auto":
        if notebook:
            return TqdmProgress(sys.stdout)
        return TqdmProgress(sys.stderr) if sys.stderr is not None and sys.stderr.isatty() else Silent()
    return progress or Silent()


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this process, as ``tqdm.auto`` tells it."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and "IPKernelApp" in shell.config


class TqdmProgress:
    """A line on ``stream`` for each step, and below it a bar that goes when its work is done."""

    def __init__(self, stream: TextIO) -> None:
        self._tqdm, self._stream = _import_tqdm(), stream

    def step(self, name: str, detail: str, *, reused: bool = False) -> None:
        self._say(f"{name:>10}  {message(detail)}{' (done before)' if reused else ''}")

    def note(self, text: str) -> None:
        self._say(f"{'note':>10}  {message(text)}")

    @contextmanager
    def doing(self, text: str) -> Iterator[None]:
        with self._tqdm(desc=message(text), bar_format="{desc}", leave=False, file=self._stream):
            yield

    @contextmanager
    def bar(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        unit = unit if unit == "B" else f" {unit}"
        name = f"{message(label):>10}"
        with self._tqdm(
            desc=name, total=total, unit=unit, unit_scale=unit == "B", leave=False, file=self._stream
        ) as bar:
            yield lambda n: bar.update(n)

    def _say(self, text: str) -> None:
        self._tqdm.write(text, file=self._stream)


def _import_tqdm() -> Any:
    """Without its warning where a notebook has no widgets: it draws in text there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm
    return tqdm
