"""How much of an upload is sent, while it is."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from huggingface_hub import CommitOperationAdd


class Sent:
    """Tells ``advance`` of each byte of each file once, however often it is sent."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance, self._reached, self._lock = advance, dict[str, int](), threading.Lock()

    def reach(self, name: str, position: int) -> None:
        with self._lock:  # the client sends several small files at once
            if (new := position - self._reached.get(name, 0)) > 0:
                self._reached[name] = position
                self._advance(new)


# The client itself tells of an upload by drawing tqdm's bars alone.
class WatchedAdd(CommitOperationAdd):
    """An addition that tells how far the client has read it for an upload over HTTP. What Xet sends is told when it is
    there: hf_xet reads the file itself."""

    def __init__(self, name: str, path: Path, sent: Sent) -> None:
        super().__init__(name, path)
        self._watched = path, sent

    @contextmanager
    def as_file(self, with_tqdm: bool = False) -> Iterator[BinaryIO]:
        if not with_tqdm:  # it is read for something else
            with super().as_file() as file:
                yield file
            return
        path, sent = self._watched
        with _Watched(path, lambda position: sent.reach(self.path_in_repo, position)) as watched:
            yield cast(BinaryIO, watched)


class _Watched(io.FileIO):
    def __init__(self, path: Path, reached: Callable[[int], None]) -> None:
        super().__init__(path)
        self._reached = reached

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(-1 if size is None else size) or b""
        self._reached(self.tell())
        return data
