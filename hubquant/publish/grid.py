"""The same pictures by the source and by each of its files: a row for each prompt, a column for each file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont
    from torch import Tensor

CELL = 256  # pixels; the longest edge of a picture
WIDEST = 2560  # pixels; with many files the cells become smaller
SHOWN = 1100  # pixels; a wider grid is shown smaller, and has the larger letters
MOST_ROWS = 8
# In pixels, where the grid is shown as it is.
PROMPT, HEADER, SUBTITLE, GAP, MARGIN = 190, 52, 22, 6, 12
TITLE_SIZE, TEXT_SIZE, LINE = 15, 13, 18
PLAIN, BOLD = "DejaVuSans.ttf", "DejaVuSans-Bold.ttf"
PAPER, INK, FAINT = "#ffffff", "#222222", "#6a737d"
QUALITY = 90


@dataclass(frozen=True)
class Column:
    """Files of pictures, one for each prompt; ``title`` and ``subtitle`` stand above them."""

    title: str
    subtitle: str
    pictures: Sequence[Path]


def thumbnail(picture: Tensor) -> bytes:
    """PNG of a picture or of a video's middle frame, [frames, 3, height, width] in 0..1, for a cell of the grid."""
    return _png(_within(_image(picture), CELL))


def png(picture: Tensor) -> bytes:
    """PNG of a picture or of a video's middle frame, [frames, 3, height, width] in 0..1, in its own size."""
    return _png(_image(picture))


def grid(prompts: Sequence[str], columns: Sequence[Column]) -> bytes:
    """WebP of the first ``MOST_ROWS`` of ``prompts`` and their pictures by each of ``columns``, which have the same
    sizes; equal input gives equal bytes. ``ValueError`` for no pictures."""
    from PIL import Image, ImageDraw

    prompts = prompts[:MOST_ROWS]
    if not prompts or not columns:
        raise ValueError("there are no pictures")
    scale = max(1.0, min(PROMPT + len(columns) * CELL, WIDEST) / SHOWN)
    left, top, line = MARGIN + round(scale * PROMPT), MARGIN + round(scale * HEADER), round(scale * LINE)
    edge = min(CELL, (WIDEST - MARGIN - left) // len(columns) - GAP)
    cells = [[_fitted(_opened(path), edge) for path in column.pictures[: len(prompts)]] for column in columns]
    across, down = (max(cell.size[axis] for column in cells for cell in column) + GAP for axis in (0, 1))
    paper = Image.new("RGB", (left + across * len(columns) + MARGIN, top + down * len(prompts) + MARGIN), PAPER)
    draw = ImageDraw.Draw(paper)
    title = _font(BOLD, scale * TITLE_SIZE, [column.title for column in columns], across - GAP)
    subtitle = _font(PLAIN, scale * TEXT_SIZE, [column.subtitle for column in columns], across - GAP)
    text = _font(PLAIN, scale * TEXT_SIZE)
    for number, (column, pictures) in enumerate(zip(columns, cells, strict=True)):
        x = left + number * across
        draw.text((x, MARGIN), column.title, INK, title)
        draw.text((x, MARGIN + round(scale * SUBTITLE)), column.subtitle, FAINT, subtitle)
        for row, picture in enumerate(pictures):
            paper.paste(picture, (x, top + row * down))
    for row, prompt in enumerate(prompts):
        lines = wrapped(prompt, text, left - MARGIN - 2 * GAP, (down - GAP) // line)
        for number, words in enumerate(lines):
            draw.text((MARGIN, top + row * down + number * line), words, INK, text)
    buffer = BytesIO()
    paper.save(buffer, "WEBP", quality=QUALITY, method=6)
    return buffer.getvalue()


def wrapped(text: str, font: FreeTypeFont, width: int, most: int) -> list[str]:
    """At most so many lines, at least one, of ``width`` pixels each; what is left out is an ellipsis. A word breaks
    where it is wider."""
    lines, words = [""], text.split()
    while words:
        word = words.pop(0)
        line = f"{lines[-1]} {word}".lstrip()
        if font.getlength(line) <= width:
            lines[-1] = line
        elif lines[-1]:
            lines.append("")
            words.insert(0, word)
        else:
            fits = next((n for n in range(len(word), 1, -1) if font.getlength(word[:n]) <= width), 1)
            lines[-1] = word[:fits]
            words = [word[fits:], *words] if word[fits:] else words
    if len(lines) > max(most, 1):
        lines = lines[: max(most, 1)]
        last = f"{lines[-1]}…"
        while font.getlength(last) > width and len(last) > 1:
            last = f"{last[:-2].rstrip()}…"
        lines[-1] = last
    return lines


def _image(picture: Tensor) -> Image:
    from PIL import Image

    pixels = (picture[len(picture) // 2].float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    return Image.fromarray(pixels.cpu().numpy())


def _png(image: Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _opened(path: Path) -> Image:
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB")


def _within(image: Image, edge: int) -> Image:
    """No larger than that, as it is otherwise."""
    from PIL.Image import Resampling

    scale = edge / max(image.size)
    if scale >= 1:
        return image
    return image.resize((round(image.width * scale), round(image.height * scale)), Resampling.LANCZOS)


def _fitted(image: Image, edge: int) -> Image:
    """Each pixel of a small picture becomes a square, as many pixels wide as there is room for."""
    from PIL.Image import Resampling

    times = edge // max(image.size)
    if times < 2:
        return _within(image, edge)
    return image.resize((image.width * times, image.height * times), Resampling.NEAREST)


def _font(name: str, size: float, texts: Sequence[str] = (), width: int = 0) -> FreeTypeFont:
    """Of those that come with matplotlib, as on the plots; small enough for ``texts`` of so many pixels."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    font = ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", name), size)
    widest = max(map(font.getlength, texts), default=0)
    return font.font_variant(size=size * width / widest) if widest > width else font
