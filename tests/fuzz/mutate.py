"""Changes of bytes, JSON and lines, decided by a random generator."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

ODD_BYTES = (b"", b"\0" * 8, b"\xff" * 8, b"\xff\xfe", b"\x1b[31m", b"\r\n", b"{}", b"[1]", b"NaN", b"\xed\xa0\x80")
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 255, 1 << 31, -(1 << 31), 1 << 40, 1 << 63, 1 << 64, 10**30, 0.5, -1.5, 1e308,
    float("nan"), float("inf"), "", "x", "0", "-1", "llama", "LlamaForCausalLM", "\ud800", "\x1b[2J\n", "a" * 5000,
    "../../../etc/passwd", "(a+)+$", "(", "[", "\\p{L}{9999}", "{{ 1 }}", [], [1], [[]], ["x"], [None], {}, {"0": "x"},
    {"x": 1}, {"type": {}}, [1, 2, 3], ["a"] * 300,
)  # fmt: skip


def changed_bytes(data: bytes, random: Random) -> bytes:
    """With one to four pieces overwritten, cut, doubled, zeroed or inserted."""
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(data) + 1)
        if random.random() < 0.5:  # headers are at the beginning
            at = min(at, random.randrange(1, 400))
        length = random.choice((1, 1, 2, 4, 8, 64, 1000))
        piece = data[at : at + length]
        match random.randrange(7):
            case 0:
                piece = bytes(random.randrange(256) for _ in piece)
            case 1:
                piece = bytes([piece[0] ^ (1 << random.randrange(8))]) + piece[1:] if piece else b""
            case 2:
                piece = bytes(len(piece))
            case 3:
                piece = b"\xff" * len(piece)
            case 4:
                piece = piece * random.choice((0, 2, 50))
            case 5:
                piece = random.choice(ODD_BYTES) + piece
            case 6:
                return data[:at]
        data = data[:at] + piece + data[at + length :]
    return data


def changed_json(value: Any, random: Random) -> Any:
    """With one to three values replaced, removed, moved or nested."""
    value = copy.deepcopy(value)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        holder, key = random.choice(list(_places(value)) or [(None, None)])
        if holder is None or random.random() < 0.02:
            return random.choice(ODD_VALUES)
        match random.randrange(8):
            case 0 if isinstance(holder, dict):
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[random.choice(("", "x", "type", "0", str(key).upper()))] = holder[key]
            case 2:
                holder[key] = [holder[key]] if random.random() < 0.7 else {"x": holder[key]}
            case 3 if isinstance(holder[key], list | str):
                holder[key] = holder[key][: random.randrange(len(holder[key]) + 1)]
            case 4:
                other, place = random.choice(list(_places(value)))
                holder[key] = copy.deepcopy(other[place])
            case 5 if isinstance(holder[key], int | float):
                holder[key] = random.choice((-holder[key], holder[key] + 1, holder[key] * 2, holder[key] / 2))
            case 6:
                holder[key] = f"@nest {random.choice((5, 50, 2000, 100_000))}@"
            case _:
                holder[key] = random.choice(ODD_VALUES)
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(holder, key) of every value; of long lists the first few."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting and len(found) < 2000:
        holder = waiting.pop()
        keys = holder if isinstance(holder, dict) else range(min(len(holder), 6)) if isinstance(holder, list) else ()
        for key in list(keys)[:200]:
            found.append((holder, key))
            waiting.append(holder[key])
    return found


def changed_json_text(data: bytes, random: Random) -> bytes:
    return _dumped(changed_json(json.loads(data), random)).encode("utf-8", "surrogatepass")


def change_json_file(path: Path, random: Random) -> None:
    """Its values mostly, sometimes its bytes; of what is no JSON any more, those."""
    data = path.read_bytes()
    with suppress(ValueError):
        if random.random() > 0.12:
            path.write_bytes(changed_json_text(data, random))
            return
    path.write_bytes(changed_bytes(data, random))


def change_bytes_file(path: Path, random: Random) -> None:
    path.write_bytes(changed_bytes(path.read_bytes(), random))


def change_json_in_bytes(path: Path, random: Random, begin: int, end: int) -> bytes:
    """The bytes of a file with the JSON that stands in [begin, end) changed."""
    data = path.read_bytes()
    return data[:begin] + changed_json_text(data[begin:end], random) + data[end:]


def change_lines_file(path: Path, random: Random, change: Callable[[bytes, Random], bytes] = changed_bytes) -> None:
    """Some lines removed, doubled, moved or changed."""
    lines = path.read_bytes().split(b"\n")
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(lines))
        match random.randrange(4):
            case 0:
                lines.insert(at, lines[random.randrange(len(lines))])
            case 1 if len(lines) > 1:
                del lines[at]
            case 2:
                lines[at] = b" " * random.randrange(9) + lines[at].lstrip()
            case _:
                lines[at] = change(lines[at], random)
    path.write_bytes(b"\n".join(lines))


def _dumped(value: Any) -> str:
    """With lists within lists where :func:`changed_json` has left word, for Python's writer has its own limits."""
    text = json.dumps(value, ensure_ascii=False)
    return re.sub(r'"@nest (\d+)@"', lambda match: "[" * int(match[1]) + "]" * int(match[1]), text)
