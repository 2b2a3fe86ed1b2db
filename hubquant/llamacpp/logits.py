"""Gives the logits of one file, as llama.cpp computes them, and its speed; run in a process of its own.

The first line on stdin is {"path", "n_ctx", "threads"} and is answered with {"n_vocab"}; each later one is {"ids",
"first"} and is answered with {"rows"} and as many rows of float32, from that of the token ``first`` on, or {"ids",
"n_batch", "n_ubatch"}, which is answered with {"seconds"}. With "watched", the names of weights, in the first line an
answer with rows has "sums" too, [name, n_mat, n_in] of those that multiplied anything, and after the rows for each its
sums of squares and its sums, float32 [n_mat, n_in], and counts, int64 [n_mat]. An answer of {"error"} is the last one.
llama.cpp's log goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, BinaryIO

import numpy as np

from hubquant.llamacpp.binding import LoadedFile
from hubquant.llamacpp.inputs import WatchedFile


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        asked = json.loads(sys.stdin.buffer.readline())
        place = (asked["path"], asked["n_ctx"], asked["threads"])
        watched = {*asked.get("watched", ())}
        with WatchedFile(*place) if watched else LoadedFile(*place) as file:
            _answer(answers, {"n_vocab": file.n_vocab})
            for line in sys.stdin.buffer:
                wanted = json.loads(line)
                if "n_batch" in wanted:
                    _answer(answers, {"seconds": file.seconds(**wanted)})
                    continue
                if isinstance(file, WatchedFile):
                    _watched_pass(answers, file, watched, **wanted)
                    continue
                logits = file.logits(wanted["ids"])[wanted["first"] :]
                _answer(answers, {"rows": len(logits)}, logits.tobytes())
    except Exception as error:  # whatever goes wrong belongs into the answer
        _answer(answers, {"error": str(error)})


def _watched_pass(answers: BinaryIO, file: WatchedFile, watched: set[str], ids: list[int], first: int) -> None:
    with file.watching(watched.__contains__) as found:
        logits = file.logits(ids)[first:]
    with np.errstate(over="ignore"):  # what is too large to be squared is for whoever asked
        parts = [x for each in found.values() for x in (np.float32(each.sum2), np.float32(each.sum), each.counts)]
    shapes = [(name, *each.sum2.shape) for name, each in found.items()]
    _answer(answers, {"rows": len(logits), "sums": shapes}, b"".join(x.tobytes() for x in (logits, *parts)))


def _answer(answers: BinaryIO, head: dict[str, Any], data: bytes = b"") -> None:
    answers.write(json.dumps(head).encode() + b"\n" + data)
    answers.flush()


if __name__ == "__main__":
    main()
