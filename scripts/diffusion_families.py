"""The table of families in docs/diffusion.md, of what the code knows: ``python -m scripts.diffusion_families``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hubquant.convert.diffusion.consumers import CONSUMERS
from hubquant.convert.diffusion.conversion import preferred_layout
from hubquant.convert.diffusion.family import Family
from hubquant.convert.diffusion.recognise import FAMILIES

DOCUMENT = Path(__file__).parent.parent / "docs" / "diffusion.md"
BEGIN, END = "<!-- families -->\n", "<!-- end of families -->\n"
HEADS = ("family", "`general.architecture`", "names", *(each.name for each in CONSUMERS))


def document(text: str) -> str:
    """``text`` with the table of today."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    lines = (HEADS, ("---",) * len(HEADS), *map(tuple, map(_row, FAMILIES)))
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{before}{BEGIN}\n{table}\n\n{END}{after}"


def _row(family: Family) -> Iterator[str]:
    layout = preferred_layout(family)
    yield family.name + (" (videos)" if family.videos else "")
    yield f"`{family.architecture}`"
    yield ("diffusers'" if layout.names == "diffusers" else "original") + (", with prefix" if layout.prefix else "")
    for consumer in CONSUMERS:
        refusal = consumer.refusal(family.name, layout, {"Q8_0"})
        if refusal is None:
            yield "loads"
        else:
            yield "–" if refusal == f"has no {family.name}" else refusal


if __name__ == "__main__":
    DOCUMENT.write_text(document(DOCUMENT.read_text("utf-8")), encoding="utf-8")
