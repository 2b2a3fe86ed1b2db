"""The rows of a denoiser's table: tensors of the original layout, and the tensors of diffusers that they become."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hubquant.checkpoint.headers import listed
from hubquant.convert.head_order import SwapHalves
from hubquant.convert.operations import Operation, Split
from hubquant.convert.tables import Bundle, Shape
from hubquant.errors import CheckpointError
from hubquant.units import counted

Layout = Literal["original", "diffusers"]

PREFIX = "model.diffusion_model."
"""Before the names of the denoiser in files that hold everything."""
_NUMBERED = re.compile(r"(\D*)(\d+)", re.ASCII)
_COMPARE = "compare the file with that of the repository that the model comes from"


@dataclass(frozen=True)
class Row:
    """A tensor ``original`` and the tensors of diffusers that hold its rows, in this order; "{}" is a block's number.

    Of several, the first ``square`` have as many rows as the weight has columns, as queries have, and the others share
    the rest equally. Where a ``swapped`` weight has twice as many rows as columns, those that give the shift come first
    in the original and last in diffusers, whose adaptive norms want the scale first. Rows of one ``option`` are all in
    a block or all missing there; those without are in every block. There are as many blocks as of those ``like`` them.
    """

    original: str
    diffusers: tuple[str, ...]
    square: int = 0
    swapped: bool = False
    option: str = ""
    like: str = ""

    def names(self, layout: Layout) -> tuple[str, ...]:
        return (self.original,) if layout == "original" else self.diffusers

    @property
    def block(self) -> str:
        """What the blocks are called that are counted, "double_blocks.{}"; empty outside of blocks."""
        head, number, _ = self.original.partition("{}")
        return self.like or (head + number if number else "")

    def numbered(self, number: int) -> Row:
        names = tuple(name.replace("{}", str(number)) for name in self.diffusers)
        option = f"{self.block.replace('{}', str(number))} {self.option}" if self.option else ""
        return Row(self.original.replace("{}", str(number)), names, self.square, self.swapped, option)


Rows = Sequence[Row]


@dataclass(frozen=True)
class Match:
    """The rows that tensors of some names need, and how the names differ from theirs; ``unused`` are those that the
    family leaves out."""

    rows: Rows
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    unused: tuple[str, ...]
    found: int

    @property
    def share(self) -> float:
        """From 0, no name fits, to 1, all do and none is missing."""
        return self.found / max(1, self.found + len(self.missing) + len(self.extra))


@dataclass(frozen=True)
class Family:
    """Denoisers of one kind, of pictures or of ``videos``. ``rows`` gives the table for names in a layout; ``unused``
    is a regular expression for tensors that files have and diffusers' model does not: they are left out. ``known_as``
    is what ComfyUI-GGUF calls a family that it knows under another name, or takes for another one. ``prefixed``
    families need the prefix of files that hold everything before their original names, or diffusers does not find them.
    Of the two layouts more programs load the ``preferred`` one."""

    name: str
    rows: Callable[[Collection[str], Layout], Rows]
    unused: str = ""
    known_as: str = ""
    videos: bool = False
    prefixed: bool = False
    preferred: Layout = "original"

    @property
    def architecture(self) -> str:
        """Of a GGUF file, ``general.architecture``."""
        return self.known_as or self.name

    def match(self, names: Collection[str], layout: Layout) -> Match:
        names = set(names)
        rows = list(_filled(self.rows(names, layout), names, layout))
        present = {row.option for row in rows if names.intersection(row.names(layout))} | {""}
        rows = [row for row in rows if row.option in present]
        wanted = dict.fromkeys(name for row in rows for name in row.names(layout))
        others = sorted(names - wanted.keys())
        unused = tuple(name for name in others if re.fullmatch(self.unused, name))
        missing = tuple(name for name in wanted if name not in names)
        extra = tuple(name for name in others if name not in unused)
        return Match(rows, missing, extra, unused, len(wanted) - len(missing))

    def bundles(self, shapes: Mapping[str, Shape], layout: Layout) -> list[Bundle]:
        """How tensors of a denoiser in ``layout``, names without a prefix and shapes in torch order, become those of
        the other one: sources are the original's names, targets those of diffusers.

        Raises ``CheckpointError`` that names what is missing, left over, or of a shape that does not fit. How many
        blocks there are is told by the names: blocks missing at the end are not noticed.
        """
        match = self.match(shapes, layout)
        if match.missing:
            raise CheckpointError(
                f"{counted(len(match.missing), 'tensor is', 'tensors are')} missing: {listed(match.missing)}",
                why=f"every {self.name} denoiser has them",
                hint=_COMPARE,
            )
        if match.extra:
            raise CheckpointError(
                f"{counted(len(match.extra), 'tensor is', 'tensors are')} left over: {listed(match.extra)}",
                why=f"a {self.name} denoiser has no place for them",
                hint=_COMPARE,
            )
        return [_bundle(row, shapes, layout) for row in match.rows]


@dataclass(frozen=True)
class _Always:
    """Unlike a function within another one, part of a source that is sent to other processes."""

    table: Rows

    def __call__(self, _names: Collection[str], _layout: Layout) -> Rows:
        return self.table


def always(*rows: Rows) -> Callable[[Collection[str], Layout], Rows]:
    """The table of a family whose names do not depend on its sizes."""
    return _Always(tuple(row for part in rows for row in part))


def module(original: str, *diffusers: str, bias: bool = True, square: int = 0, option: str = "") -> Rows:
    """The weight and the ``bias`` of a module; without ``diffusers`` its name is the same there."""
    return [
        Row(f"{original}.{kind}", tuple(f"{name}.{kind}" for name in diffusers or (original,)), square, option=option)
        for kind in ("weight", "bias")[: 1 + bias]
    ]


def swapped(original: str, diffusers: str, bias: bool = True) -> Rows:
    """A module that gives shift and scale, in this order in the original layout."""
    return [
        Row(f"{original}.{kind}", (f"{diffusers}.{kind}",), swapped=True) for kind in ("weight", "bias")[: 1 + bias]
    ]


def tensor(original: str, diffusers: str = "", option: str = "", like: str = "") -> Rows:
    """One tensor by its full name; without ``diffusers`` it is the same there."""
    return [Row(original, (diffusers or original,), option=option, like=like)]


def within(original: str, diffusers: str, *rows: Rows, option: str = "") -> Rows:
    """``rows`` of a block: prefixes go before their names. ``option`` is for those that have none of their own."""
    return [
        Row(
            original + row.original,
            tuple(diffusers + name for name in row.diffusers),
            row.square,
            row.swapped,
            row.option or option,
            row.like,
        )
        for part in rows
        for row in part
    ]


def _filled(rows: Rows, names: Collection[str], layout: Layout) -> Iterator[Row]:
    """Rows with the numbers of all the blocks that ``names`` have, and of the first one in any case."""
    block_of = {name: row.block for row in rows for name in row.names(layout) if row.block}
    last: dict[str, int] = defaultdict(int)
    for name in names:
        parts = name.split(".")
        for at, part in enumerate(parts):
            numbered = _NUMBERED.fullmatch(part)
            if not numbered:
                continue
            block = block_of.get(".".join([*parts[:at], numbered[1] + "{}", *parts[at + 1 :]]))
            # No more blocks than names: a number may be anything in a file that is not sound.
            if block and int(numbered[2]) < len(names):
                last[block] = max(last[block], int(numbered[2]))
    for row in rows:
        if row.block:
            yield from (row.numbered(number) for number in range(last[row.block] + 1))
        else:
            yield row


def _bundle(row: Row, shapes: Mapping[str, Shape], layout: Layout) -> Bundle:
    given = [shapes[name] for name in row.names(layout)]
    n_rows = sum(shape[0] if shape else 1 for shape in given)
    if len(row.diffusers) == 1 and not row.swapped:
        return Bundle((row.original,), {row.diffusers[0]: given[0]})
    weight = shapes.get(row.names(layout)[0].removesuffix("bias").removesuffix("weight") + "weight", ())
    columns = weight[-1] if len(weight) > 1 else 0
    if row.swapped:
        swaps: tuple[Operation, ...] = (SwapHalves(),) if n_rows == 2 * columns else ()
        return Bundle((row.original,), {row.diffusers[0]: given[0]}, swaps)
    rest, others = n_rows - row.square * columns, len(row.diffusers) - row.square
    sizes = (*[columns] * row.square, *[rest // others] * others)
    targets = {name: (size, *given[0][1:]) for name, size in zip(row.diffusers, sizes, strict=True)}
    of_diffusers = layout == "diffusers" and [*targets.values()] != given
    if rest < 0 or sum(sizes) != n_rows or of_diffusers:
        raise CheckpointError(
            f"{row.names(layout)[0]} has a shape that does not fit: {listed(str(list(shape)) for shape in given)}",
            why=f"{row.original} has the rows of {', '.join(row.diffusers)}",
            hint=_COMPARE,
        )
    return Bundle((row.original,), targets, (Split(sizes),))
