"""Whose page may ask, and who a request is from."""

from __future__ import annotations

import time
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from hubquant.errors import HubAccessError, UserError
from hubquant.jobs.job import LOCAL
from hubquant.ui.guard import LOOPBACK, Guard
from hubquant.ui.identity import ByHub, OneUser, Visitor
from tests.support.localhub import ALICE, BOB, LocalHub


def client(url: str = "http://127.0.0.1:7860", **options: Any) -> TestClient:
    inner = Starlette(routes=[Route("/", lambda _: PlainTextResponse("inside"), methods=["GET", "POST"])])
    return TestClient(Guard(inner, **{"hosts": LOOPBACK, **options}), base_url=url, follow_redirects=False)


def test_a_page_may_load_nothing_from_elsewhere() -> None:
    policy = client().get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert "*" not in policy


@pytest.mark.parametrize("url", ["http://localhost:7860", "http://127.0.0.1", "http://[::1]:7860"])
def test_this_machine_is_reached_by_its_own_names(url: str) -> None:
    assert client(url).get("/").text == "inside"


def test_another_name_for_this_machine_is_refused() -> None:
    assert client("http://evil.example:7860").get("/").status_code == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://127.0.0.1:78600"])
def test_another_sites_page_is_refused(origin: str) -> None:
    assert client().post("/", headers={"Origin": origin}).status_code == 403


def test_the_apps_own_page_is_not_refused() -> None:
    assert client().post("/", headers={"Origin": "http://127.0.0.1:7860"}).status_code == 200


def test_where_others_reach_it_a_key_is_needed_once() -> None:
    visitor = client("http://box.lan:7860", hosts=None, key="sesame")
    assert visitor.get("/").status_code == 401
    assert visitor.get("/?key=guess").status_code == 401
    assert visitor.get("/", headers={"Cookie": "hubquant_key=guess"}).status_code == 401
    opened = visitor.get("/?key=sesame")
    assert opened.status_code == 303
    assert "sesame" not in opened.headers["location"]
    assert "HttpOnly" in opened.headers["set-cookie"]
    assert visitor.get("/").text == "inside"
    program = client("http://box.lan:7860", hosts=None, key="sesame")
    assert program.get("/", headers={"Authorization": "Bearer sesame"}).text == "inside"


def request(headers: dict[str, str] | None = None, session: dict[str, Any] | None = None) -> Request:
    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    return Request({"type": "http", "headers": raw, "query_string": b"owner=hub:bob", "session": session or {}})


def signed_in(user: str, *, until: float) -> dict[str, Any]:
    userinfo = {"sub": f"id-of-{user}", "preferred_username": user}
    return {"oauth_info": {"access_token": "hf_oauth_x", "expires_at": until, "userinfo": userinfo}}


def test_a_space_knows_visitors_by_their_session() -> None:
    found = ByHub().visitor(request(session=signed_in("alice", until=time.time() + 60)))
    assert found == Visitor("hub:id-of-alice", "alice", "hf_oauth_x")


@pytest.mark.parametrize(
    "headers", [{}, {"cookie": "session=eyJ1c2VyIjoiYm9iIn0="}, {"x-user": "bob"}, {"authorization": "Bearer bob"}]
)
def test_nothing_that_is_typed_makes_a_visitor_somebody(headers: dict[str, str]) -> None:
    found = ByHub().visitor(request(headers))
    assert (found.owner, found.token) == (None, False)
    with pytest.raises(UserError, match="not signed in"):
        found.known()


def test_a_session_ends() -> None:
    assert ByHub().visitor(request(session=signed_in("alice", until=time.time() - 1))).owner is None


@pytest.mark.parametrize("name", ["authorization", "x-hf-authorization"])
def test_a_program_is_known_by_its_token(hub: LocalHub, name: str) -> None:
    identity = ByHub()
    for token, user in ((ALICE, "alice"), (BOB, "bob"), (ALICE, "alice")):
        found = identity.visitor(request({name: f"Bearer {token}"}))
        assert (found.owner, found.name, found.token) == (f"hub:{user}", user, token)
    assert len(hub.requests("whoami")) == 2
    with pytest.raises(HubAccessError):
        identity.visitor(request({name: "Bearer hf_unknownUNKNOWNunknownUNKNOWNunknown"}))


def test_no_account_of_the_hub_is_this_machines_user() -> None:
    found = ByHub().visitor(request(session=signed_in("local", until=time.time() + 60)))
    assert found.owner != LOCAL


def test_a_token_that_is_typed_in_stays_in_memory_and_is_not_shown(hub: LocalHub) -> None:  # noqa: ARG001
    user = OneUser()
    assert user.visitor(request()).token is None
    assert user.sign_in(ALICE) == "alice"
    found = user.visitor(request())
    assert (found.owner, found.name, found.token) == (LOCAL, "alice", ALICE)
    assert ALICE not in repr(found)
    with pytest.raises(HubAccessError):
        user.sign_in("hf_unknownUNKNOWNunknownUNKNOWNunknown")
    assert user.visitor(request()).token == ALICE
    user.sign_in("")
    assert user.visitor(request()).token is None
