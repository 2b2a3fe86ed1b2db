"""Two users of a Space at once: neither sees what is the other's, by guessing addresses either."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import PATIENCE, App, visiting
from tests.support.localhub import ALICE, BOB, LocalHub, oauth
from tests.ui.test_walk import SMALL, agreed, pick_demo, start, wait_for_state, write_recipe

pytestmark = pytest.mark.slow


def sign_in(page: Page, user: str) -> None:
    page.get_by_role("link", name="Sign in with Hugging Face").click()
    page.get_by_role("link", name=f"Sign in as {user}").click()
    expect(page.locator(".hq-account")).to_contain_text(user)


def test_two_users_do_not_see_each_other(app: App, browser: Browser, hub: LocalHub, tiny_llama: Path) -> None:
    hub.add("alice/secret-model", tiny_llama, private=True)
    app.environment = {**app.environment, **oauth.environment(hub)}
    app.start()
    address, job = both(app, browser)
    see_with_tokens(app, address, alice_job=job)
    assert ALICE not in app.state.with_suffix(".err").read_text()


def both(app: App, browser: Browser) -> tuple[str, str]:
    """The address of a file of Alice's, and her job's id, when she has it and Bob has not seen it."""
    with visiting(browser, app.url) as alice, visiting(browser, app.url) as bob:
        pick_demo(alice)
        write_recipe(alice, SMALL)
        agreed(alice, "#start")
        expect(alice.locator("#said")).to_contain_text("You are not signed in")
        sign_in(alice, "alice")
        sign_in(bob, "bob")

        look(alice, "alice/secret-model")
        expect(alice.locator("#about")).to_contain_text("to you and your organization only")
        look(bob, "alice/secret-model")
        expect(bob.locator("#about")).to_contain_text("There is no repository alice/secret-model")

        alice.get_by_role("button", name="Choose files").click()
        write_recipe(alice, SMALL.replace("{bundled: demo}", "{id: alice/secret-model}"))
        start(alice)
        wait_for_state(alice, "done", 5 * PATIENCE)
        file = alice.locator("#result").get_by_role("link", name=re.compile("Q8_0.gguf")).get_attribute("href")

        bob.goto(alice.url)
        expect(bob.locator("#status")).to_contain_text("There is no such job")
        bob.get_by_role("tab", name="Jobs").click()
        expect(bob.locator("#jobs")).to_contain_text("You have no jobs yet")
        assert "secret" not in bob.content().replace(alice.url, "")

        address = f"{app.url}{file}"
        assert alice.request.get(address).body()[:4] == b"GGUF"
        assert bob.request.get(address).status == 404
        return address, urlsplit(alice.url).query.removeprefix("job=")


def look(page: Page, model: str) -> None:
    page.get_by_role("tab", name="1 Model").click()
    page.get_by_role("textbox", name="Model").fill(model)
    page.get_by_role("button", name="Look", exact=True).click()


def see_with_tokens(app: App, address: str, alice_job: str) -> None:
    """Programs are known by their tokens; nobody is anybody by anything else. ``/gradio_api/file=`` serves nothing."""
    assert httpx2.get(address).status_code == 404
    assert httpx2.get(address, headers={"Authorization": f"Bearer {BOB}"}).status_code == 404
    assert httpx2.get(address, headers={"Authorization": f"Bearer {ALICE}"}).content[:4] == b"GGUF"
    [path] = (app.state / "jobs" / alice_job / "out").rglob("*Q8_0.gguf")
    for way in ("gradio_api/file=", "file=", "gradio_api/file/", "static/"):
        for token in (BOB, ALICE):
            answer = httpx2.get(f"{app.url}{way}{path}", headers={"Authorization": f"Bearer {token}"})
            assert answer.content[:4] != b"GGUF"
    assert httpx2.get(f"{app.url}jobs/{alice_job}/files/../../../jobs.sqlite").status_code == 404
    assert httpx2.get(f"{app.url}jobs/{alice_job}/files/%2e%2e/%2e%2e/jobs.sqlite").status_code == 404
