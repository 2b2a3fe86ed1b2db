"""A GGUF file with a name that no terminal should be given as it is."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

NAME = "modèle ± \x1b[31mred\x1b[0m\nfaked: line \u202egnp.exe"


@pytest.fixture(scope="session")
def hostile_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "hostile.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(NAME)
    for i in range(400):
        writer.add_string(f"key.{i}", "×" * 80)
    writer.add_tensor("token\x1b[2J_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
