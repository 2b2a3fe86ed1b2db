"""Importance of a pipeline's weights, against the sums of plain hooks in float64."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import hubquant
from hubquant.convert.diffusion.conversion import default_layout, denoiser_taps
from hubquant.convert.diffusion.recognise import recognise
from hubquant.errors import CheckpointError, ImatrixError, NotSupportedYet, OutputError, UserError
from hubquant.imatrix import Entry, ImportanceMatrix, load_imatrix, merge, save
from hubquant.observe.collection import SnapshotPlace
from hubquant.observe.drawing import collect_pictures
from hubquant.observe.pictures import PictureSums
from tests.support.diffusion import FRAMES, make_pipeline

CLOSE = {"rtol": 1e-5, "atol": 0.0}


def draw(pipe: Any, seed: int = 0, prompts: tuple[str, ...] = ("a red cat",), **options: Any) -> Any:
    """Latents of two steps at 32x32, with guidance where the pipeline has it."""
    settings = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "latent", **options}
    return pipe(prompt=list(prompts), generator=torch.Generator().manual_seed(seed), **settings)


def observed(pipe: Any, path: Path, *seeds: int, **options: Any) -> ImportanceMatrix:
    """The matrix of one picture for each of ``seeds``; ``options`` are those of the observer."""
    with hubquant.observe(pipe, path, **options):
        for seed in seeds:
            draw(pipe, seed)
    return load_imatrix(path)


class Plain:
    """Σx², Σx and rows of each layer by its name in diffusers, in float64."""

    def __init__(self) -> None:
        self.sum2: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros(()))
        self.sum: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros(()))
        self.rows: dict[str, int] = defaultdict(int)

    def hook(self, name: str) -> Callable[..., None]:
        def see(layer: torch.nn.Module, args: tuple[Any, ...]) -> None:
            x = args[0].double()
            if isinstance(layer, torch.nn.Conv2d):
                size = {"dilation": layer.dilation, "padding": layer.padding, "stride": layer.stride}
                x = torch.nn.functional.unfold(x, layer.kernel_size, **size).transpose(1, 2)  # type: ignore[arg-type]
            rows = x.flatten(0, -2)
            self.sum2[name] = self.sum2[name] + rows.square().sum(0)
            self.sum[name] = self.sum[name] + rows.sum(0)
            self.rows[name] += len(rows)

        return see


@contextmanager
def plain_hooks(module: torch.nn.Module, kinds: Any = torch.nn.Linear) -> Iterator[Plain]:
    plain = Plain()
    hooks = [m.register_forward_pre_hook(plain.hook(n)) for n, m in module.named_modules() if isinstance(m, kinds)]
    yield plain
    for hook in hooks:
        hook.remove()


def names_in_file(denoiser: torch.nn.Module) -> dict[str, str]:
    """Weight in a GGUF file -> module, as conversion has it."""
    found = recognise({name: tuple(x.shape) for name, x in denoiser.state_dict().items()})
    return {name: tap.module for name, tap in denoiser_taps(found, default_layout(found)).items()}


def denoiser_of(pipe: Any) -> Any:
    return getattr(pipe, "unet", None) or pipe.transformer


def equal(first: ImportanceMatrix, second: ImportanceMatrix, **tolerance: float) -> None:
    assert first.entries.keys() == second.entries.keys()
    for name, entry in first.entries.items():
        other = second.entries[name]
        assert entry.counts.tolist() == other.counts.tolist()
        assert entry.in_sum is not None
        torch.testing.assert_close(entry.in_sum2, other.in_sum2, **(tolerance or {"rtol": 0.0, "atol": 0.0}))


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd35", "flux", "qwen_image", "wan", "z_image"])
def test_sums_are_those_of_plain_hooks(family: str, tmp_path: Path) -> None:
    """Two prompts at a time, and guidance: in one batch, or one call after the other."""
    pipe = make_pipeline(family)
    options = {"num_frames": FRAMES[family]} if family in FRAMES else {}
    if family == "qwen_image":
        options |= {"true_cfg_scale": 3.0, "negative_prompt": "grey"}
    with plain_hooks(denoiser_of(pipe)) as plain, hubquant.observe(pipe, tmp_path / "a.gguf"):
        draw(pipe, prompts=("a red cat", "two ships"), **options)
        draw(pipe, seed=1, num_inference_steps=1, **options)
    matrix = load_imatrix(tmp_path / "a.gguf")
    modules = names_in_file(denoiser_of(pipe))
    seen = {name: module for name, module in modules.items() if plain.rows[module]}
    encoders = {name for name in matrix.entries if name.startswith(("text_encoders.", "cond_stage_model."))}
    assert matrix.entries.keys() - encoders == seen.keys()
    assert len(seen) > 10
    assert encoders
    for name, module in seen.items():
        entry = matrix.entries[name]
        assert entry.counts.tolist() == [plain.rows[module]]
        torch.testing.assert_close(entry.in_sum2[0], plain.sum2[module], **CLOSE)
        assert entry.in_sum is not None
        torch.testing.assert_close(entry.in_sum[0], plain.sum[module], rtol=1e-5, atol=1e-5 * plain.rows[module])
    assert (matrix.chunk_count, matrix.chunk_size) == (3, 1)


def test_what_a_matrix_says_of_itself(tmp_path: Path) -> None:
    pipe = make_pipeline("sd15")
    with hubquant.observe(pipe, tmp_path / "a.gguf"):
        draw(pipe, prompts=("a", "b"), guidance_scale=5.0)
        pipe("c", height=64, width=32, num_inference_steps=1, output_type="np", return_dict=False)
    facts = load_imatrix(tmp_path / "a.gguf").provenance
    told = {"scheduler": "DDIMScheduler", "steps": "2, 1", "sizes": "32x64", "denoiser_calls": "3"}
    told |= {"predictions": "10", "prompts": "6", "model_class": "UNet2DConditionModel", "model_family": "sd"}
    assert told.items() <= facts.items()
    assert type(pipe).__name__ == "StableDiffusionPipeline"
    assert type(pipe).__mro__[1].__name__ != "StableDiffusionPipeline"
    assert not any(module._forward_pre_hooks for module in pipe.unet.modules())


def test_names_of_text_encoders_are_those_of_stable_diffusion_cpp() -> None:
    """src/name_conversion.cpp; its CLIP has its layers in a text_model, which transformers 5 left out of some."""
    layer = "encoder.layers.0.self_attn.q_proj.weight"
    expected = {
        "sdxl": [
            f"cond_stage_model.transformer.text_model.{layer}",
            f"cond_stage_model.1.transformer.text_model.{layer}",
        ],
        "sd3": [
            *(f"text_encoders.clip_{size}.transformer.text_model.{layer}" for size in "lg"),
            "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight",
        ],
        "z_image": ["text_encoders.llm.model.layers.0.self_attn.q_proj.weight"],
        "qwen_image": ["text_encoders.llm.model.layers.0.self_attn.q_proj.weight"],
    }
    for family, names in expected.items():
        assert {*names} <= PictureSums(make_pipeline(family)).layers.keys()


def test_convolutions_by_patches(tmp_path: Path) -> None:
    pipe = make_pipeline("sd15")
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    with plain_hooks(pipe.unet, kinds) as plain, hubquant.observe(pipe, tmp_path / "a.gguf", convolutions=True):
        draw(pipe)
    matrix = load_imatrix(tmp_path / "a.gguf")
    modules = {"input_blocks.0.0": "conv_in", "input_blocks.2.0.op": "down_blocks.0.downsamplers.0.conv"}
    modules |= {"input_blocks.1.1.proj_in": "down_blocks.0.attentions.0.proj_in", "out.2": "conv_out"}
    for name, module in modules.items():
        entry = matrix.entries[f"model.diffusion_model.{name}.weight"]
        assert entry.in_sum2.shape[1] == pipe.unet.get_submodule(module).weight.flatten(1).shape[1]
        assert entry.counts.tolist() == [plain.rows[module]]
        torch.testing.assert_close(entry.in_sum2[0], plain.sum2[module], **CLOSE)
    assert len(matrix.entries) > sum(isinstance(m, kinds) for m in pipe.unet.modules())


def test_timesteps_weigh_as_told(tmp_path: Path) -> None:
    """Two steps: the first, from pure noise, counts once and the second half as often; text encoders always once."""
    pipe = make_pipeline("flux")
    levels: list[float] = []

    def weight(level: float) -> float:
        levels.append(level)
        return 1.0 if level > 0.99 else 0.5

    matrix = observed(pipe, tmp_path / "a.gguf", 0, 1, timestep_weight=weight)
    first = observed(pipe, tmp_path / "b.gguf", 0, 1, timestep_weight=lambda level: float(level > 0.99))
    second = observed(pipe, tmp_path / "c.gguf", 0, 1, timestep_weight=lambda level: float(level <= 0.99))
    assert levels[0] == 1.0
    assert 0 < levels[1] < 0.9
    for name, entry in matrix.entries.items():
        a, b = first.entries[name], second.entries[name]
        if name.startswith("text_encoders."):
            assert torch.equal(a.in_sum2, entry.in_sum2)
        else:
            assert entry.counts.tolist() == [round(1.5 * int(a.counts))]
            means = (a.in_sum2 + 0.5 * b.in_sum2) / (1.5 * a.counts)
            torch.testing.assert_close(entry.in_sum2 / entry.counts, means, **CLOSE)


@pytest.mark.parametrize("family", ["sd15", "sd3", "lumina2", "z_image", "sana", "pixart", "ltx", "chroma", "flux2"])
def test_noise_levels_are_those_of_the_scheduler(family: str) -> None:
    pipe, levels = make_pipeline(family), []

    def weight(level: float) -> float:
        levels.append(level)
        return 1.0

    options = {"num_frames": FRAMES[family]} if family in FRAMES else {}
    if family in ("sana", "pixart"):
        options["use_resolution_binning"] = False
    with PictureSums(pipe, timestep_weight=weight).observing():
        draw(pipe, num_inference_steps=3, **options)
    flow = type(pipe.scheduler).__name__.startswith("Flow")
    expected = pipe.scheduler.sigmas[:-1] if flow else pipe.scheduler.timesteps / 1000
    torch.testing.assert_close(torch.tensor([*dict.fromkeys(levels)]), expected.float(), rtol=1e-3, atol=0.0)


class Lora(torch.nn.Module):
    """As PEFT wraps a layer."""

    def __init__(self, base_layer: torch.nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = torch.nn.ModuleDict({"default": torch.nn.Linear(base_layer.in_features, 2, bias=False)})
        self.lora_B = torch.nn.ModuleDict({"default": torch.nn.Linear(2, base_layer.out_features, bias=False)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))
        return result


def wrap(pipe: Any) -> Any:
    denoiser = denoiser_of(pipe)
    for name, module in list(denoiser.named_modules()):
        if name.endswith(("attn.to_q", "attn.to_out.0", "attn1.to_k")):
            parent, _, child = name.rpartition(".")
            setattr(denoiser.get_submodule(parent), child, Lora(module))
    return pipe


@pytest.mark.parametrize("family", ["flux", "sd15"])
def test_layers_of_a_lora_have_their_plain_names(family: str) -> None:
    plain = PictureSums(make_pipeline(family)).layers
    wrapped = PictureSums(wrap(make_pipeline(family)))
    assert wrapped.layers.keys() == plain.keys()
    with wrapped.observing():
        wrapped.settle(draw(wrapped._pipe)[0])
    assert wrapped.matrix({}).entries.keys() <= plain.keys()


def test_a_denoiser_of_no_known_family_keeps_its_names(tmp_path: Path) -> None:
    """And a pipeline without text encoders is observed like others."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    sizes: dict[str, Any] = {"sample_size": 8, "layers_per_block": 1, "block_out_channels": (8, 16)}
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    pipe = DDPMPipeline(UNet2DModel(**sizes, **blocks, norm_num_groups=4), DDPMScheduler())
    with hubquant.observe(pipe, tmp_path / "a.gguf"):
        pipe(batch_size=3, num_inference_steps=2, output_type="np")
    matrix = load_imatrix(tmp_path / "a.gguf")
    assert "down_blocks.1.attentions.0.to_q.weight" in matrix.entries
    assert (matrix.chunk_count, matrix.provenance["sizes"], matrix.provenance["prompts"]) == (3, "8x8", "0")
    assert "model_family" not in matrix.provenance


def test_of_two_denoisers_the_first_has_a_prefix() -> None:
    from diffusers import WanPipeline

    one = make_pipeline("wan")
    pipe = WanPipeline(
        **one.components | {"transformer_2": make_pipeline("wan", seed=1).transformer}, boundary_ratio=0.5
    )
    found = PictureSums(pipe).layers
    assert (
        found["model.high_noise_diffusion_model.blocks.0.self_attn.q.weight"] is pipe.transformer.blocks[0].attn1.to_q
    )
    assert found["blocks.0.self_attn.q.weight"] is pipe.transformer_2.blocks[0].attn1.to_q


@contextmanager
def spoiled(pipe: Any, pictures: set[int]) -> Iterator[None]:
    """NaN in the prompts of some pictures."""
    made = 0

    def spoil(_encoder: Any, _args: Any, output: Any) -> None:
        nonlocal made
        made += 1
        if made in pictures:
            output[0].fill_(float("nan"))

    hook = pipe.text_encoder_2.register_forward_hook(spoil)
    yield
    hook.remove()


def test_pictures_that_are_not_finite_do_not_count(tmp_path: Path) -> None:
    pipe = make_pipeline("flux")
    with pytest.warns(UserWarning, match="1 picture does not count"), spoiled(pipe, {2}):
        first = observed(pipe, tmp_path / "a.gguf", 0, 1, 2)
    equal(first, observed(pipe, tmp_path / "b.gguf", 0, 2))
    assert (first.chunk_count, first.provenance["skipped_pictures"]) == (2, "1")
    with (
        pytest.warns(UserWarning, match="2 pictures do not count"),
        pytest.raises(ImatrixError, match="no picture can be used"),
        spoiled(pipe, {1, 2}),
    ):
        observed(pipe, tmp_path / "c.gguf", 0, 1)
    assert not (tmp_path / "c.gguf").exists()


class Stopped(BaseException):
    pass


def stopped(pipe: Any) -> None:
    """A picture that an exception stops after its first step."""

    def stop(*_: Any) -> dict[str, Any]:
        raise Stopped

    draw(pipe, seed=1, callback_on_step_end=stop)


def draw_and_stop(pipe: Any, path: Path, *, first: bool) -> None:
    with hubquant.observe(pipe, path):
        if first:
            draw(pipe)
        stopped(pipe)


def test_an_exception_leaves_what_finished_pictures_gave(tmp_path: Path) -> None:
    pipe = make_pipeline("flux")
    expected = observed(pipe, tmp_path / "a.gguf", 0)
    with pytest.raises(Stopped):
        draw_and_stop(pipe, tmp_path / "b.gguf", first=True)
    equal(load_imatrix(tmp_path / "b.gguf"), expected)
    with hubquant.observe(pipe, tmp_path / "c.gguf"):
        with pytest.raises(Stopped):
            stopped(pipe)
        draw(pipe)
    equal(load_imatrix(tmp_path / "c.gguf"), expected)
    with pytest.raises(Stopped):
        draw_and_stop(pipe, tmp_path / "d.gguf", first=False)
    assert not (tmp_path / "d.gguf").exists()


def test_a_loop_of_the_users_own(tmp_path: Path) -> None:
    """The denoiser is called without the pipeline, with gradients and in inference mode."""
    pipe = make_pipeline("sd15")
    latents, prompt = torch.randn(2, 4, 4, 4), torch.randn(2, 77, 32)
    with plain_hooks(pipe.unet) as plain, hubquant.observe(pipe, tmp_path / "a.gguf"):
        pipe.unet(latents.requires_grad_(), 900, prompt)
        with torch.inference_mode():
            pipe.unet(latents, 1, prompt)
    matrix = load_imatrix(tmp_path / "a.gguf")
    assert (matrix.chunk_count, matrix.provenance["predictions"]) == (1, "4")
    for name, module in names_in_file(pipe.unet).items():
        torch.testing.assert_close(matrix.entries[name].in_sum2[0], plain.sum2[module], **CLOSE)


def test_weights_elsewhere_are_observed_as_those_in_memory(tmp_path: Path) -> None:
    """As accelerate and diffusers have them while a pipeline is larger than memory."""
    from accelerate import cpu_offload, disk_offload
    from diffusers.hooks import apply_group_offloading

    expected, cpu = observed(make_pipeline("flux"), tmp_path / "a.gguf", 0), torch.device("cpu")
    groups = {"onload_device": cpu, "offload_device": cpu, "offload_type": "leaf_level"}
    ways: list[Callable[[Any], Any]] = [
        lambda part: cpu_offload(part, execution_device=cpu),
        lambda part: disk_offload(part, tmp_path / type(part).__name__, execution_device=cpu),
        lambda part: apply_group_offloading(part, **groups),
    ]
    for offload in ways:
        pipe = make_pipeline("flux")
        for part in (pipe.transformer, pipe.text_encoder, pipe.text_encoder_2, pipe.vae):
            offload(part)
        equal(observed(pipe, tmp_path / "b.gguf", 0), expected)


def test_continuing_weighs_by_rows(tmp_path: Path) -> None:
    pipe, paths = make_pipeline("flux"), [tmp_path / "old.dat", tmp_path / "other.gguf"]
    whole = observed(pipe, tmp_path / "whole.gguf", 0, 1, 2)
    for number, path in enumerate(paths):
        observed(pipe, path, number)
    found = observed(pipe, paths[1], 2, continue_from=paths)
    assert whole.chunk_count == found.chunk_count == 3
    for name, entry in whole.entries.items():
        assert found.entries[name].counts.tolist() == entry.counts.tolist()
        torch.testing.assert_close(found.entries[name].in_sum2, entry.in_sum2, rtol=1e-6, atol=0.0)


def test_calls_of_stable_diffusion_cpp_weigh_as_the_rows_of_ours(tmp_path: Path) -> None:
    """Its refining counts what it loads as one row for each call, which loses all of it."""
    pipe = make_pipeline("flux")
    own = observed(pipe, tmp_path / "own.gguf", 0)
    as_calls = {
        name: Entry(9 * entry.in_sum2 * (2 / entry.counts), torch.tensor([2])) for name, entry in own.entries.items()
    }
    save(ImportanceMatrix(as_calls, (), 1, 0), tmp_path / "theirs.dat")
    found = observed(pipe, tmp_path / "sum.gguf", 0, continue_from=tmp_path / "theirs.dat")
    name = "single_blocks.0.linear1.weight"  # two calls, as many as the two steps
    assert found.entries[name].counts.tolist() == [2 * int(own.entries[name].counts)]
    torch.testing.assert_close(found.entries[name].means(), 5 * own.entries[name].means(), rtol=1e-5, atol=0.0)
    assert "counts" not in found.provenance


def drawing(pipe: Any) -> Callable[[int], Any]:
    return lambda number: draw(pipe, number, prompts=(f"picture {number}",))[0]


def test_merged_shards_are_the_single_run() -> None:
    pipe = make_pipeline("sd15")
    single, first, second = (
        collect_pictures(PictureSums(pipe), drawing(pipe), numbers).matrix({})
        for numbers in (range(4), range(2), range(2, 4))
    )
    merged = merge([first, second])
    equal(merged, single, rtol=1e-14, atol=0.0)
    assert merged.chunk_count == single.chunk_count == 4
    assert merged.provenance == single.provenance


def test_a_killed_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    pipe = make_pipeline("flux")
    whole = collect_pictures(PictureSums(pipe), drawing(pipe), range(3)).matrix({})
    place = SnapshotPlace(tmp_path / "state", "three pictures", seconds=0)

    class Killed(Exception):
        pass

    def until(number: int) -> Any:
        if number == 2:
            raise Killed
        return drawing(pipe)(number)

    with pytest.raises(Killed):
        collect_pictures(PictureSums(pipe), until, range(3), keeping=place)
    drawn, counted = [], []

    def draw_one(number: int) -> Any:
        drawn.append(number)
        return drawing(pipe)(number)

    resumed = collect_pictures(PictureSums(pipe), draw_one, range(3), keeping=place, advance=counted.append)
    assert drawn[-1] == 2
    assert len(drawn) + counted[0] == sum(counted) == 3
    equal(resumed.matrix({}), whole)
    assert resumed.matrix({}).provenance == whole.provenance
    for other in (make_pipeline("flux", seed=1), pipe):
        drawn.clear()
        elsewhere = SnapshotPlace(place.path, "other prompts" if other is pipe else place.source)
        collect_pictures(PictureSums(other), draw_one, range(1), keeping=elsewhere)
        assert drawn == [0]


def test_what_is_found_before_any_work(tmp_path: Path) -> None:
    flux, other, path = make_pipeline("flux"), make_pipeline("sd3"), tmp_path / "a.gguf"
    observed(flux, tmp_path / "flux.gguf", 0)
    (tmp_path / "text.gguf").write_text("text")
    of_flux = {"continue_from": tmp_path / "flux.gguf"}
    wrong: list[tuple[Any, Path, dict[str, Any], type[UserError], str]] = [
        (other, path, of_flux, ImatrixError, "belongs to another model"),
        (make_pipeline("flux", width=128), path, of_flux, ImatrixError, "another size"),
        (flux, path, {"continue_from": tmp_path / "no.gguf"}, ImatrixError, "there is no imatrix"),
        (flux, tmp_path / "text.gguf", {}, OutputError, "is not an importance matrix"),
        (flux, tmp_path, {}, OutputError, "is a folder"),
        (flux, path, {"timestep_weight": lambda _: -1.0}, UserError, "cannot be -1"),
    ]
    for pipe, target, options, error, text in wrong:
        with pytest.raises(error, match=text):
            observed(pipe, target, 0, **options)
    with pytest.raises(ImatrixError, match="no picture was made"):
        observed(flux, path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flux.gguf", "text.gguf"]


def test_pipelines_that_cannot_be_observed() -> None:
    pipe = make_pipeline("pixart")
    pipe.transformer.__class__ = type("StrangeTransformer", (type(pipe.transformer),), {})
    with pytest.raises(NotSupportedYet, match="StrangeTransformer"):
        PictureSums(pipe, timestep_weight=lambda _: 1.0)
    pipe.register_modules(transformer=None)
    with pytest.raises(CheckpointError, match="PixArtSigmaPipeline has no denoiser"):
        PictureSums(pipe)
