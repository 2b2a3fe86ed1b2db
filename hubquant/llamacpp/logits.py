"""Gives the logits of one file, as llama.cpp computes them, and its speed; run in a process of its own.

The first line on stdin is {"path", "n_ctx", "threads"} and is answered with {"n_vocab"}; each later one is {"ids",
"first"} and is answered with {"rows"} and as many rows of float32, from that of the token ``first`` on, or {"ids",
"n_batch", "n_ubatch"}, which is answered with {"seconds"}. An answer of {"error"} is the last one. llama.cpp's log goes
to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, BinaryIO

from hubquant.llamacpp.binding import LoadedFile


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        asked = json.loads(sys.stdin.buffer.readline())
        with LoadedFile(asked["path"], asked["n_ctx"], asked["threads"]) as file:
            _answer(answers, {"n_vocab": file.n_vocab})
            for line in sys.stdin.buffer:
                wanted = json.loads(line)
                if "n_batch" in wanted:
                    _answer(answers, {"seconds": file.seconds(**wanted)})
                    continue
                logits = file.logits(wanted["ids"])[wanted["first"] :]
                _answer(answers, {"rows": len(logits)}, logits.tobytes())
    except Exception as error:  # whatever goes wrong belongs into the answer
        _answer(answers, {"error": str(error)})


def _answer(answers: BinaryIO, head: dict[str, Any], data: bytes = b"") -> None:
    answers.write(json.dumps(head).encode() + b"\n" + data)
    answers.flush()


if __name__ == "__main__":
    main()
