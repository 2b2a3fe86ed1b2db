"""The statistics against an independent computation in numpy, float64, straight from the definitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hubquant.errors import BaselineError, EvaluationError
from hubquant.evaluate import (
    Baseline,
    compare,
    compare_baselines,
    perplexity,
    summarize,
    token_statistics,
    write_baseline,
)
from hubquant.evaluate.scoring import BLOCK_ELEMENTS
from hubquant.models.language_model import LanguageModel
from hubquant.publish.table import divergence_table
from tests.support.evaluation import counted, disturbed, random_chunks, tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return tiny_model(tmp_path_factory.mktemp("model"))


def random_pair(n: int, n_vocab: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    base = 4 * torch.randn(n, n_vocab)
    return base + 0.3 * torch.randn(n, n_vocab), base, torch.randint(n_vocab, (n,))


def statistics(logits: torch.Tensor, base: torch.Tensor, targets: torch.Tensor):  # type: ignore[no-untyped-def]
    log_p = base.double().log_softmax(1)
    nll = -log_p.gather(1, targets[:, None]).squeeze(1)
    return token_statistics(logits, log_p.float(), nll.float(), log_p.argmax(1), targets)


def test_every_statistic_by_its_definition() -> None:
    logits, base, targets = random_pair(400, 300)
    found = summarize([statistics(logits, base, targets)], n_vocab=300)

    q, p = (log_softmax(x.numpy()) for x in (logits, base))
    rows, t, n = np.arange(400), targets.numpy(), 400
    a, b = -q[rows, t], -p[rows, t]
    kld = (np.exp(p) * (p - q)).sum(1)
    dp = np.exp(-a) - np.exp(-b)

    def sem(x):  # type: ignore[no-untyped-def]
        return np.std(x, ddof=0) / np.sqrt(n - 1)

    same = np.mean(q.argmax(1) == p.argmax(1))
    assert found.n_tokens == n
    close(found.kld.mean, kld.mean())
    close(found.kld.error, sem(kld))
    close(found.uniform_kld, np.mean(np.log(300) + (np.exp(p) * p).sum(1)))
    close(found.kld.median, np.median(kld))
    close((found.kld.minimum, found.kld.maximum), (kld.min(), kld.max()))
    for percent, value in found.kld.percentiles.items():
        close(value, np.percentile(kld, percent))
    for percent, value in found.delta_p.percentiles.items():
        close(value, np.percentile(dp, percent))
    close((found.delta_p.mean, found.delta_p.error), (dp.mean(), sem(dp)))
    rms = np.sqrt((dp**2).mean())
    close((found.delta_p_rms, found.delta_p_rms_error), (rms, 0.5 / rms * sem(dp**2)))
    close((found.same_top, found.same_top_error), (same, np.sqrt(same * (1 - same) / (n - 1))))
    close((found.ppl.ppl, found.ppl.error), (np.exp(a.mean()), np.exp(a.mean()) * sem(a)))
    close((found.ppl_base.ppl, found.ppl_base.error), (np.exp(b.mean()), np.exp(b.mean()) * sem(b)))
    # The error of a ratio on the same tokens is the error of the mean of the differences.
    close((found.log_ratio, found.log_ratio_error), ((a - b).mean(), sem(a - b)))
    close((found.ratio, found.ratio_error), (np.exp((a - b).mean()), np.exp((a - b).mean()) * sem(a - b)))
    close(found.correlation, np.corrcoef(a, b)[0, 1])
    close(found.difference, np.exp(a.mean()) - np.exp(b.mean()))
    close(found.difference_error, sem(np.exp(a.mean()) * a - np.exp(b.mean()) * b))


def log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x.astype(np.float64) - x.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def close(found: object, expected: object) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)


def test_blocks_of_rows_change_nothing() -> None:
    logits, base, targets = random_pair(5, BLOCK_ELEMENTS // 3)
    whole = statistics(logits, base, targets)
    single = [statistics(logits[i : i + 1], base[i : i + 1], targets[i : i + 1]).stacked() for i in range(5)]
    torch.testing.assert_close(whole.stacked(), torch.cat(single, dim=1), rtol=1e-12, atol=0)


def test_a_model_against_itself_and_against_disturbed_copies(model: LanguageModel, tmp_path: Path) -> None:
    chunks = random_chunks(4, 64, model.model.config.vocab_size)
    with write_baseline(model, chunks, tmp_path / "base.h5", name="tiny", revision="r") as baseline:
        itself = compare(model, baseline)
        assert abs(itself.kld.mean) < 1e-6
        assert itself.kld.maximum < 1e-6
        assert itself.same_top == 1
        assert itself.ratio == pytest.approx(1, abs=1e-6)
        assert itself.delta_p_rms < 1e-6
        klds = [compare(disturbed(model, s), baseline).kld.mean for s in (0.01, 0.05, 0.2)]
        assert klds == sorted(klds)
        assert klds[0] > 1e-5


def test_perplexity_scores_the_second_half_of_each_chunk(model: LanguageModel, tmp_path: Path) -> None:
    chunks = random_chunks(3, 65, model.model.config.vocab_size)
    nll = []
    transformers_model: Any = model.model
    with torch.no_grad():
        for ids in chunks.ids:
            log_p = log_softmax(transformers_model(ids[None]).logits[0].numpy())
            nll += [-log_p[i, ids[i + 1]] for i in range(32, 64)]
    done: list[int] = []
    found = perplexity(model, chunks, advance=done.append)
    assert found.n_tokens == len(nll) == 96
    assert done == [1, 1, 1]
    close(found.ppl, np.exp(np.mean(nll)))
    close(found.error, np.exp(np.mean(nll)) * np.std(nll) / np.sqrt(95))
    with write_baseline(model, chunks, tmp_path / "base.h5", name="tiny", revision="r") as baseline:
        assert baseline.perplexity.ppl == pytest.approx(found.ppl, rel=1e-6)


def test_an_interrupted_comparison_goes_on(model: LanguageModel, tmp_path: Path) -> None:
    chunks = random_chunks(6, 32, model.model.config.vocab_size)
    snapshot = tmp_path / "snapshot"
    with write_baseline(model, chunks, tmp_path / "base.h5", name="tiny", revision="r") as baseline:
        other = disturbed(model, 0.05)
        expected = compare(other, baseline)
        calls: list[int] = []
        with pytest.raises(KeyboardInterrupt):
            compare(counted(other, calls, stop_after=4), baseline, snapshot=snapshot)
        with snapshot.open("ab") as torn:
            torn.write(b"half a record")
        done: list[int] = []
        assert compare(counted(other, calls), baseline, snapshot=snapshot, advance=done.append) == expected
        assert len(calls) == 6
        assert done == [4, 1, 1]
        damaged = bytearray(snapshot.read_bytes())
        damaged[-5] ^= 1
        snapshot.write_bytes(damaged)
        assert compare(counted(other, calls), baseline, snapshot=snapshot) == expected
        assert len(calls) == 7
    more = random_chunks(6, 32, model.model.config.vocab_size, seed=9)
    with write_baseline(model, more, tmp_path / "other.h5", name="tiny", revision="r") as baseline:
        assert compare(counted(other, calls), baseline, snapshot=snapshot) == compare(other, baseline)
        assert len(calls) == 13


def test_bad_models_are_refused(model: LanguageModel, tmp_path: Path) -> None:
    chunks = random_chunks(2, 32, model.model.config.vocab_size)

    def broken(ids: torch.Tensor, first: int = 0, /) -> torch.Tensor:
        logits = model(ids, first).clone()
        logits[20 - first, 3] = torch.nan
        return logits

    with pytest.raises(EvaluationError, match="1 logits that are NaN"):
        perplexity(broken, chunks)
    with pytest.raises(EvaluationError, match="NaN"):
        write_baseline(broken, chunks, tmp_path / "base.h5", name="tiny", revision="r")
    assert not (tmp_path / "base.h5").exists()
    with (
        write_baseline(model, chunks, tmp_path / "base.h5", name="tiny", revision="r") as baseline,
        pytest.raises(EvaluationError, match="vocabulary of 10"),
    ):
        compare(lambda ids, first=0: model(ids, first)[:, :10], baseline)
    with pytest.raises(BaselineError, match="no such file"):
        Baseline.open(tmp_path / "missing.h5")


def test_two_baselines_of_one_text(model: LanguageModel, tmp_path: Path) -> None:
    chunks = random_chunks(4, 64, model.model.config.vocab_size)
    other = disturbed(model, 0.05)
    with write_baseline(model, chunks, tmp_path / "a.h5", name="a", revision="r") as baseline:
        live = compare(other, baseline)
    write_baseline(other, chunks, tmp_path / "b.h5", name="b", revision="r", form="full").close()
    stored = compare_baselines(tmp_path / "a.h5", tmp_path / "b.h5")
    assert stored.kld.mean == pytest.approx(live.kld.mean, rel=1e-3)
    assert stored.ppl.ppl == pytest.approx(live.ppl.ppl, rel=1e-6)
    assert stored.same_top == live.same_top
    assert stored.delta_p_rms == pytest.approx(live.delta_p_rms, rel=1e-4)
    text = divergence_table(live)
    assert f"{live.kld.mean:.6f}" in text
    assert f"{live.ppl.ppl:.4f}" in text
    write_baseline(
        other, random_chunks(4, 64, 99, seed=5), tmp_path / "c.h5", name="c", revision="r", form="full"
    ).close()
    with pytest.raises(BaselineError, match="different token ids"):
        compare_baselines(tmp_path / "a.h5", tmp_path / "c.h5")


def test_some_chunks_are_compared_as_if_there_were_no_others(model: LanguageModel, tmp_path: Path) -> None:
    chunks = random_chunks(5, 32, model.model.config.vocab_size)
    other = disturbed(model, 0.05)
    with write_baseline(model, chunks, tmp_path / "base.h5", name="tiny", revision="r") as baseline:
        whole = compare(other, baseline)
        some = compare(other, baseline, chunks=[1, 4], texts=["a", "b", "a", "b", "a"])
    assert some.n_tokens * 5 == whole.n_tokens * 2
    assert [chunk.mean for chunk in some.chunks] == [whole.chunks[1].mean, whole.chunks[4].mean]
    assert some.texts["b"].kld == whole.chunks[1]
