"""Names of files as the programs read them that people fetch files with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from glob import escape

from hubquant.publish.recommendation import MeasuredFile

_SHARD = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_SHARD_NUMBER = re.compile(r"-\d{5}-of-(?=\d{5}\.gguf$)")


def is_sharded(file: MeasuredFile) -> bool:
    return _SHARD.search(file.file) is not None


def preferred(files: Sequence[MeasuredFile]) -> MeasuredFile | None:
    """The one that stands in examples."""
    return next((file for file in files if file.type == "Q4_K_M"), files[0] if files else None)


def is_mistaken(file: MeasuredFile, files: Iterable[MeasuredFile]) -> bool:
    """Whether ``llama-server -hf repo:TYPE`` may take another of ``files``, as it does BF16 for F16: it takes the first
    file in the alphabet with the type anywhere in its name, before a point or a dash.

    https://github.com/ggml-org/llama.cpp/blob/master/common/download.cpp (find_best_model)
    """
    wanted = re.compile(re.escape(file.type) + "[.-]", re.IGNORECASE)
    return any(wanted.search(other.file) and other.file < file.file for other in files if other.type != file.type)


def pattern(file: MeasuredFile, files: Iterable[MeasuredFile]) -> str:
    """For ``hf download --include``: all parts of ``file`` and nothing of the other ``files``, as short as may be."""
    others = [other.file for other in files if other.type != file.type]
    exact = _SHARD_NUMBER.sub("-?????-of-", escape(file.file))
    wanted = (f"*{file.type}*", f"*-{file.type}[.-]*", exact)
    return next(each for each in wanted if each == exact or not any(fnmatch(other, each) for other in others))
