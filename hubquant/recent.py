"""What was worked out lately and need not be worked out again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


# functools.lru_cache works a value out once for each thread that asks meanwhile, and takes all arguments for the key.
class Recent(Generic[K, V]):
    """The last ``most`` values by key, each worked out by one thread while others wait for it. For what depends on its
    key alone."""

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, Lock()
        self._values: OrderedDict[K, V] = OrderedDict()
        self._working: dict[K, Lock] = {}

    def get(self, key: K, make: Callable[[], V]) -> V:
        """What ``make`` raises is raised, and not remembered."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            working = self._working.setdefault(key, Lock())
        with working:
            with self._lock:
                if key in self._values:
                    return self._values[key]
            try:
                value = make()
                with self._lock:
                    self._values[key] = value
                    while len(self._values) > self._most:
                        self._values.popitem(last=False)
            finally:
                with self._lock:
                    self._working.pop(key, None)
        return value
