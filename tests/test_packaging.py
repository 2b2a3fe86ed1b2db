"""What is imported is declared, and what is declared is used."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
# transformers reads SentencePiece models with these, and only if they are there.
FOR_TRANSFORMERS = {"protobuf", "sentencepiece"}
# Used for what the caller asks for, and only where the caller has it.
OF_THE_CALLER = {"pandas"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[\[<>=!~; ]", requirement)[0]) for requirement in requirements}


def imported() -> set[str]:
    """The distributions whose modules the package imports."""
    modules: set[str] = set()
    for path in (ROOT / "hubquant").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules.add(str(node.module).split(".")[0])
    owners = packages_distributions()
    foreign = modules - set(sys.stdlib_module_names) - {"hubquant"}
    # optimum-quanto writes into optimum's folder.
    return {normal(min(owners[module], key=len)) if module in owners else module for module in foreign}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    core, extras = declared(PROJECT["dependencies"]), PROJECT["optional-dependencies"]
    names = ("diffusion", "llamacpp", "ui", "bitsandbytes", "quanto", "torchao", "nncf", "sdnq")
    optional = declared([requirement for name in names for requirement in extras[name]])
    found = imported()
    assert found - optional - OF_THE_CALLER <= core
    assert core - FOR_TRANSFORMERS <= found
    assert core >= FOR_TRANSFORMERS


def test_every_requirement_is_pinned() -> None:
    pinned = declared((ROOT / "constraints.txt").read_text("utf-8").splitlines()) - {"#", ""}
    extras = PROJECT["optional-dependencies"].values()
    wanted = declared(PROJECT["dependencies"]).union(*map(declared, extras)) - {"hubquant"}
    assert wanted <= pinned


IMPORT_ALL = """
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys(("fcntl", "grp", "pwd", "resource", "termios")))  # as on Windows
import hubquant
for module in pkgutil.walk_packages(hubquant.__path__, "hubquant."):
    if not module.name.endswith(("__main__", ".llamacpp.probe")) and not module.name.startswith("hubquant.ui."):
        importlib.import_module(module.name)
"""


# What gradio imports looks at the platform by itself.
def test_every_module_is_imported_without_what_only_unix_has() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_type_checkers_are_told_to_read_the_package() -> None:
    assert (ROOT / "hubquant" / "py.typed").is_file()
