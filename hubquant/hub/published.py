"""What a repository holds that files are to be published to."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from hubquant.hub.access import Token
from hubquant.hub.answers import repository
from hubquant.hub.failures import hub_errors
from hubquant.hub.pull import fetch_file
from hubquant.hub.retry import PATIENT, Retry

LARGEST = 16 << 20  # bytes of a file that is read


@dataclass(frozen=True)
class Published:
    """At ``commit``. ``files`` has the sha256 by path, None for small ones; ``contents`` are those asked for."""

    commit: str | None = None
    files: Mapping[str, str | None] = field(default_factory=dict)
    contents: Mapping[str, bytes] = field(default_factory=dict)


def look_up(
    repo_id: str,
    wanted: Collection[str],
    *,
    revision: str | None = None,
    token: Token = None,
    retry: Retry = PATIENT,
) -> Published:
    """The repository as it is now, on its main branch or at ``revision``; an empty one where there is none yet.
    ``wanted`` names small files to be read."""
    with hub_errors(repo_id, writing=True, token=token):
        try:
            head = retry.call(lambda: HfApi(token=token).model_info(repo_id, revision=revision, files_metadata=True))
        except RepositoryNotFoundError:
            return Published()
    answer = repository(head)
    sizes = {file.name: file.size or 0 for file in answer.files}
    read = [name for name in wanted if name in sizes and sizes[name] <= LARGEST]
    contents = {
        name: fetch_file(repo_id, name, str(answer.sha), token=token, retry=retry).read_bytes() for name in read
    }
    digests = {file.name: file.sha256 for file in answer.files}
    return Published(answer.sha, digests, contents)
