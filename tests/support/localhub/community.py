"""Pull requests and collections."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from tests.support.localhub.state import DATE, Refusal, Repository

if TYPE_CHECKING:
    from tests.support.localhub.server import Call, LocalHub

PAGE = 50


def list_discussions(hub: LocalHub, call: Call, kind: str, id: str) -> Response:
    found = [
        each
        for each in hub.open(call, kind, id).discussions
        if call.query.get("author", each["author"]["name"]) == each["author"]["name"]
        and call.query.get("status", each["status"]) == each["status"]
    ]
    start = int(call.query.get("p", 0)) * PAGE
    return JSONResponse({"discussions": found[start : start + PAGE], "count": len(found), "start": start})


def open_discussion(hub: LocalHub, call: Call, kind: str, id: str) -> Response:
    repository, account, wanted = hub.open(call, kind, id), hub.require_account(call), json.loads(call.body)
    number = len(repository.discussions) + 1
    repository.branches[f"refs/pr/{number}"] = repository.head
    repository.discussions.append(
        {
            "title": wanted["title"],
            "num": number,
            "author": {"name": account.user},
            "createdAt": DATE,
            "status": "draft",
            "repo": {"name": id, "type": kind},
            "isPullRequest": wanted["pullRequest"],
        }
    )
    return JSONResponse({"num": number})


def discussion(hub: LocalHub, call: Call, kind: str, id: str, number: str) -> Response:
    details = _discussion(hub.open(call, kind, id), number)
    changes = {"base": "refs/heads/main"}
    return JSONResponse({**details, "changes": changes, "filesWithConflicts": [], "events": [], "diff": ""})


def change_status(hub: LocalHub, call: Call, kind: str, id: str, number: str) -> Response:
    details, wanted = _discussion(hub.open(call, kind, id), number), json.loads(call.body)["status"]
    if details["status"] == wanted:
        raise Refusal(409, f"It is {wanted} already")
    details["status"] = wanted
    event = {"id": "0", "type": "status-change", "createdAt": DATE, "author": details["author"]}
    return JSONResponse({"newStatus": {**event, "data": {"status": wanted}}})


def _discussion(repository: Repository, number: str) -> dict[str, Any]:
    if not 1 <= int(number) <= len(repository.discussions):
        raise Refusal(404, "no such discussion")
    return repository.discussions[int(number) - 1]


def may_commit(repository: Repository, branch: str, user: str) -> bool:
    """Whoever opened a pull request writes to its branch."""
    number = branch.removeprefix("refs/pr/")
    return number != branch and _discussion(repository, number)["author"]["name"] == user


def create_collection(hub: LocalHub, call: Call) -> Response:
    wanted, account = json.loads(call.body), hub.require_account(call)
    if not hub.may_write(wanted["namespace"], account):
        raise Refusal(403, "You don't have the rights to create a collection there")
    slug = f"{wanted['namespace']}/{wanted['title'].lower().replace(' ', '-')}-0123456789abcdef01234567"
    if slug in hub.collections:
        refusal = Refusal(409, "You already have a collection of that title")
        refusal.body["slug"] = slug
        raise refusal
    hub.collections[slug] = {
        "slug": slug,
        "title": wanted["title"],
        "owner": wanted["namespace"],
        "items": [],
        "lastUpdated": DATE,
        "position": 0,
        "private": wanted.get("private", False),
        "theme": "blue",
        "upvotes": 0,
    }
    return JSONResponse(hub.collections[slug])


def collection(hub: LocalHub, call: Call, slug: str) -> Response:  # noqa: ARG001
    if slug not in hub.collections:
        raise Refusal(404, "Collection not found")
    return JSONResponse(hub.collections[slug])


def add_to_collection(hub: LocalHub, call: Call, slug: str) -> Response:
    wanted = json.loads(call.body)["item"]
    if slug not in hub.collections:
        raise Refusal(404, "Collection not found")
    if not hub.may_write(slug.split("/")[0], hub.require_account(call)):
        raise Refusal(403, "You don't have the rights to change this collection")
    items = hub.collections[slug]["items"]
    if any(item["id"] == wanted["id"] for item in items):
        raise Refusal(409, "It is in this collection already")
    items.append({"_id": str(len(items)), **wanted, "position": len(items)})
    return JSONResponse(hub.collections[slug])
