"""The life of a training as a job: admitted, resumed, kept, and cleared away, with what it needs and what it leaves."""

import time
from typing import Any

import pytest

from pipelines.request import Progress, TrainingResult
from serving.errors import AppError, BackendLost, BadInput, Conflict, ModerationBlocked, NotFound
from serving.jobs.eta import eta_s
from serving.jobs.job import Job, JobError, input_prefix
from serving.jobs.lora_wish import TrainingWish
from serving.tenancy.auth import Caller
from tests.serving.caretakers import a_caretaker
from tests.serving.conftest import OpenHouse
from tests.serving.house import House
from tests.serving.training_jobs import a_training, an_upload, trained
from training.dataset import MANIFEST

ALICE = Caller(tenant="alice", role="member", key_id="key_1")
BOB = Caller(tenant="bob", role="member", key_id="key_2")
DAY_S = 86_400.0


@pytest.fixture
async def quiet(houses: OpenHouse) -> House:
    """A house whose Router drives only what it is told to."""
    return await houses(sweeps=False)


async def submit(house: House, *, caller: Caller = ALICE, **wish: Any) -> Job:
    wanted = TrainingWish("signer", **wish)
    return (await house.services.submission.submit(caller, wanted, request_id="")).job


async def test_an_upload_that_a_training_needs_stays_and_says_afterwards_which_adapter_came_of_it(quiet: House) -> None:
    upload_id = await an_upload(quiet)
    job = await submit(quiet, upload_ids=(upload_id,), trigger="sks person")
    assert (job.kind, job.model_id, job.output_prefix) == ("lora", "training", f"tenants/alice/datasets/-/{job.id}/")
    with pytest.raises(Conflict, match=job.id):
        await quiet.services.uploads.delete("alice", upload_id)
    ended = await quiet.drive(job)
    assert ended is not None
    assert ended.status == "succeeded", ended.error
    made = await quiet.services.uploads.delete("alice", upload_id)
    assert sorted(use.id for use in made) == sorted([job.id, "signer@1"])


@pytest.mark.parametrize(
    ("wish", "error", "param"),
    [
        ({"upload_ids": ("upl_none",)}, NotFound, "upload_ids"),
        ({"from_job": "job_none"}, NotFound, "from_job"),
        ({"upload_ids": ("upl_none",), "base_model": "sd3.5-medium"}, NotFound, "base_model"),
    ],
)
async def test_what_is_not_there_is_refused_and_nothing_is_stored(
    quiet: House, wish: dict[str, Any], error: type[AppError], param: str
) -> None:
    with pytest.raises(error) as caught:
        await submit(quiet, **wish)
    assert caught.value.param == param
    assert await quiet.store.count_queued() == 0


async def test_a_name_that_is_a_models_and_another_tenants_upload_are_refused(quiet: House) -> None:
    upload_id = await an_upload(quiet)
    with pytest.raises(BadInput) as caught:
        await quiet.services.submission.submit(ALICE, TrainingWish("emoji-3d", (upload_id,)), request_id="")
    assert caught.value.param == "name"
    with pytest.raises(NotFound):
        await submit(quiet, caller=BOB, upload_ids=(upload_id,))


async def test_words_are_looked_at_before_anything_is_trained(quiet: House) -> None:
    upload_id = await an_upload(quiet)
    with pytest.raises(ModerationBlocked) as caught:
        await submit(quiet, upload_ids=(upload_id,), trigger="explicit hardcore porn")
    assert caught.value.param == "trigger"


async def test_a_dataset_is_trained_on_again_with_other_captions(quiet: House) -> None:
    first = await trained(quiet)
    again = await submit(quiet, from_job=first.id, captions={"0000.png": "sks person, smiling"})
    request = again.training
    assert (request.dataset, request.trigger, request.sources) == (first.output_prefix, "sks person", ())
    assert request.captions == (("0000.png", "sks person, smiling"),)
    quiet.blobs.delete(first.output_prefix + MANIFEST)
    with pytest.raises(Conflict) as caught:
        await submit(quiet, from_job=first.id)
    assert caught.value.code == "no_dataset"
    with pytest.raises(NotFound):
        await submit(quiet, caller=BOB, from_job=first.id)


async def test_a_job_that_trains_nothing_has_no_dataset(quiet: House) -> None:
    picture = await quiet.insert()
    with pytest.raises(BadInput) as caught:
        await submit(quiet, from_job=picture.id)
    assert caught.value.param == "from_job"


async def claimed(house: House, job: Job) -> Job:
    stored = await house.store.get(job.tenant, job.id)
    if stored.status == "queued" and stored.not_before:
        assert await house.upkeep.promote(stored)
    mine = await house.driver.claim(job.id)
    assert mine is not None
    return mine


@pytest.mark.parametrize("is_seen_by", ["driver", "upkeep"])
async def test_a_worker_lost_further_on_than_the_last_time_does_not_count(houses: OpenHouse, is_seen_by: str) -> None:
    house = await houses(sweeps=False, jobs={"lora_max_lost_workers": 2, "max_lost_workers": 1})
    job = a_training()
    await house.store.insert(job)

    async def lose(step: int) -> Job:
        mine = await claimed(house, job)
        assert (mine.step, mine.stage, mine.loss, mine.told_eta_s) == (0, None, None, None), "a new attempt"
        await house.store.write_progress(mine, Progress(step, 50, stage="train", loss=0.5, eta_s=9.0))
        if is_seen_by == "driver":
            house.trainer.troubles.append(BackendLost("died"))
            await house.driver.drive(mine, waited_s=0.0)
        else:
            assert await house.upkeep.release(await house.store.get("alice", job.id))
        return await house.store.get("alice", job.id)

    outcomes = [await lose(step) for step in (10, 30, 30, 49, 20)]
    assert [(job.status, job.lost_workers, job.reached) for job in outcomes[:-1]] == [
        ("queued", 0, 10),
        ("queued", 0, 30),
        ("queued", 1, 30),
        ("queued", 1, 49),
    ]
    assert outcomes[-1].error is not None
    assert (outcomes[-1].status, outcomes[-1].error.code) == ("failed", "workers_lost")


async def test_what_is_told_of_a_training_is_stored_and_its_own_word_is_the_eta(quiet: House) -> None:
    job = a_training()
    await quiet.store.insert(job)
    mine = await claimed(quiet, job)
    await quiet.store.write_progress(mine, Progress(5, 50, share=0.42, stage="train", loss=0.125, eta_s=77.5))
    stored = await quiet.store.get("alice", job.id)
    assert (stored.step, stored.steps, stored.progress) == (5, 50, 42)
    assert (stored.stage, stored.loss, stored.told_eta_s) == ("train", 0.125, 77.5)
    assert eta_s(None, None, stored, now=time.time()) == 77.5


async def test_a_training_has_a_deadline_of_its_own(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, jobs={"run_deadline_s": 0.01, "lora_run_deadline_s": 60.0})
    assert (await trained(house)).status == "succeeded"
    slow = await houses(sweeps=False, jobs={"lora_run_deadline_s": 0.2})
    slow.trainer.gate.clear()
    ended = await trained(slow)
    assert ended.error is not None
    assert ended.error.code == "deadline"


async def test_a_result_holds_what_speaks_for_the_version(quiet: House) -> None:
    ended = await trained(quiet, user="u1")
    result, prefix = ended.result, f"tenants/alice/datasets/u1/{ended.id}/"
    assert isinstance(result, TrainingResult)
    assert result.adapter == "signer@1"
    assert result.key == f"tenants/alice/loras/u1/{ended.id}/v1/model.safetensors"
    assert (result.dataset, result.loss_plot) == (f"{prefix}manifest.json", f"{prefix}loss.png")
    assert [sample.key for sample in result.samples] == [f"{prefix}samples/0000.png", f"{prefix}samples/0001.png"]
    assert (result.loss, result.frames_rejected) == (((0, 0.5), (50, 0.25)), (("blurry", 1),))
    for key in (result.key, result.dataset, result.loss_plot, *(sample.key for sample in result.samples)):
        assert quiet.blobs.exists(key)


@pytest.mark.parametrize(("action", "num_kept"), [("block", 0), ("blur", 2), ("flag", 2), ("off", 2)])
async def test_samples_are_kept_as_their_tenant_may_see_them_and_the_version_is_published_anyway(
    houses: OpenHouse, action: str, num_kept: int
) -> None:
    house = await houses(sweeps=False, moderation={"action": action})
    ended = await trained(house, trigger="magenta", moderation="auto")
    assert isinstance(ended.result, TrainingResult), ended.error
    assert len(ended.result.samples) == num_kept
    assert len([key for key in house.blobs.keys if "/samples/" in key]) == num_kept
    looks = {sample.is_nsfw for sample in ended.result.samples}
    assert looks == {"block": set(), "blur": {True}, "flag": {True}, "off": {None}}[action]
    assert all(len(house.blobs.get(sample.key)) == sample.num_bytes for sample in ended.result.samples)


# What is cleared away.


async def cared_for(house: House, job: Job, *, ago_s: float) -> None:
    """A pass of the caretaker over a job that ended so long ago."""
    past = time.time() - ago_s
    jobs = house.mongo.of_tenant("jobs", job.tenant)
    await jobs.update_one({"_id": job.id}, {"$set": {"finished_at": past, "tidy_at": past, "owed_at": 0.0}})
    caretaker = a_caretaker(house.mongo, house.blobs, house.services.settings)
    assert not await caretaker.tidy()


def names(house: House, prefix: str) -> list[str]:
    return [blob.key.removeprefix(prefix) for blob in house.blobs.list(prefix)]


async def left_behind(house: House, how: str) -> Job:
    """A training with a dataset and a checkpoint that ended without a version."""
    job = a_training()
    await house.store.insert(job)
    for key in (f"{job.output_prefix}images/0000.png", f"{input_prefix(job.id)}checkpoint.safetensors"):
        house.blobs.put(key, b"bytes", "image/png")
    if how == "cancelled":
        return await house.store.cancel("alice", job.id)
    return await house.store.fail(await claimed(house, job), JobError("code", "message"))


async def test_of_a_failed_training_all_stays_for_a_retry_and_then_goes(quiet: House) -> None:
    job = await left_behind(quiet, "failed")
    await cared_for(quiet, job, ago_s=DAY_S - 60)
    assert names(quiet, job.output_prefix) == ["images/0000.png"]
    assert names(quiet, input_prefix(job.id)) == ["checkpoint.safetensors"]
    await cared_for(quiet, job, ago_s=DAY_S + 1)
    assert quiet.blobs.keys == []


async def test_of_a_cancelled_training_nothing_stays(quiet: House) -> None:
    await cared_for(quiet, await left_behind(quiet, "cancelled"), ago_s=1)
    assert quiet.blobs.keys == []


async def test_a_dataset_outlives_its_job_and_goes_with_its_version(quiet: House) -> None:
    upload_id = await an_upload(quiet)
    before = quiet.blobs.keys
    job = await trained(quiet, uploads=(upload_id,))
    await cared_for(quiet, job, ago_s=1)
    assert names(quiet, input_prefix(job.id)) == [], "it goes on from there no more"
    assert "manifest.json" in names(quiet, job.output_prefix)
    await cared_for(quiet, job, ago_s=31 * DAY_S)
    with pytest.raises(NotFound):
        await quiet.store.get("alice", job.id)
    assert "manifest.json" in names(quiet, job.output_prefix)
    await quiet.services.adapters.delete("alice", "signer", 1)
    assert quiet.blobs.keys == before
    assert await quiet.mongo.of_tenant("upload_uses", "alice").count({"used_by": "signer@1"}) == 0


async def test_a_lost_attempt_leaves_what_the_next_one_goes_on_from(quiet: House) -> None:
    job = a_training()
    await quiet.store.insert(job)
    quiet.backend.adapter_refusal = "The key 'unet.x' matches nothing."
    ended = await quiet.drive(job)
    assert ended is not None
    assert ended.error is not None
    assert (ended.status, ended.error.code) == ("failed", "bad_adapter")
    assert "manifest.json" in names(quiet, job.output_prefix)
    assert names(quiet, input_prefix(job.id)) == ["adapter.safetensors"]


async def test_a_training_called_off_just_after_it_had_published_leaves_the_version_whole(quiet: House) -> None:
    job, succeed = a_training(), quiet.store.succeed
    await quiet.store.insert(job)

    async def called_off(*args: Any, **kwargs: Any) -> Job:
        await quiet.store.cancel("alice", job.id)
        return await succeed(*args, **kwargs)

    with pytest.MonkeyPatch.context() as late:
        late.setattr(quiet.store, "succeed", called_off)
        assert await quiet.drive(job) is None
    cancelled = await quiet.store.get("alice", job.id)
    for ago_s in (1, 31 * DAY_S):
        await cared_for(quiet, cancelled, ago_s=ago_s)
        assert "manifest.json" in names(quiet, job.output_prefix)
    await quiet.services.adapters.delete("alice", "signer")
    assert quiet.blobs.keys == []
