"""Who cannot see, who has no mouse, and who has a phone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import DESKTOP, PHONE, App, visiting
from tests.ui.test_walk import pick_demo

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    app = App(tmp_path_factory.mktemp("app") / "state").start()
    yield app
    app.stop()


def violations(page: Page) -> list[Any]:
    found = Axe().run(page).response["violations"]
    return [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing_and_nothing_is_cut_off(served: App, browser: Browser, size: Any, scheme: Any) -> None:
    with visiting(browser, served.url, viewport=size, color_scheme=scheme, reduced_motion="reduce") as page:
        expect(page.get_by_role("heading", name="hubquant")).to_be_visible()
        looks_right(page)
        page.get_by_role("button", name="What should it run on?").click()
        pick_demo(page)
        expect(page.locator("#types")).to_contain_text("Q4_K_M")
        page.get_by_role("button", name="Quality and measurement").click()
        page.get_by_role("radio", name="A dataset of the Hub").check()
        expect(page.get_by_role("textbox", name="Dataset")).to_be_visible()
        page.get_by_role("button", name="Check what it takes").click()
        expect(page.locator("#said [role=alert]")).to_be_visible()
        looks_right(page)
        page.get_by_role("tab", name="1 Model").click()
        looks_right(page)
        page.get_by_role("tab", name="3 Run").click()
        looks_right(page)


def looks_right(page: Page) -> None:
    for _ in range(20):  # what is being loaded is shown pale
        if not (found := violations(page)):
            break
        page.wait_for_timeout(500)
    assert found == []
    wide = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide[0] <= wide[1]


def test_by_keyboard_alone(served: App, browser: Browser) -> None:
    with visiting(browser, served.url) as page:
        reach(page, "Try it with the small demo model")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        page.keyboard.press("Enter")
        expect(page.locator("#about")).to_contain_text("This model is supported")
        reach(page, "Choose files")
        page.keyboard.press("Enter")
        expect(page.locator("#types")).to_be_visible()
        reach(page, "Start")
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        expect(page.locator("#said")).to_contain_text("Ready to start")


def reach(page: Page, name: str) -> None:
    """By the tabulator."""
    for _ in range(120):
        if page.evaluate("document.activeElement.classList.contains('cm-content')"):
            page.keyboard.press("Escape")  # or else Tab indents
        page.keyboard.press("Tab")
        shown = page.evaluate("document.activeElement.innerText || ''")
        if shown.strip().startswith(name):
            return
    raise AssertionError(f"{name} is not reached")
