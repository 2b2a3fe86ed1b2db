"""The standard Hugging Face cache on disk: where things lie in it.

refs/<revision> holds a commit id, snapshots/<commit>/<path> links to blobs/<etag>, and the etag of a large file is its
sha256 (https://huggingface.co/docs/huggingface_hub/guides/manage-cache).
"""

from __future__ import annotations

import re
import tempfile
from contextlib import suppress
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.file_download import repo_folder_name

SHA256 = re.compile("[0-9a-f]{64}")


def repository_folder(id: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=id, repo_type="model")


def snapshot_folder(id: str, commit: str) -> Path:
    return repository_folder(id) / "snapshots" / commit


def lock_path(id: str, etag: str) -> Path:
    """The lock that every client takes to download a blob."""
    return Path(constants.HF_HUB_CACHE) / ".locks" / repository_folder(id).name / f"{etag}.lock"


def cached_file(id: str, commit: str, file: str) -> Path | None:
    """Where a file of a repository at ``commit`` lies in the cache, None when it is not there."""
    found = try_to_load_from_cache(id, file, revision=commit)
    return Path(found) if isinstance(found, str) else None


def cached_sha256(path: Path) -> str | None:
    """The sha256 of a cached large file, known from its blob's name."""
    name = Path(path.readlink()).name if path.is_symlink() else ""
    return name if SHA256.fullmatch(name) else None


# resolve_revision writes it too, but asks the Hub once more, and gives an old answer where the Hub is down.
def remember_revision(id: str, revision: str, commit: str) -> None:
    """Note which commit a branch or tag names, for offline use; a cache that cannot be written is not an error here."""
    reference = repository_folder(id) / "refs" / revision
    if revision == commit or ".." in Path(revision).parts or Path(revision).is_absolute():
        return
    with suppress(OSError):
        reference.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=reference.parent, delete=False) as file:
            file.write(commit)
        Path(file.name).replace(reference)
