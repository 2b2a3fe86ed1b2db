"""Runs cases in forked children, and tells of everything but a result or one of our errors."""

from __future__ import annotations

import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Protocol

from hubquant.errors import HubquantError

CPU_SECONDS = 5
WALL_SECONDS = 100.0  # on a machine with much else to do
GROWTH = 2 << 30  # bytes
BATCH_SECONDS = 20.0  # after which a child makes way for a fresh one


class Target(Protocol):
    name: str

    def change(self, folder: Path, random: Random) -> None:
        """Turn the sound input in ``folder`` into a case."""

    def use(self, folder: Path) -> None:
        """What a user would do with it."""


@dataclass(frozen=True)
class Finding:
    """``kind`` is the same for what has the same cause."""

    target: str
    case: int
    kind: str
    detail: str


def run_cases(target: Target, sound: Path, seed: int, first: int, most: int, until: float) -> tuple[int, list[Finding]]:
    """Cases from ``first`` on; how many were run, and what was found. ``until`` is on the monotonic clock."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _child(target, sound, seed, first, most, until, writer)
    os.close(writer)
    return _listen(target, child, reader, first)


def make_case(target: Target, sound: Path, folder: Path, seed: int, case: int) -> None:
    shutil.copytree(sound, folder, symlinks=True)
    target.change(folder, Random(f"{seed} {target.name} {case}"))


def _child(target: Target, sound: Path, seed: int, first: int, most: int, until: float, writer: int) -> None:
    with suppress(BaseException), os.fdopen(writer, "w", buffering=1) as told:
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silence, stream)
        until = min(until, time.monotonic() + BATCH_SECONDS)
        for case in range(first, first + most):
            told.write(f"begin {case}\n")
            _limit()
            problem = _problem(target, sound, seed, case)
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            if problem:
                told.write(f"found {problem[0]}\t{problem[1]!r}\n")
            if time.monotonic() > until:
                break
        told.write("end\n")
    os._exit(0)


def _problem(target: Target, sound: Path, seed: int, case: int) -> tuple[str, str] | None:
    with tempfile.TemporaryDirectory(prefix="hubquant-fuzz-", ignore_cleanup_errors=True) as folder:
        place = Path(folder) / "case"
        try:
            make_case(target, sound, place, seed, case)
            target.use(place)
        except HubquantError:
            return None
        except BaseException as error:
            frames = traceback.extract_tb(error.__traceback__)
            ours = [frame for frame in frames if "/hubquant/" in frame.filename] or frames
            where = f"{Path(ours[-1].filename).name}:{ours[-1].name}"
            with suppress(Exception):
                return f"{type(error).__name__} in {where}", "".join(traceback.format_exception(error, limit=-8))[
                    -1800:
                ]
            return f"{type(error).__name__} in {where}", "its message cannot be shown"
    return None


def _limit() -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = int(usage.ru_utime + usage.ru_stime)
    resource.setrlimit(resource.RLIMIT_CPU, (used + 1 + CPU_SECONDS, resource.RLIM_INFINITY))
    statm = Path("/proc/self/statm")
    if statm.exists():
        size = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + GROWTH, resource.RLIM_INFINITY))


def _listen(target: Target, child: int, reader: int, first: int) -> tuple[int, list[Finding]]:
    findings: list[Finding] = []
    case, ended = first - 1, False
    for line in _lines(reader):
        word, _, rest = line.partition(" ")
        if word == "begin":
            case = int(rest)
        elif word == "found":
            kind, _, detail = rest.partition("\t")
            findings.append(Finding(target.name, case, f"{target.name}: {kind}", detail))
        ended = word == "end"
    os.close(reader)
    if not ended:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not ended:
        number = os.waitstatus_to_exitcode(status)
        slow = number in (-signal.SIGXCPU, -signal.SIGKILL)
        kind = f"more than {CPU_SECONDS} seconds" if slow else f"the process ended with {number}"
        findings.append(Finding(target.name, case, f"{target.name}: {kind}", repr(f"status {number}")))
    return case - first + 1, findings


def _lines(reader: int) -> Iterator[str]:
    """Until the other side ends, or says nothing for too long."""
    rest = b""
    while select.select([reader], [], [], WALL_SECONDS)[0]:
        piece = os.read(reader, 1 << 16)
        if not piece:
            return
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)
    sys.stdout.flush()
