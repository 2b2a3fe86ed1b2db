"""A press of a button is answered, in whichever order the page and the server come to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.support.browser import App, eventually, visiting
from tests.support.localhub import ALICE, LocalHub
from tests.ui.test_walk import SMALL, pick_demo, write_recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    app = App(tmp_path_factory.mktemp("app") / "state", {"HF_TOKEN": ALICE}).start()
    yield app
    app.stop()


@pytest.fixture
def page(served: App, browser: Browser) -> Iterator[Page]:
    with visiting(browser, served.url) as found:
        pick_demo(found)
        expect(found.locator("#types")).to_contain_text("Q4_K_M · 2.39 MB")
        yield found


class Held:
    """What the page asks of the server from now on, one by one, as long as it is held."""

    def __init__(self, page: Page) -> None:
        self._page, self._routes, self._holds = page, list[Route](), True
        page.route("**/queue/join*", self._meet)

    def _meet(self, route: Route) -> None:
        if self._holds:
            self._routes.append(route)
        else:
            route.continue_()

    def wait_for(self, count: int) -> None:
        def enough() -> bool:
            self._page.wait_for_timeout(50)  # routes are met in here
            return len(self._routes) >= count

        eventually(enough)

    def release(self, which: int) -> None:
        """This one, and all that come after now."""
        self._holds = False
        self._routes[which].continue_()


def checkbox(page: Page, type: str) -> Locator:
    return page.get_by_role("checkbox", name=re.compile(f"^{type}( |$)"))


def test_what_follows_an_edit_leaves_the_answer_to_a_later_press(page: Page) -> None:
    held = Held(page)
    write_recipe(page, SMALL)
    held.wait_for(1)
    write_recipe(page, SMALL.replace("Q4_0", "Q5_0"))  # is asked about when the first is answered
    page.locator("#start").click()
    held.wait_for(2)
    held.release(1)
    expect(page.locator("#said")).to_contain_text("say different things")
    held.release(0)
    expect(checkbox(page, "Q5_0")).to_be_checked()
    expect(page.locator("#said")).to_contain_text("say different things")
    write_recipe(page, SMALL)
    expect(page.locator("#said")).not_to_contain_text("say different things")


def test_a_press_with_types_that_the_form_no_longer_offers(page: Page) -> None:
    write_recipe(page, SMALL)
    expect(checkbox(page, "Q4_0")).to_be_checked()
    held = Held(page)
    write_recipe(page, SMALL.replace("Q4_0", "Q5_0"))
    held.wait_for(1)
    page.locator("#start").click()
    held.wait_for(2)
    held.release(0)
    expect(checkbox(page, "Q4_0")).to_have_count(0)
    held.release(1)
    expect(page.locator("#said")).to_contain_text("say different things")


def test_what_is_wrong_with_an_edit_is_said_until_it_is_mended(page: Page) -> None:
    write_recipe(page, SMALL + "quantise: {}\n")
    expect(page.locator("#fault")).to_contain_text("quantise")
    write_recipe(page, SMALL)
    expect(page.locator("#fault [role=alert]")).to_have_count(0)


def test_a_press_that_lasts_while_another_model_is_found(page: Page, hub: LocalHub, tiny_llama: Path) -> None:
    """What a press lets go of must be what it began on: the button may not move."""
    hub.add("alice/secret-model", tiny_llama, private=True)  # a longer card than the demo model's
    page.get_by_role("tab", name="1 Model").click()
    page.get_by_role("textbox", name="Model").fill("alice/secret-model")
    held = Held(page)
    page.get_by_role("button", name="Look", exact=True).click()
    held.wait_for(1)
    page.get_by_role("button", name="Choose files").hover()
    page.mouse.down()
    held.release(0)
    expect(page.locator("#about")).to_contain_text("alice/secret-model")
    page.mouse.up()
    expect(page.locator("#types")).to_be_visible()
