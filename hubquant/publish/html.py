"""Tables and pictures for a notebook."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from html import escape

from hubquant.printable import plain
from hubquant.publish.table import Table


def html_table(table: Table, text_columns: Iterable[str]) -> str:
    """Cells of ``text_columns`` stand on the left, numbers on the right."""
    styles = ["left" if name in set(text_columns) else "right" for name in table.columns]

    def line(cells: Iterable[str], tag: str) -> str:
        shown = (
            f'<{tag} style="text-align: {style}">{text(cell)}</{tag}>'
            for cell, style in zip(cells, styles, strict=True)
        )
        return f"<tr>{''.join(shown)}</tr>"

    rows = "".join(line(row, "td") for row in table.rows)
    return f"<table><thead>{line(table.columns, 'th')}</thead><tbody>{rows}</tbody></table>"


def paragraphs(lines: Iterable[str]) -> str:
    return "".join(f"<p>{text(line)}</p>" for line in lines)


def picture(png: bytes, what: str) -> str:
    """``what`` it shows is read to those who do not see it."""
    return f'<img src="data:image/png;base64,{b64encode(png).decode()}" alt="{text(what)}" width="640">'


def text(content: str) -> str:
    return escape(plain(content))
