"""A file as llama.cpp runs it, against llama.cpp with float32 caches and against transformers."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hubquant.convert.restore import load_model
from hubquant.errors import EvaluationError
from hubquant.llamacpp.runner import LlamaCppRunner
from hubquant.models.language_model import LanguageModel
from hubquant.models.tiny import build
from tests.support.conversion import write_gguf
from tests.support.llamacpp import LlamaCpp

N_CTX = 96


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    build("llama", folder / "model", initializer_range=0.1)
    write_gguf(folder / "model", folder / "m-F32.gguf", "F32")
    return folder / "m-F32.gguf"


def prompt(n: int, n_vocab: int = 300) -> torch.Tensor:
    return torch.randint(n_vocab, (n,), generator=torch.Generator().manual_seed(n))


def test_logits_are_those_of_llama_cpp_and_of_transformers(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ids = [prompt(N_CTX), prompt(17)]
    with LlamaCppRunner(path, N_CTX) as runner, LlamaCpp(path, n_ctx=N_CTX) as oracle:
        found = [runner(each) for each in ids]
        expected = [oracle.logits(each.tolist()) for each in ids]
        again = runner(ids[0])
    model = LanguageModel(load_model(path))
    for each, logits, exact in zip(ids, found, expected, strict=True):
        assert logits.shape == (len(each), runner.n_vocab)
        spread = float(exact.std())
        np.testing.assert_allclose(logits, exact, atol=1e-2 * spread)  # the cache is in half precision
        torch.testing.assert_close(logits, model(each), rtol=0, atol=1e-2 * spread)
    assert torch.equal(again, found[0])
    assert capfd.readouterr() == ("", "")


def test_activations_are_quantized_beside_quantized_weights(path: Path, tmp_path: Path) -> None:
    """What makes a file differ in llama.cpp from its weights in transformers."""
    quantized = tmp_path / "m-Q8_0.gguf"
    write_gguf(path.parent / "model", quantized, "Q8_0")
    ids = prompt(N_CTX)
    model = LanguageModel(load_model(quantized))
    with LlamaCppRunner(quantized, N_CTX) as runner:
        away = (runner(ids) - model(ids)).abs().mean()
    with LlamaCppRunner(path, N_CTX) as runner:
        assert away > 10 * (runner(ids) - LanguageModel(load_model(path))(ids)).abs().mean()


@pytest.mark.parametrize("damage", ["truncated", "junk", "missing"])
def test_files_that_llama_cpp_refuses(path: Path, tmp_path: Path, damage: str) -> None:
    broken = tmp_path / "m.gguf"
    if damage == "truncated":
        broken.write_bytes(path.read_bytes()[:-1000])
    elif damage == "junk":
        broken.write_bytes(b"GGUF" + bytes(1000))
    with pytest.raises(EvaluationError, match=r"llama.cpp cannot run m\.gguf"):
        LlamaCppRunner(broken, N_CTX)


def test_more_tokens_than_the_context_holds(path: Path) -> None:
    with LlamaCppRunner(path, N_CTX) as runner, pytest.raises(EvaluationError, match="do not fit a context of 96"):
        runner(prompt(N_CTX + 1))


def test_a_crash_is_an_error(path: Path) -> None:
    with LlamaCppRunner(path, N_CTX) as runner:
        process: Any = runner._process
        os.kill(process.pid, signal.SIGSEGV)
        with pytest.raises(EvaluationError, match="crashed with exit status -11"):
            runner(prompt(8))


def test_without_llama_cpp(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(EvaluationError, match=r"cannot be run in llama\.cpp: xllamacpp is not installed"):
        LlamaCppRunner(path, N_CTX)


def test_a_llama_cpp_with_other_structs_is_not_called(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another wheel, whose library has none of the functions."""
    (tmp_path / "xllamacpp").mkdir()
    (tmp_path / "xllamacpp" / "__init__.py").touch()
    library = next(Path(np.__file__).parent.glob("_core/_multiarray_umath*.so"))
    (tmp_path / "xllamacpp" / "xllamacpp.so").symlink_to(library)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(EvaluationError, match=r"holds a llama\.cpp without llama_"):
        LlamaCppRunner(path, N_CTX)
