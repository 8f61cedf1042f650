"""The promise: whatever shares its batches, a request's pictures are those that plain diffusers makes of it alone."""

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from configs.settings import PROJECT_DIR, ModelSettings
from models.catalog import load_catalog
from models.loader import load_model
from pipelines import loop
from pipelines.batcher import Candidate
from pipelines.engine import Engine
from pipelines.preparing import Sources
from tests.pipelines.bench import (
    QUICK_START,
    TOLERANCE,
    Bench,
    Recorder,
    Shelf,
    assert_equal_pictures,
    difference,
    pixels_of,
)
from tests.pipelines.conftest import Promise
from tests.pipelines.mixed import all_at_once, at_random_moments, same_sized
from tests.pipelines.reference import Pixels

NUM_ORDERS = 10


def test_every_request_alone_gives_the_pictures_of_plain_diffusers(bench: Bench, promise: Promise) -> None:
    for name, request in promise.requests.items():
        assert_equal_pictures(bench.pixels(request), promise.plain[name], name)


def test_all_at_once_in_any_order_they_give_the_same_pictures(bench: Bench, promise: Promise) -> None:
    bench.meter.batches.clear()
    for order in range(NUM_ORDERS):
        for name, pictures in at_random_moments(bench, promise.requests, order).items():
            assert_equal_pictures(pictures, promise.plain[name], f"order {order}, {name}")
    assert bench.meter.largest_batch >= 2, "they did not share their steps"


def test_whoever_is_chosen_to_step_together_the_pictures_are_the_same(
    bench: Bench, promise: Promise, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(0)

    def choose_anyhow(candidates: Iterable[Candidate], *_: object) -> tuple[int, ...]:
        by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
        for candidate in candidates:
            by_size[candidate.width_px, candidate.height_px].append(candidate.id)
        if not by_size:
            return ()
        ids = dice.choice(list(by_size.values()))
        return tuple(dice.sample(ids, dice.randint(1, len(ids))))

    monkeypatch.setattr(loop, "choose_batch", choose_anyhow)
    bench.meter.batches.clear()
    for attempt in range(3):
        for name, outcome in all_at_once(bench, promise.requests).items():
            assert isinstance(outcome, list), f"{name}: {outcome}"
            assert_equal_pictures(outcome, promise.plain[name], f"attempt {attempt}, {name}")
    assert bench.meter.largest_batch >= 4, "they did not share their steps"


def test_adapters_pictures_and_masks_show_in_what_comes_of_them(bench: Bench, promise: Promise) -> None:
    """Else the comparisons above would prove nothing about them."""
    for name, asked in promise.requests.items():
        request = replace(asked, num_images=1)
        for without in ({"loras": ()}, {"image": None, "mask": None}, {"mask": None}):
            plainer = replace(request, **without)
            if plainer != request:
                assert difference(bench.pixels(plainer)[0], promise.plain[name][0]) > 4 * TOLERANCE, (name, without)


def test_the_same_seed_gives_the_same_bytes_again_and_after_a_restart(bench: Bench, promise: Promise) -> None:
    """Of one picture each: several may or may not share a forward pass, and are rounded differently."""
    requests = {name: replace(request, num_images=1) for name, request in promise.requests.items()}
    runs: list[dict[str, Pixels]] = []
    for _ in range(2):
        started = bench.start()
        try:
            runs += [{name: started.pixels(request)[0] for name, request in requests.items()} for _ in range(2)]
        finally:
            started.engine.close()
    for name in requests:
        assert [difference(run[name], runs[0][name]) for run in runs] == [0, 0, 0, 0], name


def test_four_images_are_four_requests_with_seeds_that_follow(bench: Bench, promise: Promise) -> None:
    for name in ("euler-a, two images", "unipc, two adapters", "inpainting"):
        four = bench.engine.generate(replace(promise.requests[name], num_images=4, seed=40))
        assert [image.seed for image in four.images] == [40, 41, 42, 43]
        pictures = pixels_of(four)
        for seed, picture in zip(range(40, 44), pictures, strict=True):
            alone = bench.pixels(replace(promise.requests[name], num_images=1, seed=seed))
            assert_equal_pictures([picture], alone, f"{name}, seed {seed}")
        assert difference(pictures[0], pictures[1]) > TOLERANCE


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The model that comes with the project."""
    base = tmp_path_factory.mktemp("shipped")
    settings = ModelSettings(device="cpu", dtype="float32", num_threads=1)
    loaded = load_model(load_catalog()["emoji-3d"], settings, base)
    shelf, meter = Shelf(base / "shelf"), Recorder()
    engine = Engine(loaded, QUICK_START, sources=Sources(read=shelf.read, fetch=shelf.fetch), meter=meter)
    yield Bench(loaded.folder, loaded, engine, shelf, meter)
    engine.close()


def test_the_model_that_ships_keeps_the_promise_too(shipped: Bench) -> None:
    assert shipped.folder == Path(PROJECT_DIR / "models" / "embedded" / "emoji-3d")
    words = {"negative_prompt": "", "width_px": 64, "height_px": 64, "num_inference_steps": 5}
    start = {"image": shipped.picture(), "strength": 0.7}
    requests = {
        "apple": shipped.request(**words, prompt="red apple, 3d emoji, on a white background", guidance_scale=1.5),
        "boat": shipped.request(**words | {"negative_prompt": "blurry"}, prompt="boat", scheduler="dpm++2m-karras"),
        "two cats": shipped.request(**words, prompt="cat", num_images=2, guidance_scale=1.0, scheduler="euler-a"),
        "from a picture": shipped.request(**words, prompt="fish", scheduler="euler", **start),
        "inpainting": shipped.request(**words, prompt="tree", scheduler="unipc", mask=shipped.mask(), **start),
        "larger": shipped.request(**words | {"width_px": 96}, prompt="car", guidance_scale=3.0),
    }
    plain = {name: shipped.plain(request) for name, request in requests.items()}
    for name, request in requests.items():
        assert_equal_pictures(shipped.pixels(request), plain[name], f"{name}, alone")
    for name, pictures in at_random_moments(shipped, requests, 0).items():
        assert_equal_pictures(pictures, plain[name], f"{name}, with the others")
    assert shipped.meter.largest_batch >= 2


def test_seven_of_the_twelve_can_share_one_pass(promise: Promise) -> None:
    assert len(same_sized(promise.requests)) == 7
    assert len({(request.width_px, request.height_px) for request in promise.requests.values()}) == 3
