"""Typed access to the keys of a GGUF file's tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hubquant.errors import TokenizerError
from hubquant.gguf_file.metadata import KV, Metadata

_DAMAGED = "the file's vocabulary cannot be read"


@dataclass(frozen=True)
class KeyReader:
    """Raises ``TokenizerError`` for keys that are missing or of another type."""

    metadata: Metadata

    def kv(self, key: str) -> KV | None:
        return self.metadata.get(key)

    def text(self, key: str, default: str | None = None) -> str:
        return str(self._scalar(key, str, default))

    def number(self, key: str, default: int | None = None) -> int:
        return int(self._scalar(key, int, default))

    def bytes(self, key: str) -> bytes:
        """Of an array of signed or unsigned bytes; none when there is no such key."""
        values = () if key not in self.metadata else self.metadata[key].value
        if not isinstance(values, tuple) or not all(isinstance(v, int) and -128 <= v < 256 for v in values):
            raise TokenizerError(_DAMAGED, why=f"{key} is not a list of bytes")
        return bytes(int(value) & 0xFF for value in values)

    def flag(self, key: str, *, default: bool) -> bool:
        return bool(self._scalar(key, bool, default))

    def texts(self, key: str, *, optional: bool = False) -> tuple[str, ...]:
        kv = self.kv(key)
        if kv is None and optional:
            return ()
        if kv is None or not isinstance(kv.value, tuple) or not all(isinstance(item, str) for item in kv.value):
            raise TokenizerError(_DAMAGED, why=f"{key} is missing or not a list of strings")
        return tuple(str(item) for item in kv.value)

    def numbers(self, key: str, *, default: float, length: int) -> tuple[float, ...]:
        kv = self.kv(key)
        if kv is None:
            return (default,) * length
        if not isinstance(kv.value, tuple) or len(kv.value) != length:
            raise TokenizerError(_DAMAGED, why=f"{key} does not have {length} numbers")
        return tuple(item if isinstance(item, int | float) else default for item in kv.value)

    def _scalar(self, key: str, type: type[Any], default: Any) -> Any:
        value = default if key not in self.metadata else self.metadata[key].value
        if not isinstance(value, type):
            raise TokenizerError(_DAMAGED, why=f"{key} is missing or of another type")
        return value
