"""The texts that come with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import get_args

from hubquant.recipe.schema import BundledText

FILES = MappingProxyType({name: f"data/texts/{name}.txt" for name in get_args(BundledText)})


def bundled_path(name: BundledText) -> Path:
    return Path(str(resources.files("hubquant").joinpath(FILES[name])))
