"""What a Hub remembers: accounts, repositories, commits and blobs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
LFS_SUFFIXES = (".safetensors", ".gguf", ".bin", ".pt", ".parquet", ".arrow", ".zip", ".npz", ".h5", ".png")
FRONT_MATTER = re.compile(r"\s*---(?:\r\n|\r|\n)([\s\S]*?)(?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|$)")
DATE = "2026-01-01T00:00:00.000Z"

ALICE = "hf_aliceWriteAAAAAAAAAAAAAAAAAAAAAAAA"
ALICE_READ_ONLY = "hf_aliceReadBBBBBBBBBBBBBBBBBBBBBBBBB"
ALICE_FINE_GRAINED = "hf_aliceFineCCCCCCCCCCCCCCCCCCCCCCCCC"
BOB = "hf_bobWriteDDDDDDDDDDDDDDDDDDDDDDDDDD"


@dataclass(frozen=True)
class Account:
    """What a token stands for. ``writes`` names the namespaces a fine-grained token may write to."""

    user: str
    role: str = "write"
    writes: tuple[str, ...] = ()


TOKENS = {
    ALICE: Account("alice"),
    ALICE_READ_ONLY: Account("alice", role="read"),
    ALICE_FINE_GRAINED: Account("alice", role="fineGrained", writes=("alice",)),
    BOB: Account("bob"),
}


class Refusal(Exception):
    """An answer with an error status. The client tells the kinds apart by ``code``, the X-Error-Code header."""

    def __init__(self, status: int, message: str, code: str | None = None, commit: str = "", url: str = "") -> None:
        super().__init__(message)
        self.status = status
        headers = {"X-Error-Message": message, "X-Error-Code": code, "X-Repo-Commit": commit}
        self.headers = {name: value for name, value in headers.items() if value}
        self.body = {"error": message, **({"url": url} if url else {})}


@dataclass(frozen=True)
class Entry:
    """A file of a commit. ``oid`` is git's blob id (of the pointer, for LFS); ``sha256`` is set for LFS files only."""

    oid: str
    size: int
    sha256: str | None = None

    @property
    def blob(self) -> str:
        return self.sha256 or self.oid


Tree = Mapping[str, Entry]


@dataclass(frozen=True)
class Commit:
    tree: Tree
    title: str
    message: str
    user: str
    parent: str | None


@dataclass
class Repository:
    id: str
    kind: str
    private: bool = False
    gated: str | bool = False
    disabled: bool = False
    granted: set[str] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    discussions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    @property
    def head(self) -> str:
        return self.branches["main"]

    @property
    def files(self) -> Tree:
        return self.commits[self.head].tree

    def resolve(self, revision: str) -> str:
        """The commit that a branch, tag, pull-request ref or (shortened) commit id names."""
        name = unquote(revision)
        for refs, prefix in ((self.branches, "refs/heads/"), (self.tags, "refs/tags/")):
            for ref in (name, name.removeprefix(prefix)):
                if ref in refs:
                    return refs[ref]
        if re.fullmatch("[0-9a-f]{7,40}", name):
            for commit in self.commits:
                if commit.startswith(name):
                    return commit
        raise Refusal(404, f"Invalid rev id: {name}", "RevisionNotFound")

    def commit(self, branch: str, tree: Tree, title: str, *, message: str = "", user: str = "system") -> str:
        parent = self.branches.get(branch)
        files = {path: entry.oid for path, entry in tree.items()}
        oid = hashlib.sha1(json.dumps([parent, files, title, message, user, len(self.commits)]).encode()).hexdigest()
        self.commits[oid] = Commit(dict(sorted(tree.items())), title, message, user, parent)
        self.branches[branch] = oid
        return oid

    def history(self, revision: str) -> Iterator[tuple[str, Commit]]:
        oid: str | None = self.resolve(revision)
        while oid:
            yield oid, self.commits[oid]
            oid = self.commits[oid].parent


class Blobs:
    """Contents by id, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, oid: str) -> Path:
        return self.folder / oid

    def read(self, entry: Entry) -> bytes:
        return self.path(entry.blob).read_bytes()

    def add(self, content: bytes) -> Entry:
        entry = Entry(git_oid(content), len(content))
        self.path(entry.oid).write_bytes(content)
        return entry

    def add_large(self, content: bytes, sha256: str | None = None) -> Entry:
        digest = hashlib.sha256(content).hexdigest()
        if sha256 not in (None, digest):
            raise Refusal(400, "sha256 mismatch")
        self.path(digest).write_bytes(content)
        return self.large(digest)

    def large(self, sha256: str) -> Entry:
        """The entry of an LFS file that was uploaded before."""
        path = self.path(sha256)
        if not path.exists():
            raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {sha256}")
        size = path.stat().st_size
        return Entry(git_oid(pointer(sha256, size)), size, sha256)

    def card(self, tree: Tree) -> dict[str, Any]:
        """The front matter of README.md, as the Hub's ``cardData`` (plain JSON)."""
        if "README.md" not in tree:
            return {}
        block = FRONT_MATTER.match(self.read(tree["README.md"]).decode("utf-8", "replace"))
        if block is None:
            return {}
        try:
            data = yaml.safe_load(block[1])
        except yaml.YAMLError:
            return {}
        return json.loads(json.dumps(data, default=str)) if isinstance(data, dict) else {}


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def is_large(path: str, size: int, sample: bytes, threshold: int) -> bool:
    """The Hub keeps large, binary and well-known weight files in LFS."""
    return size > 0 and (size >= threshold or path.endswith(LFS_SUFFIXES) or b"\0" in sample)
