"""The class that plugins derive from, with the names and the meaning that llama-gguf-optimize gave them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class DataSourcePluginBase(ABC):
    """A source of records in several languages. ``schema["content"]`` is the path to a record's text: keys, and
    positions in lists, with dots between them."""

    def __init__(self, name: str, **kwargs: Any) -> None:
        self.name = name
        self.kwargs = kwargs
        self.schema: Mapping[str, Any] = kwargs.get("schema", {"content": "text"})

    @abstractmethod
    def load_data(self, lang: str, num_samples: int = 200, skip_samples: int = 0) -> Iterable[Any]:
        """At most ``num_samples`` records of a language, after the first ``skip_samples``: a list, or anything that
        gives one record after the other."""

    def get_content(self, record: Any) -> Any:
        """The text of a record; None where it has none."""
        return self.get_value_from_path(record, self.schema.get("content", ""))

    def get_value_from_path(self, data: Any, path: str | Sequence[str | int]) -> Any:
        """What is at the end of ``path``; None where it leads nowhere."""
        return value_at(data, path)


def value_at(data: Any, path: str | Sequence[str | int]) -> Any:
    """See :meth:`DataSourcePluginBase.get_value_from_path`."""
    for key in path.split(".") if isinstance(path, str) else path:
        if isinstance(data, Mapping) and key in data:
            data = data[key]
        elif isinstance(data, list | tuple) and str(key).isdecimal() and int(key) < len(data):
            data = data[int(key)]
        else:
            return None
    return data
