"""How large a file may be, and which types of its tensors then lose least."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from hubquant.errors import RecipeError
from hubquant.limited import Worker
from hubquant.mix.assignment import requires_imatrix
from hubquant.mix.fallback import Shape, fallback
from hubquant.mix.file_types import FLOAT_TYPES, TARGET_SIZE
from hubquant.quants.formats import lookup
from hubquant.recipe.schema import Rule

CANDIDATES = (
    *("IQ2_XXS", "IQ2_XS", "IQ2_S", "Q2_K", "IQ3_XXS", "IQ3_S", "Q3_K"),
    *("IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0"),
)
"""Types that a tensor may get, or what llama.cpp takes instead where their blocks do not divide its rows. Those of one
bit are left out: the errors that they make are too large for an estimate from smaller ones."""
STOCK = (
    *("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "Q2_K", "IQ3_XXS", "IQ3_XS", "IQ3_M", "Q3_K_S", "Q3_K_M", "Q3_K_L"),
    *("IQ4_XS", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0"),
)
"""File types that a file with a budget may be called after."""
SECONDS = 600  # of computing, for one choice: on models of hundreds of tensors it takes about one
ALIGNMENT = 32  # bytes, of a tensor in a file
_UNITS = {unit.lower(): unit for unit in ("bpw", *(f"{prefix}{b}B" for prefix in "KMGT" for b in ("i", "")))}
_BLOCK = re.compile(r"^((?:enc\.)?blk)\.(\d+)\.(.+)$")

Candidates = Mapping[str, Mapping[str, tuple[int, float]]]
"""By tensor and type: bytes in a file, and the divergence that it is expected to cause, in nats per token."""


@dataclass(frozen=True)
class Budget:
    """``number`` of bits per weight, or of bytes in a ``unit``, as decimal text."""

    number: str
    unit: str

    @classmethod
    def of(cls, text: str) -> Budget | None:
        """None for what is no budget. Raises ``RecipeError`` for one of nothing."""
        if not TARGET_SIZE.match(text):
            return None
        match = re.match(r"([\d.]+)\s*([a-z]+)$", text, re.IGNORECASE)
        assert match is not None
        number = match[1].lstrip("0")
        number = number.rstrip("0").rstrip(".") if "." in number else number
        if not number:
            raise RecipeError(f"quantize.types: no file is as small as {text}", hint="write 3.5bpw or 4.2GiB")
        return cls(f"0{number}" if number.startswith(".") else number, _UNITS[match[2].lower()])

    def __str__(self) -> str:
        return f"{self.number}{self.unit}"

    def n_bytes(self, n_parameters: int) -> int:
        """Of a whole file of so many weights."""
        if self.unit == "bpw":
            return int(float(self.number) * n_parameters / 8)
        base = 1024 if "i" in self.unit else 1000
        return int(float(self.number) * base ** ("KMGT".index(self.unit[0]) + 1))

    def name(self, stock: str) -> str:
        """Of a file that is nearest to the file type ``stock``. Behind the last - stands that type, as programs look
        for it; what is before it comes after the plain file in the alphabet, so that they find that one first."""
        return f"max-{self.number.replace('.', '_')}{self.unit}-{stock}"


def is_budget(text: str) -> bool:
    return TARGET_SIZE.match(text) is not None


def candidate_types(name: str, shape: Shape, *, weighted: bool) -> dict[str, str]:
    """What each of the ``CANDIDATES`` is for a tensor of ``shape``, rows first: empty where its rows can hold floats
    alone. Types that need importance are left out unless its columns are ``weighted``."""
    from hubquant.quants import needs_importance

    found = {type: fallback(name, shape, type, last_resort=("Q8_0",)) for type in CANDIDATES}
    return {
        type: becomes
        for type, becomes in found.items()
        if becomes not in FLOAT_TYPES
        and (weighted or not (needs_importance(becomes) or requires_imatrix(name, becomes, "Q4_K_M")))
    }


def stored_bytes(shape: Shape, type: str) -> int:
    """Of a tensor of ``shape``, rows first, with what aligns the next one."""
    n_bytes = math.prod(shape[:-1]) * lookup(type).row_bytes(shape[-1])
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


def choose(
    candidates: Candidates, n_bytes: int, gap: float = 0.0, solver: Callable[..., list[int]] | None = None
) -> dict[str, str]:
    """The type of each tensor, such that the sum of expected divergences is the least that ``n_bytes`` allow, or with
    ``gap`` above it by at most this share. ``solver`` is :func:`solve`, or a worker for it.

    Raises ``ValueError`` where not even the smallest types fit.
    """
    if not candidates:
        return {}
    left = [
        (name, [(type, *found) for type, found in _undominated(types).items()]) for name, types in candidates.items()
    ]
    sizes = [[size for _, size, _ in types] for _, types in left]
    costs = [[cost for _, _, cost in types] for _, types in left]
    room = n_bytes
    while True:
        chosen = (solver or solve)(sizes=sizes, costs=costs, room=room, gap=gap)
        if not chosen:
            raise ValueError(f"{n_bytes} bytes are too few")
        if (above := sum(of[i] for of, i in zip(sizes, chosen, strict=True)) - n_bytes) <= 0:
            return {name: types[i][0] for (name, types), i in zip(left, chosen, strict=True)}
        room -= above  # HiGHS takes what is above a bound by a millionth for a solution


def open_solver() -> Worker:
    """:func:`solve` in a process of its own: HiGHS prints to where results go, and has no limit."""
    return Worker(solve, seconds=SECONDS)


def solve(sizes: list[list[int]], costs: list[list[float]], room: int, gap: float) -> list[int]:
    """Of each row of ``sizes`` and ``costs`` the place of one, such that sizes are at most ``room`` together and costs
    the least, or above it by a share of at most ``gap``: HiGHS' branch and bound. Empty where there is no way."""
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    size, cost = (np.concatenate([np.array(row, float) for row in rows]) for rows in (sizes, costs))
    ends = np.cumsum([len(row) for row in sizes])
    rows = np.repeat(np.arange(len(sizes)), [len(row) for row in sizes])
    one_of_each = csr_array((np.ones(len(size)), (rows, np.arange(len(size)))))
    unit = size.max()
    found = milp(
        cost / (cost.max() or 1.0),
        integrality=np.ones(len(size)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_of_each, 1, 1),
            LinearConstraint(csr_array(size[None] / unit), -np.inf, room / unit),
        ],
        options={"mip_rel_gap": gap},
    )
    if found.x is None:
        return []
    return [int(part.argmax()) for part in np.split(found.x, ends[:-1])]


def nearest_type(type: str, others: Iterable[str]) -> str:
    """Of the ``others`` that with most nearly as many bits per weight."""
    bits = lookup(type).bits_per_weight
    return min(others, key=lambda other: (abs(lookup(other).bits_per_weight - bits), other))


def total(candidates: Candidates, types: Mapping[str, str]) -> tuple[int, float]:
    """Bytes and expected divergence of all tensors."""
    found = [candidates[name][type] for name, type in types.items()]
    return sum(n_bytes for n_bytes, _ in found), math.fsum(kld for _, kld in found)


def as_rules(types: Mapping[str, str]) -> tuple[Rule, ...]:
    """Rules that give each tensor its type and fit no other, one for those of a kind in several blocks."""
    blocks: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for name, type in types.items():
        match = _BLOCK.match(name)
        blocks[match[1] if match else "", match[3] if match else name, type].append(match[2] if match else "")
    return tuple(
        Rule(match=_pattern(prefix, name, numbers), type=type) for (prefix, name, type), numbers in blocks.items()
    )


def _pattern(prefix: str, name: str, numbers: Sequence[str]) -> str:
    if not prefix:
        return f"^{re.escape(name)}$"
    return f"^{re.escape(prefix)}\\.{_any_of(numbers)}\\.{re.escape(name)}$"


def _any_of(numbers: Iterable[str]) -> str:
    found = sorted(numbers, key=int)
    return found[0] if len(found) == 1 else f"({'|'.join(found)})"


def _undominated(types: Mapping[str, tuple[int, float]]) -> dict[str, tuple[int, float]]:
    """Without what costs as much as another in bytes, or more, and is not expected to be better."""
    found: dict[str, tuple[int, float]] = {}
    best = math.inf
    for type, (n_bytes, kld) in sorted(types.items(), key=lambda item: item[1]):
        if kld < best:
            found[type], best = (n_bytes, kld), kld
    return found
