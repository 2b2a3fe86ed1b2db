"""What the client's exceptions mean to a user: what happened, why, and what to type next.

Texts of the server are shown in one short line with tokens blanked out; nothing else of a request is.
"""

from __future__ import annotations

import errno
import json
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from huggingface_hub import constants, get_token, is_offline_mode
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)

from hubquant.errors import (
    DiskFullError,
    HubAccessError,
    HubquantError,
    HubUnavailableError,
    OutputError,
    SignInError,
)
from hubquant.hub.access import Token, has_token
from hubquant.redaction import without_secrets

LONGEST_SERVER_TEXT = 200  # characters
TRY_AGAIN = "run the same line again later: what is finished is kept"

EXPLAINED = (
    httpx2.HTTPError,
    httpx2.InvalidURL,
    HFValidationError,
    EntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RevisionResolutionError,
    FileMetadataError,
    RuntimeError,
    OSError,
    json.JSONDecodeError,
)
_MALFORMED = (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError)


@dataclass(frozen=True)
class Subject:
    """What a request was about, and the token that it was made with."""

    repo: str
    revision: str | None = None
    file: str | None = None
    writing: bool = False
    token: Token = field(default=None, repr=False)

    @property
    def page(self) -> str:
        return f"{constants.ENDPOINT}/{self.repo}"


@contextmanager
def hub_errors(
    repo: str, *, revision: str | None = None, file: str | None = None, writing: bool = False, token: Token = None
) -> Iterator[None]:
    """Turn the client's exceptions into hubquant's: access, unavailable, output and disk-full errors."""
    try:
        yield
    except (*EXPLAINED, *_MALFORMED) as error:
        explained = explain(underlying(error), Subject(repo, revision, file, writing, token))
        if explained is None and isinstance(error, _MALFORMED) and _is_the_clients(error):
            explained = not_a_hub()
        if explained is None:
            raise
        raise explained from error


def explain(error: BaseException, subject: Subject) -> HubquantError | None:
    """The error to show for ``error``; ``None`` for what has nothing to do with the Hub."""
    match error:
        case HFValidationError():
            return HubAccessError(
                f"{subject.repo!r} is not a repository id",
                why="an id is name or namespace/name, of letters, digits, - _ and .",
                hint=f"copy it from the model's page on {constants.ENDPOINT}",
            )
        case GatedRepoError():
            return gated(subject)
        case DisabledRepoError():
            return HubAccessError(f"{subject.repo} is disabled on the Hub", hint="choose another repository")
        case RepositoryNotFoundError():
            return not_found(subject)
        case RevisionNotFoundError():
            return HubAccessError(f"{subject.repo} has no revision {subject.revision!r}", hint=f"see {subject.page}")
        case OfflineModeIsEnabled() | LocalEntryNotFoundError() | RevisionResolutionError():
            return not_cached(subject)
        case EntryNotFoundError():
            return HubAccessError(
                f"{subject.repo} has no file {subject.file or 'of that name'}",
                hint=f"see its files: {subject.page}/tree/{subject.revision or 'main'}",
            )
        case LocalTokenNotFoundError():
            return no_token()
        case HfHubHTTPError():
            return by_status(error, subject)
        case FileMetadataError() | json.JSONDecodeError() | httpx2.InvalidURL() | httpx2.UnsupportedProtocol():
            return not_a_hub()
        case httpx2.HTTPError():
            return unreachable(error)
        case OSError():
            return local(error)
    return None


def not_a_hub() -> HubUnavailableError:
    return HubUnavailableError(
        f"{constants.ENDPOINT} does not answer as a Hugging Face Hub does",
        hint="check HF_ENDPOINT and the proxy settings",
    )


def _is_the_clients(error: BaseException) -> bool:
    """Whether the client raised it, which believes what it is answered."""
    frames = traceback.extract_tb(error.__traceback__)
    return any("huggingface_hub" in Path(frame.filename).parts for frame in frames)


def gated(subject: Subject) -> HubAccessError:
    if not has_token(subject.token):
        return SignInError(
            f"{subject.repo} is gated",
            why="its authors ask you to accept their terms, and you are not logged in",
            hint=f"accept the terms at {subject.page}, then: hf auth login",
        )
    return HubAccessError(
        f"{subject.repo} is gated",
        why="this account has not been given access",
        hint=f"ask for it at {subject.page} with the account that hf auth whoami shows",
    )


def not_found(subject: Subject) -> HubAccessError:
    what = f"there is no repository {subject.repo}"
    if not has_token(subject.token):
        why, hint = "it does not exist, or it is private and you are not logged in", "for a private one: hf auth login"
        return SignInError(what, why=why, hint=f"check the spelling; {hint}")
    why, hint = "it does not exist, or it is private and this account may not see it", "see also: hf auth whoami"
    return HubAccessError(what, why=why, hint=f"check the spelling; {hint}")


def not_cached(subject: Subject) -> HubUnavailableError:
    name = f"{subject.file} of {subject.repo}" if subject.file else subject.repo
    if is_offline_mode():
        hint = "unset HF_HUB_OFFLINE and run the same line again"
        return HubUnavailableError(f"{name} is not in the cache", why="HF_HUB_OFFLINE is set", hint=hint)
    return HubUnavailableError(f"{name} cannot be fetched now", hint=TRY_AGAIN)


def no_token() -> SignInError:
    return SignInError("you are not logged in to the Hub", hint="hf auth login (or set HF_TOKEN)")


def invalid_token(token: Token = None) -> SignInError:
    if token is not None:
        return SignInError(
            "the Hub does not accept this token",
            why="it is invalid or expired",
            hint=f"take one of {constants.ENDPOINT}/settings/tokens, or log in again",
        )
    if os.environ.get("HF_TOKEN"):
        return SignInError(
            "the Hub does not accept the token in HF_TOKEN",
            why="it is invalid or expired",
            hint=f"set it to one of {constants.ENDPOINT}/settings/tokens, or unset it and: hf auth login",
        )
    return SignInError(
        "the Hub does not accept the stored token", why="it is invalid or expired", hint="hf auth login --force"
    )


def no_permission(repo: str, why: str | None = None) -> HubAccessError:
    tokens = f"{constants.ENDPOINT}/settings/tokens"
    hint = f"take a namespace of yours (hf auth whoami), or a token with write access: {tokens}"
    return HubAccessError(f"this token may not write to {repo}", why=why, hint=hint)


def by_status(error: HfHubHTTPError, subject: Subject) -> HubquantError:
    status, said = error.response.status_code, server_text(error, subject.token)
    match status:
        case 401:
            return invalid_token(subject.token) if has_token(subject.token) else no_token()
        case 403 if subject.writing:
            return no_permission(subject.repo, said)
        case 403:
            return HubAccessError(f"this token may not read {subject.repo}", why=said, hint=f"see {subject.page}")
        case 404:
            return not_found(subject)
        case 412:
            return HubUnavailableError(f"{subject.repo} keeps changing while we push to it", hint=TRY_AGAIN)
        case 429:
            return HubUnavailableError("the Hub limits the number of requests", why=said, hint=TRY_AGAIN)
        case _ if status >= 500:
            return HubUnavailableError(f"the Hub is out of order (status {status})", why=said, hint=TRY_AGAIN)
    return HubAccessError(f"the Hub refuses the request about {subject.repo} (status {status})", why=said)


def unreachable(error: BaseException) -> HubUnavailableError:
    kinds = {
        httpx2.ProxyError: "the proxy does not answer",
        httpx2.ConnectError: "no connection: no network, an unknown host name, or a firewall",
        httpx2.TimeoutException: "no answer in time",
    }
    why = next((text for kind, text in kinds.items() if isinstance(error, kind)), "the connection broke")
    hint = "check the connection and run the same line again; with everything in the cache, HF_HUB_OFFLINE=1 needs none"
    return HubUnavailableError(f"cannot reach {constants.ENDPOINT}", why=why, hint=hint)


def local(error: OSError) -> HubquantError | None:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "make room, or set HF_HOME to a folder on another disk, and run the same line again"
        return DiskFullError("the disk is full", why=f"while writing to {constants.HF_HUB_CACHE}", hint=hint)
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        hint = "set HF_HOME to a folder that can be written to"
        return OutputError(f"cannot write to {error.filename or constants.HF_HUB_CACHE}", hint=hint)
    return None


def underlying(error: BaseException) -> BaseException:
    """What went wrong, where the client wrapped it in a general error."""
    wrapper = isinstance(error, LocalEntryNotFoundError) or type(error) is RuntimeError
    return underlying(error.__cause__) if wrapper and error.__cause__ is not None else error


def server_text(error: HfHubHTTPError, token: Token = None) -> str | None:
    """What the server said, in one short line without tokens."""
    text = " ".join((error.server_message or "").split())
    return redact(text, token)[:LONGEST_SERVER_TEXT] or None


def redact(text: str, token: Token = None) -> str:
    """Blank out anything that looks like a token, and in any case ``token`` and the machine's own."""
    for known in (token or None, get_token()):
        text = text.replace(known, "***") if known else text
    return without_secrets(text)
