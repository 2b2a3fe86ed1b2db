"""llama-perplexity's form, against a reader and formulas of its own that follow its description."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from hubquant.errors import BaselineError
from hubquant.evaluate import Baseline, compare, compare_baselines, write_baseline
from tests.support.evaluation import looked_up, random_chunks

CHUNKS = {n_vocab: random_chunks(3, 32, n_vocab) for n_vocab in (97, 64)}
SCORED = 15


def table(n_vocab: int, noise: float = 0.0) -> torch.Tensor:
    random = torch.Generator().manual_seed(3)
    logits = 6 * torch.randn(n_vocab, n_vocab, generator=random)
    return logits + noise * torch.randn(n_vocab, n_vocab, generator=random)


def written(path: Path, n_vocab: int = 97) -> Path:
    logits = table(n_vocab)
    write_baseline(looked_up(logits), CHUNKS[n_vocab], path, name="m", revision="r", form="llama.cpp").close()
    return path


def expected(n_vocab: int) -> bytes:
    """The file by its description, number by number."""
    ids = CHUNKS[n_vocab].ids
    data = b"_logits_" + struct.pack("<3i", 32, n_vocab, len(ids)) + struct.pack(f"<{ids.numel()}i", *ids.flatten())
    for chunk in ids:
        for token in chunk[16:31]:
            logits = table(n_vocab)[token].numpy()
            top = logits.max()
            low = max(logits.min(), np.float32(top - np.float32(16)))
            log_sum = np.float32(np.log(np.exp(logits - top).astype(np.float64).sum()))
            scale = np.float32(np.float32(top - low) / np.float32(65535))
            codes = np.where(logits > low, np.rint(np.float32(1 / scale) * (logits - low)), 0).astype(np.uint16)
            data += struct.pack("<2f", scale, np.float32(np.float32(low - top) - log_sum)) + codes.tobytes()
            data += bytes(2 * (n_vocab % 2))
    return data


@pytest.mark.parametrize("n_vocab", [97, 64])
def test_the_file_is_llama_perplexitys(tmp_path: Path, n_vocab: int) -> None:
    found = np.frombuffer(written(tmp_path / "b.kld", n_vocab).read_bytes(), np.uint8)
    wanted = np.frombuffer(expected(n_vocab), np.uint8)
    assert found.shape == wanted.shape
    # torch and numpy may round an exponential otherwise, and with it the last bit of a float
    assert (found != wanted).mean() < 0.01
    header = 20 + 4 * 96
    assert (found[:header] == wanted[:header]).all()
    width = 2 * (n_vocab + n_vocab % 2) + 8
    codes, right = (x[header:].reshape(-1, width)[:, 8:].copy().view("<u2").astype(int) for x in (found, wanted))
    assert abs(codes - right).max() <= 1


def test_the_statistics_are_llama_perplexitys(tmp_path: Path) -> None:
    """By the definitions in its source, from the codes of the file."""
    path, q = written(tmp_path / "b.kld"), table(97, noise=0.4)
    data = path.read_bytes()[20 + 4 * 96 :]
    klds, nlls = [], []
    for chunk, ids in enumerate(CHUNKS[97].ids):
        for i, (token, target) in enumerate(pairwise(ids[16:])):
            start = (chunk * SCORED + i) * 2 * (98 + 4)
            scale, low = struct.unpack_from("<2f", data, start)
            log_p = scale * np.frombuffer(data, "<u2", 97, start + 8) + low
            log_q = q[token].double().log_softmax(0).numpy()
            counted = log_p > -16
            klds.append((np.exp(log_p) * (log_p - log_q))[counted].sum())
            nlls.append(-log_p[int(target)])
    with Baseline.open(path) as baseline:
        found = compare(looked_up(q), baseline)
        assert np.log(baseline.perplexity.ppl) == pytest.approx(np.mean(nlls), rel=1e-5)
    assert found.kld.mean == pytest.approx(np.mean(klds), rel=1e-5)
    assert found.kld.maximum == pytest.approx(np.max(klds), rel=1e-5)
    assert found.ppl_base.ppl == pytest.approx(np.exp(np.mean(nlls)), rel=1e-5)
    assert found.kld_bound is None


def test_it_is_nearly_what_whole_distributions_give(tmp_path: Path) -> None:
    path, q = written(tmp_path / "b.kld"), table(97, noise=0.4)
    full = write_baseline(looked_up(table(97)), CHUNKS[97], tmp_path / "b.h5", name="m", revision="r", form="full")
    with Baseline.open(path) as baseline:
        found, exact = (
            compare(looked_up(q), baseline),
            compare(looked_up(q), full),
        )
    assert found.kld.mean == pytest.approx(exact.kld.mean, rel=1e-3)
    assert found.same_top == exact.same_top
    assert compare_baselines(path, tmp_path / "b.h5").kld.mean == pytest.approx(0, abs=1e-4)
    assert compare_baselines(tmp_path / "b.h5", path).kld.mean == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("numbers", "why"),
    [
        ((-32, 97, 3), "chunks of -32 tokens"),
        ((2, 97, 3), "chunks of 2 tokens"),
        ((32, -1, 3), "a vocabulary of -1"),
        ((32, 0, 3), "a vocabulary of 0"),
        ((32, 2**31 - 1, 3), "a vocabulary of 2147483647"),
        ((32, 97, -3), "it is of -3 chunks"),
        ((32, 97, 2**31 - 1), "it has 0 of its 2147483647 chunks"),
        ((2**31 - 1, 97, 2**31 - 1), "it has 0 of its"),
        ((32, 97, 2), "it goes on after its end"),
        ((32, 50, 3), "it goes on after its end"),
    ],
)
def test_hostile_numbers_are_refused(tmp_path: Path, numbers: tuple[int, int, int], why: str) -> None:
    path = written(tmp_path / "b.kld")
    data = path.read_bytes()
    path.write_bytes(data[:8] + struct.pack("<3i", *numbers) + data[20:])
    with pytest.raises(BaselineError, match=why):
        Baseline.open(path)


@pytest.mark.parametrize("length", [0, 7, 8, 19, 20, 300, -1, -4000])
def test_files_that_end_early_are_refused(tmp_path: Path, length: int) -> None:
    path = written(tmp_path / "b.kld")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(BaselineError, match="cannot be read") as caught:
        Baseline.open(path)
    if length == -4000:
        assert caught.value.why == "it has 1 of its 3 chunks"


def test_tokens_and_numbers_that_cannot_be_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "b.kld")
    data = path.read_bytes()
    path.write_bytes(data[:24] + struct.pack("<i", 97) + data[28:])
    with pytest.raises(BaselineError, match="not of a vocabulary of 97"):
        Baseline.open(path)
    record = 20 + 4 * 96 + 2 * (98 + 4) * 20  # of chunk 2
    for scale, low in ((float("nan"), -9.0), (1e-4, float("inf")), (-1e-4, -9.0), (1e-3, -9.0)):
        path.write_bytes(data[:record] + struct.pack("<2f", scale, low) + data[record + 8 :])
        with Baseline.open(path) as baseline, pytest.raises(BaselineError, match="chunk 2 has scales"):
            compare(looked_up(table(97)), baseline)
