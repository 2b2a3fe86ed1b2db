"""Other processes, with the libraries in memory already: forked from one that has imported them, one for all tests.

Who kills a process at its work wants the work, not the seconds of imports before it. Tests of the start itself, and of
its environment, start Python.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any


def context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["pytest", "transformers.models.llama.modeling_llama", "hubquant.pipeline.run", "hubquant.cli.app"]
    )
    return context


def start(
    function: Callable[..., object], *arguments: object, out: Path | None = None, err: Path | None = None
) -> ForkServerProcess:
    """Call a function of a module in a session of its own, with the environment that is here now, and stdout and stderr
    in files."""
    for path in filter(None, (out, err)):
        path.touch()
    process = context().Process(target=_begin, args=(dict(os.environ), out, err, function, arguments))
    process.start()
    return process


def exit_code(function: Callable[..., object], *arguments: object) -> int:
    """Of such a process, when it has ended: negative for the signal that killed it."""
    process = start(function, *arguments)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def command(*words: str) -> None:
    """``hubquant`` with these words, as a program."""
    from hubquant.cli import main

    sys.argv = ["hubquant", *words]
    main()


def killer(steps: int) -> Callable[[int], None]:
    """An ``advance`` that kills its process with the first step after so many."""
    left = steps

    def advance(n: int) -> None:
        nonlocal left
        left -= n
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return advance


def _begin(
    environment: Mapping[str, str],
    out: Path | None,
    err: Path | None,
    function: Callable[..., object],
    arguments: tuple[Any, ...],
) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    for path, descriptor in ((out, 1), (err, 2)):
        if path is not None:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, descriptor)
            os.close(file)
    function(*arguments)
