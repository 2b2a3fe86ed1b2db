"""Draw the card of the demo model on a wide and on a narrow screen: docs/card-wide.png and docs/card-narrow.png.

python -m scripts.card_pictures

It needs Debian's chromium, and markdown-it-py (which rich brings along).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from markdown_it import MarkdownIt
from PIL import Image

import hubquant
from hubquant.pipeline.contents import CARD
from hubquant.pipeline.output_folder import OutputFolder
from hubquant.pipeline.page import Page, measurements_in

DOCS = Path(__file__).parents[1] / "docs"
REPOSITORY = "me/hubquant-demo-GGUF"
WIDTHS = {"card-wide.png": 1200, "card-narrow.png": 420}
NARROWEST = 500  # pixels of a window of chromium
COLOURS = 64
STYLE = """
body { margin: 0; box-sizing: border-box; padding: 24px; background: #fff; color: #1f2328; width: %dpx;
       font: 16px/1.5 "DejaVu Sans", "Liberation Sans", sans-serif; overflow-wrap: break-word; }
h1, h2 { border-bottom: 1px solid #d1d9e0; padding-bottom: .3em; line-height: 1.25; margin: 24px 0 16px; }
h1 { font-size: 2em; } h2 { font-size: 1.5em; } h3 { font-size: 1.25em; }
a { color: #0969da; text-decoration: none; }
p, ul, table, pre { margin: 0 0 16px; }
code, pre { font-family: "DejaVu Sans Mono", monospace; font-size: 85%%; background: #f6f8fa; border-radius: 6px; }
code { padding: .2em .4em; } pre { padding: 16px; overflow: hidden; } pre code { padding: 0; font-size: 100%%; }
table { display: block; max-width: 100%%; width: max-content; overflow: hidden; border-collapse: collapse; }
th, td { border: 1px solid #d1d9e0; padding: 6px 13px; } tr:nth-child(2n) { background: #f6f8fa; }
img { max-width: 100%%; }
"""


def card(folder: Path) -> None:
    """Run the quickstart in ``folder`` and write the card there that a push would publish."""
    hubquant.run("quickstart", out=folder, progress=None)
    made = OutputFolder(folder)
    page = Page.load(made)
    assert page is not None
    for name, content in page.contents(measurements_in(made), (), REPOSITORY).items():
        (folder / name).write_bytes(content)


def html(folder: Path, width: int) -> str:
    text = (folder / CARD).read_text("utf-8").split("\n---\n", 1)[1]
    body = MarkdownIt("commonmark").enable("table").render(text)
    return f'<!doctype html><meta charset="utf-8"><style>{STYLE % width}</style><body>{body}'


def chromium(*arguments: str) -> str:
    program = shutil.which("chromium") or "chromium"
    line = [program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *arguments]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout


def draw(folder: Path, width: int, picture: Path) -> None:
    """Of the whole page."""
    page, shot = folder / "page.html", folder / "page.png"
    measure = "<script>onload = () => { document.title = document.body.scrollHeight }</script>"
    page.write_text(html(folder, width) + measure, "utf-8")
    window = max(width, NARROWEST)
    title = re.search(r"<title>(\d+)</title>", chromium(f"--window-size={window},800", "--dump-dom", page.as_uri()))
    assert title is not None
    # some of a window's height is not the page's
    chromium(f"--window-size={window},{int(title[1]) + 200}", f"--screenshot={shot}", page.as_uri())
    with Image.open(shot) as image:
        whole = image.convert("RGB").crop((0, 0, width, int(title[1])))
        whole.quantize(COLOURS, dither=Image.Dither.NONE).save(picture, optimize=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        card(Path(temporary))
        for name, width in WIDTHS.items():
            draw(Path(temporary), width, DOCS / name)
