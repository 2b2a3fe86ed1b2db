"""Values of a wrong type in config.json are named by their key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hubquant.checkpoint.json_files import read_config as read_to_convert
from hubquant.errors import CheckpointError
from hubquant.models.identify import identify, read_config

SOUND = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "text_config": None}
WRONG: dict[str, Any] = {
    "architectures is 1, not a list": {"architectures": 1},
    "architectures is {}, not a list": {"architectures": {}},
    "architectures.0 is 7, not a text": {"architectures": [7]},
    "model_type is \\['llama'\\], not a text": {"model_type": ["llama"]},
    "text_config is 'x', not an object": {"text_config": "x"},
    "text_config.model_type is 3, not a text": {"text_config": {"model_type": 3}},
    "text_config.quantization_config is \\[\\], not an object": {"text_config": {"quantization_config": []}},
    "quantization_config is 'fp8', not an object": {"quantization_config": "fp8"},
    "dtype is 16, not a text or an object": {"dtype": 16},
    "auto_map is 'x', not an object": {"auto_map": "x"},
}


@pytest.mark.parametrize("why", WRONG)
def test_the_key_is_named(tmp_path: Path, why: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SOUND | WRONG[why]))
    for read in (identify, read_config, read_to_convert):
        with pytest.raises(CheckpointError, match=f"^config.json cannot be used: {why}"):
            read(tmp_path)


@pytest.mark.parametrize("content", ["[]", "7", "null", '"x"'])
def test_it_is_an_object(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    for read in (identify, read_config, read_to_convert):
        with pytest.raises(CheckpointError):
            read(tmp_path)
