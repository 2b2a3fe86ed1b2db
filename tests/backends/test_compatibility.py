"""What the table of backends says, and that the libraries do what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from itertools import product
from pathlib import Path

import pytest
import torch

from benchmarks.backends import compared, tiny, write_gguf
from hubquant.backends.compatibility import check, check_gguf, check_package, check_torch, verdict
from hubquant.backends.libraries.library import Framework, Moment, Package
from hubquant.backends.rules import OFFLOADS, PLACES, READ_ONLY, RULES, SAVING, Cell, Offload, rule, saving
from hubquant.commands.backends import FRAMEWORKS, MOMENTS
from hubquant.errors import GGUFError, MixError, NotSupportedYet, RecipeError, UserError
from scripts.backends_document import DOCUMENT, document
from tests.support.cli import hubquant

SOME_TYPES = {
    "gguf": ("Q4_K_M", "IQ2_XXS", "F16"),
    "bitsandbytes": ("nf4", "nf4-double", "fp4", "int8"),
    "quanto": ("qint8", "qint4", "qfloat8"),
    "torchao": ("int8wo", "float8wo", "int4wo"),
    "nncf": ("int8_asym", "int4_sym", "nf4"),
    "sdnq": ("int8", "uint4", "float8_e4m3fn"),
    READ_ONLY: ("w8a16",),
}
CELLS = [
    Cell(backend, type, *rest)
    for backend, types in SOME_TYPES.items()
    for type in types
    for rest in product(FRAMEWORKS, MOMENTS, OFFLOADS, PLACES)
]
CRASHES = {
    "bitsandbytes, sequential": ("bitsandbytes", "nf4", "transformers", "load", "sequential", "cuda"),
    "bitsandbytes, disk": ("bitsandbytes", "fp4", "diffusers", "after", "disk", "cpu"),
    "quanto, balanced": ("quanto", "qint8", "diffusers", "load", "balanced", "cuda"),
    "quanto, sequential": ("quanto", "qint4", "transformers", "after", "sequential", "cuda"),
    "quanto, groups": ("quanto", "qint8", "diffusers", "load", "group", "cuda"),
    "gguf, sequential": ("gguf", "Q4_K_M", "diffusers", "load", "sequential", "cuda"),
    "gguf, balanced": ("gguf", "Q8_0", "diffusers", "load", "balanced", "cuda"),
    "gguf, disk": ("gguf", "Q4_0", "diffusers", "load", "disk", "cpu"),
    "gguf, transformers": ("gguf", "Q4_K_M", "transformers", "load", "none", "cuda"),
    "torchao, disk": ("torchao", "int8wo", "transformers", "load", "disk", "cpu"),
    "nncf, while loading": ("nncf", "int8_asym", "transformers", "load", "none", "cpu"),
    "no kernels on a CPU": ("torchao", "int4wo", "transformers", "load", "none", "cpu"),
    "no GPU": ("bitsandbytes", "nf4", "diffusers", "load", "none", "cpu"),
    "no float8": ("sdnq", "float8_e4m3fn", "diffusers", "load", "none", "mps"),
    "reading only": (READ_ONLY, "w8a16", "transformers", "load", "none", "cuda"),
}
INSTEAD = {
    "bitsandbytes, sequential": "choose sdnq:uint4, or offload cpu",
    "bitsandbytes, disk": "choose sdnq:uint4, or offload none",
    "quanto, balanced": "choose sdnq:int8, or offload cpu",
    "quanto, sequential": "choose sdnq:int8, or offload cpu",
    "quanto, groups": "choose sdnq:int8, or offload cpu",
    "gguf, sequential": "choose offload group, or sdnq:uint4",
    "gguf, balanced": "choose offload group, or sdnq:uint4",
    "gguf, disk": "choose sdnq:uint4, or offload none",
    "gguf, transformers": "choose sdnq:uint4, or bitsandbytes:nf4",
    "torchao, disk": "choose sdnq:int8, or offload none",
    "nncf, while loading": "choose when after, or sdnq:int8",
    "no kernels on a CPU": "choose sdnq:uint4, or quanto:qint4",
    "no GPU": "choose when after, or sdnq:uint4",
    "no float8": "choose sdnq:int8, or quanto:qint8",
    "reading only": "choose sdnq:int8, or torchao:int8wo",
}


@pytest.mark.parametrize("name", CRASHES)
def test_what_crashes_is_refused_with_what_to_type_instead(name: str) -> None:
    with pytest.raises(NotSupportedYet) as caught:
        check(*CRASHES[name])  # type: ignore[arg-type]
    assert caught.value.hint == INSTEAD[name]
    assert caught.value.why
    backend, type, *_ = CRASHES[name]
    assert f"{backend} {type}" in caught.value.what


def test_what_is_named_instead_is_not_refused() -> None:
    refused = [cell for cell in CELLS if rule(cell).state == "refused"]
    assert len(refused) > 100
    for cell in refused:
        at = (cell.backend, cell.type, cell.framework, cell.moment, cell.offload, cell.device)
        for each in verdict(*at).instead:
            field, space, value = each.partition(" ")
            backend, _, type = each.partition(":")
            other = {"when": (*at[:3], value, *at[4:]), "offload": (*at[:4], value, at[5])}.get(field)
            assert verdict(*(other if space else (backend, type, *at[2:]))).state != "refused"  # type: ignore[arg-type,misc]


def test_every_rule_is_the_first_for_some_cell() -> None:
    assert {*RULES} == {rule(cell) for cell in CELLS}


def test_only_what_a_cpu_did_is_said_to_be_measured() -> None:
    here, there = (verdict("sdnq", "uint4", "diffusers", "load", "none", device) for device in ("cpu", "cuda"))
    assert (here.state, here.measured, here.why) == ("works", True, "")
    assert (there.state, there.measured, there.why) == ("works", False, "untried on a GPU")
    for cell in CELLS:
        found = verdict(cell.backend, cell.type, cell.framework, cell.moment, cell.offload, cell.device)
        assert found.measured == (cell.device == "cpu")
        if not found.measured and found.state != "refused":
            assert "untried" in found.why


@pytest.mark.parametrize("offload", ["cpu", "sequential", "group"])
def test_one_device_has_nowhere_to_offload_to(offload: Offload) -> None:
    with pytest.raises(UserError, match=f"{offload} offload has nowhere to go") as caught:
        check("sdnq", "uint4", "transformers", "load", offload, "cpu")
    assert caught.value.hint == "choose offload disk, or offload none"
    assert not isinstance(caught.value, NotSupportedYet)


def test_names_that_do_not_exist_are_refused() -> None:
    with pytest.raises(RecipeError, match="no backend 'quant0'"):
        check("quant0", "qint8", "transformers", "load", "none", "cpu")
    with pytest.raises(MixError, match="unknown file type"):
        check("gguf", "Q4_K_X", "diffusers", "load", "none", "cpu")


def test_gguf_is_slow_and_what_is_installed_is_enough_for_it() -> None:
    assert check("gguf", "Q4_K_M", "diffusers", "load", "none", "cpu").state == "slow"


def test_another_torch_than_a_package_wants_is_refused() -> None:
    for name in ("bitsandbytes", "optimum-quanto"):
        try:
            wanted = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            pytest.skip(f"{name} is not installed")
        check_torch(name, wanted, torch.__version__)
        with pytest.raises(UserError, match=f"{name} does not go with torch 2.3.0") as caught:
            check_torch(name, wanted, "2.3.0+cu121")
        assert (caught.value.hint or "").startswith("pip install 'torch")
    check_torch("diffusers", ['torch>=99; extra == "torch"', "numpy"], "2.13.0")


def test_packages_that_are_missing_or_old_are_refused() -> None:
    with pytest.raises(UserError, match="hubquant-none is not installed") as caught:
        check_package(Package("hubquant-none", "1", "sdnq"))
    assert caught.value.hint == "pip install 'hubquant[sdnq]'"
    with pytest.raises(UserError, match=r"gguf .* is too old"):
        check_package(Package("gguf", "99", "diffusion"))


def test_gguf_files_of_everything_are_refused(tmp_path: Path) -> None:
    denoiser = {"double_blocks.0.img_attn.qkv.weight": torch.ones(8, 32)}
    others = {"vae.decoder.conv_in.weight": torch.ones(8, 32)}
    write_gguf(tmp_path / "one.gguf", "Q8_0", denoiser)
    check_gguf(tmp_path / "one.gguf")
    write_gguf(tmp_path / "all.gguf", "Q8_0", denoiser | others)
    with pytest.raises(NotSupportedYet, match="GGUF file of everything: it has a VAE") as caught:
        check_gguf(tmp_path / "all.gguf")
    assert "hubquant quantize" in (caught.value.hint or "")
    write_gguf(tmp_path / "vae.gguf", "Q8_0", others)
    with pytest.raises(GGUFError, match="no denoiser"):
        check_gguf(tmp_path / "vae.gguf")


def test_every_way_to_save_is_that_of_some_backend() -> None:
    assert {*SAVING} == {saving(*at) for at in product(SOME_TYPES, FRAMEWORKS, MOMENTS, PLACES)}


def test_the_document_is_what_the_rules_say() -> None:
    assert DOCUMENT.read_text("utf-8") == document()


def test_the_command_says_what_works_without_torch() -> None:
    code = "from hubquant.cli.app import run_app; import sys; sys.exit(run_app(sys.argv[1:]) or 'torch' in sys.modules)"
    words = ("backends", "--json", "--device", "cuda")
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["device"] == "cuda"
    nf4 = next(row for each in found["backends"] for row in each["rows"] if "nf4" in row["types"])
    assert {name for name, each in nf4["offloads"].items() if each["state"] == "works"} == {"none", "cpu", "group"}
    assert nf4["offloads"]["sequential"]["instead"][:2] == ["sdnq:uint4", "offload cpu"]
    shown = hubquant("backends", "--device", "cpu").out
    assert "diffusers while loading: every type: refused, diffusers quantizes with bitsandbytes on a GPU only" in shown


@pytest.mark.slow
def test_diffusers_loads_no_gguf_file_of_everything(tmp_path: Path) -> None:
    from diffusers import GGUFQuantizationConfig

    source = tiny("diffusers", tmp_path)
    weights = source.load().state_dict()
    options = {"quantization_config": GGUFQuantizationConfig(compute_dtype=torch.float32), "config": str(source.folder)}
    for name, others in {"one": {}, "all": {"vae.decoder.conv_in.weight": torch.ones(32, 32)}}.items():
        write_gguf(tmp_path / f"{name}.gguf", "Q8_0", weights | others)
    source.kind.from_single_file(str(tmp_path / "one.gguf"), **options)
    with pytest.raises(IndexError):
        source.kind.from_single_file(str(tmp_path / "all.gguf"), **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "type", "framework", "moment"),
    [
        ("gguf", "Q4_0", "diffusers", "load"),
        ("gguf", "F16", "diffusers", "load"),
        ("gguf", "IQ2_XXS", "diffusers", "load"),
        ("bitsandbytes", "nf4", "transformers", "load"),
        ("bitsandbytes", "nf4", "diffusers", "load"),
        ("bitsandbytes", "int8", "diffusers", "after"),
        ("quanto", "qint8", "transformers", "after"),
        ("torchao", "int8wo", "transformers", "load"),
        ("torchao", "int4wo", "transformers", "after"),
        ("nncf", "int8_asym", "transformers", "after"),
        ("nncf", "nf4", "transformers", "after"),
        ("sdnq", "int8", "transformers", "load"),
    ],
)
def test_the_libraries_do_what_the_table_says(
    backend: str, type: str, framework: Framework, moment: Moment, tmp_path: Path
) -> None:
    shown, wrong = compared(backend, type, framework, moment, tmp_path)
    assert wrong == []
    assert "none" in shown
