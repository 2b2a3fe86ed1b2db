"""The rules between the files of a package, read from its imports without importing anything.

An import inside a function counts as any other; one under ``if TYPE_CHECKING`` makes no circle, but it may not climb.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

LONGEST = 400  # lines of a module
WIDEST = 12  # fields of a dataclass
PRINTERS = {"print", "sys.stdout", "sys.stderr", "typer.echo", "rich.print", "rich.console"}


@dataclass(frozen=True)
class Import:
    name: str
    """With the imported object: ``package.room.module.Object``."""
    for_types: bool
    """Whether it stands under ``if TYPE_CHECKING``."""


@dataclass(frozen=True)
class Module:
    name: str
    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def room(self) -> str:
        """The folder or the file directly in the package; of the package's own files, the file."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else "__init__"

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        return tuple(self._imports(self.tree, for_types=False))

    def _imports(self, node: ast.AST, *, for_types: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, for_types) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = ".".join(part for part in (self._above(node.level), node.module) if part)
            yield from (Import(f"{source}.{alias.name}", for_types) for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                yield from self._imports(child, for_types=True)
            for child in node.orelse:
                yield from self._imports(child, for_types=for_types)
        else:
            for child in ast.iter_child_nodes(node):
                yield from self._imports(child, for_types=for_types)

    def _above(self, level: int) -> str:
        """The package that ``level`` dots stand for; none of them, nothing."""
        if not level:
            return ""
        parts = self.name.split(".")
        return ".".join(parts[: len(parts) - level + (self.path.name == "__init__.py")])


@dataclass(frozen=True)
class House:
    modules: Mapping[str, Module]

    @classmethod
    def of(cls, package: Path) -> House:
        """Of the folder of a package."""
        modules = {}
        for path in sorted(package.rglob("*.py")):
            parts = path.relative_to(package.parent).with_suffix("").parts
            name = ".".join(parts[:-1] if path.name == "__init__.py" else parts)
            modules[name] = Module(name, path)
        return cls(modules)

    def imported(self, module: Module, *, for_types: bool = False) -> set[str]:
        """Modules of the package that ``module`` imports; those for types alone only if ``for_types``."""
        found = {self._module(each.name) for each in module.imports if for_types or not each.for_types}
        return {name for name in found if name is not None and name != module.name}

    def _module(self, name: str) -> str | None:
        if name in self.modules:
            return name
        above = name.rpartition(".")[0]
        return above if above in self.modules else None

    def circles_of_files(self) -> list[list[str]]:
        return circles({name: self.imported(module) for name, module in self.modules.items()})

    def circles_of_rooms(self) -> list[list[str]]:
        rooms: dict[str, set[str]] = {}
        for module in self.modules.values():
            others = {self.modules[name].room for name in self.imported(module)}
            rooms.setdefault(module.room, set()).update(others - {module.room})
        return circles(rooms)

    def climbs(self, floors: Sequence[Collection[str]]) -> list[str]:
        """Imports of what stands on a higher floor, and rooms that stand on none. ``floors`` begin with the highest."""
        level = {room: i for i, floor in enumerate(floors) for room in floor}
        homeless = {module.room for module in self.modules.values()} - level.keys()
        faults = [f"{room} stands on no floor" for room in sorted(homeless)]
        for module in self.modules.values():
            for name in sorted(self.imported(module, for_types=True)):
                below, above = module.room, self.modules[name].room
                if not {below, above} & homeless and level[above] < level[below]:
                    faults.append(f"{module.name} imports {name}")
        return faults

    def importers(self, library: str) -> dict[str, set[str]]:
        """Modules that import ``library``, by room."""
        found: dict[str, set[str]] = {}
        for module in self.modules.values():
            if any(each.name.split(".")[0] == library for each in module.imports):
                found.setdefault(module.room, set()).add(module.name)
        return found

    def long_modules(self) -> list[str]:
        return [name for name, module in self.modules.items() if len(module.text.splitlines()) > LONGEST]

    def wide_dataclasses(self, rooms: Collection[str]) -> list[str]:
        found = []
        for module in self.modules.values():
            if module.room in rooms:
                classes = (node for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef))
                found += [
                    f"{module.name}.{each.name}" for each in classes if _is_dataclass(each) and _width(each) > WIDEST
                ]
        return found

    def printers(self) -> dict[str, set[str]]:
        """Modules that name stdout or stderr, or print, by room."""
        found: dict[str, set[str]] = {}
        for module in self.modules.values():
            called = {ast.unparse(node.func) for node in ast.walk(module.tree) if isinstance(node, ast.Call)}
            named = {ast.unparse(node) for node in ast.walk(module.tree) if isinstance(node, ast.Attribute)}
            imported = {each.name for each in module.imports}
            if (called | named | imported) & PRINTERS:
                found.setdefault(module.room, set()).add(module.name)
        return found


def circles(graph: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Groups of nodes that each reach every other one of their group, a node alone being none (Tarjan 1972)."""
    found: list[list[str]] = []
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []

    def visit(node: str) -> None:
        index[node] = lowest[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
            if other in stack:
                lowest[node] = min(lowest[node], lowest[other])
        if lowest[node] == index[node]:
            start = stack.index(node)
            group = sorted(stack[start:])
            del stack[start:]
            if len(group) > 1:
                found.append(group)

    for node in graph:
        if node not in index:
            visit(node)
    return found


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any(ast.unparse(each).partition("(")[0].endswith("dataclass") for each in node.decorator_list)


def _width(node: ast.ClassDef) -> int:
    return sum(isinstance(each, ast.AnnAssign) and "ClassVar" not in ast.unparse(each.annotation) for each in node.body)
