"""Metadata changes and nothing else does."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
from gguf import GGUFValueType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hubquant.errors import HubquantError
from hubquant.gguf_file.copying import write_files
from hubquant.gguf_file.editing import SCALARS, Changes, edited, new_value, parse_type, parse_value, type_of
from hubquant.gguf_file.metadata import KV, string
from hubquant.gguf_file.stored import read_stored
from tests.gguf_file.test_splitting import models
from tests.support.gguf_bytes import U32, file_bytes, value, write_sample


def edit(path: Path, changes: Changes) -> None:
    write_files({path: edited(read_stored(path), changes)})


values = st.one_of(
    st.builds(lambda n: KV(n, GGUFValueType.INT16), st.integers(-(2**15), 2**15 - 1)),
    st.builds(string, st.text(max_size=300)),
    st.builds(
        lambda items: KV(tuple(items), GGUFValueType.ARRAY, GGUFValueType.UINT8),
        st.lists(st.integers(0, 255), max_size=99),
    ),
)


@given(models(), values)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_key_that_comes_and_goes_leaves_the_same_file(tmp_path: Path, content: bytes, kv: KV) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    before = read_stored(path)
    edit(path, {"new.key": kv})
    after = read_stored(path)
    assert after.value("new.key") == kv
    assert list(after.metadata) == [*before.metadata, "new.key"]
    assert path.read_bytes()[after.data_start :] == content[before.data_start :]
    assert [(t.name, t.dims, t.number, t.nbytes) for t in after.tensors] == [
        (t.name, t.dims, t.number, t.nbytes) for t in before.tensors
    ]
    edit(path, {"new.key": None})
    assert path.read_bytes() == content


def test_the_gguf_package_reads_the_change(tmp_path: Path) -> None:
    path = write_sample(tmp_path / "a.gguf")
    edit(path, {"general.name": string("Größer und länger als zuvor" * 9), "a.u8": None})
    reader = gguf.GGUFReader(path)
    field = reader.get_field("general.name")
    assert field is not None
    assert field.contents() == "Größer und länger als zuvor" * 9
    assert reader.get_field("a.u8") is None
    assert [key for key in reader.fields if not key.startswith("GGUF.")][:3] == [
        "general.architecture",
        "split.count",
        "general.name",
    ]
    assert [tensor.data.tobytes()[:1] for tensor in reader.tensors] == [bytes([i * 7]) for i in range(10)]


def test_a_file_that_ends_with_its_header_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    content = file_bytes({"a": value(U32, b"\1\2\3\4")}, []).rstrip(b"\0")
    path.write_bytes(content)
    edit(path, {"b": string("x")})
    edit(path, {"b": None})
    assert path.read_bytes() == content


def test_version_2_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(file_bytes({}, [], version=2))
    edit(path, {"a": string("x")})
    assert read_stored(path).version == 2


@pytest.mark.parametrize("key", ["general.alignment", "split.count"])
def test_keys_that_say_where_tensors_are_cannot_change(key: str, tmp_path: Path) -> None:
    path = write_sample(tmp_path / "a.gguf")
    with pytest.raises(HubquantError, match="cannot be changed"):
        edited(read_stored(path), {key: None})


@pytest.mark.parametrize("name", SCALARS)
def test_types_are_read_as_they_are_written(name: str) -> None:
    assert type_of(parse_type(name)) == name
    assert type_of(parse_type(f"[{name.upper()}]")) == f"[{name}]"


@pytest.mark.parametrize(
    ("text", "type", "expected"),
    [
        ("12", "uint32", 12),
        ("-12", "int64", -12),
        ("1e-5", "float32", 1e-5),
        ("False", "bool", False),
        ("12", "string", "12"),
        ("[1, 2]", "[int8]", (1, 2)),
        ('["a", ""]', "[string]", ("a", "")),
        ("[true, false]", "[bool]", (True, False)),
        ("[]", "[float64]", ()),
    ],
)
def test_values(text: str, type: str, expected: object) -> None:
    assert parse_value("key", text, parse_type(type)).value == expected


@pytest.mark.parametrize(
    ("text", "type"),
    [
        *(("1.5", "uint32"), ("", "int8"), ("yes", "bool"), ("x", "float32"), ("1", "u32"), ("[1", "[int8]")),
        *(("[[1]]", "[int8]"), ("[null]", "[string]"), ("1", "[int8]"), ("[1.5]", "[int8]"), ("x", "[array]")),
        *(("-1", "uint32"), ("256", "uint8"), ("1e60", "float32"), ("[300]", "[uint8]")),
    ],
)
def test_values_that_are_none(text: str, type: str, tmp_path: Path) -> None:
    path = write_sample(tmp_path / "a.gguf")
    with pytest.raises(HubquantError):
        edited(read_stored(path), {"key": parse_value("key", text, parse_type(type))})


def test_new_text_is_a_string_and_new_numbers_need_a_type() -> None:
    assert new_value("general.author", "Jane 2") == string("Jane 2")
    for text in ("1", "1e5", "nan", "TRUE", "[1]"):
        with pytest.raises(HubquantError, match="there is no key a yet"):
            new_value("a", text)
