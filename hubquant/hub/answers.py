"""What the Hub answers, with the types that are read of it."""

from __future__ import annotations

from typing import Annotated, Any

from huggingface_hub.hf_api import ModelInfo
from pydantic import Field, NonNegativeInt

from hubquant.errors import HubUnavailableError
from hubquant.typed import Typed, read_typed

_HINT = "check HF_ENDPOINT and the proxy settings"


class File(Typed):
    name: str
    size: NonNegativeInt | None
    sha256: str | None


class Repository(Typed):
    sha: Annotated[str, Field(pattern=r"^[\w.-]+$")] | None
    files: list[File]
    pipeline_tag: str | None
    library_name: str | None
    tags: list[str] | None


class Organization(Typed):
    name: str
    roleInOrg: str = "write"


class Scope(Typed):
    entity: dict[str, Any]
    permissions: list[str] = Field(default_factory=list)


class FineGrained(Typed):
    scoped: list[Scope] = Field(default_factory=list)


class Token(Typed):
    role: str | None = None
    fineGrained: FineGrained = FineGrained()

    @property
    def writable(self) -> set[str]:
        """Accounts and organizations that a token with permissions of its own may write to."""
        scopes = self.fineGrained.scoped
        return {str(scope.entity.get("name")) for scope in scopes if "repo.write" in scope.permissions}


class Auth(Typed):
    accessToken: Token = Token()


class Account(Typed):
    name: str
    orgs: list[Organization] = Field(default_factory=list)
    auth: Auth = Auth()


def repository(info: ModelInfo) -> Repository:
    """Raises ``HubUnavailableError`` for an answer of other types."""
    siblings = info.siblings or ()
    files = [{"name": s.rfilename, "size": s.size, "sha256": s.lfs.sha256 if s.lfs else None} for s in siblings]
    names = ("sha", "pipeline_tag", "library_name", "tags")
    found = {name: getattr(info, name) for name in names} | {"files": files}
    return read_typed(Repository, found, "the Hub's answer", HubUnavailableError, hint=_HINT)


def account(answer: Any) -> Account:
    """Raises ``HubUnavailableError`` for an answer of other types."""
    return read_typed(Account, answer, "the Hub's answer", HubUnavailableError, hint=_HINT)
