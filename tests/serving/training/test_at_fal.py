"""A model that cannot be trained here, at a local fal.ai: what goes along, what comes back, what an attempt finds."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from models.errors import BlobError
from pipelines.request import Progress
from tests.fake_fal import KEY, FakeFal, fake_fal
from tests.models.lora_bytes import lora_bytes
from tests.serving.training.conftest import JOB_ID, PREFIX, Bench

MODEL = "flux-dev"
FAL_NOTE = f"temp/{JOB_ID}/fal.json"


@pytest_asyncio.fixture
async def fal() -> AsyncIterator[FakeFal]:
    async with fake_fal(file=lora_bytes(), total_steps=6) as server:
        yield server


@pytest.fixture
def bench(fal: FakeFal, make_bench: Callable[..., Bench]) -> Bench:
    there: dict[str, Any] = {"key": KEY, "queue_url": fal.url, "poll_s": 0.01, "max_inline_bytes": 10}
    return make_bench(fal=there)


def wish() -> dict[str, Any]:
    return {"base_model": MODEL, "frames": {"max_per_video": 6}}


async def test_its_dataset_goes_there_by_url_and_a_file_comes_back_unproven(fal: FakeFal, bench: Bench) -> None:
    made = await bench.train(bench.order(**wish()))
    assert bench.blobs.get(made.file.key) == fal.file
    assert (made.quality, made.samples, made.loss_plot, made.frames_used) == (None, (), None, 5)
    (asked,) = fal.asked
    assert asked.body["steps"] == 6
    assert bench.blobs.open_url(asked.body["images_data_url"]).startswith(b"PK")
    assert {"manifest.json", "contact-upl_1.jpg", "images/0004.png"} < set(bench.stored(PREFIX))
    news = [one for one in bench.told if isinstance(one, Progress)]
    assert [one.share for one in news] == sorted(one.share or 0.0 for one in news)
    assert max(one.step for one in news if one.stage == "train") == 6
    bench.assert_clean()


async def test_an_attempt_that_takes_over_does_not_pay_twice(
    fal: FakeFal, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_file = bench.blobs.put_file

    def put_no_adapter(key: str, *rest: Any) -> None:
        if key.endswith("adapter.safetensors"):
            raise BlobError("no answer")
        put_file(key, *rest)

    with monkeypatch.context() as away:
        away.setattr(bench.blobs, "put_file", put_no_adapter)
        assert (await bench.fail(bench.order(**wish()))).may_pass
    assert bench.blobs.exists(FAL_NOTE)
    made = await bench.train(bench.order(**wish()))
    assert bench.blobs.get(made.file.key) == fal.file
    assert len(fal.asked) == 1


async def test_without_a_key_nobody_is_asked(fal: FakeFal, make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    assert (await bench.fail(bench.order(**wish()))).code == "not_trainable"
    assert fal.calls == []
