"""What an engine does for its callers: pictures with provenance, progress and previews, and failures with names."""

import io
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from configs.settings import EngineSettings
from models.errors import AdapterError, GenerationError, NotFinite
from pipelines.engine import Engine
from pipelines.media import read_provenance
from pipelines.request import GenerationResult, LoraChoice, Preview, Progress, StoredFile
from tests.pipelines.bench import QUICK_START, Bench, assert_equal_pictures, difference, make_bench, picture_of
from tests.pipelines.mixed import Follower

SCHEDULERS = ("euler", "euler-a", "dpm++2m", "dpm++2m-karras", "unipc", "lcm")


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Bench]:
    """A model that a test may spoil."""
    bench = make_bench("sd", tmp_path)
    yield bench
    bench.engine.close()


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return all((a == b).all() for a, b in zip(first, second, strict=True))


def test_the_prompt_and_the_guidance_reach_the_picture(bench: Bench) -> None:
    first = bench.pixels(bench.request())
    for changes in ({"prompt": "blue boat"}, {"guidance_scale": 9.0}, {"num_inference_steps": 5}, {"seed": 8}):
        assert not same(bench.pixels(bench.request(**changes)), first), changes


def test_a_negative_prompt_reaches_the_picture_where_the_family_has_one(bench: Bench) -> None:
    without = bench.pixels(bench.request(negative_prompt=""))
    assert same(bench.pixels(bench.request(negative_prompt="a grey boat")), without) != bench.has_negative_prompt


def test_schedulers_change_the_picture_and_leave_no_trace(sd: Bench) -> None:
    own = sd.pixels(sd.request(num_inference_steps=6))
    pictures = [sd.pixels(sd.request(num_inference_steps=6, scheduler=name)) for name in SCHEDULERS]
    for index, picture in enumerate(pictures):
        assert not any(same(picture, other) for other in pictures[:index]), SCHEDULERS[index]
    assert same(sd.pixels(sd.request(num_inference_steps=6)), own)
    ddim = sd.pixels(sd.request(num_inference_steps=6, scheduler="ddim"))
    assert same(ddim, own), "the tiny folder's own scheduler is DDIM"


def test_flux_has_its_own_scheduler_names(benches: dict[str, Bench]) -> None:
    flux = benches["flux"]
    assert same(flux.pixels(flux.request(scheduler="flow-euler")), flux.pixels(flux.request()))
    with pytest.raises(GenerationError, match=r"'euler' is not one of this model's: flow-euler"):
        flux.engine.generate(flux.request(scheduler="euler"))


def test_an_unknown_scheduler_lists_the_known_ones(sd: Bench) -> None:
    with pytest.raises(GenerationError, match=r"'heun'.*euler, euler-a, ddim, dpm\+\+2m, dpm\+\+2m-karras, unipc, lcm"):
        sd.engine.generate(sd.request(scheduler="heun"))


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_weights_with_nan_make_no_picture(part: str, own: Bench) -> None:
    module = getattr(own.loaded.pipeline, part)
    with torch.no_grad():
        last = list(module.decoder.parameters() if part == "vae" else module.parameters())[-1]
        last.fill_(torch.nan)
    with pytest.raises(NotFinite) as caught:
        own.engine.generate(own.request())
    assert caught.value.code == "not_finite"


def test_another_models_requests_are_refused(sd: Bench) -> None:
    with pytest.raises(GenerationError, match="serves 'tiny-sd', not 'sdxl'"):
        sd.engine.generate(sd.request(model_id="sdxl"))


def test_an_engine_without_a_store_says_so(sd: Bench) -> None:
    engine = Engine(sd.loaded, QUICK_START)
    try:
        with pytest.raises(GenerationError, match="no store"):
            engine.generate(sd.request(image=StoredFile("somewhere", "0" * 64)))
    finally:
        engine.close()


def test_with_room_for_one_the_second_starts_when_the_first_has_ended(sd: Bench) -> None:
    bench = sd.start(EngineSettings(max_active=1, measure_budget_s=0.0))
    order: list[str] = []
    try:
        first = Follower(bench, bench.request(num_inference_steps=30), on_progress=lambda _: order.append("first"))
        second = Follower(bench, bench.request(), on_progress=lambda _: order.append("second"))
        assert isinstance(first.outcome(), list)
        assert isinstance(second.outcome(), list)
    finally:
        bench.engine.close()
    assert order == ["first"] * 30 + ["second"] * 3
    (result,) = second.final_events
    assert isinstance(result, GenerationResult)
    assert result.waited_s > 0
    assert result.engine_s > 0


def test_describe_tells_what_is_loaded(bench: Bench) -> None:
    info = bench.engine.describe()
    assert (info.model_id, info.device, info.dtype) == (bench.loaded.spec.id, "cpu", "float32")
    assert info.weights_sha256 == bench.loaded.weights_sha256
    assert info.num_parameters == bench.loaded.num_parameters


def test_checking_an_adapter_tells_what_is_in_it(bench: Bench) -> None:
    lora = bench.lora("checked", format="kohya", rank=6, targets="all", seed=80)
    assert lora.file is not None
    report = bench.engine.check_adapter(lora.file)
    assert {bench.runner.denoiser_name, *bench.runner.text_encoders[:1]} <= set(report.components)
    assert report.max_rank >= 6
    assert report.num_layers > 10
    assert report.num_bytes > 0
    assert bench.engine._bank.stats.num_in_use == 0


def test_checking_an_adapter_that_does_not_fit_names_the_key(benches: dict[str, Bench]) -> None:
    lora = benches["flux"].lora("other-family", seed=81)
    assert lora.file is not None
    benches["sd"].shelf.add(benches["flux"].shelf.read(lora.file))
    with pytest.raises(AdapterError, match="transformer_blocks"):
        benches["sd"].engine.check_adapter(lora.file)


def test_a_scale_of_nothing_is_no_adapter(sd: Bench) -> None:
    lora = sd.lora("scaled", seed=82, targets="all")
    without = sd.pixels(sd.request())
    assert same(sd.pixels(sd.request(loras=(replace(lora, scale=0.0),))), without)
    assert difference(sd.pixels(sd.request(loras=(lora,)))[0], without[0]) > 8


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_every_format_opens_and_says_where_it_comes_from(bench: Bench, output_format: str) -> None:
    image = bench.engine.generate(bench.request(output_format=output_format, seed=11, num_images=2)).images[1]
    with Image.open(io.BytesIO(image.data)) as picture:
        assert ((picture.format or "").lower(), picture.size) == (output_format, (64, 32))
    assert image.content_type == f"image/{output_format}"
    record = read_provenance(image.data).darkroom
    assert record is not None
    assert record["seed"] == 12
    assert record["weights_sha256"] == bench.loaded.weights_sha256


def test_distilled_models_ignore_guidance_and_negative_prompt(sd: Bench) -> None:
    limits = sd.loaded.spec.limits.model_copy(update={"has_guidance": False, "has_negative_prompt": False})
    spec = sd.loaded.spec.model_copy(update={"limits": limits})
    distilled = replace(sd, loaded=replace(sd.loaded, spec=spec)).start()
    try:
        with_guidance = distilled.pixels(sd.request(guidance_scale=9.0, negative_prompt="x"))
        assert same(with_guidance, distilled.pixels(sd.request(guidance_scale=0.0, negative_prompt="")))
        assert {num_rows for num_rows, _ in distilled.meter.batches} == {1}
    finally:
        distilled.engine.close()


def test_partial_images_come_in_order_whole_and_change_no_pixel(bench: Bench) -> None:
    plain = bench.request(num_inference_steps=60, num_images=2, guidance_scale=1.0)
    follower = Follower(bench, replace(plain, num_partial_images=3))
    outcome = follower.outcome()
    assert isinstance(outcome, list)
    assert_equal_pictures(outcome, bench.pixels(plain), "with partial images")
    partial = [event for event in follower.events if isinstance(event, Preview) and event.partial_index is not None]
    assert partial, "not one was shown"
    for image_index in range(2):
        own = [it for it in partial if it.image_index == image_index]
        # A finished picture goes first: what is overtaken by it is not shown.
        assert [(it.partial_index, it.step) for it in own] == [(0, 15), (1, 30), (2, 45)][: len(own)]
        for preview in own:
            with Image.open(io.BytesIO(preview.data)) as picture:
                assert (picture.size, preview.content_type) == ((64, 32), "image/png")


def test_small_previews_come_on_the_way_and_none_when_they_are_switched_off(sd: Bench) -> None:
    def previews(every: int) -> list[Preview]:
        bench = sd.start(EngineSettings(preview_every_steps=every, measure_budget_s=0.0))
        try:
            follower = Follower(bench, bench.request(num_inference_steps=60, width_px=128, height_px=128))
            assert isinstance(follower.outcome(), list)
        finally:
            bench.engine.close()
        return [event for event in follower.events if isinstance(event, Preview)]

    assert previews(0) == []
    shown = previews(5)
    assert shown
    assert all(preview.step % 5 == 0 and preview.content_type == "image/jpeg" for preview in shown)
    assert [preview.step for preview in shown] == sorted({preview.step for preview in shown})


def test_progress_counts_what_is_really_run(sd: Bench) -> None:
    seen: list[Progress] = []
    request = sd.request(num_inference_steps=10, image=sd.picture(), strength=0.5)
    result = sd.engine.generate(request, on_progress=seen.append)
    assert [(progress.step, progress.steps) for progress in seen] == [(step, 5) for step in range(1, 6)]
    used = [0.0, *(progress.device_s for progress in seen), result.device_s]
    assert all(before < after for before, after in itertools.pairwise(used)), "decoding uses the device too"


def test_an_engine_in_hand_of_nothing_says_so(sd: Bench) -> None:
    bench = sd.start()
    try:
        bench.engine.generate(bench.request(loras=(bench.lora("seen", seed=83),)))
        bench.engine.generate(bench.request(loras=(bench.lora("seen", seed=83),)))
        load = bench.engine.load()
        assert (load.waiting, load.active) == (0, 0)
        assert load.adapter_bytes > 0
        assert (load.num_adapter_loads, load.num_adapter_hits) == (1, 1)
    finally:
        bench.engine.close()


def test_step_times_are_taken_over_by_the_next_start(sd: Bench, tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    for _ in range(2):
        engine = Engine(sd.loaded, QUICK_START, table_path=path)
        entries = engine._times.entries()
        engine.close()
        assert {rows for _, _, rows, _ in entries} == set(QUICK_START.measure_rows)
    measured = path.read_text()
    again = Engine(sd.loaded, EngineSettings(measure_budget_s=0.0), table_path=path)
    again.close()
    assert path.read_text() == measured


def test_an_adapter_without_a_file_is_refused(sd: Bench) -> None:
    with pytest.raises(AdapterError, match="'alice' was not looked up"):
        sd.engine.generate(sd.request(loras=(LoraChoice("alice"),)))


def test_pictures_have_the_size_asked_for(bench: Bench) -> None:
    for width_px, height_px in ((32, 96), (96, 32), (64, 64)):
        (image,) = bench.engine.generate(bench.request(width_px=width_px, height_px=height_px)).images
        assert picture_of(image).shape == (height_px, width_px, 3)
        assert (image.width_px, image.height_px) == (width_px, height_px)
