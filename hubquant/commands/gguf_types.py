"""``hubquant gguf copy-types``: the types of one file as rules for another model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hubquant.commands.flags import model as reference
from hubquant.engine.progress import Progress
from hubquant.errors import UserError
from hubquant.gguf_file.stored import StoredFile, read_model
from hubquant.mix.file_types import BLOCK_SIZES, FTYPES
from hubquant.mix.storage import kept
from hubquant.pipeline.work import open_model

_IN_BLOCK = re.compile(r"(.*?\.)(\d+)(\..*)")
_FILE_TYPE = "general.file_type"


@dataclass(frozen=True)
class CopiedTypes:
    """``rules`` are (regular expression, type); ``base`` is the file type to ask for."""

    base: str
    rules: Sequence[tuple[str, str]]
    notes: Sequence[str]

    def lines(self) -> list[str]:
        """As --tensor-type-file and --tensor-type take them."""
        return [f"{match}={type.lower()}" for match, type in self.rules]

    def recipe(self) -> dict[str, Any]:
        rules = [{"match": match, "type": type} for match, type in self.rules]
        return {"quantize": {"types": [self.base], "rules": rules}}

    def as_yaml(self) -> str:
        """The part of a recipe."""
        return yaml.safe_dump(self.recipe(), sort_keys=False, width=1 << 30)


def copy_types(like: Path, model: str, progress: Progress) -> CopiedTypes:
    """The types that the weights of ``model`` have in the file ``like``. Raises ``UserError`` where that has none of
    them, or has types that cannot be asked for."""
    files = read_model(like)
    shapes = open_model(reference(model), None, progress).shapes
    there = {tensor.name: tensor.type for file in files for tensor in file.tensors}
    wanted = {name: there[name] for name, shape in shapes.items() if name in there and not kept(name, shape)}
    if not wanted:
        raise UserError(f"{like} has no weight of {model}", why="no names are the same", hint="is it the same model?")
    for name, type in wanted.items():
        if type not in BLOCK_SIZES:
            raise UserError(f"{name} is {type}", why="that cannot be asked for", hint="take the types of another file")
    missing = [name for name, shape in shapes.items() if name not in there and not kept(name, shape)]
    unfit = [name for name, type in wanted.items() if shapes[name][-1] % BLOCK_SIZES[type]]
    notes = [
        f"{len(names)} weights {why}, first {names[0]}: they get what quantize gives them"
        for names, why in (
            (missing, f"of {model} are not in {like.name}"),
            (unfit, "have rows that are no whole blocks of their types"),
        )
        if names
    ]
    return CopiedTypes(_base(files[0], wanted), rules(wanted, shapes), notes)


def rules(types: Mapping[str, str], among: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Regular expressions that give the tensors of ``types`` their types, and match no other of ``among``. Those of
    many blocks are one."""
    numbers: dict[tuple[str, str, str], list[str]] = {}
    for name, type in types.items():
        match = _IN_BLOCK.fullmatch(name)
        begin, number, end = match.groups() if match else (name, "", "")
        numbers.setdefault((begin, end, type), []).append(number)
    blocks = Counter((match[1], match[3]) for name in among if (match := _IN_BLOCK.fullmatch(name)))
    found = []
    for (begin, end, type), those in numbers.items():
        if those == [""]:
            middle = ""
        elif len(those) == blocks[begin, end]:
            middle = "[0-9]+"
        else:
            middle = f"({'|'.join(those)})" if len(those) > 1 else those[0]
        found.append((f"^{_escaped(begin)}{middle}{_escaped(end)}$", type))
    return found


def _escaped(text: str) -> str:
    """For Python and for ECMAScript, which llama-quantize has."""
    return re.sub(r"([.^$*+?()\[\]{}|\\])", r"\\\1", text)


def _base(file: StoredFile, types: Mapping[str, str]) -> str:
    """The file's own type, and where it says none the first one that is of the type that most weights have."""
    stored = file.value(_FILE_TYPE)
    by_id = {each.id: name for name, each in FTYPES.items()}
    if stored is not None and isinstance(stored.value, int) and stored.value in by_id:
        return by_id[stored.value]
    [(most, _)] = Counter(types.values()).most_common(1)
    return next(name for name, each in FTYPES.items() if each.default == most)
