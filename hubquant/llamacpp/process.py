"""Ask llama.cpp about a file, in a process of its own and without its output."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

NOT_INSTALLED = "xllamacpp is not installed"
HOW_TO_ADD = "to add it: pip install 'hubquant[llamacpp]', then the same line again"


class LlamaCppFailure(Exception):
    """Why there is no answer."""


class NoAnswerError(LlamaCppFailure):
    """There was none in time."""


def is_installed() -> bool:
    return importlib.util.find_spec("xllamacpp") is not None


def installed_version() -> str | None:
    """Of the runtime, without loading it."""
    from importlib.metadata import PackageNotFoundError

    try:
        return _found_version()
    except PackageNotFoundError:  # not kept: it may be installed meanwhile
        return None


@cache
def _found_version() -> str:
    """A plan asks for it with each file, and to read it takes milliseconds."""
    from importlib.metadata import version

    return version("xllamacpp")


def ask(request: Mapping[str, Any], timeout: float) -> Any:
    """The answer of ``probe.py`` to ``request``.

    Raises ``LlamaCppFailure`` after a crash, ``NoAnswerError`` when there is twice no answer in ``timeout`` seconds:
    once in a while its server never comes up.
    """
    try:
        done = _run(request, timeout)
    except subprocess.TimeoutExpired:
        try:
            done = _run(request, timeout)
        except subprocess.TimeoutExpired:
            raise NoAnswerError(f"it did not answer in {timeout:.0f} seconds") from None
    try:
        reply = json.loads(done.stdout)
    except ValueError:
        reply = {"error": f"it crashed with exit status {done.returncode}"}
    if "error" in reply:
        said = complaint(done.stderr.decode(errors="replace"))
        raise LlamaCppFailure("; ".join(filter(None, (reply["error"], said))))
    return reply


def _run(request: Mapping[str, Any], timeout: float) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-P", str(Path(__file__).with_name("probe.py"))],
        input=json.dumps(request).encode(),
        capture_output=True,
        timeout=timeout,
        check=False,
    )


def complaint(log: str) -> str | None:
    """The last line of llama.cpp's log that speaks of an error."""
    lines = [line.strip() for line in log.splitlines() if "error" in line.lower() or "failed" in line.lower()]
    return lines[-1] if lines else None
