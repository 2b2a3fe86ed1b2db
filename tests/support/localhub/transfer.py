"""Bytes in and out: uploads, commits, downloads."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from starlette.responses import JSONResponse, Response, StreamingResponse

from tests.support.localhub.api import page
from tests.support.localhub.community import may_commit
from tests.support.localhub.state import Refusal, Repository, is_large

if TYPE_CHECKING:
    from tests.support.localhub.server import Call, LocalHub

PIECE = 1 << 16


def preupload(hub: LocalHub, call: Call, kind: str, id: str, revision: str) -> Response:
    """Which files go to LFS, and what stands there now."""
    repository = open_branch(hub, call, kind, id, unquote(revision))
    files = repository.commits[repository.resolve(revision)].tree
    answers = []
    for wanted in json.loads(call.body)["files"]:
        large = is_large(wanted["path"], wanted["size"], base64.b64decode(wanted["sample"]), hub.lfs_threshold)
        present = files.get(wanted["path"])
        answers.append(
            {
                "path": wanted["path"],
                "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": False,
                "oid": present.blob if present else None,
            }
        )
    return JSONResponse({"files": answers})


def batch(hub: LocalHub, call: Call, kind: str, id: str) -> Response:
    """Where to put the LFS objects that are not here yet."""
    wanted = json.loads(call.body)
    repository = hub.open(call, kind, id, content=True)
    if wanted["operation"] == "upload" and not repository.discussions:  # of a pull request, contents come before it
        hub.open(call, kind, id, write=True)
    transfer, objects = "basic", []
    for item in wanted["objects"]:
        answer: dict[str, Any] = {"oid": item["oid"], "size": item["size"]}
        if not hub.blobs.path(item["oid"]).exists():
            upload: dict[str, Any] = {"href": f"{hub.url}/_lfs/{item['oid']}"}
            if "multipart" in wanted["transfers"] and item["size"] > hub.multipart_threshold:
                transfer = "multipart"
                parts = range(1, -(-item["size"] // hub.part_size) + 1)
                urls = {f"{part:05d}": f"{upload['href']}/{part}" for part in parts}
                upload = {"href": f"{upload['href']}/complete", "header": {"chunk_size": str(hub.part_size), **urls}}
            verify = {"href": f"{hub.url}/_lfs/{item['oid']}/verify", "header": {}}
            answer |= {"authenticated": True, "actions": {"upload": upload, "verify": verify}}
        objects.append(answer)
    return JSONResponse({"transfer": transfer, "objects": objects}, media_type="application/vnd.git-lfs+json")


def put(hub: LocalHub, call: Call, sha256: str) -> Response:
    hub.blobs.add_large(call.body, sha256)
    return Response()


def put_part(hub: LocalHub, call: Call, sha256: str, part: str) -> Response:
    hub.blobs.path(f"{sha256}.{int(part)}").write_bytes(call.body)
    return Response(headers={"ETag": f'"{hashlib.md5(call.body).hexdigest()}"'})


def complete(hub: LocalHub, call: Call, sha256: str) -> Response:
    numbers = sorted(part["partNumber"] for part in json.loads(call.body)["parts"])
    parts = [hub.blobs.path(f"{sha256}.{number}") for number in numbers]
    hub.blobs.add_large(b"".join(part.read_bytes() for part in parts), sha256)
    for part in parts:
        part.unlink()
    return JSONResponse({"success": True})


def verify(hub: LocalHub, call: Call, sha256: str) -> Response:
    if hub.blobs.large(sha256).size != json.loads(call.body)["size"]:
        raise Refusal(400, "size mismatch")
    return JSONResponse({"message": "ok"})


def open_branch(hub: LocalHub, call: Call, kind: str, id: str, branch: str) -> Repository:
    own = may_commit(hub.open(call, kind, id), branch, hub.require_account(call).user)
    return hub.open(call, kind, id, write=not own)


def commit(hub: LocalHub, call: Call, kind: str, id: str, revision: str) -> Response:
    branch = unquote(revision)
    repository = open_branch(hub, call, kind, id, branch)
    account = hub.require_account(call)
    head = repository.resolve(branch)
    files = dict(repository.commits[head].tree)
    header: dict[str, Any] = {}
    for line in call.body.splitlines():
        operation = json.loads(line)
        key, value = operation["key"], operation["value"]
        match key:
            case "header":
                header = value
                if value.get("parentCommit") not in (None, head):
                    raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            case "file":
                files[value["path"]] = hub.blobs.add(base64.b64decode(value["content"]))
            case "lfsFile":
                files[value["path"]] = hub.blobs.large(value["oid"])
            case "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
            case "deletedFolder":
                prefix = value["path"].rstrip("/") + "/"
                files = {path: entry for path, entry in files.items() if not path.startswith(prefix)}
            case _:
                raise Refusal(400, f"unknown operation {key}")
    if not header.get("summary"):
        raise Refusal(400, "summary is required")
    oid = repository.commit(branch, files, header["summary"], message=header.get("description", ""), user=account.user)
    url = f"{page(hub, kind, id)}/commit/{oid}"
    return JSONResponse({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})


def resolve(hub: LocalHub, call: Call, kind: str, id: str, revision: str, path: str) -> Response:
    """A small file itself; an LFS file redirects to the CDN, known by its other hostname, where no token may go."""
    repository = hub.open(call, kind, id, content=True)
    oid = repository.resolve(revision)
    entry = repository.commits[oid].tree.get(unquote(path))
    if entry is None:
        raise Refusal(404, "Entry not found", "EntryNotFound", oid)
    headers = {"X-Repo-Commit": oid, "ETag": f'"{entry.blob}"', "Accept-Ranges": "bytes"}
    if entry.sha256 is None:
        return serve(hub, call, entry.blob, headers)
    headers |= {"X-Linked-Size": str(entry.size), "X-Linked-Etag": headers["ETag"]}
    headers["Location"] = f"{hub.cdn}/_cdn/{entry.blob}"
    return Response(status_code=302, headers=headers)


def cdn(hub: LocalHub, call: Call, blob: str) -> Response:
    return serve(hub, call, blob, {"ETag": f'"{blob}"'})


def serve(hub: LocalHub, call: Call, blob: str, headers: dict[str, str]) -> Response:
    path = hub.blobs.path(blob)
    if not path.exists():
        raise Refusal(404, "no such object")
    size = path.stat().st_size
    begin, end, status = 0, size, 200
    if hub.ranges and (asked := re.fullmatch(r"bytes=(\d*)-(\d*)", call.headers.get("range", ""))):
        first, last = asked.groups()
        begin = int(first) if first else max(0, size - int(last))
        end = min(int(last) + 1, size) if first and last else size
        if begin >= size:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
        status = 206
        headers = {**headers, "Content-Range": f"bytes {begin}-{end - 1}/{size}"}
    headers = {**headers, "Content-Length": str(end - begin)}
    if call.method == "HEAD":
        return Response(status_code=status, headers=headers)

    def pieces() -> Iterator[bytes]:
        limit = end if call.cut is None else min(end, begin + call.cut)
        with path.open("rb") as file:
            file.seek(begin)
            for position in range(begin, limit, PIECE):
                yield file.read(min(PIECE, limit - position))
        if limit < end:
            raise ConnectionAbortedError("injected fault")

    return StreamingResponse(pieces(), status, headers=headers, media_type="application/octet-stream")
