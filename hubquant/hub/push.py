"""To the Hub: files of a folder become a repository, in one commit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoUrl, constants
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import disable_progress_bars, validate_repo_id

from hubquant.errors import HubUnavailableError, OutputError
from hubquant.hub import answers, branches
from hubquant.hub.access import Token, has_token
from hubquant.hub.branches import MAIN, PushOptions
from hubquant.hub.failures import TRY_AGAIN, hub_errors, no_permission, no_token
from hubquant.hub.retry import PATIENT, Retry
from hubquant.hub.sent import Sent, WatchedAdd
from hubquant.hub.transfer import ignore

CARD = "README.md"
ALONE = 1 << 20  # bytes; a file from here on is uploaded on its own, so that progress moves and a break loses little
CONFLICTS = 5
WRITING_ROLES = {"admin", "write", "contributor"}


Operation = CommitOperationAdd | CommitOperationDelete


@dataclass(frozen=True)
class Pushed:
    """``uploaded`` names the files that were new or changed; ``commit`` is None when nothing was."""

    url: str
    uploaded: tuple[str, ...]
    commit: str | None


def check_id(repo_id: str) -> None:
    """Without asking the Hub. Raises ``HubAccessError`` for what no repository can be called."""
    with hub_errors(repo_id):
        validate_repo_id(repo_id)


def account_name(token: Token = None, *, retry: Retry = PATIENT) -> str | None:
    """Of the account whose token it is; None where there is no token. Raises ``HubAccessError`` for a refused one."""
    if not has_token(token):
        return None
    with hub_errors("the account", token=token):
        return answers.account(retry.call(HfApi(token=token).whoami)).name


def can_write(repo_id: str, *, pull_request: bool = False, token: Token = None, retry: Retry = PATIENT) -> str:
    """The full id of ``repo_id`` if it exists and may be written to, or may be created, with this token. A
    ``pull_request`` may be opened wherever one may read.

    To be asked before any work is done. Raises ``HubAccessError``: not logged in, token refused, no write permission.
    """
    with hub_errors(repo_id, writing=True, token=token):
        validate_repo_id(repo_id)
        if not has_token(token):
            raise no_token()
        api = HfApi(token=token)
        account = answers.account(retry.call(api.whoami))
        full_id = repo_id if "/" in repo_id else f"{account.name}/{repo_id}"
        if account.auth.accessToken.role == "read":
            raise no_permission(full_id, "it is a read-only token")
        try:
            retry.call(lambda: api.auth_check(full_id, write=not pull_request))
        except HfHubHTTPError as error:
            missing = isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError)
            if not missing and error.response.status_code != 404:
                raise
            refusal = _may_create(full_id.split("/")[0], account)
            if refusal:
                raise no_permission(full_id, refusal) from None
    return full_id


def push(
    folder: Path,
    digests: Mapping[str, str],
    repo_id: str,
    *,
    outdated: Collection[str] = (),
    private: bool = False,
    gated: Literal["auto", "manual"] | None = None,
    options: PushOptions = PushOptions(),  # noqa: B008
    advance: Callable[[int], None] = ignore,
    token: Token = None,
    retry: Retry = PATIENT,
) -> Pushed:
    """Make the repository hold the files of ``folder`` that ``digests`` names; what else it has stays.

    ``digests`` has the sha256 in hex by path: what differs from it is not uploaded (``OutputError``). Those that are
    ``outdated`` are removed from the repository.

    The contents of large files go up first. One commit then makes all files visible together, the card last in it: a
    broken push leaves the repository as it was, and what has arrived is not sent again. A push of what is there
    already makes no commit. ``private`` matters for a new repository only; ``gated`` is set before
    the first file is there, and None leaves it as it is. ``advance`` is called with bytes
    that are sent, in sum the size of all files: what is there already is told at once, and a byte that is sent again is
    told once.
    """
    files = {name: folder / name for name in sorted(digests)}
    if not files:
        raise OutputError(f"there is nothing to publish in {folder}", why="it holds no files")
    retry = retry.persistent()
    with hub_errors(repo_id, writing=True, token=token), disable_progress_bars():
        api = HfApi(token=token)
        url = f"{constants.ENDPOINT}/{repo_id}"
        if not (options.pull_request and retry.call(lambda: api.repo_exists(repo_id))):
            url = str(retry.call(lambda: api.create_repo(repo_id, private=private, exist_ok=True)))
            if gated and retry.call(lambda: api.model_info(repo_id)).gated != gated:
                retry.call(lambda: api.update_repo_settings(repo_id, gated=gated))
        push = _Push(api, RepoUrl(url).repo_id, retry, advance, frozenset(outdated) - digests.keys(), options)
        return push.run(files, digests, url)


# upload_folder makes several commits, and none of them names its parent: a killed push would leave a repository between
# two states (test_push.py: a broken push leaves the old version complete, a commit in between is kept).
@dataclass
class _Push:
    api: HfApi
    repo_id: str
    retry: Retry
    advance: Callable[[int], None]
    outdated: Collection[str]
    options: PushOptions

    def run(self, files: Mapping[str, Path], digests: Mapping[str, str], url: str) -> Pushed:
        uploaded: set[str] = set()
        sent = Sent(self.advance)
        goal = self.retry.call(lambda: branches.find(self.api, self.repo_id, self.options))
        for _ in range(CONFLICTS):
            revision = goal.revision if goal else MAIN
            head = self.retry.call(partial(self.api.model_info, self.repo_id, revision=revision, files_metadata=True))
            present = {file.rfilename: file for file in head.siblings or ()}
            changed = [name for name, path in files.items() if not _same(path, present.get(name))]
            for name in files.keys() - set(changed):
                sent.reach(name, files[name].stat().st_size)
            removed = sorted(name for name in self.outdated if name in present)
            if not changed and not removed:
                if goal:
                    self.retry.call(partial(branches.ask_for_review, self.api, self.repo_id, goal))
                page = url + (goal.page if goal else "")
                return Pushed(page, tuple(sorted(uploaded)), head.sha if uploaded else None)
            uploaded.update(changed)
            goal = goal or self.retry.call(lambda: branches.make(self.api, self.repo_id, self.options))
            operations = {
                name: _add(name, files[name], digests[name], sent) for name in sorted(changed, key=_card_last)
            }
            self._upload_large(operations, sent, goal.revision)
            try:
                everything: list[Operation] = [*map(CommitOperationDelete, removed), *operations.values()]
                commit = self._commit(everything, goal.revision, head.sha)
            except HfHubHTTPError as error:
                if error.response.status_code != 412:
                    raise
                # Somebody else committed, or our own commit arrived and only its answer got lost: look again.
                continue
            for name, operation in operations.items():
                sent.reach(name, operation.upload_info.size)
            self.retry.call(partial(branches.ask_for_review, self.api, self.repo_id, goal))
            return Pushed(url + goal.page, tuple(sorted(uploaded)), commit)
        raise HubUnavailableError(f"{self.repo_id} keeps changing while we push to it", hint=TRY_AGAIN)

    def _upload_large(self, operations: Mapping[str, CommitOperationAdd], sent: Sent, revision: str) -> None:
        for name, operation in operations.items():
            if operation.upload_info.size >= ALONE:
                # The contents stay with the operation: a commit that is tried again needs them.
                self.retry.call(
                    partial(
                        self.api.preupload_lfs_files, self.repo_id, [operation], revision=revision, free_memory=False
                    )
                )
                sent.reach(name, operation.upload_info.size)

    def _commit(self, operations: list[Operation], revision: str, parent: str | None) -> str:
        def commit() -> str:
            made = self.api.create_commit(
                self.repo_id,
                list(operations),
                commit_message=self.options.message,
                revision=revision,
                parent_commit=parent,
            )
            return made.oid

        try:
            return self.retry.call(commit)
        except ValueError as error:
            if not str(error).startswith("Invalid metadata"):
                raise
            why = " ".join(str(error).splitlines()[1:3])
            raise OutputError(f"the Hub refuses the front matter of {CARD}", why=why) from error


# create_commit leaves out what is there too, but only after it was uploaded, and it does not say which files that were.
def _same(path: Path, present: RepoSibling | None) -> bool:
    """Whether the Hub has this very content: by size, then sha256 (large files) or git's blob id (small ones)."""
    if present is None or present.size != (size := path.stat().st_size):
        return False
    with path.open("rb") as file:
        if present.lfs is not None:
            return hashlib.file_digest(file, "sha256").hexdigest() == present.lfs.sha256
        blob = hashlib.sha1(b"blob %d\0" % size)
        blob.update(file.read())
        return blob.hexdigest() == present.blob_id


def _add(name: str, path: Path, sha256: str, sent: Sent) -> CommitOperationAdd:
    operation = WatchedAdd(name, path, sent)
    if operation.upload_info.sha256.hex() != sha256:
        raise OutputError(
            f"{path} is not what hubquant made",
            why="its sha256 is another",
            hint="run the line again that made the folder, then publish it",
        )
    return operation


def _card_last(name: str) -> tuple[bool, str]:
    return (name == CARD, name)


def _may_create(namespace: str, account: answers.Account) -> str | None:
    """Why this account may not make a repository in ``namespace``; ``None`` if it may."""
    roles = {organization.name: organization.roleInOrg for organization in account.orgs}
    if namespace != account.name and roles.get(namespace) not in WRITING_ROLES:
        owned = ", ".join([account.name, *sorted(name for name, role in roles.items() if role in WRITING_ROLES)])
        return f"the account {account.name} writes to {owned}"
    if account.auth.accessToken.role == "fineGrained" and namespace not in account.auth.accessToken.writable:
        return f"its permissions do not include repo.write in {namespace}"
    return None
