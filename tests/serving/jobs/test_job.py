"""Job: what is stored comes back the same, whatever it holds; transitions, ids and folders."""

import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from pipelines.request import (
    LoraChoice,
    StoredFile,
)
from serving.jobs.documents import job_from_document, job_to_document
from serving.jobs.job import (
    FINAL,
    MAX_HISTORY,
    OLD_MAX_AGE_S,
    TRANSITIONS,
    Attempt,
    Job,
    JobError,
    JobResult,
    StoredImage,
)
from serving.mongo import Mongo
from tests.serving.house import a_job, a_request
from tests.serving.jobs.strategies import LARGEST_SEED, jobs


@given(jobs)
def test_a_job_comes_back_from_its_document_as_it_was(job: Job) -> None:
    assert job_from_document(job_to_document(job)) == job


@given(jobs)
def test_a_document_holds_no_number_that_a_double_or_an_int64_would_spoil(job: Job) -> None:
    def check(value: Any) -> None:
        assert isinstance(value, str | int | float | list | dict | None), value
        assert not isinstance(value, bool | tuple)
        if isinstance(value, int):
            assert abs(value) < 2**53
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            check(item)

    check(job_to_document(job))


async def test_a_job_comes_back_from_the_database_as_it_was(mongo: Mongo) -> None:
    image = StoredImage("a/b-0.png", "image/png", 5, "ab" * 32, 64, 64, LARGEST_SEED)
    job = Job(
        **{
            **{name: getattr(a_job(), name) for name in Job.__slots__},
            "request": a_request(
                seed=LARGEST_SEED,
                prompt='☀ ü\n"q" $set.x',
                loras=(LoraChoice("a@2", 0.8, StoredFile("tenants/alice/a", "cd" * 32)), LoraChoice("b@1")),
                image=StoredFile("temp/x/image.png", "ef" * 32),
                mask=StoredFile("temp/x/mask.png", "01" * 32),
                strength=0.35,
                num_partial_images=2,
            ),
            "result": JobResult((image, image), engine_s=0.1 + 0.2, waited_s=1e-6),
            "error": JobError("code", "message"),
            "history": (Attempt(1, time.time(), time.time() + 0.1, "out_of_memory", "ü ☀", "engine:x"),),
            "device_s": 0.1 + 0.2,
            "webhook_url": "https://example.org/hook?a=b",
            "metadata": {"order-id_1": "ü ☀", "0": "", "text": "a.b$c"},
            "started_at": time.time(),
            "user": "someone@example.org",
        }
    )
    gate = mongo.of_tenant("jobs", job.tenant)
    await gate.insert(job_to_document(job))
    document = await gate.find_one({"_id": job.id})
    assert document is not None
    assert job_from_document(document) == job


def test_a_document_from_before_requests_had_files_is_still_read() -> None:
    """As it was stored then: whole, so that a change of today's writer cannot hide in it."""
    document = {
        "_id": "job_019a00000000aaaaaaaaaaaaaaaa",
        "tenant": "alice",
        "kind": "image",
        "request": {
            "model_id": "emoji-3d",
            "prompt": "a red apple",
            "negative_prompt": "",
            "width_px": 128,
            "height_px": 128,
            "num_images": 1,
            "seed": "9223372036854775807",
            "num_inference_steps": 20,
            "guidance_scale": 4.5,
            "scheduler": None,
            "loras": [{"name": "style@1", "scale": 0.5}],
            "output_format": "png",
            "output_compression": 100,
        },
        "priority": "normal",
        "priority_rank": 1,
        "model": "emoji-3d",
        "created_at": 1_790_000_000.5,
        "status": "queued",
        "progress": 0,
        "step": 0,
        "steps": 20,
        "started_at": None,
        "finished_at": None,
        "attempts": 0,
        "lost_workers": 0,
        "not_before": 0.0,
        "fence": 0,
        "owner": None,
        "lease_until": 0.0,
        "backend": None,
        "result": None,
        "error": None,
        "metadata": {},
        "user": None,
        "request_id": "req_1",
    }
    job = job_from_document(document)
    request = job.request
    assert (job.expires_at, job.history, job.wake_at) == (1_790_000_000.5 + OLD_MAX_AGE_S, (), 0.0)
    assert (request.seed, request.loras) == (LARGEST_SEED, (LoraChoice("style@1", 0.5, file=None),))
    assert (request.image, request.mask, request.strength, request.num_partial_images) == (None, None, 1.0, 0)


def test_a_document_of_a_newer_version_with_more_fields_is_still_read() -> None:
    job = a_job()
    assert job_from_document({**job_to_document(job), "cancel_requested": 0}) == job


def test_final_statuses_lead_nowhere_and_every_other_ends_somewhere() -> None:
    assert {"succeeded", "failed", "cancelled"} == FINAL
    for status in set(TRANSITIONS) - FINAL:
        assert TRANSITIONS[status] & FINAL
    assert TRANSITIONS["running"] >= {"queued"}
    assert "queued" not in TRANSITIONS["queued"]
    assert "succeeded" not in TRANSITIONS["queued"]


def test_a_job_remembers_its_latest_attempts_and_no_more_than_fit() -> None:
    job = a_job()
    for number in range(1, MAX_HISTORY + 11):
        job = replace(job, attempts=number, started_at=100.0 + number)
        job = replace(job, history=job.with_attempt("out_of_memory", f"the {number}th", backend="engine:x"))
    assert [attempt.number for attempt in job.history] == list(range(11, MAX_HISTORY + 11))
    latest = job.history[-1]
    assert (latest.started_at, latest.code, latest.backend) == (100.0 + MAX_HISTORY + 10, "out_of_memory", "engine:x")
    assert latest.ended_at >= latest.started_at


def test_ids_sort_by_the_time_they_were_made() -> None:
    first = a_job()
    time.sleep(0.002)
    second = a_job()
    assert first.id < second.id
    assert first.created_at < second.created_at


def test_all_images_count_as_steps() -> None:
    assert a_job(num_images=3, num_inference_steps=4).steps == 12


@pytest.mark.parametrize(("strength", "steps"), [(1.0, 20), (0.8, 16), (0.5, 10), (0.07, 1), (0.05, 1)])
def test_steps_that_a_start_from_a_picture_saves_do_not_count(strength: float, steps: int) -> None:
    image = StoredFile("temp/x/image.png", "ab" * 32)
    job = a_job(num_images=2, num_inference_steps=20, strength=strength, image=image)
    assert job.steps == 2 * steps


@pytest.mark.parametrize(
    ("user", "folder"),
    [(None, "-"), ("u1", "u1"), ("someone@example.org", "someone@example.org"), ("_x-y.z", "_x-y.z")],
)
def test_pictures_lie_in_the_folder_of_tenant_user_and_job(user: str | None, folder: str) -> None:
    job = a_job(tenant="alice", user=user)
    assert job.output_prefix == f"tenants/alice/generated-images/{folder}/{job.id}/"


@pytest.mark.parametrize("user", ["", "a/b", "..", ".", "../../bob", "ü", "-", "a b", "x" * 65, "a\n", "\x00"])
def test_a_user_that_is_no_safe_folder_gets_a_hash_of_its_own(user: str) -> None:
    prefix = a_job(user=user).output_prefix
    folder = prefix.split("/")[3]
    assert prefix.count("/") == 5
    assert folder.startswith("u-")
    assert len(folder) == 18
    assert a_job(user=user + "x").output_prefix.split("/")[3] != folder
