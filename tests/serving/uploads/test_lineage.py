"""A deletion says what was made, and does not take a file from a job that needs it, whoever is first."""

import asyncio
import dataclasses

import pytest

from serving.errors import BadInput, Conflict, NotFound
from serving.jobs.job import Job
from serving.uploads import lineage
from serving.uploads.lineage import Use
from tests.serving.house import a_job
from tests.serving.uploads.bench import TENANT, Bench


def known_job(bench: Bench, status: str) -> Job:
    job = dataclasses.replace(a_job(), status=status)
    bench.jobs.jobs[job.id] = job
    return job


async def test_a_deletion_says_what_was_made_from_it(bench: Bench) -> None:
    upload = await bench.ready(b"one")
    done, failed = known_job(bench, "succeeded"), known_job(bench, "failed")
    for kind, name in (("frames", done.id), ("lora", "alice-style@2"), ("frames", failed.id), ("frames", done.id)):
        await bench.uploads.note_use(TENANT, upload.id, kind=kind, id=name)
    made = await bench.uploads.delete(TENANT, upload.id)
    assert sorted(made, key=lambda use: use.id) == [
        Use("lora", "alice-style@2"),
        *sorted((Use("frames", done.id), Use("frames", failed.id)), key=lambda use: use.id),
    ]
    assert await bench.mongo.of_tenant("upload_uses", TENANT).count({}) == 0


@pytest.mark.parametrize("status", ["queued", "running"])
async def test_while_a_job_that_needs_it_is_not_over_it_stays(bench: Bench, status: str) -> None:
    upload = await bench.ready(b"one")
    job = known_job(bench, status)
    await bench.uploads.note_use(TENANT, upload.id, kind="frames", id=job.id)
    with pytest.raises(Conflict, match=job.id) as refused:
        await bench.uploads.delete(TENANT, upload.id)
    assert refused.value.code == "upload_in_use"
    assert (await bench.store.get(TENANT, upload.id)).status == "ready"
    bench.jobs.jobs[job.id] = dataclasses.replace(job, status="cancelled")
    assert await bench.uploads.delete(TENANT, upload.id) == [Use("frames", job.id)]


async def test_a_use_whose_job_never_came_counts_only_while_it_is_young(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await bench.ready(b"one")
    await bench.uploads.note_use(TENANT, upload.id, kind="frames", id="job_that_never_came")
    with pytest.raises(Conflict):
        await bench.uploads.delete(TENANT, upload.id)
    monkeypatch.setattr(lineage, "YOUNG_S", 0.0)
    assert await bench.uploads.delete(TENANT, upload.id) == []


async def test_of_a_use_and_a_deletion_at_once_one_gives_way(bench: Bench) -> None:
    """Never both: a deleted file with a job that was told it is there."""
    outcomes = set()
    for number in range(12):
        upload = await bench.ready(b"one")
        delays = (0.0, 0.002) if number % 2 else (0.002, 0.0)
        used, deleted = await asyncio.gather(
            later(delays[0], bench.uploads.note_use(TENANT, upload.id, kind="frames", id=f"job_{number}")),
            later(delays[1], bench.another().uploads.delete(TENANT, upload.id)),
            return_exceptions=True,
        )
        is_there = await bench.store.find(TENANT, upload.id) is not None
        assert isinstance(used, NotFound) or is_there, "the use was accepted, and the file is gone"
        assert isinstance(deleted, Conflict) or not is_there
        outcomes.add(is_there)
    assert outcomes == {True, False}, "the test has seen only one of the two"


async def test_a_use_of_what_is_gone_leaves_no_trace(bench: Bench) -> None:
    with pytest.raises(NotFound):
        await bench.uploads.note_use(TENANT, "upl_gone", kind="frames", id="job_1")
    assert await bench.mongo.of_tenant("upload_uses", TENANT).count({}) == 0


async def test_a_use_that_comes_between_look_and_mark_calls_the_deletion_off(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload, other = await bench.ready(b"one"), await bench.ready(b"one")
    mark = bench.store.mark_deleting

    async def slow(seen: object) -> object:
        await bench.uploads.note_use(TENANT, upload.id, kind="frames", id="job_new")
        marked = await mark(seen)  # type: ignore[arg-type]
        await bench.another().uploads.delete(TENANT, other.id)  # which must not take the object that both hold
        return marked

    monkeypatch.setattr(bench.store, "mark_deleting", slow)
    with pytest.raises(Conflict, match="job_new"):
        await bench.uploads.delete(TENANT, upload.id)
    monkeypatch.undo()
    assert await bench.uploads.read_image(TENANT, upload.id) == b"clean one"
    assert len(await bench.everything_fits()) == 2


async def test_only_a_ready_file_of_the_right_kind_can_be_used(bench: Bench) -> None:
    pending, ready = await bench.send(b"one"), await bench.ready(b"two")
    assert (await bench.uploads.require(TENANT, ready.id, "image")).file.sha256
    with pytest.raises(BadInput) as wrong:
        await bench.uploads.require(TENANT, ready.id, "video")
    assert (wrong.value.code, wrong.value.param) == ("wrong_purpose", "upload_id")
    with pytest.raises(Conflict) as early:
        await bench.uploads.require(TENANT, pending.id, "image")
    assert (early.value.code, early.value.param) == ("upload_not_ready", "upload_id")
    for tenant, upload_id in (("bob", ready.id), (TENANT, "upl_none")):
        with pytest.raises(NotFound) as unknown:
            await bench.uploads.require(tenant, upload_id, "image")
        assert (unknown.value.code, unknown.value.param) == ("upload_not_found", "upload_id")


async def later(delay_s: float, work: object) -> object:
    await asyncio.sleep(delay_s)
    return await work  # type: ignore[misc]
