"""Baselines of parts of a text, and the one that they make."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import hubquant as api
from hubquant.calibration.chunks import fingerprint_of_ids
from hubquant.errors import BaselineError, UserError
from hubquant.evaluate import Baseline, compare, join_baselines, write_baseline
from hubquant.evaluate.fitting import check_fits, texts_fingerprint
from hubquant.evaluate.forms import Form
from hubquant.evaluate.hdf5 import read_structure
from hubquant.gguf_file.metadata import string, strings
from tests.evaluate.test_baseline import CHUNKS, FORMS, model
from tests.support.cli import hubquant

COUNTS = (1, 3, 2)


def other(ids: torch.Tensor, first: int = 0, /) -> torch.Tensor:
    return model(ids, first) * 0.9


def part(path: Path, numbers: range, form: Form = "full", **changed: Any) -> Path:
    chunks = CHUNKS.part(numbers)
    given: dict[str, Any] = {"name": "org/model", "revision": "r", "first_chunk": numbers[0] + 1, **changed}
    write_baseline(model, chunks, path, form=form, **given).close()
    return path


def parts(folder: Path, form: Form, suffix: str = ".h5") -> list[Path]:
    ends = [sum(COUNTS[: n + 1]) for n in range(len(COUNTS))]
    return [
        part(folder / f"{n}{suffix}", range(end - count, end), form)
        for n, (count, end) in enumerate(zip(COUNTS, ends, strict=True))
    ]


@pytest.mark.parametrize("form", FORMS)
def test_parts_measure_as_the_whole_does(form: Form, tmp_path: Path) -> None:
    suffix = ".kld" if form == "llama.cpp" else ".h5"
    made = parts(tmp_path, form, suffix)
    named = made if form == "llama.cpp" else made[::-1]
    copied: list[int] = []
    joined = join_baselines(named, tmp_path / f"all{suffix}", copied.append)
    assert (joined.chunks, joined.parts, joined.form) == (6, 3, form)
    assert joined.first_chunk == (None if form == "llama.cpp" else 1)
    assert joined.size - 16_000 < sum(copied) < joined.size
    part(tmp_path / f"whole{suffix}", range(6), form)
    with Baseline.open(joined.path) as all_of_them, Baseline.open(tmp_path / f"whole{suffix}") as whole:
        assert all_of_them.ids.equal(whole.ids)
        assert all(map(all_of_them.is_whole, range(6)))
        assert all_of_them.has_checksums == whole.has_checksums
        ours, theirs = compare(other, all_of_them), compare(other, whole)
        assert all_of_them.scores.all_nll.equal(whole.scores.all_nll)
        if form != "compact":  # which keeps more words of a shorter text
            assert ours == theirs
        assert ours.kld.mean == pytest.approx(theirs.kld.mean, abs=1e-5)
        if all_of_them.identity:
            assert whole.identity
            assert all_of_them.identity.chunks_fingerprint == fingerprint_of_ids(CHUNKS.ids)
    assert {path.name for path in tmp_path.iterdir()} == {
        *(path.name for path in made),
        *(f"all{suffix}", f"whole{suffix}"),
    }


def test_what_was_joined_is_a_part_again(tmp_path: Path) -> None:
    a, b, c = parts(tmp_path, "compact")
    later = join_baselines([c, b], tmp_path / "later.h5")
    assert (later.first_chunk, later.chunks) == (2, 5)
    assert str(later).startswith(f"{tmp_path / 'later.h5'}: chunks 2 to 6 of 2 parts, ")
    twice, once = tmp_path / "twice.h5", tmp_path / "once.h5"
    join_baselines([later.path, a], twice)
    join_baselines([a, b, c], once)
    assert twice.read_bytes() == once.read_bytes()


def test_the_tokenizer_of_every_part_is_known(tmp_path: Path) -> None:
    tokens = [f"t{i}" for i in range(97)]
    merges = {"tokenizer.ggml.model": string("gpt2"), "tokenizer.ggml.merges": strings(["t 1"])}
    metadata = {**merges, "tokenizer.ggml.tokens": strings(tokens)}
    in_second = set(CHUNKS.ids[3:].flatten().tolist()) - set(CHUNKS.ids[:3].flatten().tolist())
    tokens[min(in_second)] = "other"
    spoiled = {**merges, "tokenizer.ggml.tokens": strings(tokens)}
    numbers = (range(3), range(3, 6))
    fingerprints = [texts_fingerprint(metadata, CHUNKS.ids[list(n)]) for n in numbers]
    assert all(fingerprints)
    made = [
        part(tmp_path / f"{n[0]}.h5", n, tokens_fingerprint=fingerprint)
        for n, fingerprint in zip(numbers, fingerprints, strict=True)
    ]
    with Baseline.open(join_baselines(made, tmp_path / "all.h5").path) as joined:
        check_fits(joined, metadata, 97, "file")
        with pytest.raises(BaselineError, match="cannot be compared"):
            check_fits(joined, spoiled, 97, "file")


def refused(paths: list[Path], out: Path) -> BaselineError:
    with pytest.raises(BaselineError) as caught:
        join_baselines(paths, out)
    assert not out.exists()
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == []
    return caught.value


def test_parts_that_do_not_belong_together(tmp_path: Path) -> None:
    a, out = part(tmp_path / "a.h5", range(3)), tmp_path / "out.h5"
    changes: list[tuple[dict[str, Any], str]] = [
        ({"name": "org/x"}, "different models: org/model and org/x"),
        ({"revision": "s"}, "different revisions: r and s"),
        ({"form": "compact"}, "different forms: full and compact"),
    ]
    for n, (changed, why) in enumerate(changes):
        assert why in str(refused([a, part(tmp_path / f"{n}.h5", range(3, 6), **changed)], out))
    short = replace(CHUNKS, ids=CHUNKS.ids[3:, :16])
    write_baseline(model, short, tmp_path / "e.h5", name="org/model", revision="r", form="full", first_chunk=4).close()
    assert "different chunk sizes: 32 and 16" in str(refused([a, tmp_path / "e.h5"], out))
    elsewhere = replace(CHUNKS.part(range(3, 6)), datasets=("another",))
    write_baseline(
        model, elsewhere, tmp_path / "f.h5", name="org/model", revision="r", form="full", first_chunk=4
    ).close()
    assert "different texts: random and another" in str(refused([a, tmp_path / "f.h5"], out))


def test_chunks_twice_and_chunks_that_are_missing(tmp_path: Path) -> None:
    a, b = part(tmp_path / "a.h5", range(3)), part(tmp_path / "b.h5", range(2, 6))
    out = tmp_path / "out.h5"
    error = refused([b, a], out)
    assert (error.what, error.why) == ("a.h5 and b.h5 overlap", "a.h5 has chunks 1 to 3, b.h5 has chunks 3 to 6")
    error = refused([a, part(tmp_path / "c.h5", range(5, 6))], out)
    assert "missing between a.h5 and c.h5" in error.what
    assert error.hint.endswith("--from-chunk 3 --chunks 2")
    mixed = replace(CHUNKS, datasets=("one", "two"))
    for name, numbers, first in (("e.h5", range(3), 1), ("f.h5", range(1, 3), 4)):
        chunks = replace(mixed, ids=CHUNKS.ids[list(numbers)])
        given = {"name": "org/model", "revision": "r", "first_chunk": first}
        write_baseline(model, chunks, tmp_path / name, form="full", **given).close()  # type: ignore[arg-type]
    told = str(refused([tmp_path / "e.h5", tmp_path / "f.h5"], out))
    assert "chunk 2 of the one has the tokens of chunk 1 of the other" in told
    kld = part(tmp_path / "a.kld", range(3), "llama.cpp")
    assert "overlap" in str(refused([kld, kld], tmp_path / "out.kld"))


@pytest.mark.parametrize("form", FORMS)
def test_damaged_parts(form: Form, tmp_path: Path) -> None:
    suffix = ".kld" if form == "llama.cpp" else ".h5"
    a, b, _ = parts(tmp_path, form, suffix)
    out, whole = tmp_path / f"out{suffix}", b.read_bytes()
    b.write_bytes(whole[:-100])
    assert f"{b} cannot be read" in str(refused([a, b], out))
    if form != "llama.cpp":
        name = "codes" if form == "full" else "entries"
        at = read_structure(a).arrays[name].offset
        b.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert f"{b} is damaged: chunk 1" in str(refused([a, b], out))
    b.unlink()
    assert "there is no such file" in str(refused([a, b], out))


def test_by_the_command_line_and_in_python(tmp_path: Path) -> None:
    a, b, _ = parts(tmp_path, "full")
    outcome = hubquant("evaluate", "join", str(a), str(b), "-o", str(tmp_path / "ab.h5"), "--json")
    assert outcome.code == 0, outcome.err
    told = json.loads(outcome.out)
    assert (told["chunks"], told["parts"], told["first_chunk"], told["form"]) == (4, 2, 1, "full")
    assert told["size"] == (tmp_path / "ab.h5").stat().st_size
    with pytest.raises(UserError, match="a single part"):
        api.join_baselines(a, out=tmp_path / "x.h5")
    with pytest.raises(UserError, match="would be written over"):
        api.join_baselines([a, b], out=b)
    with pytest.raises(UserError, match="no name for a baseline of this form"):
        api.join_baselines([a, b], out=tmp_path / "x.kld")
    again = api.join_baselines([a, b], out=tmp_path / "ab.h5")
    assert (again.path, again.chunks) == (tmp_path / "ab.h5", 4)
