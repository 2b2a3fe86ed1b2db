"""Draw the app on a desktop and on a phone, light and dark: docs/app-*.png.

python -m scripts.app_pictures

It needs Debian's chromium and what tests need. The quickstart's recipe is run in the app.
"""

from __future__ import annotations

import io
import re
import tempfile
from importlib import resources
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import DESKTOP, PHONE, App, launched, visiting
from tests.ui.test_walk import pick_demo, start, wait_for_state, write_recipe

DOCS = Path(__file__).parents[1] / "docs"
COLOURS = 128
TALLEST = 2200  # pixels
A_RUN = 1_800_000  # milliseconds


def draw(page: Page, name: str) -> None:
    page.wait_for_timeout(1000)
    image = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    image = image.crop((0, 0, image.width, min(image.height, TALLEST)))
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(DOCS / f"app-{name}.png", optimize=True)


def first_steps(browser: Browser, app: App) -> str:
    """The address of the finished job."""
    quickstart = (resources.files("hubquant") / "data/recipes/quickstart.yaml").read_text("utf-8")
    with visiting(browser, app.url, viewport=DESKTOP) as page:
        pick_demo(page)
        page.get_by_role("tab", name="1 Model").click()
        draw(page, "model")
        page.get_by_role("tab", name="2 Files").click()
        write_recipe(page, quickstart)
        expect(page.get_by_role("checkbox", name=re.compile("^Q5_K_M"))).not_to_be_checked()
        start(page)
        address = page.url
        with visiting(browser, address, viewport=PHONE, color_scheme="dark") as phone:
            expect(phone.locator("#status progress")).to_be_visible()
            draw(phone, "run-phone-dark")
        wait_for_state(page, "done", A_RUN)
        draw(page, "result")
    return address


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, launched() as browser:
        app = App(Path(folder) / "state").start()
        try:
            address = first_steps(browser, app)
            with visiting(browser, app.url, viewport=DESKTOP, color_scheme="dark") as page:
                pick_demo(page)
                expect(page.locator("#types")).to_contain_text("Q4_K_M")
                draw(page, "files-dark")
            with visiting(browser, address, viewport=PHONE) as page:
                expect(page.locator("#result table").first).to_be_visible()
                draw(page, "result-phone")
        finally:
            app.stop()


if __name__ == "__main__":
    main()
