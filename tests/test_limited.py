"""Work on a stranger's input in another process: its results, its errors, and the end of its time and memory."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

import pytest

from hubquant.limited import LimitError, Worker, WorkError


def do(kind: str, number: int = 0) -> Any:
    match kind:
        case "add":
            print("what a library prints")
            return {"sum": number + 1, "odd": "\udc80"}
        case "raise":
            raise ValueError("first\nsecond")
        case "spin":
            while True:
                pass
        case "fill":
            return len(bytearray(number))
        case "nest":
            return do("nest")
        case "crash":
            ctypes.string_at(0)
        case "leave":
            os._exit(3)
    return object()


@pytest.fixture
def worker() -> Worker:
    return Worker(do, seconds=1, memory=1 << 28)


def test_answers_come_one_after_another(worker: Worker) -> None:
    for number in range(3):
        assert worker(kind="add", number=number) == {"sum": number + 1, "odd": "\udc80"}
    with pytest.raises(WorkError, match=r"^first$"):
        worker(kind="raise")
    with pytest.raises(LimitError, match="nested too deeply"):
        worker(kind="nest")
    with pytest.raises(WorkError, match="not JSON serializable"):
        worker(kind="?")
    if sys.platform == "linux":
        with pytest.raises(LimitError, match="256 MiB of memory"):
            worker(kind="fill", number=1 << 30)
    assert worker(kind="fill", number=1 << 20) == 1 << 20


@pytest.mark.parametrize(("kind", "why"), [("spin", "1 seconds of computing"), ("crash", "breaks"), ("leave", "3")])
def test_the_end_of_the_process_is_an_answer(worker: Worker, kind: str, why: str) -> None:
    with pytest.raises(LimitError, match=why):
        worker(kind=kind)
    with pytest.raises(LimitError, match=why):
        worker(kind="add")


def test_the_process_ends_with_its_worker(worker: Worker) -> None:
    assert worker(kind="fill") == 0
    process = worker._process
    worker.close()
    assert process.poll() is not None
