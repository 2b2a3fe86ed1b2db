"""A plugin's texts, from a process of its own: what it prints, changes or breaks there is not ours."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hubquant.disk import check_ends, user_path
from hubquant.errors import CalibrationError

DEFAULT_SAMPLES = 200  # of each language, as the contract has it
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PluginRequest:
    """At most ``samples`` records of one language, after the first ``skip``, of the class ``name`` in ``path``."""

    path: str
    name: str
    lang: str
    samples: int = DEFAULT_SAMPLES
    skip: int = 0
    seed: int = 0

    @property
    def label(self) -> str:
        return f"{self.path}:{self.name}"


def plugin_texts(request: PluginRequest) -> Iterator[str]:
    """The text of every record that has one; how many have none is logged, and so is what the plugin prints.

    The plugin is code of the user, and whoever calls this has made sure of that. Raises ``CalibrationError`` for
    whatever the plugin raises or returns in place of texts.
    """
    path = plugin_file(request.path)
    process = _start()
    assert process.stderr is not None
    teller = threading.Thread(target=_tell, args=(process.stderr, request.label), daemon=True)
    teller.start()
    try:
        yield from _received(process, request, path)
    finally:
        process.kill()
        process.wait()
        teller.join(timeout=1)  # what the plugin has started may hold on to its end of the pipe
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()


def plugin_file(text: str) -> Path:
    """Where a plugin is, absolute. Raises ``CalibrationError`` where there is no such file."""
    path = user_path(text)
    try:
        check_ends(path)
        with path.open("rb"):
            return path.absolute()
    except OSError as error:
        raise CalibrationError(
            f"plugin {text} cannot be read",
            why=error.strerror or str(error),
            hint="name its file, relative to the current folder; a dataset of the Hub needs no plugin",
        ) from None


def _start() -> subprocess.Popen[bytes]:
    package = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-P", "-c", "from hubquant.plugins.serving import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"},
    )


def _received(process: subprocess.Popen[bytes], request: PluginRequest, path: Path) -> Iterator[str]:
    assert process.stdin is not None
    assert process.stdout is not None
    asked = {
        "path": str(path),
        "shown": request.path,
        "name": request.name,
        "lang": request.lang,
        "samples": request.samples,
        "skip": request.skip,
        "seed": request.seed,
    }
    with suppress(OSError):  # it has ended, as the lines below find
        process.stdin.write(json.dumps(asked).encode() + b"\n")
        process.stdin.flush()
    for line in process.stdout:
        if not line.endswith(b"\n"):  # it was killed
            break
        message = json.loads(line)
        if "text" in message:
            yield message["text"]
        elif "error" in message:
            raise CalibrationError(**message["error"])
        else:
            if message["end"]:
                _log.warning("%s: %d records of %r have no text", request.label, message["end"], request.lang)
            return
    raise CalibrationError(
        f"{request.label} broke down for {request.lang!r}",
        why=f"its process ended with status {process.wait()}",
        hint="run the same line with --verbose to see what it prints",
    )


def _tell(printed: IO[bytes], label: str) -> None:
    with printed:
        for line in printed:
            if text := line.decode("utf-8", "replace").strip():
                _log.info("%s: %s", label, text)
