"""What the names of files and repositories say of how weights are stored. It is a hint: anyone may rename a file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_FOUR_BITS = ("nvfp4", "mxfp4", "nf4", "fp4")
_NUMBERS = re.compile(r"(int|float|fp)(\d{1,2})")
_WORD = re.compile(
    r"""(?<![a-z0-9])(?:
    (?P<four> nvfp4 | mxfp4 | nf4 | fp4 ) | (?P<int> q?u?int[2-8] )
    | (?P<float> q?float8(?:_?e4m3(?:fn)?|_?e5m2)? | fp8(?:_?e4m3(?:fn)?|_?e5m2)? | e4m3(?:fn)? | e5m2 )
    | (?P<bits> [2-8]-?bit | w[48]a(?:8|16) )
    | (?P<gguf> i?q[1-8]_(?:k(?:_(?:xs|s|m|l|xl))? | [01] | xxs | xs | nl | s | m ) )
    | (?P<backend> gptq | awq | bnb | bitsandbytes | quanto | torchao | sdnq | nncf | gguf | mlx | hqq )
    )(?![a-z0-9])""",
    re.VERBOSE,
)


def family(type: str) -> str | None:
    """The same for types that hold the same numbers under other names: int8 of qint8, int8wo and int8_asym."""
    name = type.lower()
    if four := next((each for each in _FOUR_BITS if each in name), None):
        return four
    match = _NUMBERS.search(name)
    return match and f"{'int' if match[1] == 'int' else 'float'}{match[2]}"


def by_name(names: Iterable[str], backend: str | None, type: str | None, contents: str) -> list[str]:
    """What each word says that ``names`` have of quantization, and whether the ``contents`` say the same."""
    found = dict.fromkeys((match[0], match.lastgroup) for name in names for match in _WORD.finditer(name.lower()))
    return list(_compared(found, backend, type, contents))


def _compared(
    words: Iterable[tuple[str, str | None]], backend: str | None, type: str | None, contents: str
) -> Iterator[str]:
    for word, group in words:
        same = _agrees(word, str(group), backend, type)
        if same is None:
            yield f"the name says {word}, the contents do not tell"
        else:
            yield f"the name says {word}, {'and so do the contents' if same else f'the contents say {contents}'}"


def _agrees(word: str, group: str, backend: str | None, type: str | None) -> bool | None:
    """None where the contents do not tell."""
    if backend is None:
        return False
    if group == "backend":
        return {"bnb": "bitsandbytes"}.get(word, word) == backend
    if type is None:
        return None
    if group == "gguf":
        return backend == "gguf" and word.upper() == type
    kind = family(type)
    if kind is None:
        return False if backend == "gguf" else None
    if group == "bits":
        return next(each for each in word if each.isdigit()) == kind[-1]
    return (family(word) or "float8") == kind
