"""The whole way in a browser: pick, plan, run, progress, cancel, result, download, publish."""

from __future__ import annotations

import re
import signal
from contextlib import suppress

import pytest
from playwright.sync_api import Browser, Page, TimeoutError, expect

from tests.support.browser import PATIENCE, App, visiting
from tests.support.localhub import LocalHub

SMALL = """\
model: {bundled: demo}
quantize:
  types: [Q8_0, Q4_0]
calibration:
  chunks: 2
  chunk_size: 64
evaluate:
  chunks: 2
  chunk_size: 64
  engine: torch
"""
LONG = SMALL.replace("  chunks: 2\n", "  chunks: 200\n").replace("chunk_size: 64", "chunk_size: 512")


def pick_demo(page: Page) -> None:
    page.get_by_role("button", name="Try it with the small demo model").click()
    expect(page.locator("#about")).to_contain_text("This model is supported")
    page.get_by_role("button", name="Choose files").click()


def write_recipe(page: Page, text: str) -> None:
    page.locator("#recipe .cm-content").fill(text)


def agreed(page: Page, button: str) -> None:
    """Press it, when the form has followed the text; once more, as a visitor would, if nothing is said to it."""
    answer = page.locator("#said .hq-message, #status h2").first
    for _ in range(10):
        if page.locator(button).is_visible():  # the page may be at the job already, which is not yet shown
            page.locator(button).click()
        with suppress(TimeoutError):
            answer.wait_for(timeout=PATIENCE / 4)
        if answer.is_visible() and "different things" not in page.locator("#said").inner_text():
            return
        page.wait_for_timeout(1000)
    raise AssertionError("nothing is said, or always that the form and the text differ")


def start(page: Page) -> None:
    agreed(page, "#start")
    expect(page.locator("#status h2")).to_be_visible()
    page.wait_for_url(re.compile(r"\?job=[0-9a-f]{32}$"))


def wait_for_state(page: Page, state: str, patience: int = 3 * PATIENCE) -> None:
    expect(page.locator("#status .hq-state")).to_have_text(re.compile(state), timeout=patience)


def test_pick_plan_start_and_cancel(app: App, browser: Browser, hub: LocalHub) -> None:  # noqa: ARG001
    app.start()
    with visiting(browser, app.url) as page:
        pick_demo(page)
        expect(page.locator("#types")).to_contain_text("Q4_K_M · 2.39 MB")
        write_recipe(page, LONG)
        expect(page.get_by_role("checkbox", name=re.compile("^Q4_0"))).to_be_checked()
        page.get_by_role("checkbox", name=re.compile("^Q2_K ")).check()
        expect(page.locator("#recipe .cm-content")).to_contain_text("Q2_K")
        page.get_by_role("button", name="Check what it takes").click()
        expect(page.locator("#said")).to_contain_text("Ready to start")
        expect(page.locator("#said")).to_contain_text("1.65 MB")
        start(page)
        page.locator("#cancel").click()
        wait_for_state(page, "cancelled")
        page.get_by_role("tab", name="Jobs").click()
        expect(page.locator("#jobs")).to_contain_text("cancelled")
    assert app.stop() == 130


@pytest.mark.slow
def test_a_run_outlives_tabs_and_the_app_and_is_published(app: App, browser: Browser, hub: LocalHub) -> None:
    app.start()
    with visiting(browser, app.url) as page:
        pick_demo(page)
        write_recipe(page, SMALL)
        expect(page.get_by_role("checkbox", name=re.compile("^Q4_0"))).to_be_checked()
        page.locator("#to textarea, #to input").fill("alice/demo-GGUF")
        page.keyboard.press("Tab")
        expect(page.locator("#recipe .cm-content")).to_contain_text("alice/demo-GGUF")
        start(page)
        address = page.url
        page.reload()  # the page finds the job by its address
        expect(page.locator("#status h2")).to_be_visible()
        expect(page.locator("#status .hq-stages li")).not_to_have_count(0, timeout=3 * PATIENCE)
        page.watch.expected += ["Failed to load resource", "net::ERR"]  # type: ignore[attr-defined]
        app.stop(signal.SIGKILL)
        app.start()
        page.goto(address)
        wait_for_state(page, "done", 5 * PATIENCE)
        see_result(page, hub)
    with visiting(browser, address) as page:  # another device
        expect(page.locator("#result")).to_contain_text("hubquant-demo-Q8_0.gguf")


def see_result(page: Page, hub: LocalHub) -> None:
    result = page.locator("#result")
    expect(result).to_contain_text("Size and divergence from the original")
    plot = page.locator(".hq-plot img")
    expect(plot).to_have_js_property("complete", True)
    assert plot.evaluate("image => image.naturalWidth") > 0
    for name in ("hubquant-demo-Q8_0.gguf", "hubquant-demo-Q4_0.gguf"):
        with page.expect_download() as download:
            result.get_by_role("link", name=name).click()
        assert download.value.path().read_bytes() == hub.content("alice/demo-GGUF", name)
    expect(result.get_by_role("link", name="alice/demo-GGUF")).to_be_visible()
    page.get_by_role("button", name="The model card").click()
    card = page.locator("#card")
    expect(card.locator("h1").first).to_be_visible()
    assert card.locator("img").first.evaluate("image => image.complete && image.naturalWidth") > 0
    page.get_by_role("button", name=re.compile("^Log")).click()
    expect(page.locator("#log textarea")).to_have_value(re.compile("quantize: Q8_0"))


@pytest.mark.slow
def test_two_tabs_on_one_job(app: App, browser: Browser, hub: LocalHub) -> None:  # noqa: ARG001
    app.start()
    with visiting(browser, app.url) as page:
        pick_demo(page)
        write_recipe(page, LONG)
        start(page)
        other = page.context.new_page()
        other.goto(page.url)
        expect(other.locator("#cancel")).to_be_visible()
        page.locator("#cancel").click()
        wait_for_state(other, "cancelled")
        wait_for_state(page, "cancelled")
        other.locator("#remove").click()
        expect(other.locator("#jobs")).to_contain_text("You have no jobs yet")
        page.reload()
        expect(page.locator("#status")).to_contain_text("There is no such job")
