"""An app that starts jobs, in a process of its own. It has the libraries in memory already, and so do its workers:
they are forked, and otherwise as they would be."""

from __future__ import annotations

import io
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hubquant.jobs import worker
from hubquant.jobs.dispatch import Dispatcher
from hubquant.jobs.job import FINISHED, Job, Limits
from hubquant.jobs.queue import Queue

LIBRARIES = [
    *("hubquant.pipeline.run", "hubquant.pipeline.plan", "hubquant.evaluate.verify", "tests.support.jobs"),
    *("transformers.models.llama.modeling_llama", "transformers.quantizers.auto", "transformers.core_model_loading"),
    *(
        "transformers.safetensors_conversion",
        "transformers.generation",
        "accelerate",
        "torch.fx.experimental.symbolic_shapes",
    ),
]
SMALL: Mapping[str, Any] = {
    "imatrix": {"skip": True},
    "evaluate": {"skip": True},
    "quantize": {"types": ["Q8_0"]},
}


class Forked:
    """A child process, as ``subprocess.Popen`` has it."""

    def __init__(self, pid: int) -> None:
        self.pid, self._code = pid, None

    def poll(self) -> int | None:
        if self._code is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code


class ForkingDispatcher(Dispatcher):
    def start(self, id: str, attempt: int, given: worker.Given, environment: Mapping[str, str]) -> Forked:
        if pid := os.fork():
            return Forked(pid)
        code = 1
        try:
            os.setsid()
            os.environ.clear()
            os.environ.update(environment)
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 1)
            line = io.StringIO(given.model_dump_json())
            code = worker.main([str(self.queue.folder), id, str(attempt)], line)
        finally:
            os._exit(code)


def run_app(folder: str, store: str, tokens: Mapping[str, str], workers: int, limits: Limits) -> None:
    queue = Queue(Path(folder), limits)
    for owner, token in tokens.items():
        queue.offer(owner, token)
    dispatcher = ForkingDispatcher(queue, workers=workers, store=Path(store))
    while True:
        dispatcher.tick()
        time.sleep(0.05)


class Apps:
    """At most one at a time."""

    def __init__(self, folder: Path, store: Path) -> None:
        self._places = str(folder), str(store)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(LIBRARIES)
        self._process: BaseProcess | None = None

    def start(
        self, tokens: Mapping[str, str] = MappingProxyType({}), workers: int = 1, limits: Limits | None = None
    ) -> None:
        self.kill()
        self._process = self._context.Process(
            target=run_app, args=(*self._places, dict(tokens), workers, limits or Limits())
        )
        self._process.start()

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def kill(self) -> None:
        """Only the app: its workers go on."""
        if self._process is not None:
            self._process.kill()
            self._process.join()


def until(condition: Callable[[], Any], dispatcher: Dispatcher | None = None, seconds: float = 240) -> Any:
    """What ``condition`` gives, once that is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it never came true"
        if dispatcher is not None:
            dispatcher.tick()
        time.sleep(0.02)
    return found


def finished(queue: Queue, job: Job, dispatcher: Dispatcher | None = None) -> Job:
    until(lambda: queue.get(job.owner, job.id).state in FINISHED, dispatcher)
    return queue.get(job.owner, job.id)


def contents(folder: Path) -> bytes:
    """Of all files within, one after the other, with their names."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return b"\0".join(str(path).encode() + b"\0" + path.read_bytes() for path in paths)
