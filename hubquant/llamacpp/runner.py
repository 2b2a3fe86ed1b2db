"""A GGUF file as llama.cpp runs it on the CPU, for whoever asks a model for its logits."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from hubquant.environ import without_login
from hubquant.errors import EvaluationError
from hubquant.llamacpp.process import HOW_TO_ADD, NOT_INSTALLED, complaint, is_installed


@dataclass(frozen=True, eq=False)
class InputsOf:
    """Of a weight with ``n_mat`` matrices: Σx² and Σx, float32 [n_mat, n_in], and rows, int64 [n_mat]."""

    sum2: Tensor
    sum: Tensor
    counts: Tensor


class LlamaCppRunner:
    """Token ids [n] -> logits float32 [n - first, n_vocab] of those from the ``first`` on, n up to ``n_ctx``, by
    llama.cpp in a process of its own.

    ``path`` is the first shard of several. The inputs of those weights that are ``watched`` can be asked for.
    ``instead`` says how to do without llama.cpp. Raises ``EvaluationError`` where there is none, or it cannot load the
    file or breaks down.
    """

    def __init__(
        self,
        path: Path,
        n_ctx: int,
        *,
        watched: Collection[str] = (),
        instead: str = "measure without it: --engine torch",
    ) -> None:
        if not is_installed():
            raise EvaluationError(f"{path.name} cannot be run in llama.cpp", why=NOT_INSTALLED, hint=HOW_TO_ADD)
        self._path, self._instead = path, instead
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "hubquant.llamacpp.logits"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=without_login(PYTHONPATH=_search_path()),
        )
        request = {"path": str(path.absolute()), "n_ctx": n_ctx, "threads": torch.get_num_threads()}
        self.n_vocab = int(self._ask({**request, "watched": list(watched)} if watched else request)["n_vocab"])

    def __call__(self, ids: Tensor, first: int = 0, /) -> Tensor:
        return self._numbers(torch.float32, self._ask({"ids": ids.tolist(), "first": first})["rows"], self.n_vocab)

    def watched_pass(self, ids: Tensor, first: int) -> tuple[Tensor, dict[str, InputsOf]]:
        """The logits as by a call, and the inputs of the weights that are watched, as far as any were multiplied."""
        reply = self._ask({"ids": ids.tolist(), "first": first})
        logits, found = self._numbers(torch.float32, reply["rows"], self.n_vocab), {}
        for name, n_mat, n_in in reply["sums"]:
            sum2, sum_ = (self._numbers(torch.float32, n_mat, n_in) for _ in range(2))
            found[name] = InputsOf(sum2, sum_, self._numbers(torch.int64, n_mat))
        return logits, found

    def _numbers(self, dtype: torch.dtype, *shape: int) -> Tensor:
        data = bytearray(dtype.itemsize * math.prod(shape))
        assert self._process.stdout is not None
        if self._process.stdout.readinto(data) != len(data):  # type: ignore[attr-defined]
            raise self._failure(None)
        return torch.frombuffer(data, dtype=dtype).reshape(shape) if data else torch.zeros(shape, dtype=dtype)

    def seconds(self, ids: Tensor, n_batch: int, n_ubatch: int) -> float:
        """That a pass over ``ids`` [n] takes, ``n_batch`` tokens at a time, computed ``n_ubatch`` by ``n_ubatch``."""
        return float(self._ask({"ids": ids.tolist(), "n_batch": n_batch, "n_ubatch": n_ubatch})["seconds"])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            reply: dict[str, Any] = json.loads(self._process.stdout.readline())
        except (OSError, ValueError):
            raise self._failure(None) from None
        if "error" in reply:
            raise self._failure(reply["error"])
        return reply

    def _failure(self, why: str | None) -> EvaluationError:
        status = self._process.wait()
        self._log.seek(0)
        said = complaint(self._log.read().decode(errors="replace"))
        return EvaluationError(
            f"llama.cpp cannot run {self._path.name}",
            why="; ".join(filter(None, (why or f"it crashed with exit status {status}", said))),
            hint=f"check that llama.cpp supports this architecture, or {self._instead}",
        )

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _search_path() -> str:
    package = str(Path(__file__).parents[2])
    return os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
