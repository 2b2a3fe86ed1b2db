"""Files of a size that is given: which types their tensors get, once it is known what each does to the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hubquant.backends.backend import Importance
from hubquant.backends.gguf.backend import CheckedGGUF
from hubquant.backends.gguf.files import FilePlan
from hubquant.errors import ImatrixError, NotSupportedYet, RecipeError
from hubquant.mix import check_settings
from hubquant.mix.budget import (
    STOCK,
    Budget,
    Candidates,
    as_rules,
    candidate_types,
    choose,
    is_budget,
    stored_bytes,
    total,
)
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
MOST_TRIES = 8


@dataclass(frozen=True)
class Chosen:
    """What was chosen for a file: ``expected`` is its divergence in nats per token as the tensors' add up, and
    ``frontier`` has those of other sizes in bytes; both are empty before anything was measured."""

    label: str
    budget: str
    types: Mapping[str, str]
    expected: float | None = None
    frontier: Mapping[int, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {
            "file": self.label,
            "budget": self.budget,
            "tensors": dict(Counter(self.types.values())),
            "expected_kld": self.expected,
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
    planner = _Planner(replace(checked, settings=recipe.quantize.of_gguf), importance, found)
    entries: list[str | NamedType] = []
    chosen: list[Chosen] = []
    named = {}
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
    bounds = {name: {named.get(label, label): bound for label, bound in found.items()} for name, found in recipe.gates}
    return recipe.model_copy(update={"quantize": settings, "gates": recipe.gates.model_copy(update=bounds)}), chosen


class _Planner:
    def __init__(self, checked: CheckedGGUF, importance: Importance | None, found: Sensitivities | None) -> None:
        self._checked, self._importance, self._found = checked, importance, found
        self._covered = frozenset(importance.covered if importance else ())
        shapes = checked.weights.shapes
        self._free = {name: shapes[name] for name in shapes if self._is_free(name)}
        self._candidates = self._expectations()
        self._stock = self._stock_sizes()

    def _is_free(self, name: str) -> bool:
        """Whether its type is not given: by llama.cpp, by the source or by the recipe."""
        weights, settings = self._checked.weights, self._checked.settings
        if kept(name, weights.shapes[name]) or name in weights.quantized or not self._types(name):
            return False
        if role(name) is Role.OUTPUT and (settings.output_tensor or settings.leave_output_tensor):
            return False
        if role(name) is Role.TOKEN_EMBD and settings.token_embedding:
            return False
        return not any(pattern(rule.match).search(name.lower()) for rule in settings.rules)

    def _types(self, name: str) -> set[str]:
        weighted = self._checked.component.origin(name) in self._covered
        return {*candidate_types(name, self._checked.weights.shapes[name], weighted=weighted).values()}

    def _expectations(self) -> Candidates:
        """Floats are as good as the source."""
        by_tensor = self._found.expected() if self._found else None
        floats = self._checked.weights.float_type
        found: dict[str, dict[str, tuple[int, float]]] = {}
        for name, shape in self._free.items():
            sizes = {type: stored_bytes(shape, type) for type in (*sorted(self._types(name)), floats)}
            if by_tensor is None:  # a bit more is a quarter of the error
                errors = {type: sizes[type] * 4.0 ** -(lookup(type).bits_per_weight) for type in sizes}
            else:
                errors = by_tensor[self._checked.component.origin(name)]
            found[name] = {
                type: (n_bytes, 0.0 if type == floats else errors[type])
                for type, n_bytes in sizes.items()
                if type == floats or type in errors
            }
        return found

    def _plan(self, entry: str | NamedType) -> FilePlan:
        settings = self._checked.settings.model_copy(update={"types": (entry,)})
        return replace(self._checked, settings=settings).tasks(self._importance)[0].plan

    def _stock_sizes(self) -> dict[str, int]:
        found, error = {}, None
        for name in STOCK:
            try:
                found[name] = self._plan(name).size
            except ImatrixError as lacking:
                error = lacking
        if error is not None and not found:  # a rule of the user's needs a matrix
            raise error
        return found

    def choose(self, budget: Budget) -> tuple[NamedType, Chosen]:
        n_parameters = self._checked.weights.n_parameters
        limit = budget.n_bytes(n_parameters)
        stock = min(self._stock, key=lambda name: abs(self._stock[name] - limit))
        entry = NamedType(name=budget.name(stock), type=stock)
        self._check(budget, limit, entry)
        types = self._within(limit, entry)
        made = entry.model_copy(update={"rules": as_rules(types)})
        if self._found is None:
            return made, Chosen(entry.name, str(budget), types)
        least = self._size(self._smallest(), entry)
        sizes = [n for share in AROUND if (n := int(share * limit)) >= least]
        frontier = {}
        for n_bytes in sizes:
            around = self._within(n_bytes, entry)
            frontier[self._size(around, entry)] = total(self._candidates, around)[1]
        return made, Chosen(entry.name, str(budget), types, total(self._candidates, types)[1], frontier)

    def _smallest(self) -> dict[str, str]:
        return {name: min(types, key=lambda type: types[type]) for name, types in self._candidates.items()}

    def _size(self, types: Mapping[str, str], entry: NamedType) -> int:
        """Of the file, to the byte."""
        return self._plan(entry.model_copy(update={"rules": as_rules(types)})).size

    def _within(self, limit: int, entry: NamedType) -> dict[str, str]:
        """The types of least expected divergence in a file of at most ``limit`` bytes."""
        smallest = self._smallest()
        room = limit - (self._size(smallest, entry) - total(self._candidates, smallest)[0])
        for _ in range(MOST_TRIES):  # the number of shards, and with it what is beside the tensors, may change
            types = choose(self._candidates, room)
            if (above := self._size(types, entry) - limit) <= 0:
                return types
            room -= above
        raise AssertionError(limit)

    def _check(self, budget: Budget, limit: int, entry: NamedType) -> None:
        least = self._size(self._smallest(), entry)
        most = self._size(dict.fromkeys(self._free, self._checked.weights.float_type), entry)
        if least <= limit <= most:
            return
        n_parameters = self._checked.weights.n_parameters
        bits = [8 * n_bytes / n_parameters for n_bytes in (least, most)]
        raise RecipeError(
            f"quantize.types: no file of this model is {'as small as' if limit < least else 'as large as'} {budget}",
            why=f"files of it have {size(least)} to {size(most)}, {bits[0]:.3f} to {bits[1]:.3f} bpw",
            hint="choose a size between these" if limit < least else "write F16, or choose a size between these",
        )
