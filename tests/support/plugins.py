"""Data sources as people have them: files written to the contract that llama-gguf-optimize has."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

EXISTING = """
    import json
    import logging
    from pathlib import Path

    from plugin_base import DataSourcePluginBase

    logger = logging.getLogger(__name__)


    class DiarySource(DataSourcePluginBase):
        def __init__(self, name="diary", **kwargs):
            super().__init__(name, **kwargs)
            self.schema = {"content": "entry.paragraphs.0.text"}

        def load_data(self, lang, num_samples=200, skip_samples=0):
            print(f"{self.name}: {num_samples} after {skip_samples}")
            logger.error("looking for %s", lang)
            found = []
            for number in range(skip_samples, skip_samples + num_samples):
                text = f"{lang} {number}: " + " ".join(f"{lang}{number * 31 + i}" for i in range(40))
                found.append({"entry": {"paragraphs": [{"text": text}]}})
            return found


    class ShortSource(DiarySource):
        def __init__(self):
            super().__init__("short")

        def get_content(self, record):
            return super().get_content(record)[:20]
"""
"""As somebody wrote one for llama-gguf-optimize: nothing in it knows of hubquant."""


def write_plugin(folder: Path, text: str = EXISTING, name: str = "diary.py") -> Path:
    path = folder / name
    path.write_text(dedent(text).lstrip("\n"), "utf-8")
    return path
