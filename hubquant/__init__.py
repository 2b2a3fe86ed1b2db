"""One line takes a Hugging Face model to a published, measured GGUF repository.

    import hubquant

    print(hubquant.plan("Qwen/Qwen3-0.6B", types=["Q8_0", "Q4_K_M"]))
    report = hubquant.run("Qwen/Qwen3-0.6B", types=["Q8_0", "Q4_K_M"], push="me/Qwen3-0.6B-GGUF")

The whole way: ``run`` and ``plan`` take a ``Recipe``, or whatever stands for one. Single steps: ``convert``,
``quantize``, ``collect_imatrix``, ``evaluate``, ``publish``, ``inspect``. ``observe`` collects importance beside
whatever makes pictures. What they work best with: ``build_dataset``, ``refine``, ``tune``. What to choose: ``search``
finds models, ``survey`` tells what one would become and ``detect`` whether it is quantized already, from its
metadata. ``load`` gives a model of transformers or diffusers, quantized by a library. Functions on tensors and matrices
are in ``hubquant.quants``, ``hubquant.mix`` and ``hubquant.imatrix``.

What is raised on purpose is a ``HubquantError``; what the caller can mend is a ``UserError``.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hubquant.version import __version__ as __version__

if TYPE_CHECKING:
    from hubquant import imatrix as imatrix
    from hubquant import mix as mix
    from hubquant import quants as quants
    from hubquant.api import (
        build_dataset,
        collect_imatrix,
        compare,
        convert,
        detect,
        evaluate,
        inspect,
        join_baselines,
        load,
        observe,
        plan,
        publish,
        quantize,
        refine,
        run,
        search,
        survey,
        tune,
    )
    from hubquant.commands.detect import Detection
    from hubquant.commands.survey import Survey
    from hubquant.errors import HubquantError, UserError
    from hubquant.imatrix import ImportanceMatrix, load_imatrix
    from hubquant.pipeline.plan import Plan
    from hubquant.publish.report import Report
    from hubquant.recipe import Recipe, load_recipe


__all__ = [
    "Detection",
    "HubquantError",
    "ImportanceMatrix",
    "Plan",
    "Recipe",
    "Report",
    "Survey",
    "UserError",
    "build_dataset",
    "collect_imatrix",
    "compare",
    "convert",
    "detect",
    "evaluate",
    "inspect",
    "join_baselines",
    "load",
    "load_imatrix",
    "load_recipe",
    "observe",
    "plan",
    "publish",
    "quantize",
    "refine",
    "run",
    "search",
    "survey",
    "tune",
]

_HOMES = {
    "hubquant.api": (
        *("build_dataset", "collect_imatrix", "compare", "convert", "detect", "evaluate", "inspect", "join_baselines"),
        *("load", "observe", "plan"),
        *("publish", "quantize", "refine", "run", "search", "survey", "tune"),
    ),
    "hubquant.commands.detect": ("Detection",),
    "hubquant.commands.survey": ("Survey",),
    "hubquant.errors": ("HubquantError", "UserError"),
    "hubquant.imatrix": ("ImportanceMatrix", "load_imatrix"),
    "hubquant.pipeline.plan": ("Plan",),
    "hubquant.publish.report": ("Report",),
    "hubquant.recipe": ("Recipe", "load_recipe"),
}
_ROOMS = ("imatrix", "mix", "quants")


class _Package(ModuleType):
    """``hubquant.convert`` is the function, also after the folder of that name was imported: Python would put it in
    the function's place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


if not TYPE_CHECKING:  # or else every name would be there for a type checker

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first used: torch and transformers take seconds."""
        if name in _ROOMS:
            return import_module(f"hubquant.{name}")
        for home, names in _HOMES.items():
            if name in names:
                return getattr(import_module(home), name)
        raise AttributeError(f"module 'hubquant' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS, "__version__"])
