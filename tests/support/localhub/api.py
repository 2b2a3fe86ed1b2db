"""Accounts, repositories, trees and references."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlencode

import yaml
from starlette.responses import JSONResponse, Response

from tests.support.localhub.state import DATE, FRONT_MATTER, Entry, Refusal, Repository, Tree, pointer

if TYPE_CHECKING:
    from tests.support.localhub.server import Call, LocalHub

GIT_ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.gguf filter=lfs diff=lfs merge=lfs -text\n"


def whoami(hub: LocalHub, call: Call) -> Response:
    account = hub.require_account(call)
    token: dict[str, Any] = {"displayName": "test", "role": account.role, "createdAt": DATE}
    if account.role == "fineGrained":
        permissions = ["repo.content.read", "repo.write"]
        scoped = [{"entity": {"type": "user", "name": name}, "permissions": permissions} for name in account.writes]
        token["fineGrained"] = {"canReadGatedRepos": True, "global": [], "scoped": scoped}
    organizations = [
        {"type": "org", "id": name, "name": name, "fullname": name, "roleInOrg": "write"}
        for name, members in hub.organizations.items()
        if account.user in members
    ]
    return JSONResponse(
        {
            "type": "user",
            "id": account.user,
            "name": account.user,
            "fullname": account.user,
            "email": None,
            "avatarUrl": f"{hub.url}/avatar.png",
            "isPro": False,
            "orgs": organizations,
            "auth": {"type": "access_token", "accessToken": token},
        }
    )


def validate_yaml(hub: LocalHub, call: Call) -> Response:  # noqa: ARG001
    content = json.loads(call.body)["content"]
    errors = []
    try:
        if block := FRONT_MATTER.match(content):
            yaml.safe_load(block[1])
    except yaml.YAMLError as error:
        errors.append({"message": str(error)})
    return JSONResponse({"errors": errors, "warnings": []}, 400 if errors else 200)


def create(hub: LocalHub, call: Call) -> Response:
    wanted = json.loads(call.body)
    account = hub.require_account(call)
    namespace, kind = wanted.get("organization") or account.user, wanted.get("type") or "model"
    id = f"{namespace}/{wanted['name']}"
    if not hub.may_write(namespace, account):
        raise Refusal(403, f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"')
    if (kind, id) in hub.repositories:
        raise Refusal(409, f"You already created this {kind} repo", url=page(hub, kind, id))
    repository = Repository(id, kind, private=wanted.get("visibility") == "private" or bool(wanted.get("private")))
    hub.repositories[kind, id] = repository
    repository.commit("main", {".gitattributes": hub.blobs.add(GIT_ATTRIBUTES)}, "initial commit", user=account.user)
    return JSONResponse({"url": page(hub, kind, id), "name": id, "id": identifier(id)})


def delete(hub: LocalHub, call: Call) -> Response:
    wanted = json.loads(call.body)
    kind = wanted.get("type") or "model"
    id = f"{wanted.get('organization') or hub.require_account(call).user}/{wanted['name']}"
    hub.open(call, kind, id, write=True)
    del hub.repositories[kind, id]
    return JSONResponse({})


def search(hub: LocalHub, call: Call, kind: str) -> Response:
    account = hub.account(call)
    found = [
        _listed(hub, repository)
        for repository in hub.repositories.values()
        if repository.kind == kind
        and (not repository.private or hub.belongs(repository.namespace, account))
        and call.query.get("search", "").lower() in repository.id.lower()
        and repository.id.startswith(call.query.get("author", ""))
        and (call.query.get("filter") != "safetensors" or _has_weights(repository))
    ]
    return JSONResponse(found[: int(call.query.get("limit", 1000))])


def _has_weights(repository: Repository) -> bool:
    return any(path.endswith(".safetensors") for path in repository.files)


def info(hub: LocalHub, call: Call, kind: str, id: str, revision: str = "main") -> Response:
    repository = hub.open(call, kind, id)
    return JSONResponse(describe(hub, repository, repository.resolve(revision), blobs="blobs" in call.query))


def auth_check(hub: LocalHub, call: Call, kind: str, id: str, write: str | None) -> Response:
    hub.open(call, kind, id, content=True, write=write is not None)
    return JSONResponse({})


def change_settings(hub: LocalHub, call: Call, kind: str, id: str) -> Response:
    repository, wanted = hub.open(call, kind, id, write=True), json.loads(call.body)
    repository.gated = wanted.get("gated", repository.gated)
    return JSONResponse({})


def refs(hub: LocalHub, call: Call, kind: str, id: str) -> Response:
    repository = hub.open(call, kind, id)
    heads = {name: oid for name, oid in repository.branches.items() if not name.startswith("refs/")}
    return JSONResponse(
        {"branches": _references(heads, "heads"), "tags": _references(repository.tags, "tags"), "converts": []}
    )


def _references(names: dict[str, str], kind: str) -> list[dict[str, str]]:
    return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid} for name, oid in names.items()]


def commits(hub: LocalHub, call: Call, kind: str, id: str, revision: str) -> Response:
    history = hub.open(call, kind, id).history(revision)
    return JSONResponse(
        [
            {
                "id": oid,
                "title": commit.title,
                "message": commit.message,
                "date": DATE,
                "authors": [{"user": commit.user}],
            }
            for oid, commit in history
        ]
    )


def tree(hub: LocalHub, call: Call, kind: str, id: str, revision: str, folder: str | None) -> Response:
    repository = hub.open(call, kind, id, content=True)
    commit = repository.resolve(revision)
    prefix = unquote(folder).strip("/") + "/" if folder else ""
    recursive = call.query.get("recursive", "").lower() == "true"
    last = {"id": commit, "title": repository.commits[commit].title, "date": DATE}
    extra = {"lastCommit": last} if call.query.get("expand", "").lower() == "true" else {}
    folders: dict[str, None] = {}
    files = []
    for path, entry in repository.commits[commit].tree.items():
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            folders[prefix + "/".join(parts[:depth])] = None
        if recursive or len(parts) == 1:
            files.append({**file(path, entry), **extra})
    if folder and not files and not folders:
        raise Refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound", commit)
    return paginate(hub, call, [directory(path) for path in folders] + files)


def paginate(hub: LocalHub, call: Call, items: list[dict[str, Any]]) -> Response:
    begin = int(call.query.get("cursor", 0))
    end = begin + hub.page_size
    headers = {}
    if end < len(items):
        following = urlencode({**call.query, "cursor": end})
        headers["Link"] = f'<{hub.url}{call.path}?{following}>; rel="next"'
    return JSONResponse(items[begin:end], headers=headers)


def paths_info(hub: LocalHub, call: Call, kind: str, id: str, revision: str) -> Response:
    repository = hub.open(call, kind, id, content=True)
    files = repository.commits[repository.resolve(revision)].tree
    json_body = "json" in call.headers.get("content-type", "")
    wanted = json.loads(call.body)["paths"] if json_body else parse_qs(call.body.decode()).get("paths", [])
    found = []
    for path in (path.strip("/") for path in wanted):
        if path in files:
            found.append(file(path, files[path]))
        elif any(name.startswith(path + "/") for name in files):
            found.append(directory(path))
    return JSONResponse(found)


def create_branch(hub: LocalHub, call: Call, kind: str, id: str, branch: str) -> Response:
    repository = hub.open(call, kind, id, write=True)
    start = json.loads(call.body).get("startingPoint", "main") if call.body else "main"
    return _point(repository, repository.branches, unquote(branch), start)


def create_tag(hub: LocalHub, call: Call, kind: str, id: str, revision: str) -> Response:
    repository = hub.open(call, kind, id, write=True)
    return _point(repository, repository.tags, json.loads(call.body)["tag"], revision)


def _point(repository: Repository, references: dict[str, str], name: str, revision: str) -> Response:
    if name in references:
        raise Refusal(409, f"Reference exists already: {name}")
    references[name] = repository.resolve(revision)
    return JSONResponse({})


def describe(hub: LocalHub, repository: Repository, commit: str, *, blobs: bool) -> dict[str, Any]:
    files = repository.commits[commit].tree
    card = hub.blobs.card(files)
    siblings = []
    for path, entry in files.items():
        sibling: dict[str, Any] = {"rfilename": path}
        if blobs:
            sibling |= {"size": entry.size, "blobId": entry.oid}
            if entry.sha256:
                sibling["lfs"] = {**large(entry), "sha256": entry.sha256}
        siblings.append(sibling)
    description = {
        "_id": identifier(repository.id),
        "id": repository.id,
        "author": repository.namespace,
        "sha": commit,
        "private": repository.private,
        "gated": repository.gated,
        "disabled": repository.disabled,
        "downloads": 0,
        "likes": 0,
        "createdAt": DATE,
        "lastModified": DATE,
        "tags": [str(tag) for tag in card.get("tags", [])],
        "cardData": card,
        "siblings": siblings,
    }
    if repository.kind == "model":
        description |= {key: card.get(key) for key in ("library_name", "pipeline_tag")}
        description["config"] = _config(hub, files)
        description["modelId"] = repository.id
    return description


def _listed(hub: LocalHub, repository: Repository) -> dict[str, Any]:
    """With the tags by which the Hub says what is in the files and on the card."""
    found, files = describe(hub, repository, repository.head, blobs=False), repository.files
    formats = [name for name in ("safetensors", "gguf") if any(path.endswith(f".{name}") for path in files)]
    license = found["cardData"].get("license")
    licenses = [f"license:{license}"] if isinstance(license, str) else []
    return {**found, "tags": [*found["tags"], *formats, *licenses]}


def _config(hub: LocalHub, files: Tree) -> dict[str, Any]:
    """What the Hub tells of config.json."""
    if "config.json" not in files:
        return {}
    try:
        config = json.loads(hub.blobs.read(files["config.json"]))
        return {key: config[key] for key in ("architectures", "model_type") if key in config}
    except (ValueError, TypeError):
        return {}


def file(path: str, entry: Entry) -> dict[str, Any]:
    described: dict[str, Any] = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
    if entry.sha256:
        described["lfs"] = {**large(entry), "oid": entry.sha256}
    return described


def large(entry: Entry) -> dict[str, Any]:
    assert entry.sha256
    return {"size": entry.size, "pointerSize": len(pointer(entry.sha256, entry.size))}


def directory(path: str) -> dict[str, Any]:
    return {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}


def page(hub: LocalHub, kind: str, id: str) -> str:
    return f"{hub.url}/{'' if kind == 'model' else kind + 's/'}{id}"


def identifier(id: str) -> str:
    return hashlib.sha1(id.encode()).hexdigest()[:24]
