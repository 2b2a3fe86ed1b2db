from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from hubquant.errors import BaselineError
from hubquant.evaluate import Baseline, compare, compare_baselines, write_baseline
from hubquant.evaluate.baseline_full import FullScores, decode, encode
from hubquant.evaluate.forms import Form
from hubquant.evaluate.scoring import BLOCK_ELEMENTS
from tests.support.evaluation import counted, random_chunks
from tests.support.processes import exit_code

N_VOCAB = 97
CHUNKS = random_chunks(6, 32, N_VOCAB)


def model(ids: torch.Tensor, first: int = 0, /) -> torch.Tensor:
    """Logits that depend on the token only, from a fixed table."""
    table = 5 * torch.randn(N_VOCAB, N_VOCAB, generator=torch.Generator().manual_seed(3))
    return table[ids[first:]]


FORMS: tuple[Form, ...] = ("compact", "full", "llama.cpp")


def write(  # type: ignore[no-untyped-def]
    path: Path, form: Form = "full", chunks=CHUNKS, forward=model, revision="r", advance=lambda _: None
) -> Baseline:
    return write_baseline(forward, chunks, path, name="org/model", revision=revision, form=form, advance=advance)


def kld(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p.exp() * (p - q)).sum(1)


@pytest.mark.parametrize("n_vocab", [2, 1000, BLOCK_ELEMENTS // 20])
@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
def test_codes_keep_the_whole_range(n_vocab: int, spread: float) -> None:
    """No probability is clipped, and what rounding costs stays far below any difference of models."""
    torch.manual_seed(0)
    logits, targets = spread * torch.randn(30, n_vocab), torch.randint(n_vocab, (30,))
    rows = encode(logits, targets)
    decoded = decode(rows.codes, rows.scale, rows.minimum).double()
    exact = logits.double().log_softmax(1)
    assert ((decoded - exact).abs() <= 0.501 * rows.scale[:, None] + 1e-5).all()
    assert kld(decoded.log_softmax(1), exact).max() < 1e-6
    assert torch.equal(rows.top.long(), exact.argmax(1))
    assert torch.equal(rows.nll, -exact.gather(1, targets[:, None]).squeeze(1).float())


def test_what_is_stored_is_read_back(tmp_path: Path) -> None:
    done: list[int] = []
    with write(tmp_path / "base.h5", advance=done.append) as baseline:
        assert done == [1] * 6
        assert torch.equal(baseline.ids, CHUNKS.ids)
        assert baseline.identity is not None
        assert baseline.identity.model == "org/model"
        assert (baseline.n_chunks, baseline.n_scored, baseline.n_vocab) == (6, 15, N_VOCAB)
        exact = model(CHUNKS.ids[4, 16:31]).double().log_softmax(1)
        scores = baseline.scores
        assert isinstance(scores, FullScores)
        torch.testing.assert_close(scores.log_probs(4).double(), exact, rtol=0, atol=1e-3)
        torch.testing.assert_close(scores.log_probs(4, slice(3, 5)), scores.log_probs(4)[3:5], rtol=0, atol=0)
        assert torch.equal(scores.nll(4), -exact.gather(1, CHUNKS.ids[4, 17:, None]).squeeze(1).float())
    with h5py.File(tmp_path / "base.h5") as file:
        assert dict(file.attrs) == {
            "format": "hubquant baseline 1",
            "model": "org/model",
            "revision": "r",
            "chunks_fingerprint": CHUNKS.fingerprint,
            "tokens_fingerprint": "",
            "first_chunk": "1",
            "texts": "\n".join(CHUNKS.datasets),
        }
    assert [path.name for path in tmp_path.iterdir()] == ["base.h5"]


@pytest.mark.parametrize("form", FORMS)
def test_the_same_input_gives_the_same_bytes(tmp_path: Path, form: Form) -> None:
    for name in ("a.h5", "b.h5"):
        write(tmp_path / name, form).close()
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


@pytest.mark.parametrize(("form", "other"), [("full", "compact"), ("compact", "full")])
def test_a_finished_baseline_is_not_written_again(tmp_path: Path, form: Form, other: Form) -> None:
    calls: list[int] = []
    for _ in range(2):
        write(tmp_path / "base.h5", form, forward=counted(model, calls)).close()
    assert len(calls) == 6
    write(tmp_path / "base.h5", form, forward=counted(model, calls), revision="other").close()
    assert len(calls) == 12
    write(tmp_path / "base.h5", other, forward=counted(model, calls), revision="other").close()
    assert len(calls) == 18


@pytest.mark.parametrize("form", FORMS)
def test_an_interrupted_writer_goes_on(tmp_path: Path, form: Form) -> None:
    write(tmp_path / "whole.h5", form).close()
    calls: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "base.h5", form, forward=counted(model, calls, stop_after=4))
    assert not (tmp_path / "base.h5").exists()
    with pytest.raises(BaselineError):
        Baseline.open(tmp_path / "base.h5")
    done: list[int] = []
    write(tmp_path / "base.h5", form, forward=counted(model, calls), advance=done.append).close()
    assert len(calls) == 6
    assert done == [4, 1, 1]
    assert {path.name for path in tmp_path.iterdir()} == {"base.h5", "whole.h5"}
    assert (tmp_path / "base.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


@pytest.mark.parametrize("damage", ["data", "journal", "no journal of text", "structure", "other chunks"])
def test_damaged_leftovers_are_not_trusted(tmp_path: Path, damage: str) -> None:
    write(tmp_path / "whole.h5").close()
    calls: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "base.h5", forward=counted(model, calls, stop_after=4))
    partial, journal = tmp_path / ".base.h5.partial", tmp_path / ".base.h5.partial.journal"
    kept = 0
    match damage:
        case "data":
            with h5py.File(partial) as file:
                offset = file["codes"].id.get_offset() + 2 * 15 * N_VOCAB + 7  # in chunk 1
            data = bytearray(partial.read_bytes())
            data[offset] ^= 1
            partial.write_bytes(data)
            kept = 3
        case "journal":
            journal.write_text(journal.read_text()[:-3] + "x")
            kept = 3
        case "no journal of text":
            journal.write_bytes(b"\xff\xfe\n0 \xb2\n" + journal.read_bytes())
            kept = 4
        case "structure":
            partial.write_bytes(partial.read_bytes()[:300])
        case "other chunks":
            with pytest.raises(KeyboardInterrupt):
                write(
                    tmp_path / "other.h5", chunks=random_chunks(6, 32, N_VOCAB, seed=5), forward=counted(model, [], 4)
                )
            shutil.move(tmp_path / ".other.h5.partial", partial)
    calls.clear()
    write(tmp_path / "base.h5", forward=counted(model, calls)).close()
    assert len(calls) == 6 - kept
    assert (tmp_path / "base.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


@pytest.mark.parametrize("form", ["compact", "llama.cpp"])
@pytest.mark.parametrize("damage", ["data", "cut", "other model"])
def test_what_a_killed_writer_left_is_not_trusted(tmp_path: Path, form: Form, damage: str) -> None:
    write(tmp_path / "whole.h5", form).close()
    calls: list[int] = []
    revision = "other" if damage == "other model" else "r"
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "base.h5", form, forward=counted(model, calls, stop_after=4), revision=revision)
    partial = tmp_path / ".base.h5.partial"
    data = bytearray(partial.read_bytes())
    if damage == "data":
        data[len(data) // 2] ^= 1
    partial.write_bytes(data[: 900 if damage == "cut" else None])
    calls.clear()
    write(tmp_path / "base.h5", form, forward=counted(model, calls)).close()
    assert len(calls) > 2
    assert (tmp_path / "base.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def _write_until_killed(path: Path, form: Form) -> None:
    calls: list[int] = []

    def killed(ids: torch.Tensor, first: int = 0, /) -> torch.Tensor:
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        calls.append(1)
        return model(ids, first)

    write(path, form, forward=killed)


@pytest.mark.parametrize("form", FORMS)
def test_a_writer_killed_in_the_middle_goes_on(tmp_path: Path, form: Form) -> None:
    assert exit_code(_write_until_killed, tmp_path / "base.h5", form) == -9
    assert not (tmp_path / "base.h5").exists()
    calls: list[int] = []
    write(tmp_path / "base.h5", form, forward=counted(model, calls)).close()
    write(tmp_path / "whole.h5", form).close()
    assert len(calls) == 3
    assert (tmp_path / "base.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


@pytest.mark.parametrize("content", ["text", "empty", "foreign", "no codes", "odd shapes"])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "base.h5"
    match content:
        case "text":
            path.write_text("not HDF5")
        case "empty":
            path.touch()
        case "foreign":
            with h5py.File(path, "w") as file:
                file["x"] = np.zeros(3)
        case "no codes" | "odd shapes":
            write(path).close()
            with h5py.File(path, "a") as file:
                del file["codes"]
                if content == "odd shapes":
                    file["codes"] = np.zeros((6, 15), np.uint16)
    with pytest.raises(BaselineError) as caught:
        Baseline.open(path)
    assert "hubquant evaluate baseline" in str(caught.value.hint)


def hang(path: Path) -> None:
    """Zeroes in its attributes make HDF5 loop."""
    data = path.read_bytes()
    at = data.index(b"hubquant baseline 1")
    path.write_bytes(data[: at - 64] + bytes(200) + data[at + 136 :])


@pytest.mark.parametrize("damage", ["attributes", "tokens", "scale", "chunked"])
def test_hostile_files_are_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "base.h5"
    write(path).close()
    if damage == "attributes":
        hang(path)
    else:
        with h5py.File(path, "a") as file:
            if damage == "chunked":
                codes = file["codes"][...]
                del file["codes"]
                file.create_dataset("codes", data=codes, chunks=(1, 15, N_VOCAB), compression="gzip")
            else:
                file[damage][0, 0] = N_VOCAB if damage == "tokens" else float("nan")
    with pytest.raises(BaselineError):
        Baseline.open(path)


@pytest.mark.parametrize("name", ["codes", "scale", "minimum", "nll", "top"])
def test_scores_changed_in_place_are_found_and_written_again(tmp_path: Path, name: str) -> None:
    path = tmp_path / "base.h5"
    write(path).close()
    whole = path.read_bytes()
    with h5py.File(path, "a") as file:
        file[name][3, 5] = file[name][2, 6]
    with Baseline.open(path) as baseline, pytest.raises(BaselineError, match="chunk 4 is not what was written"):
        compare(model, baseline)
    with pytest.raises(BaselineError, match="damaged"):
        compare_baselines(path, path)
    write(path).close()
    assert path.read_bytes() == whole


def test_baselines_without_checksums_are_read(tmp_path: Path) -> None:
    write(tmp_path / "base.h5").close()
    with h5py.File(tmp_path / "base.h5", "a") as file:
        del file["checksums"]
    with Baseline.open(tmp_path / "base.h5") as baseline:
        assert compare(model, baseline).kld.mean < 1e-6
