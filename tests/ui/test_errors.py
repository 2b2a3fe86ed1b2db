"""What goes wrong is one clear message on the page."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import App, visiting
from tests.support.disks import mounted
from tests.support.localhub import BOB, LocalHub
from tests.ui.test_uploads import archive
from tests.ui.test_walk import agreed, pick_demo, write_recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """As somebody who may not see what is Alice's."""
    app = App(tmp_path_factory.mktemp("app") / "state", {"HF_TOKEN": BOB}).start()
    yield app
    app.stop()


@pytest.fixture
def page(served: App, browser: Browser, hub: LocalHub) -> Iterator[Page]:  # noqa: ARG001
    with visiting(browser, served.url) as found:
        yield found


def look(page: Page, typed: str) -> None:
    page.get_by_role("textbox", name="Model").fill(typed)
    page.get_by_role("button", name="Look", exact=True).click()


def says(page: Page, where: str, *parts: str) -> None:
    """One message, with all of ``parts``."""
    box = page.locator(f"{where} [role=alert]")
    for part in parts:
        expect(box).to_contain_text(part)
    expect(box).to_have_count(1)


def test_models_that_cannot_be_taken(page: Page, hub: LocalHub, tiny_llama: Path) -> None:
    hub.add("alice/gated", tiny_llama, gated="manual")
    config = json.loads((tiny_llama / "config.json").read_bytes())
    files = {path.name: path.read_bytes() for path in tiny_llama.iterdir() if path.is_file()}
    odd = {**config, "architectures": ["OddForCausalLM"], "model_type": "odd"}
    hub.add("org/odd", {**files, "config.json": json.dumps(odd).encode()})

    look(page, "alice/gated")
    says(page, "#about", "gated, and you have no access", "ask for access")
    look(page, "org/odd")
    says(page, "#about", "cannot be quantized", "OddForCausalLM")
    look(page, "org/nothing")
    says(page, "#about", "There is no repository org/nothing")
    look(page, "")
    says(page, "#about", "No model is named")
    hub.fail(r"GET /api/models", 500, times=50)
    look(page, "org/odd")
    says(page, "#about", "500")


@pytest.mark.parametrize("typed", ["<img src=x onerror=alert(1)>/b", "<script>alert(1)</script>", "a/" + "b" * 250])
def test_markup_in_names_is_text(page: Page, typed: str) -> None:
    alerts: list[str] = []
    page.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
    look(page, typed)
    expect(page.locator("#about .hq-message")).to_be_visible()
    assert page.locator("#about img, #about script").count() == 0
    assert alerts == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: !!python/object/apply:os.system [id]", "A YAML tag"),
        ("model: {bundled: demo}\nquantise: {types: [Q8_0]}", "quantise"),
        ("model: {bundled: demo}\nquantize: {types: [Q4_K_X]}", "Q4_K_X"),
        ("model: {bundled: demo}\nquantize: {types: [IQ2_XXS]}\nimatrix: {skip: true}", "IQ2_XXS"),
        ("", "empty"),
    ],
)
def test_recipes_that_are_none(page: Page, text: str, message: str) -> None:
    page.get_by_role("tab", name="2 Files").click()
    write_recipe(page, text)
    agreed(page, "#check")
    says(page, "#said", message)
    agreed(page, "#start")
    says(page, "#said", message)
    assert "job=" not in page.url


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", archive(), "not a text"),
        ("page.txt", b"<!doctype html><script>alert(1)</script>", "a web page"),
        ("<b>a</b>.txt", b"\x00\x01", "not a text"),
    ],
    ids=["zip bomb", "HTML", "binary"],
)
def test_uploads_that_are_no_texts(page: Page, name: str, content: bytes, message: str) -> None:
    page.get_by_role("tab", name="2 Files").click()
    page.get_by_role("radio", name="A file of mine").check()
    page.locator("#upload input[type=file]").set_input_files(
        {"name": name, "mimeType": "text/plain", "buffer": content}
    )
    expect(page.locator(".hq-message[role=alert]", has_text=message)).to_be_visible()
    assert page.locator(".hq-message b").count() == 0


def test_an_upload_is_calibrated_on(page: Page, served: App) -> None:
    page.get_by_role("tab", name="2 Files").click()
    page.get_by_role("radio", name="A file of mine").check()
    page.locator("#upload input[type=file]").set_input_files(
        {"name": "my words.txt", "mimeType": "text/plain", "buffer": b"words " * 1000}
    )
    expect(page.locator("#recipe .cm-content")).to_contain_text("file: my_words.txt")
    page.get_by_role("button", name="Check what it takes").click()
    expect(page.locator("#said")).to_contain_text("Ready to start")
    assert list((served.state / "uploads").rglob("my_words.txt"))
    assert not list((served.state / "incoming").rglob("*.txt"))


def test_a_lost_network_and_its_return(app: App, browser: Browser, hub: LocalHub) -> None:  # noqa: ARG001
    app.start()
    with visiting(browser, app.url) as page:
        pick_demo(page)
        page.watch.expected += ["Failed to load resource", "net::ERR", "Could not", "Connection", "Failed to fetch"]  # type: ignore[attr-defined]
        expect(page.locator("#check")).to_be_visible()
        app.stop(signal.SIGKILL)
        page.locator("#check").click()
        expect(page.get_by_text(re.compile("connection", re.IGNORECASE)).first).to_be_visible()
        app.start()
        page.goto(app.url)
        pick_demo(page)


def test_a_full_disk(app: App, browser: Browser, hub: LocalHub, tmp_path: Path) -> None:  # noqa: ARG001
    with mounted(tmp_path / "disk", "size=4m") as disk:
        app.state = disk / "state"
        app.start()
        with visiting(browser, app.url) as page:
            pick_demo(page)
            page.locator("#start").click()
            says(page, "#said", "left", "Choose fewer types")
