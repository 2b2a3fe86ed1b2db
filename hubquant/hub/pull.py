"""From the Hub: what a repository holds at one commit, its small files, ranges of its large ones, its weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx2
from huggingface_hub import (
    HfApi,
    ModelCardData,
    get_cached_repo_tree,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    is_offline_mode,
    snapshot_download,
)
from huggingface_hub.errors import CachedRepoTreeNotFoundError, GatedRepoError, RevisionNotFoundError

from hubquant.errors import CheckpointError, HubAccessError, NotSupportedYet
from hubquant.hub import cache
from hubquant.hub.access import Token
from hubquant.hub.answers import repository
from hubquant.hub.failures import Subject, gated, hub_errors, not_cached
from hubquant.hub.front_matter import plain, read_front_matter
from hubquant.hub.retry import PATIENT, Retry
from hubquant.hub.transfer import Progress, download, ignore, missing, read_range, require_room

TIMEOUT = 30.0  # seconds for an answer of the API
LARGEST_METADATA = 256 << 20  # bytes; the largest tokenizer.json and index files have some 40 MB

METADATA = re.compile(
    r"""
    config\.json | (pre)?processor_config\.json | generation_config\.json | model_index\.json | adapter_config\.json
    | tokenizer\.json | tokenizer\.model | tokenizer_config\.json | special_tokens_map\.json | added_tokens\.json
    | vocab\.json | vocab\.txt | merges\.txt | spiece\.model | sentencepiece\.bpe\.model | tekken\.json
    | tiktoken\.model | tokenizer\.jsonl | rwkv_vocab_v20230424\.txt
    | chat_template\.jinja | chat_template\.json | additional_chat_templates/[\w.-]+\.jinja
    | [\w.-]+\.safetensors\.index\.json | pytorch_model\.bin\.index\.json | README\.md
    | modules\.json | \d+_\w+/config\.json
    """,
    re.VERBOSE,
)
CONSOLIDATED_METADATA = re.compile(r"params\.json|tokenizer\.model\.v\w+")
"""What a model in Mistral's own format has besides."""
PICKLED = re.compile(r"pytorch_model[\w.-]*\.bin")
"""Weights that are downloaded where somebody allowed it."""
PIPELINE_METADATA = re.compile(r"model_index\.json|README\.md|[\w.-]+/[\w.-]+\.(json|txt|model|jinja)")
"""Of a diffusers pipeline, whose components lie in folders of their own."""


@dataclass(frozen=True)
class RemoteFile:
    """``size`` in bytes; ``sha256`` is known for large files only."""

    size: int
    sha256: str | None = None


@dataclass(frozen=True)
class RemoteModel:
    """A repository at one commit. ``card`` is the front matter of its README as plain JSON values. ``token`` is what it
    was resolved with and is read with; it stays in this process. ``refusal`` tells why its files may not be read with
    it."""

    id: str
    revision: str
    files: Mapping[str, RemoteFile]
    card: Mapping[str, Any] = field(default_factory=dict)
    gated: Literal["auto", "manual"] | None = None
    private: bool = False
    pipeline_tag: str | None = None
    library_name: str | None = None
    tags: tuple[str, ...] = ()
    token: Token = field(default=None, repr=False, compare=False)
    refusal: HubAccessError | None = field(default=None, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "token": None}


def resolve(id: str, revision: str = "main", *, token: Token = None, retry: Retry = PATIENT) -> RemoteModel:
    """What ``id`` holds at ``revision`` (branch, tag or commit), pinned to the commit. Downloads nothing.

    With HF_HUB_OFFLINE=1 this is what the cache knows. Raises ``HubAccessError`` (unknown, private, gated without
    access, disabled, no such revision, bad token) or ``HubUnavailableError``.
    """
    found = look_at(id, revision, token=token, retry=retry)
    if found.refusal is not None:
        raise found.refusal
    return found


def look_at(id: str, revision: str = "main", *, token: Token = None, retry: Retry = PATIENT) -> RemoteModel:
    """As :func:`resolve`, also for a gated repository whose files may not be read: anyone sees their names."""
    refusal = None
    with hub_errors(id, revision=revision, token=token):
        if is_offline_mode():
            return _resolve_from_cache(id, revision, token)
        api = HfApi(token=token)
        try:
            info = retry.call(lambda: api.model_info(id, revision=revision, files_metadata=True, timeout=TIMEOUT))
        except RevisionNotFoundError as error:
            raise HubAccessError(f"{id} has no revision {revision!r}", hint=_references(api, id)) from error
        if info.disabled:
            raise HubAccessError(f"{id} is disabled on the Hub", hint="choose another repository")
        if info.gated:
            try:
                retry.call(lambda: api.auth_check(id))
            except GatedRepoError:
                refusal = gated(Subject(id, revision, token=token))
    answer = repository(info)
    commit = answer.sha
    if commit is None:
        raise CheckpointError(f"{id} has no commit yet", why="the repository is empty")
    cache.remember_revision(id, revision, commit)
    files = {file.name: RemoteFile(file.size or 0, file.sha256) for file in answer.files}
    return RemoteModel(
        id=id,
        revision=commit,
        files=dict(sorted(files.items())),
        card=plain(vars(info.card_data)) if isinstance(info.card_data, ModelCardData) else {},
        gated=info.gated or None,
        private=bool(info.private),
        pipeline_tag=answer.pipeline_tag,
        library_name=answer.library_name,
        tags=tuple(answer.tags or ()),
        token=token,
        refusal=refusal,
    )


def fetch_metadata(model: RemoteModel, pattern: re.Pattern[str] = METADATA, *, retry: Retry = PATIENT) -> Path:
    """Download the small files that describe a model: configuration, tokenizer, templates, index, card.

    Returns the folder they lie in: no weights, no code, no pickles. Raises ``CheckpointError`` where there are none.
    """
    names = [name for name, file in model.files.items() if pattern.fullmatch(name) and file.size <= LARGEST_METADATA]
    if not names:
        hint = "name the repository that holds the safetensors"
        raise CheckpointError(f"{model.id} holds no model", why="there is no config.json in it", hint=hint)
    with hub_errors(model.id, revision=model.revision, token=model.token):
        folder = retry.call(
            lambda: snapshot_download(
                model.id, revision=model.revision, allow_patterns=names, tqdm_class=Progress, token=model.token
            )
        )
    return Path(folder)


def fetch_file(repo: str, path: str, revision: str = "main", *, token: Token = None, retry: Retry = PATIENT) -> Path:
    """One file of a model repository, such as a published ``recipe.yaml`` or imatrix; where it lies in the cache."""
    with hub_errors(repo, revision=revision, file=path, token=token):
        if not is_offline_mode():
            # The client takes half a minute to find out that there is no network.
            url = hf_hub_url(repo, path, revision=revision)
            retry.call(lambda: get_hf_file_metadata(url, timeout=TIMEOUT, token=token))
        return Path(
            retry.call(lambda: hf_hub_download(repo, path, revision=revision, tqdm_class=Progress, token=token))
        )


def range_reader(model: RemoteModel, file: str, *, retry: Retry = PATIENT) -> Callable[[int, int], bytes]:
    """``read(begin, end)`` gives the bytes [begin, end) of a file, from the cache or over the network; ``ValueError``
    for bytes that the file does not have."""
    size = _known(model, file).size

    def read(begin: int, end: int) -> bytes:
        if not 0 <= begin <= end <= size:
            raise ValueError(f"bytes {begin} to {end} of {file}, which has {size}")
        if cached := cache.cached_file(model.id, model.revision, file):
            with cached.open("rb") as stream:
                stream.seek(begin)
                return stream.read(end - begin)
        with hub_errors(model.id, revision=model.revision, file=file, token=model.token):
            return retry.call(lambda: read_range(model.id, model.revision, file, begin, end, model.token))

    return read


def not_cached_bytes(model: RemoteModel, files: Iterable[str]) -> int:
    """Of those of the ``files`` that are not on this machine."""
    missing = (file for file in files if not cache.cached_file(model.id, model.revision, file))
    return sum(model.files[file].size for file in missing)


def fetch_weights(
    model: RemoteModel, files: Sequence[str], advance: Callable[[int], None] = ignore, *, retry: Retry = PATIENT
) -> Path:
    """Download safetensors files, or pickles of a model, into the cache; the snapshot folder they lie in.

    Goes on where a broken or killed download stopped. ``advance`` is called with bytes, in sum the size of the files
    that are not in the cache.
    Sizes are checked, and the sha256 of what was downloaded. Raises ``DiskFullError`` before the first byte when they
    do not fit.
    """
    for file in files:
        if not file.endswith(".safetensors") and not PICKLED.fullmatch(file):
            raise NotSupportedYet(f"weights in {file}", why="only safetensors are read: other formats can run code")
    wanted = {file: _known(model, file) for file in files}
    with hub_errors(model.id, revision=model.revision, token=model.token):
        require_room(
            sum(missing(model.id, model.revision, file, known.size, known.sha256) for file, known in wanted.items())
        )
    for file, known in wanted.items():
        with hub_errors(model.id, revision=model.revision, file=file, token=model.token):
            download(
                model.id,
                model.revision,
                file,
                known.size,
                known.sha256,
                advance,
                retry.persistent(),
                model.token,
            )
    return cache.snapshot_folder(model.id, model.revision)


def _known(model: RemoteModel, file: str) -> RemoteFile:
    if file not in model.files:
        raise CheckpointError(f"{model.id} has no file {file}")
    return model.files[file]


def _references(api: HfApi, id: str) -> str | None:
    with suppress(httpx2.HTTPError):
        references = api.list_repo_refs(id)
        names = [reference.name for reference in (*references.branches, *references.tags)]
        return f"it has {', '.join(names[:10])}"
    return None


def _resolve_from_cache(id: str, revision: str, token: Token) -> RemoteModel:
    if token is not None:  # the cache is the machine's, and nobody can be asked what others may see
        raise not_cached(Subject(id, revision))
    commit = HfApi().resolve_revision(id, revision=revision, local_files_only=True).resolved
    folder = cache.snapshot_folder(id, commit)
    cached = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    try:
        sizes = {file.path: file.size for file in get_cached_repo_tree(id, revision=commit)}
    except CachedRepoTreeNotFoundError:
        sizes = {name: path.stat().st_size for name, path in cached.items()}
    files = {
        name: RemoteFile(size, cache.cached_sha256(cached[name]) if name in cached else None)
        for name, size in sizes.items()
    }
    card = read_front_matter(cached["README.md"].read_text("utf-8", "replace")) if "README.md" in cached else {}
    tags = card.get("tags")
    return RemoteModel(
        id=id,
        revision=commit,
        files=dict(sorted(files.items())),
        card=card,
        pipeline_tag=card.get("pipeline_tag"),
        library_name=card.get("library_name"),
        tags=tuple(str(tag) for tag in tags) if isinstance(tags, list) else (),
    )
