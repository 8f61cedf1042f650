"""One training, whole: true child processes that train no model, what is told and stored, and what may go wrong."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from pipelines.request import Preview, Progress, StoredFile, TrainedAdapter
from serving.backends.training import TrainingFailure
from serving.training import estimating
from serving.training.apart import Apart
from serving.workspace import Workspace
from tests.serving.sockets import eventually
from tests.serving.training.conftest import JOB_ID, PREFIX, STAND_IN, Bench, children
from tests.serving.training.stand_in import PREVIEW

DATASET = [
    "contact-upl_1.jpg",
    *(f"images/000{place}.{ending}" for place in range(3) for ending in ("png", "txt")),
    "loss.json",
    "manifest.json",
    "rejected.jsonl",
]


async def test_a_video_and_a_picture_become_a_file_and_a_dataset(bench: Bench) -> None:
    made = await bench.train(bench.order(bench.source(), bench.picture()))
    assert bench.stored() == sorted(DATASET)
    assert made.dataset == PREFIX
    manifest = bench.blobs.get(PREFIX + "manifest.json")
    assert made.manifest == StoredFile(PREFIX + "manifest.json", hashlib.sha256(manifest).hexdigest())
    fields = json.loads(manifest)
    assert [source["upload_id"] for source in fields["sources"]] == ["upl_1"], "the picture came last, and went"
    assert (made.frames_used, made.frames_rejected) == (3, (("blurry", 1),))
    assert made.weights_sha256 == fields["base_model"]["sha256"]
    assert len(made.weights_sha256) == 64
    data = bench.blobs.get(made.file.key)
    assert made.file == StoredFile(f"temp/{JOB_ID}/adapter.safetensors", hashlib.sha256(data).hexdigest())
    assert made.num_bytes == len(data) and data.startswith(b"signer 1800000000 ")
    assert made.loss_plot == b"a plot"
    assert [(sample.image.data, sample.prompt, sample.step) for sample in made.samples] == [(b"a sample", "p", 0)]
    assert made.quality is not None and made.quality.best_step == 6
    assert made.device_s > 0.5 + 1.0, "with what the stills took"
    assert bench.stored(f"temp/{JOB_ID}/stills/") == [], "they are in the dataset now"
    bench.assert_clean()


async def test_progress_only_grows_through_all_stages_and_previews_are_shown(bench: Bench) -> None:
    await bench.train(bench.order())
    news = [one for one in bench.told if isinstance(one, Progress)]
    shares = [one.share for one in news]
    assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] < 1
    stages = list(dict.fromkeys(one.stage for one in news))
    assert stages == ["frames", "filter", "caption", "cache", "train", "validate", "publish"]
    steps = [(one.step, one.steps, one.loss) for one in news if one.stage == "train"]
    assert steps == [(step, 6, pytest.approx(1 / step)) for step in range(1, 7)]
    assert all(one.eta_s is not None and one.eta_s > 0 for one in news if one.stage in {"frames", "train"})
    assert [one.data for one in bench.told if isinstance(one, Preview)] == [PREVIEW]


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
async def test_uploaded_pictures_keep_their_format_and_tell_their_size(bench: Bench, format: str) -> None:
    pictures = [bench.picture(f"upl_{n}", format=format) for n in range(2)]
    await bench.train(bench.order(*pictures))
    (found,) = json.loads(bench.blobs.get(PREFIX + "manifest.json"))["pictures"]
    assert (found["width_px"], found["height_px"], found["upload_id"]) == (40, 30, "upl_0")
    assert found["file"].endswith({"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}[format])
    assert bench.blobs.get(PREFIX + found["file"]) == bench.blobs.get(pictures[0].file.key)
    assert bench.stills.orders == []


async def test_a_refusal_keeps_its_code(bench: Bench) -> None:
    failure = await bench.fail(bench.order(mood={"refuse": "prepare"}))
    assert failure == TrainingFailure("too_few_pictures", "One is not enough.", may_pass=False)
    assert bench.stored() == []
    bench.assert_clean()


async def test_an_earlier_dataset_is_captioned_anew_under_the_name_of_the_new_job(bench: Bench) -> None:
    await bench.train(bench.order())
    before = {key: bench.blobs.get(key) for key in bench.stored("") if key.startswith(PREFIX)}
    again = bench.order(job_id="job_2", dataset=PREFIX, captions=(("0000.png", "a signer"),), caption="none")
    made = await bench.train(again)
    assert made.dataset == PREFIX.replace(JOB_ID, "job_2")
    assert bench.blobs.get(f"{made.dataset}images/0000.txt") == b"a signer"
    assert bench.blobs.get(f"{made.dataset}images/0001.txt") == b"none"
    assert bench.blobs.get(f"{made.dataset}images/0001.png") == before[f"{PREFIX}images/0001.png"]
    assert {key: bench.blobs.get(key) for key in before} == before
    assert len(bench.stills.orders) == 1


async def test_an_earlier_dataset_that_is_gone_or_damaged_is_a_failure_for_good(bench: Bench) -> None:
    await bench.train(bench.order())
    again = bench.order(job_id="job_2", dataset=PREFIX)
    bench.blobs.put(f"{PREFIX}images/0000.png", b"another picture", "image/png")
    assert (await bench.fail(again)).code == "bad_dataset"
    bench.blobs.delete(f"{PREFIX}images/0000.png")
    failure = await bench.fail(again)
    assert (failure.code, failure.may_pass) == ("dataset_gone", False)


async def test_a_store_that_is_away_is_no_fault_of_the_request(bench: Bench) -> None:
    order = bench.order()
    bench.blobs.is_down = True
    failure = await bench.fail(order)
    assert (failure.code, failure.may_pass) == ("storage_unavailable", True)
    bench.assert_clean()


async def test_a_full_disk_is_no_fault_of_the_request(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workspace, "free_bytes", 1_000)
    failure = await bench.fail(bench.order())
    assert (failure.code, failure.may_pass) == ("disk_full", True)


async def test_what_clearly_does_not_fit_is_refused_before_anything_is_done(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimating, "MEASURE_WORK", f"{STAND_IN}:measure_a_giant")
    failure = await bench.fail(bench.order())
    assert (failure.code, failure.may_pass) == ("out_of_memory", False)
    assert "1000000.0 GB" in failure.message
    assert bench.stills.orders == []


async def test_one_that_cannot_be_measured_in_time_is_trained_all_the_same(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimating, "MEASURE_WORK", f"{STAND_IN}:measure_for_ever")
    bench = make_bench(measure_timeout_s=0.5)
    assert (await bench.train(bench.order())).frames_used == 2


async def test_a_model_that_cannot_be_trained_here_is_refused(bench: Bench) -> None:
    assert (await bench.fail(bench.order(base_model="qwen-image"))).code == "not_trainable"


async def test_an_estimate_is_measured_once_and_then_known(bench: Bench) -> None:
    request = bench.order(bench.source(), bench.picture(), steps=6).request
    first = await bench.sessions.estimate(request)  # type: ignore[arg-type]
    assert first == await bench.sessions.estimate(request)  # type: ignore[arg-type]
    assert (bench.workspace.path / "measured").read_text() == "once\n"
    speeds = bench.workshop.speeds
    pictures, steps = 3 + 1, 400
    train_s = 1.0 + pictures * 0.5 + steps * 0.25 + 2.0
    assert first.frames_s == pytest.approx(4.0 * speeds.frames_s)
    assert first.time_s == pytest.approx(first.frames_s + pictures * speeds.prepare_s + train_s)
    assert first.memory_bytes == 1_000_000
    assert first.free_bytes is not None and first.free_bytes > 1_000_000


async def test_what_a_training_really_took_takes_the_place_of_what_was_measured(bench: Bench) -> None:
    order = bench.order()
    before = await bench.sessions.estimate(order.request)  # type: ignore[arg-type]
    await bench.train(order)
    after = await bench.sessions.estimate(order.request)  # type: ignore[arg-type]
    assert after.time_s < before.time_s / 4, "0.01 s for a step instead of 0.25"
    assert after.memory_bytes == 2_000_000


async def test_trainings_beyond_the_limit_wait_for_their_turn(make_bench: Callable[..., Bench]) -> None:
    bench, most = make_bench(max_at_once=1), 0
    works = [asyncio.create_task(bench.outcome(bench.order(job_id=f"job_{n}"))) for n in range(2)]

    async def watch() -> bool:
        nonlocal most
        most = max(most, len(children()))
        return all(work.done() for work in works)

    await eventually(watch)
    assert most == 1
    made = [work.result() for work in works]
    assert all(isinstance(one, TrainedAdapter) for one in made)
    assert max(one.waited_s for one in made) > min(one.engine_s for one in made) / 2  # type: ignore[union-attr]


async def test_closing_the_messages_ends_the_work_and_its_process(bench: Bench) -> None:
    async with aclosing(bench.messages(bench.order(mood={"hang_at": 3}))) as messages:
        async for message in messages:
            if isinstance(message, Progress) and message.step == 3:
                assert len(children()) == 1
                break
    bench.assert_clean()


async def test_a_newer_attempt_at_a_job_ends_the_older_one(bench: Bench) -> None:
    older = bench.messages(bench.order(mood={"hang_at": 3}))
    while not (isinstance(message := await anext(older), Progress) and message.step == 3):
        pass
    (child,) = children()
    assert isinstance(await bench.outcome(bench.order(mood={})), TrainedAdapter)
    assert not child.is_running()
    with pytest.raises(asyncio.CancelledError):
        async for _ in older:
            pass
    bench.assert_clean()


async def test_a_training_is_nicer_than_others_and_uses_the_threads_it_is_given(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(num_threads=3, niceness=19)
    found = await Apart(bench.settings).run("tests.pipelines.sandbox_work:describe", {}, wall_s=20)
    environment: dict[str, Any] = found["environment"]
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["TORCHINDUCTOR_CACHE_DIR"].startswith(str(bench.settings.state_dir))
    assert found["niceness"] == 19
