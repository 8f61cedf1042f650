"""The engine's pixels are diffusers' own, and its failures have names."""

import io
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from configs.settings import PROJECT_DIR, ModelSettings
from models.catalog import load_catalog
from models.errors import GenerationCancelled, GenerationError, NotFinite, OutOfMemory
from models.loader import PIPELINES, load_model
from pipelines.engine import Engine
from pipelines.media import read_provenance
from pipelines.request import GeneratedImage, GenerationRequest, LoraChoice, Progress
from tests.pipelines.conftest import Bench, make_bench

EMBEDDED = PROJECT_DIR / "models" / "embedded" / "emoji-3d"


def pixels_of(image: GeneratedImage) -> np.ndarray:
    with Image.open(io.BytesIO(image.data)) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def plain_pixels(folder: Path, request: GenerationRequest, **arguments: object) -> np.ndarray:
    """What somebody gets who uses diffusers and nothing of ours."""
    family = next(name for name, cls in PIPELINES.items() if cls.__name__ in (folder / "model_index.json").read_text())
    pipeline = PIPELINES[family].from_pretrained(str(folder))
    pipeline.set_progress_bar_config(disable=True)
    if request.negative_prompt:
        arguments["negative_prompt"] = request.negative_prompt
    picture = pipeline(
        request.prompt,
        width=request.width_px,
        height=request.height_px,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(request.seed),
        **arguments,
    ).images[0]
    return np.asarray(picture).astype(int)


@pytest.mark.parametrize(
    "changes",
    [{}, {"negative_prompt": ""}, {"guidance_scale": 1.0}, {"seed": 2**63 - 1, "width_px": 32, "height_px": 96}],
    ids=["plain", "no-negative", "no-guidance", "largest-seed"],
)
def test_pixels_equal_the_plain_diffusers_pipeline(bench: Bench, changes: dict[str, object]) -> None:
    request = bench.request(**changes)
    ours = pixels_of(bench.engine.generate(request).images[0])
    theirs = plain_pixels(bench.folder, request)
    assert ours.shape == (request.height_px, request.width_px, 3)
    assert ours.std() > 5, "a flat picture would prove nothing"
    assert np.abs(ours - theirs).max() <= 1


def test_pixels_of_the_model_that_ships_equal_the_plain_pipeline(tmp_path: Path) -> None:
    spec = load_catalog()["emoji-3d"]
    loaded = load_model(spec, ModelSettings(device="cpu", dtype="float32"), tmp_path)
    request = GenerationRequest(
        model_id=spec.id,
        prompt="red apple, 3d emoji, on a white background",
        negative_prompt=spec.defaults.negative_prompt,
        width_px=spec.defaults.width_px,
        height_px=spec.defaults.height_px,
        num_images=1,
        seed=42,
        num_inference_steps=6,
        guidance_scale=spec.defaults.guidance_scale,
    )
    image = Engine(loaded).generate(request).images[0]
    assert loaded.folder == EMBEDDED
    assert np.abs(pixels_of(image) - plain_pixels(EMBEDDED, request)).max() <= 1


def test_images_of_one_request_equal_single_requests_with_their_seeds(bench: Bench) -> None:
    together = bench.engine.generate(bench.request(num_images=3, seed=100)).images
    assert [image.seed for image in together] == [100, 101, 102]
    for image in together:
        alone = bench.engine.generate(bench.request(seed=image.seed)).images[0]
        assert (pixels_of(alone) == pixels_of(image)).all()
    assert (pixels_of(together[0]) != pixels_of(together[1])).any()


def test_the_prompt_and_the_guidance_reach_the_picture(bench: Bench) -> None:
    first = pixels_of(bench.engine.generate(bench.request()).images[0])
    for changes in ({"prompt": "blue boat"}, {"guidance_scale": 9.0}, {"num_inference_steps": 5}):
        assert (pixels_of(bench.engine.generate(bench.request(**changes)).images[0]) != first).any(), changes


def test_schedulers_change_the_picture_and_leave_no_trace(sd: Bench) -> None:
    names = ("euler", "euler-a", "dpm++2m", "dpm++2m-karras", "unipc", "lcm")
    own = pixels_of(sd.engine.generate(sd.request(num_inference_steps=6)).images[0])
    pictures = [pixels_of(sd.engine.generate(sd.request(num_inference_steps=6, scheduler=s)).images[0]) for s in names]
    for index, picture in enumerate(pictures):
        assert all((picture != other).any() for other in pictures[:index]), names[index]
    again = pixels_of(sd.engine.generate(sd.request(num_inference_steps=6)).images[0])
    assert (own == again).all()
    ddim = pixels_of(sd.engine.generate(sd.request(num_inference_steps=6, scheduler="ddim")).images[0])
    assert (ddim == own).all(), "the tiny folder's own scheduler is DDIM"


def test_flux_has_its_own_scheduler_names(benches: dict[str, Bench]) -> None:
    flux = benches["flux"]
    named = flux.engine.generate(flux.request(scheduler="flow-euler")).images[0]
    assert (pixels_of(named) == pixels_of(flux.engine.generate(flux.request()).images[0])).all()
    with pytest.raises(GenerationError, match=r"'euler' is not one of this model's: flow-euler"):
        flux.engine.generate(flux.request(scheduler="euler"))


def test_an_unknown_scheduler_lists_the_known_ones(sd: Bench) -> None:
    with pytest.raises(GenerationError, match=r"'heun'.*euler, euler-a, ddim, dpm\+\+2m, dpm\+\+2m-karras, unipc, lcm"):
        sd.engine.generate(sd.request(scheduler="heun"))


def test_progress_counts_over_all_images_and_ends_at_the_end(sd: Bench) -> None:
    seen: list[Progress] = []
    sd.engine.generate(sd.request(num_images=2, num_inference_steps=4), on_progress=seen.append)
    assert [progress.step for progress in seen] == list(range(1, 9))
    assert {progress.steps for progress in seen} == {8}
    assert seen[-1].percent == 100


def test_a_cancelled_request_stops_at_the_next_step(sd: Bench) -> None:
    seen: list[Progress] = []
    with pytest.raises(GenerationCancelled) as caught:
        sd.engine.generate(
            sd.request(num_inference_steps=50), on_progress=seen.append, is_cancelled=lambda: len(seen) >= 3
        )
    assert len(seen) == 3
    assert caught.value.code == "cancelled"
    before: list[Progress] = []
    with pytest.raises(GenerationCancelled):
        sd.engine.generate(sd.request(), on_progress=before.append, is_cancelled=lambda: True)
    assert before == []
    sd.engine.generate(sd.request())


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_weights_with_nan_make_no_picture(part: str, tmp_path: Path) -> None:
    bench = make_bench("sd", tmp_path)
    module = getattr(bench.loaded.pipeline, part)
    with torch.no_grad():
        last = list(module.decoder.parameters() if part == "vae" else module.parameters())[-1]
        last.fill_(torch.nan)
    with pytest.raises(NotFinite) as caught:
        bench.engine.generate(bench.request())
    assert caught.value.code == "not_finite"


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)
def test_running_out_of_memory_has_its_own_code(sd: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(sd.loaded.pipeline.unet, "forward", fail)
        with pytest.raises(OutOfMemory) as caught:
            sd.engine.generate(sd.request())
    assert caught.value.code == "out_of_memory"
    sd.engine.generate(sd.request())


def test_adapters_and_foreign_models_are_refused(sd: Bench) -> None:
    with pytest.raises(GenerationError, match="not available on this server yet"):
        sd.engine.generate(sd.request(loras=(LoraChoice("alice"),)))
    with pytest.raises(GenerationError, match="serves 'tiny-sd', not 'sdxl'"):
        sd.engine.generate(sd.request(model_id="sdxl"))


def test_a_second_caller_waits_for_its_turn_and_is_told_how_long(sd: Bench) -> None:
    has_begun = threading.Event()

    def slowly(_: Progress) -> None:
        has_begun.set()
        time.sleep(0.1)

    first = threading.Thread(target=lambda: sd.engine.generate(sd.request(), on_progress=slowly))
    first.start()
    assert has_begun.wait(10)
    result = sd.engine.generate(sd.request())
    first.join()
    assert result.waited_s > 0.1
    assert result.engine_s < result.waited_s + 5
    assert sd.engine.generate(sd.request()).waited_s < 0.1


def test_warm_up_and_describe_tell_what_is_loaded(bench: Bench) -> None:
    assert bench.engine.warm_up() > 0
    info = bench.engine.describe()
    assert (info.model_id, info.device, info.dtype) == (bench.loaded.spec.id, "cpu", "float32")
    assert info.weights_sha256 == bench.loaded.weights_sha256
    assert info.num_parameters == bench.loaded.num_parameters


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_every_format_opens_and_says_where_it_comes_from(bench: Bench, output_format: str) -> None:
    image = bench.engine.generate(bench.request(output_format=output_format, seed=11, num_images=2)).images[1]
    with Image.open(io.BytesIO(image.data)) as picture:
        assert (picture.format.lower(), picture.size) == (output_format, (64, 32))
    assert image.content_type == f"image/{output_format}"
    record = read_provenance(image.data).darkroom
    assert record["seed"] == 12
    assert record["weights_sha256"] == bench.loaded.weights_sha256


def test_distilled_models_ignore_guidance_and_negative_prompt(sd: Bench) -> None:
    limits = sd.loaded.spec.limits.model_copy(update={"has_guidance": False, "has_negative_prompt": False})
    spec = sd.loaded.spec.model_copy(update={"limits": limits})
    engine = Engine(
        type(sd.loaded)(spec, sd.loaded.pipeline, sd.loaded.device, sd.loaded.dtype, "0" * 64, sd.loaded.held)
    )
    with_guidance = engine.generate(sd.request(guidance_scale=9.0, negative_prompt="x")).images[0]
    without = engine.generate(sd.request(guidance_scale=0.0, negative_prompt="")).images[0]
    assert (pixels_of(with_guidance) == pixels_of(without)).all()
