"""Bytes of large files: ranges, and downloads that go on after a break."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.utils import WeakFileLock, build_hf_headers, get_session, hf_raise_for_status
from huggingface_hub.utils import tqdm as ProgressBar

from hubquant.disk import sha256_of
from hubquant.errors import DiskFullError, HubUnavailableError
from hubquant.hub import cache
from hubquant.hub.access import Token
from hubquant.hub.retry import Retry
from hubquant.units import size

PIECE = 1 << 20  # bytes
TIMEOUT = httpx2.Timeout(30.0)


class Progress(ProgressBar):
    """The client's progress bar, drawing nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

    def update_transfer(self, n: float | None = 1) -> None:
        """Bytes over the network, as the client counts them apart from bytes on disk for Xet."""


def read_range(id: str, commit: str, file: str, begin: int, end: int, token: Token = None) -> bytes:
    """The bytes [begin, end) of a file. A connection that breaks early raises ``httpx2.RemoteProtocolError``."""
    if begin == end:
        return b""
    content = bytearray()
    with _stream(id, commit, file, begin, end, token) as pieces:
        for piece in pieces:
            content += piece
            if len(content) >= end - begin:
                return bytes(content[: end - begin])
    raise httpx2.RemoteProtocolError(f"{len(content)} of {end - begin} bytes arrived")


def download(
    id: str,
    commit: str,
    file: str,
    size: int,
    sha256: str | None,
    advance: Callable[[int], None],
    retry: Retry,
    token: Token = None,
) -> None:
    """Bring a file into the cache. What a broken download left there is kept and continued, also by another process.

    ``advance`` is called with bytes. Raises ``HubUnavailableError`` for a file of another size or sha256 than the
    Hub's, which is removed, and whatever the client raises.
    """
    if _in_cache(id, commit, file, size):
        return
    url = hf_hub_url(id, file, revision=commit)
    metadata = retry.call(lambda: get_hf_file_metadata(url, timeout=TIMEOUT.read, token=token))
    if metadata.xet_file_data is not None and not constants.HF_HUB_DISABLE_XET:
        retry.call(lambda: hf_hub_download(id, file, revision=commit, tqdm_class=_counting(advance), token=token))
    else:
        _download_over_http(id, commit, file, size, sha256 or metadata.etag or "", advance, retry, token)
        # The blob is there: what is left to the client is to link it into the snapshot.
        retry.call(lambda: hf_hub_download(id, file, revision=commit, tqdm_class=Progress, token=token))
    path = cache.cached_file(id, commit, file)
    if path is None or path.stat().st_size != size or (sha256 and sha256_of(path) != sha256):
        if path is not None:
            _remove(path)
        raise HubUnavailableError(
            f"{file} of {id} arrived damaged", why="its size or sha256 is not the Hub's", hint="run the same line again"
        )


def missing(id: str, commit: str, file: str, size: int, sha256: str | None) -> int:
    """Bytes that a download of the file has to bring."""
    if _in_cache(id, commit, file, size):
        return 0
    return size - (_length(_partial(id, sha256)) if sha256 else 0)


# hf_hub_download throws the bytes of a broken or killed download away, and refuses files of over 50 GB without Xet
# (test_pull.py: a killed download is continued by another process).
def _download_over_http(
    id: str,
    commit: str,
    file: str,
    size: int,
    etag: str,
    advance: Callable[[int], None],
    retry: Retry,
    token: Token,
) -> None:
    blob = cache.repository_folder(id) / "blobs" / etag
    partial = _partial(id, etag)
    partial.parent.mkdir(parents=True, exist_ok=True)
    lock = cache.lock_path(id, etag)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.exists():
            advance(size)
            return
        have = _length(partial)
        if have:
            advance(have)

        def append() -> None:
            have = _length(partial)
            with partial.open("ab") as target, _stream(id, commit, file, have, size, token) as pieces:
                for piece in pieces:
                    target.write(piece)
                    advance(len(piece))
            if _length(partial) < size:
                raise httpx2.RemoteProtocolError(f"{_length(partial)} of {size} bytes arrived")

        if have < size:
            retry.call(append, progress=lambda: _length(partial))
        partial.replace(blob)


@contextmanager
def _stream(id: str, commit: str, file: str, begin: int, end: int, token: Token) -> Iterator[Iterator[bytes]]:
    """The bytes [begin, end) in pieces, also from a server that ignores ranges.

    The client's session drops the token when it follows a redirect to a CDN.
    """
    headers = {**build_hf_headers(token=token), "Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
    url = hf_hub_url(id, file, revision=commit)
    with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT, follow_redirects=True) as response:
        hf_raise_for_status(response)
        skip = 0 if response.status_code == httpx2.codes.PARTIAL_CONTENT else begin
        yield _cut(response.iter_bytes(PIECE), skip, end - begin)


def _cut(pieces: Iterator[bytes], skip: int, length: int) -> Iterator[bytes]:
    for piece in pieces:
        kept = piece[skip : skip + length]
        skip -= min(skip, len(piece))
        length -= len(kept)
        if kept:
            yield kept
        if not length:
            return


def _in_cache(id: str, commit: str, file: str, size: int) -> bool:
    path = cache.cached_file(id, commit, file)
    if path is None:
        return False
    if path.stat().st_size == size:
        return True
    _remove(path)
    return False


def _remove(path: Path) -> None:
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def ignore(_: int) -> None:
    """Progress that nobody watches."""


def require_room(needed: int) -> None:
    """Raise ``DiskFullError`` when the cache's disk has less than ``needed`` bytes."""
    folder = Path(constants.HF_HUB_CACHE)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskFullError(
            f"{size(needed)} of weights do not fit on the disk of {folder}",
            why=f"{size(free)} are free",
            hint="make room, or set HF_HOME to a folder on another disk",
        )


def _counting(advance: Callable[[int], None]) -> type[Progress]:
    class Counting(Progress):
        def update(self, n: float | None = 1) -> None:
            advance(int(n or 0))

    return Counting


def _partial(id: str, etag: str) -> Path:
    return cache.repository_folder(id) / "blobs" / f"{etag}.hubquant.incomplete"


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
