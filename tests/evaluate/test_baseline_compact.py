"""The compact form: its estimate is without bias and within its bound, and hostile files are refused."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from hubquant.errors import BaselineError
from hubquant.evaluate import Baseline, compare, write_baseline
from hubquant.evaluate import appended as writing
from hubquant.evaluate.baseline_compact import CompactChunk, encode
from hubquant.evaluate.sampling import ErrorBound, SampleError, sample, threshold_for
from tests.support.evaluation import disturbed, looked_up, random_chunks, tiny_model

N_VOCAB = 3000


def distributions(n: int, n_vocab: int = N_VOCAB) -> Tensor:
    """Logits as language models have them: many words far below a few."""
    random = torch.Generator().manual_seed(0)
    ranks = torch.arange(1, n_vocab + 1).log()
    slopes = 1 + 1.5 * torch.rand(n, 1, generator=random)
    return -slopes * ranks + 0.5 * torch.randn(n, n_vocab, generator=random)


def kld(logits: Tensor, other: Tensor) -> Tensor:
    p, q = logits.double().log_softmax(1), other.double().log_softmax(1)
    return (p.exp() * (p - q)).sum(1)


def test_every_word_stands_for_its_share_of_the_tail() -> None:
    """The expectation over many draws is the sum over the tail, whatever is summed."""
    ordered = distributions(1).double().log_softmax(1).sort(dim=1, descending=True).values[0]
    values = torch.rand(N_VOCAB, generator=torch.Generator().manual_seed(1)).double()
    estimates = []
    for seed in range(2000):
        found = sample(ordered, 1e-3, np.random.default_rng(seed))
        drawn = found.places[found.head :]
        assert (ordered[: found.head].exp() >= 1e-3).all()
        assert (ordered[drawn].exp() < 1e-3).all()
        estimates.append(float(found.mass / len(drawn) * values[drawn].sum()))
    tail = ordered[found.head :].exp()
    exact = float((tail * values[found.head :]).sum())
    error = float(np.std(estimates)) / len(estimates) ** 0.5
    assert abs(np.mean(estimates) - exact) < 4 * error
    assert error < 0.01 * exact


def test_whole_distributions_where_nothing_is_improbable() -> None:
    chunk = encode(torch.zeros(3, 50), torch.tensor([1, 2, 3]), 1e-3, np.random.default_rng(0))
    assert chunk.count.tolist() == chunk.head.tolist() == [50, 50, 50]
    assert chunk.tail_mass.tolist() == [0, 0, 0]


@pytest.mark.parametrize("spread", [0.0, 10.0, 60.0])
def test_any_logits_are_stored(tmp_path: Path, spread: float) -> None:
    table = spread * torch.randn(97, 97, generator=torch.Generator().manual_seed(3))
    with write_baseline(
        looked_up(table), random_chunks(3, 32, 97), tmp_path / "b.h5", name="m", revision="r"
    ) as baseline:
        found = compare(looked_up(table), baseline)
    assert abs(found.kld.mean) < 1e-5
    assert found.same_top == 1


@pytest.mark.parametrize("strength", [0.003, 0.1, 1.0, 5.0])
def test_the_mean_is_within_its_bound(strength: float) -> None:
    """Of models that are close and of some that are far; the estimate of another draw is another one."""
    base, n = distributions(60), 60
    other = base + strength * torch.randn(n, N_VOCAB, generator=torch.Generator().manual_seed(2))
    targets = torch.zeros(n, dtype=torch.int64)
    exact, means = float(kld(base, other).mean()), []
    for seed in range(5):
        chunk = encode(base, targets, 1e-3, np.random.default_rng(seed))
        tokens, bound = _statistics(chunk, other, targets)
        means.append(float(tokens.kld.mean()))
        assert abs(means[-1] - exact) <= bound
        assert (tokens.kld - kld(base, other)).abs().max() < 0.2 * max(exact, 1e-3)
    assert chunk.tail_mass.mean() > 0.01
    assert len(set(means)) == 5
    assert float(np.std(means)) < 0.01 * exact


def _statistics(chunk: CompactChunk, logits: Tensor, targets: Tensor) -> tuple[Any, float]:
    from hubquant.evaluate.baseline_compact import CompactScores

    arrays = {name: getattr(chunk, name)[None].numpy() for name in ("count", "head", "top", "nll", "entropy")}
    arrays |= {name: getattr(chunk, name)[None].numpy() for name in ("tail_mass", "tail_span")}
    scores = CompactScores({**arrays, "entries": chunk.entries.numpy()}, logits.shape[1])
    tokens, error = scores.statistics(logits, targets, 0)
    bound = ErrorBound()
    bound.add(error)
    return tokens, bound.value()


def test_the_bound_knows_what_was_not_drawn() -> None:
    """Where all that was drawn is alike, the bound is that of words that may be otherwise: it falls with their number
    of tokens, and with the threshold."""

    def bound(n: int, reach: float) -> float:
        found = ErrorBound()
        zeros = torch.zeros(n, dtype=torch.float64)
        found.add(SampleError(zeros, zeros, zeros + reach, zeros))
        return found.value()

    assert bound(100, 1e-3) == pytest.approx(10 * bound(1000, 1e-3)) == pytest.approx(10 * bound(100, 1e-4))
    assert bound(12240, 42 * threshold_for(12240)) == pytest.approx(0.75e-6, rel=0.2)
    assert bound(100, 0) == 0


def test_as_near_as_it_says_to_whole_distributions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a real model and changes of it, with a coarser sample than is used of so little text."""
    monkeypatch.setattr(writing, "threshold_for", lambda _: 3e-4)
    model, chunks = tiny_model(tmp_path / "model", vocab_size=N_VOCAB), random_chunks(2, 64, N_VOCAB)
    bases = {}
    for form in ("full", "compact"):
        bases[form] = write_baseline(model, chunks, tmp_path / form, name="m", revision="r", form=form)
    for strength in (0.003, 0.03, 0.3):
        other = disturbed(model, strength)
        full, compact = compare(other, bases["full"]), compare(other, bases["compact"])
        assert compact.kld_bound is not None
        assert full.kld_bound is None
        assert 0 < abs(compact.kld.mean - full.kld.mean) < compact.kld_bound
        assert compact.kld.mean == pytest.approx(full.kld.mean, rel=0.01)
        assert compact.ppl == full.ppl
        assert compact.ppl_base == full.ppl_base
        assert compact.same_top == full.same_top
        assert compact.delta_p_rms == pytest.approx(full.delta_p_rms)
        assert compact.uniform_kld == pytest.approx(full.uniform_kld, abs=1e-4)


def written(path: Path) -> Path:
    table = 5 * torch.randn(97, 97, generator=torch.Generator().manual_seed(3))
    write_baseline(looked_up(table), random_chunks(3, 32, 97), path, name="m", revision="r").close()
    return path


@pytest.mark.parametrize(
    "damage", ["count", "head", "n_vocab", "huge n_vocab", "entries", "mass", "span", "cut", "gone"]
)
def test_hostile_files_are_refused(tmp_path: Path, damage: str) -> None:
    path = written(tmp_path / "b.h5")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1000])
    else:
        with h5py.File(path, "a") as file:
            match damage:
                case "count":
                    file["count"][0, 0] = 2**31 - 1
                case "head":
                    file["head"][0, 0] = -1
                case "n_vocab":
                    file.attrs["n_vocab"] = "-5"
                case "huge n_vocab":
                    file.attrs["n_vocab"] = "99999999999"
                case "entries":
                    entries = file["entries"][:-1]
                    del file["entries"]
                    file["entries"] = entries
                case "mass":
                    file["tail_mass"][1, 1] = 2
                case "span":
                    file["tail_span"][1, 1] = float("nan")
                case "gone":
                    del file["head"]
    with pytest.raises(BaselineError):
        Baseline.open(path)


@pytest.mark.parametrize("name", ["entries", "count", "nll", "tail_mass"])
def test_changed_scores_are_found(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "b.h5")
    with h5py.File(path, "a") as file:
        if name == "count":
            file["count"][1, 1] -= 1
            file["count"][1, 2] += 1
            file["head"][1, 1] -= 1
        elif name == "entries":
            file["entries"][file["count"][0].sum(), 4] ^= 1
        else:
            file[name][1, 1] += 0.5
    with Baseline.open(path) as baseline:
        baseline.check(0)
        baseline.check(2)
        with pytest.raises(BaselineError, match="chunk 2 is not what was written"):
            baseline.check(1)


def test_words_outside_of_the_vocabulary_are_refused(tmp_path: Path) -> None:
    """By a file whose checksums are right."""
    path = written(tmp_path / "b.h5")
    with Baseline.open(path) as baseline:
        chunk = baseline.scores._read(0)  # type: ignore[attr-defined]
    chunk.entries[7, :2] = 255
    with h5py.File(path, "a") as file:
        file["entries"][: len(chunk.entries)] = chunk.entries.numpy()
        file["checksums"][0] = zlib.crc32(chunk.to_bytes())
    with Baseline.open(path) as baseline, pytest.raises(BaselineError, match="outside of its vocabulary"):
        compare(lambda ids, first=0: torch.zeros(len(ids) - first, 97), baseline)
