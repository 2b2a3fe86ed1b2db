"""A corpus: near duplicates, what a killed process had found, and languages in balance."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubquant.calibration.corpus import duplicates
from hubquant.calibration.corpus.collecting import Stream, cut
from hubquant.calibration.corpus.duplicates import NearDuplicates
from hubquant.calibration.corpus.mixing import mixed
from hubquant.calibration.corpus.spool import Entry, Record, Spool
from hubquant.recipe.schema import TextSource


def words(seed: int, n: int = 200) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(n)]


def test_near_duplicates_are_found_and_others_are_not() -> None:
    known = NearDuplicates()
    assert all(known.add(" ".join(words(seed))) for seed in range(100))
    for seed in range(100):
        changed = words(seed)
        changed[50] = "another"
        assert not known.add("  ".join(changed).upper())
        assert known.add(" ".join(words(seed)[:100] + words(1000 + seed)[:100]))  # a third of the shingles


def test_texts_without_spaces_and_short_ones() -> None:
    known = NearDuplicates()
    text = "".join(chr(0x4E00 + random.Random(3).randrange(5000)) for _ in range(1)) + "".join(
        chr(0x4E00 + random.Random(i).randrange(5000)) for i in range(400)
    )
    assert [known.add(each) for each in (text, text[:200] + "好" + text[200:], text[:200])] == [True, False, True]
    assert [known.add(each) for each in ("a", "b", "a", "yes", "Yes ")] == [True, True, False, True, False]


def test_the_index_forgets_the_oldest_and_never_the_last_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "GENERATION", 10)
    known = NearDuplicates()
    texts = [" ".join(words(seed, 30)) for seed in range(100)]
    for number, text in enumerate(texts):
        assert known.add(text)
        assert not any(known.add(last) for last in texts[max(0, number - 9) : number + 1])
    assert known.add(texts[0])


@given(st.text(alphabet="ab \n", max_size=60))
def test_a_text_is_cut_without_loss(text: str) -> None:
    pieces = cut(text)
    assert "".join(pieces) == text
    assert len(pieces) > 1 or "\n" not in text.strip("\n") or "\n" not in text[:-1]


def test_a_text_is_cut_at_blank_lines_or_else_at_each() -> None:
    assert cut("a\nb\n\n\nc\n") == ["a\nb\n\n\n", "c\n"]
    assert cut("a\nb\nc") == ["a\n", "b\n", "c"]
    assert cut("a") == ["a"]


ENTRIES: list[Entry] = [Record("one", 1), "duplicate", Record([{"role": "user", "content": "ü\n"}], 2), "blank"]


def test_a_spool_gives_what_was_written(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s")
    assert list(spool.recover()) == []
    assert list(spool.write(iter(ENTRIES))) == ENTRIES
    again = Spool(tmp_path / "s")
    assert list(again.recover()) == ENTRIES
    assert again.is_complete
    assert list(again.records()) == [ENTRIES[0], ENTRIES[2]]


def test_a_spool_goes_on_from_any_byte(tmp_path: Path) -> None:
    whole = Spool(tmp_path / "whole")
    list(whole.write(iter(ENTRIES)))
    content = whole.path.read_bytes()
    for length in range(len(content)):
        (tmp_path / "s").write_bytes(content[:length])
        spool = Spool(tmp_path / "s")
        done = list(spool.recover())
        assert done == ENTRIES[: len(done)]
        assert len(done) == content[:length].count(b"\n")
        assert not spool.is_complete
        list(spool.write(iter(ENTRIES[len(done) :])))
        assert spool.path.read_bytes() == content


def test_a_spool_stops_at_what_a_power_cut_has_left(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s")
    list(spool.write(iter(ENTRIES)))
    content = spool.path.read_bytes()
    spool.path.write_bytes(content[:40] + bytes(60) + b"\n" + content)
    assert len(list(Spool(spool.path).recover())) == 1


def streams(
    folder: Path, sizes: list[list[int]], groups: list[int], weights: list[float]
) -> tuple[list[Stream], list[Spool]]:
    """Of each stream the sizes of its documents, the number of its source and the weight of that."""
    found, spools = [], []
    for number, (documents, group) in enumerate(zip(sizes, groups, strict=True)):
        source = TextSource(bundled="test", weight=weights[group])
        found.append(Stream(source, f"l{number}", group, groups.count(group)))
        spools.append(Spool(folder / f"{number}"))
        spools[-1].path.unlink(missing_ok=True)
        list(spools[-1].write(Record(f"{number} {i}", size) for i, size in enumerate(documents)))
    return found, spools


@given(st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=30), min_size=1, max_size=4))
def test_languages_differ_by_their_longest_document_at_most(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[list[int]]
) -> None:
    given_, spools = streams(tmp_path_factory.mktemp("spools"), sizes, [0] * len(sizes), [1.0])
    used = Counter[int]()
    order = list(mixed(given_, spools, balance=True))
    for number, record in order:
        used[number] += record.size
        assert max(used.values()) - min(used[i] for i in range(len(sizes))) <= max(map(max, sizes))
    assert any(used[number] == sum(documents) for number, documents in enumerate(sizes))
    everything = list(mixed(given_, spools, balance=False))
    assert Counter(number for number, _ in everything) == {i: len(documents) for i, documents in enumerate(sizes)}
    assert everything[: len(order)] == order


def test_sources_are_mixed_by_weight_and_the_others_give_what_one_lacks(tmp_path: Path) -> None:
    given_, spools = streams(tmp_path, [[10] * 90, [10] * 90, [10] * 20], [0, 0, 1], [1.0, 2.0])
    numbers = [number for number, _ in mixed(given_, spools, balance=True)]
    assert Counter(numbers[:30]) == {0: 5, 1: 5, 2: 20}
    assert Counter(numbers) == {0: 90, 1: 90, 2: 20}
    limited = list(mixed(given_, spools, balance=True, most=285))
    assert sum(record.size for _, record in limited) == 280
