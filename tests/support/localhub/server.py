"""The server: its life, its log, its faults, and who may see what."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.support.localhub import api, community, oauth, transfer
from tests.support.localhub.state import KINDS, TOKENS, Account, Blobs, Refusal, Repository, is_large


@dataclass(frozen=True)
class Call:
    """One request. ``path`` is not unquoted, so that ``refs%2Fpr%2F1`` stays one segment."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    cut: int | None = None


@dataclass
class Logged:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    status: int | None = None

    @property
    def line(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class Fault:
    """Lets ``after`` matching requests pass, then spoils the next ``times``."""

    pattern: re.Pattern[str]
    status: int | None
    times: int
    after: int
    headers: Mapping[str, str]
    cut: int | None
    delay: float
    message: str
    action: Callable[[str], object] | None = None


@dataclass
class LocalHub:
    """``multipart_threshold``, ``part_size`` and ``lfs_threshold`` in bytes; ``page_size`` in entries per tree page;
    without ``ranges`` a download always gets the whole file."""

    folder: Path
    tokens: Mapping[str, Account] = field(default_factory=lambda: dict(TOKENS))
    organizations: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"org": ("alice",)})
    multipart_threshold: int = 16 << 20
    part_size: int = 8 << 20
    lfs_threshold: int = 10 << 20
    page_size: int = 1000
    ranges: bool = True
    port: int = 0
    log: list[Logged] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    collections: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.blobs = Blobs(Path(self.folder) / "blobs")
        self.url = ""

    def start(self) -> Self:
        """Listen on ``port``, 0 for any free one."""
        # Only with its protocol named does asyncio turn Nagle's algorithm off, which costs 40 ms per answer.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.cdn = self.url.replace("127.0.0.1", "localhost")
        routes = [Route("/{path:path}", self._answer, methods=["GET", "HEAD", "POST", "PUT", "DELETE"])]
        config = uvicorn.Config(Starlette(routes=routes), log_level="critical", lifespan="off", access_log=False)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        return self

    def reset(self, folder: Path) -> None:
        """Forget everything and go on, with blobs in another folder."""
        fresh = LocalHub(folder, port=self.port)
        for item in fields(self):
            setattr(self, item.name, getattr(fresh, item.name))
        self.blobs = fresh.blobs

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def add(
        self,
        id: str,
        files: Mapping[str, bytes] | Path,
        *,
        kind: str = "model",
        private: bool = False,
        gated: str | bool = False,
        disabled: bool = False,
        branch: str = "main",
    ) -> Repository:
        """Put files (contents by path, or a folder) into a repository without asking anyone, as one commit."""
        if isinstance(files, Path):
            paths = [path for path in sorted(files.rglob("*")) if path.is_file()]
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in paths}
        repository = self.repositories.setdefault((kind, id), Repository(id, kind))
        repository.private, repository.gated, repository.disabled = private, gated, disabled
        tree = dict(repository.files) if "main" in repository.branches else {}
        for path, content in files.items():
            large = is_large(path, len(content), content[:512], self.lfs_threshold)
            tree[path] = self.blobs.add_large(content) if large else self.blobs.add(content)
        repository.commit(branch, tree, "add files")
        return repository

    def repository(self, id: str, kind: str = "model") -> Repository:
        return self.repositories[kind, id]

    def content(self, id: str, path: str, kind: str = "model") -> bytes:
        return self.blobs.read(self.repository(id, kind).files[path])

    def fail(
        self,
        pattern: str,
        status: int | None = 503,
        *,
        times: int = 1,
        after: int = 0,
        headers: Mapping[str, str] | None = None,
        cut: int | None = None,
        delay: float = 0.0,
        message: str = "injected fault",
    ) -> None:
        """Answer requests whose ``METHOD /path`` holds ``pattern`` with ``status``.

        With ``cut``, do what was asked but break the connection after that many bytes of the body (of a download) or
        before the answer (0); with ``delay`` (seconds) and ``status=None``, only answer later.
        """
        self.faults.append(Fault(re.compile(pattern), status, times, after, headers or {}, cut, delay, message))

    def meanwhile(self, pattern: str, action: Callable[[str], object], *, times: int = 1, after: int = 0) -> None:
        """Call ``action`` with the line of a request that has arrived, before what it asks is done."""
        self.faults.append(Fault(re.compile(pattern), None, times, after, {}, None, 0.0, "", action))

    def requests(self, pattern: str = "") -> list[Logged]:
        """The logged requests whose ``METHOD /path`` holds ``pattern``."""
        return [entry for entry in self.log if re.search(pattern, entry.line)]

    def account(self, call: Call) -> Account | None:
        header = call.headers.get("authorization")
        if not header:
            return None
        token = header.removeprefix("Bearer ").strip()
        if token not in self.tokens:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.tokens[token]

    def require_account(self, call: Call) -> Account:
        account = self.account(call)
        if account is None:
            raise Refusal(401, "Invalid username or password.")
        return account

    def belongs(self, namespace: str, account: Account | None) -> bool:
        if account is None:
            return False
        return namespace == account.user or account.user in self.organizations.get(namespace, ())

    def may_write(self, namespace: str, account: Account) -> bool:
        if account.role == "fineGrained":
            return namespace in account.writes
        return account.role == "write" and self.belongs(namespace, account)

    def open(self, call: Call, kind: str, id: str, *, write: bool = False, content: bool = False) -> Repository:
        """The repository, if this caller may see it, read its files (``content``) or ``write`` to it."""
        account = self.account(call)
        repository = self.repositories.get((kind, id))
        mine = repository is not None and self.belongs(repository.namespace, account)
        if repository is None or (repository.private and not mine):
            raise Refusal(404 if account else 401, "Repository not found", "RepoNotFound")
        if repository.disabled:
            raise Refusal(403, "Access to this resource is disabled.")
        if write and not self.may_write(repository.namespace, self.require_account(call)):
            raise Refusal(403, f"You don't have the rights to write to {id}")
        if content and repository.gated and not mine and (account is None or account.user not in repository.granted):
            raise Refusal(403 if account else 401, f"Access to {kind} {id} is restricted.", "GatedRepo")
        return repository

    async def _answer(self, request: Request) -> Response:
        path = request.scope["raw_path"].decode().split("?")[0]
        entry = Logged(request.method, path, dict(request.query_params), dict(request.headers))
        self.log.append(entry)
        try:
            body = await request.body()
        except ClientDisconnect:
            return Response(status_code=499)
        fault = self._next_fault(entry.line)
        if fault and fault.delay:
            await asyncio.sleep(fault.delay)
        if fault and fault.action:
            fault.action(entry.line)
        if fault and fault.cut is None and fault.status is not None:
            entry.status = fault.status
            if fault.status < 400:
                return Response(fault.message, fault.status, headers=dict(fault.headers))
            return JSONResponse({"error": fault.message}, fault.status, headers=dict(fault.headers))
        call = Call(request.method, path, entry.query, entry.headers, body, fault.cut if fault else None)
        try:
            response = self._dispatch(call)
        except Refusal as refusal:
            response = JSONResponse(refusal.body, refusal.status, headers=refusal.headers)
        entry.status = response.status_code
        if fault and fault.cut == 0:
            return StreamingResponse(_nothing(), response.status_code, headers={"Content-Length": "1"})
        return response

    def _next_fault(self, line: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and fault.pattern.search(line):
                if fault.after:
                    fault.after -= 1
                    continue
                fault.times -= 1
                return fault
        return None

    def _dispatch(self, call: Call) -> Response:
        for method, pattern, handler in ROUTES:
            if call.method in method and (match := pattern.fullmatch(call.path)):
                groups = match.groupdict()
                if "kind" in groups:
                    groups["kind"] = KINDS[groups["kind"] or "models"]
                return handler(self, call, **groups)
        raise Refusal(404, "Sorry, we can't find the page you are looking for.")


def _nothing() -> Iterator[bytes]:
    """A body that never comes: the work is done, its answer is lost."""
    yield b""
    raise ConnectionAbortedError("injected fault")


Handler = Callable[..., Response]

REPOSITORY = r"/api/(?P<kind>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)"
FILES = r"/(?:(?P<kind>datasets|spaces)/)?(?P<id>[^/]+/[^/]+)"
SHA256 = "(?P<sha256>[0-9a-f]{64})"

ROUTES: list[tuple[str, re.Pattern[str], Handler]] = [
    (method, re.compile(pattern), handler)
    for method, pattern, handler in [
        ("GET", r"/\.well-known/openid-configuration", oauth.configuration),
        ("GET", r"/oauth/jwks", oauth.jwks),
        ("GET", r"/oauth/authorize", oauth.authorize),
        ("POST", r"/oauth/token", oauth.token),
        ("GET", r"/api/whoami-v2", api.whoami),
        ("POST", r"/api/validate-yaml", api.validate_yaml),
        ("POST", r"/api/repos/create", api.create),
        ("DELETE", r"/api/repos/delete", api.delete),
        ("GET", r"/api/(?P<kind>models|datasets|spaces)", api.search),
        ("GET", REPOSITORY, api.info),
        ("GET", REPOSITORY + r"/revision/(?P<revision>[^/]+)", api.info),
        ("GET", REPOSITORY + r"/auth-check(?P<write>/write)?", api.auth_check),
        ("PUT", REPOSITORY + r"/settings", api.change_settings),
        ("GET", REPOSITORY + r"/refs", api.refs),
        ("GET", REPOSITORY + r"/commits/(?P<revision>[^/]+)", api.commits),
        ("GET", REPOSITORY + r"/tree/(?P<revision>[^/]+)(?:/(?P<folder>.*))?", api.tree),
        ("POST", REPOSITORY + r"/paths-info/(?P<revision>[^/]+)", api.paths_info),
        ("POST", REPOSITORY + r"/branch/(?P<branch>[^/]+)", api.create_branch),
        ("POST", REPOSITORY + r"/tag/(?P<revision>[^/]+)", api.create_tag),
        ("GET", REPOSITORY + r"/discussions", community.list_discussions),
        ("POST", REPOSITORY + r"/discussions", community.open_discussion),
        ("GET", REPOSITORY + r"/discussions/(?P<number>\d+)", community.discussion),
        ("POST", REPOSITORY + r"/discussions/(?P<number>\d+)/status", community.change_status),
        ("POST", "/api/collections", community.create_collection),
        ("GET", r"/api/collections/(?P<slug>[^/]+/[^/]+)", community.collection),
        ("POST", r"/api/collections/(?P<slug>[^/]+/[^/]+)/items", community.add_to_collection),
        ("POST", REPOSITORY + r"/preupload/(?P<revision>[^/]+)", transfer.preupload),
        ("POST", REPOSITORY + r"/commit/(?P<revision>[^/]+)", transfer.commit),
        ("POST", FILES + r"\.git/info/lfs/objects/batch", transfer.batch),
        ("PUT", f"/_lfs/{SHA256}", transfer.put),
        ("PUT", f"/_lfs/{SHA256}/(?P<part>\\d+)", transfer.put_part),
        ("POST", f"/_lfs/{SHA256}/complete", transfer.complete),
        ("POST", f"/_lfs/{SHA256}/verify", transfer.verify),
        ("GET HEAD", r"(?:/api)?" + FILES + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", transfer.resolve),
        ("GET HEAD", r"/_cdn/(?P<blob>[0-9a-f]{40,64})", transfer.cdn),
    ]
]
