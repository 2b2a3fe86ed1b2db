from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from hubquant.convert.restore import load_model
from hubquant.errors import VerificationError
from hubquant.evaluate import compare, perplexity, write_baseline
from hubquant.llamacpp.runtime import RuntimeCheck, predicted_by, runtime_check
from hubquant.models.language_model import LanguageModel
from hubquant.models.load import load_tokenizer
from hubquant.models.tiny import build
from hubquant.sources.checkpoint import load_folder
from tests.support.conversion import write_gguf
from tests.support.evaluation import random_chunks
from tests.support.llamacpp import LlamaCpp


class Written:
    """A tiny model of ``family`` and its F32 file."""

    def __init__(self, family: str, folder: Path) -> None:
        build(family, folder / "model", initializer_range=0.1)
        self.model = LanguageModel(load_folder(folder / "model", device="cpu"))
        self.tokenizer: Any = load_tokenizer(folder / "model")
        self.path = folder / "m-F32.gguf"
        self.checkpoint = folder / "model"
        write_gguf(self.checkpoint, self.path, "F32")


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return Written(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return Written("llama", tmp_path_factory.mktemp("llama"))


def test_llama_cpp_agrees_with_the_source_and_says_nothing(written: Written, capfd: pytest.CaptureFixture[str]) -> None:
    check = runtime_check(written.path, written.tokenizer, predicted_by(written.model))
    assert (check.n_prompts, check.n_agreeing, check.n_same_top) == (8, 8, 8)
    assert str(check) == "passed: same tokens, same next token for 8 of 8 prompts"
    assert capfd.readouterr() == ("", "")


def test_llama_cpp_agrees_with_a_quantized_file_restored(llama: Written, tmp_path: Path) -> None:
    path = tmp_path / "m-Q2_K.gguf"
    write_gguf(llama.checkpoint, path, "Q2_K")
    check = runtime_check(path, llama.tokenizer, predicted_by(LanguageModel(load_model(path))))
    assert check.n_agreeing == 8


def test_another_model_is_noticed(llama: Written) -> None:
    with pytest.raises(VerificationError, match="does not predict") as caught:
        runtime_check(llama.path, llama.tokenizer, predicted_by(lambda ids, first=0: -llama.model(ids, first)))
    assert "0 of 8 prompts" in str(caught.value)


def test_another_tokenizer_is_noticed(llama: Written, tmp_path: Path) -> None:
    build("qwen2", tmp_path / "other")
    with pytest.raises(VerificationError, match="tokenizes differently"):
        runtime_check(llama.path, load_tokenizer(tmp_path / "other"), predicted_by(llama.model))


@pytest.mark.parametrize("damage", ["truncated", "junk", "missing"])
def test_files_that_llama_cpp_refuses(llama: Written, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "m.gguf"
    if damage == "truncated":
        path.write_bytes(llama.path.read_bytes()[:-1000])
    elif damage == "junk":
        path.write_bytes(b"GGUF" + bytes(1000))
    with pytest.raises(VerificationError, match=r"llama.cpp cannot use m\.gguf"):
        runtime_check(path, llama.tokenizer, predicted_by(llama.model))


def test_a_crash_is_an_error(llama: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An xllamacpp that dies as a C++ abort would: found by the process that asks llama.cpp."""
    (tmp_path / "xllamacpp.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(VerificationError, match="crashed with exit status -11"):
        runtime_check(llama.path, llama.tokenizer, predicted_by(llama.model))


def test_what_takes_too_long_is_not_checked(llama: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "xllamacpp.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check = runtime_check(llama.path, llama.tokenizer, predicted_by(llama.model), timeout=1)
    assert str(check) == "skipped: llama.cpp did not answer in 1 seconds"


def test_without_xllamacpp_it_is_skipped(llama: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "xllamacpp" else find(name))
    check = runtime_check(llama.path, llama.tokenizer, predicted_by(llama.model))
    assert check == RuntimeCheck(skipped="xllamacpp is not installed")
    assert str(check) == "skipped: xllamacpp is not installed"


def test_perplexity_is_that_of_llama_cpp(llama: Written) -> None:
    chunks = random_chunks(3, 64, llama.model.model.config.vocab_size)
    nll = []
    with LlamaCpp(llama.path) as llama_cpp:
        for ids in chunks.ids.tolist():
            log_p = torch.from_numpy(llama_cpp.logits(ids)).double().log_softmax(1)
            nll += [-float(log_p[i, ids[i + 1]]) for i in range(32, 63)]
    expected = torch.tensor(nll).mean().exp().item()
    assert perplexity(llama.model, chunks).ppl == pytest.approx(expected, rel=1e-4)
    assert perplexity(LanguageModel(load_model(llama.path)), chunks).ppl == pytest.approx(expected, rel=1e-4)


def test_divergence_grows_as_bits_fall(llama: Written, tmp_path: Path) -> None:
    chunks = random_chunks(4, 64, llama.model.model.config.vocab_size)
    klds = []
    with write_baseline(llama.model, chunks, tmp_path / "base.h5", name="tiny", revision="r") as baseline:
        for type in ("F32", "Q8_0", "Q6_K", "Q4_K", "Q3_K", "Q2_K"):
            write_gguf(llama.checkpoint, tmp_path / f"{type}.gguf", type)
            klds.append(compare(LanguageModel(load_model(tmp_path / f"{type}.gguf")), baseline).kld.mean)
    assert klds == sorted(klds)
    assert klds[0] < 1e-6
    assert klds[1] > 10 * klds[0]
    assert klds[-1] > 100 * klds[1]
