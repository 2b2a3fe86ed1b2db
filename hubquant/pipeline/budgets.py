"""Files of a size that is given: which types their tensors get, once it is known what each does to the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hubquant.backends.backend import Importance
from hubquant.backends.gguf.backend import CheckedGGUF
from hubquant.backends.gguf.files import FilePlan
from hubquant.errors import ImatrixError, MixError, NotSupportedYet, RecipeError
from hubquant.limited import LimitError
from hubquant.mix import check_settings
from hubquant.mix.budget import (
    STOCK,
    Budget,
    as_rules,
    candidate_types,
    choose,
    is_budget,
    nearest_type,
    open_solver,
    stored_bytes,
    total,
)
from hubquant.mix.file_types import FLOAT_TYPES
from hubquant.mix.patterns import pattern
from hubquant.mix.rules import Role, role
from hubquant.mix.storage import kept
from hubquant.quants.formats import lookup
from hubquant.recipe.schema import NamedType, Quantize, Recipe
from hubquant.sources.component import Component
from hubquant.units import size

if TYPE_CHECKING:
    from hubquant.evaluate.sensitivity import Sensitivities

AROUND = (0.8, 0.9, 1.1, 1.25)
"""Shares of a budget for which a plan tells what could be expected, too."""
NEARLY = 1e-3
"""How far from the least divergence what is only told may be."""
MOST_TRIES = 8


@dataclass(frozen=True)
class Chosen:
    """What was chosen for a file. ``expected`` has by tensor the divergence that its type is expected to cause, in nats
    per token, and ``frontier`` by size in bytes the sum of other files; both are empty before anything was measured.
    ``unpinned`` is the sum of a file in which no tensor has a type that the recipe gives, None where none has.
    ``correlation`` tells how good the estimates are."""

    label: str
    budget: str
    types: Mapping[str, str]
    expected: Mapping[str, float] = field(default_factory=dict)
    frontier: Mapping[int, float] = field(default_factory=dict)
    unpinned: float | None = None
    correlation: float | None = None

    @property
    def by_type(self) -> dict[str, tuple[int, float]]:
        """How many tensors have a type, and what they are expected to cause together; the worst first."""
        found: dict[str, tuple[int, float]] = {}
        for name, type in self.types.items():
            n, kld = found.get(type, (0, 0.0))
            found[type] = (n + 1, kld + self.expected.get(name, 0.0))
        return dict(sorted(found.items(), key=lambda item: -item[1][1]))

    @property
    def sum(self) -> float | None:
        return sum(self.expected.values()) if self.expected else None

    def as_dict(self) -> dict[str, Any]:
        return {
            "type": self.label,
            "budget": self.budget,
            "expected_kld": self.sum,
            "unpinned_kld": self.unpinned,
            "correlation": self.correlation,
            "tensors": {
                name: {"type": type, "expected_kld": self.expected.get(name)} for name, type in self.types.items()
            },
            "frontier": [{"size": n_bytes, "expected_kld": kld} for n_bytes, kld in self.frontier.items()],
        }


def has_budgets(settings: Quantize) -> bool:
    return any(isinstance(entry, str) and is_budget(entry) for entry in settings.types)


def check_measurable(component: Component) -> None:
    """Raises ``NotSupportedYet`` for what predicts no next token."""
    if component.denoises or component.embeds:
        what = "a denoiser" if component.denoises else "an encoder"
        raise NotSupportedYet(
            f"a size as a target for {what}",
            why="its types are chosen by what they do to the prediction of the next token",
            hint="name a file type, such as Q4_K_M",
        )
    component.check_runs("measuring the tensors of", "name a file type, such as Q4_K_M, instead of a size")


def check_decides(decides: bool) -> None:
    """Raises ``NotSupportedYet`` where only files of known types are made."""
    if not decides:
        raise NotSupportedYet("a size as a target here", hint="hubquant run MODEL --types 3.5bpw makes such a file")


def with_types(
    recipe: Recipe, checked: CheckedGGUF, importance: Importance | None, found: Sensitivities | None
) -> tuple[Recipe, list[Chosen]]:
    """The recipe with a named type, which holds the choice, in the place of each budget. Where nothing was ``found``
    yet, sizes alone decide, so that a plan knows what a file may take.

    Raises ``RecipeError`` for a budget that no file of the model can have.
    """
    with closing(_Planner(checked, importance, found)) as planner:
        return _settled(recipe, planner)


def _settled(recipe: Recipe, planner: _Planner) -> tuple[Recipe, list[Chosen]]:
    entries: list[str | NamedType] = []
    chosen: list[Chosen] = []
    named: dict[str, str] = {}
    for entry in recipe.quantize.types:
        budget = Budget.of(entry) if isinstance(entry, str) else None
        if budget is None:
            entries.append(entry)
            continue
        made, choice = planner.choose(budget)
        entries.append(made)
        chosen.append(choice)
        named[str(budget)] = made.name
    settings = check_settings(recipe.quantize.model_copy(update={"types": tuple(entries)}))
    bounds = {name: {named.get(label, label): bound for label, bound in given.items()} for name, given in recipe.gates}
    return recipe.model_copy(update={"quantize": settings, "gates": recipe.gates.model_copy(update=bounds)}), chosen


Sized = dict[str, dict[str, tuple[int, float]]]
"""By tensor and type: bytes, and the divergence that is expected."""


class _Planner:
    def __init__(self, checked: CheckedGGUF, importance: Importance | None, found: Sensitivities | None) -> None:
        self._checked, self._importance, self._found = checked, importance, found
        self._covered = frozenset(importance.covered if importance else ())
        self._expected = found.expected() if found else None
        self._solver = open_solver()
        shapes, stay = checked.weights.shapes, checked.weights.quantized
        fixed = {*stay, *checked.component.conversion.drafting}  # of what drafts no effect on the model is known
        self._shapes = {n: x for n, x in shapes.items() if not kept(n, x) and n not in fixed and self._types(n)}
        self._pinned = {name for name in self._shapes if self._is_pinned(name)}

    def choose(self, budget: Budget) -> tuple[NamedType, Chosen]:
        """Raises ``RecipeError`` for a size that no file can have."""
        limit = budget.n_bytes(self._checked.weights.n_parameters)
        stock = min(self._stock, key=lambda name: abs(self._stock[name] - limit))
        entry = NamedType(name=budget.name(stock), type=stock)
        candidates = self._candidates(entry)
        smallest = {name: min(types, key=lambda type: types[type]) for name, types in candidates.items()}
        least = self._size(smallest, entry)
        self._check(budget, limit, least, entry)
        beside = least - total(candidates, smallest)[0]

        types = self._within(limit, entry, candidates, beside)
        made = entry.model_copy(update={"rules": as_rules(self._free(types))})
        if self._found is None:
            return made, Chosen(entry.name, str(budget), types)

        around = [limit * share - beside for share in AROUND if limit * share >= least]
        others = [total(candidates, self._choose(candidates, int(room), NEARLY)) for room in around]
        unpinned = None
        if self._pinned:
            unpinned = total(self._all, self._choose(self._all, limit - beside, NEARLY))[1]
        return made, Chosen(
            entry.name,
            str(budget),
            types,
            {name: candidates[name][type][1] for name, type in types.items()},
            {n_bytes + beside: kld for n_bytes, kld in others},
            unpinned,
            self._found.correlation,
        )

    def close(self) -> None:
        self._solver.close()

    @cached_property
    def _stock(self) -> dict[str, int]:
        """Bytes of the files that llama-quantize makes."""
        given = {"rules": (), "output_tensor": None, "token_embedding": None, "leave_output_tensor": False}
        plain = replace(self._checked, settings=self._checked.settings.model_copy(update=given))
        found = {}
        for name in STOCK:
            with suppress(ImatrixError):
                found[name] = _plan(plain, name, self._importance).size
        return found

    def _types(self, name: str) -> set[str]:
        weighted = self._checked.component.origin(name) in self._covered
        return {*candidate_types(name, self._checked.weights.shapes[name], weighted=weighted).values()}

    def _is_pinned(self, name: str) -> bool:
        """Whether the recipe gives its type."""
        settings, of = self._checked.settings, role(name)
        if of is Role.OUTPUT and (settings.output_tensor or settings.leave_output_tensor):
            return True
        if of is Role.TOKEN_EMBD and settings.token_embedding:
            return True
        return any(pattern(rule.match).search(name.lower()) for rule in settings.rules)

    @cached_property
    def _all(self) -> Sized:
        """As if no type was given."""
        floats = self._checked.weights.float_type
        found: Sized = {}
        for name, shape in self._shapes.items():
            types = [*sorted(self._types(name)), floats]
            found[name] = {type: (stored_bytes(shape, type), self._expectation(name, type)) for type in types}
        return found

    def _candidates(self, entry: NamedType) -> Sized:
        """Of a pinned tensor only the type that it has."""
        given = self._plan(entry).types
        own = {name: given[name] for name in self._pinned}
        pinned = {n: {t: (stored_bytes(self._shapes[n], t), self._expectation(n, t))} for n, t in own.items()}
        return {**self._all, **pinned}

    def _expectation(self, name: str, type: str) -> float:
        """Floats are as good as the source. Of a type that nothing is known of, what its bits tell: one more is a
        quarter of the error. Before anything was measured every weight is worth as much as any other."""
        if type in FLOAT_TYPES:
            return 0.0
        bits, shape = lookup(type).bits_per_weight, self._shapes[name]
        known = self._expected[self._checked.component.origin(name)] if self._expected else {}
        if type in known:
            return known[type]
        if known:
            like = nearest_type(type, known)
            return known[like] * math.pow(4.0, lookup(like).bits_per_weight - bits)
        return stored_bytes(shape, "F32") * math.pow(4.0, -bits)

    def _free(self, types: Mapping[str, str]) -> dict[str, str]:
        return {name: type for name, type in types.items() if name not in self._pinned}

    def _plan(self, entry: NamedType) -> FilePlan:
        return _plan(self._checked, entry, self._importance)

    def _size(self, types: Mapping[str, str], entry: NamedType) -> int:
        """Of the file, to the byte."""
        return self._plan(entry.model_copy(update={"rules": as_rules(self._free(types))})).size

    def _within(self, limit: int, entry: NamedType, candidates: Sized, beside: int) -> dict[str, str]:
        """The types of least expected divergence in a file of at most ``limit`` bytes."""
        room = limit - beside
        for _ in range(MOST_TRIES):  # the number of shards, and with it what is beside the tensors, may change
            types = self._choose(candidates, room)
            if (above := self._size(types, entry) - limit) <= 0:
                return types
            room -= above
        raise AssertionError(limit)

    def _choose(self, candidates: Sized, room: int, gap: float = 0.0) -> dict[str, str]:
        try:
            return choose(candidates, room, gap, self._solver)
        except LimitError as error:
            raise MixError("the types of a file of this size cannot be chosen", why=str(error)) from None

    def _check(self, budget: Budget, limit: int, least: int, entry: NamedType) -> None:
        floats = self._checked.weights.float_type
        most = self._size(dict.fromkeys(self._shapes, floats), entry)
        if least <= limit <= most:
            return
        n_parameters = self._checked.weights.n_parameters
        bits = [8 * n_bytes / n_parameters for n_bytes in (least, most)]
        raise RecipeError(
            f"quantize.types: no file of this model is as {'small' if limit < least else 'large'} as {budget}",
            why=f"files of it have {size(least)} to {size(most)}, {bits[0]:.3f} to {bits[1]:.3f} bpw",
            hint="choose a size between these" if limit < least else f"write {floats}, or choose a size between these",
        )


def _plan(checked: CheckedGGUF, entry: str | NamedType, importance: Importance | None) -> FilePlan:
    """Of one file."""
    settings = checked.settings.model_copy(update={"types": (entry,)})
    return replace(checked, settings=settings).tasks(importance)[0].plan
