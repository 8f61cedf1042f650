"""Following a job through its dispatcher, and calling it off: in its lane, at the engine, while pictures are stored."""

import asyncio
import threading
from typing import Any

import pytest

from models.blobs import BlobInfo
from pipelines.request import Preview, Progress
from serving.errors import BackendLost, Conflict, NotFound, Unavailable
from serving.jobs.feed import News
from serving.jobs.job import Job
from serving.jobs.lane import Place
from tests.serving.conftest import OpenHouse
from tests.serving.house import House, eventually


@pytest.fixture
async def quiet(houses: OpenHouse) -> House:
    """A house whose Router drives only what it is told to."""
    return await houses(sweeps=False, lane_width=1)


async def told_of(house: House, job: Job) -> list[News | Job]:
    return [news async for news in house.dispatcher.follow(Place.of(job))]


def driving(house: House, job: Job) -> "asyncio.Task[Job | None]":
    return asyncio.create_task(house.dispatcher.drive(Place.of(job)))


async def test_a_follower_drives_the_job_and_hears_its_end_last(quiet: House) -> None:
    quiet.backend.step_s = 0.001
    job = await quiet.insert(num_inference_steps=4, num_partial_images=2)
    *told, ended = await told_of(quiet, job)
    assert isinstance(ended, Job)
    assert ended.status == "succeeded"
    assert [news.step for news in told if isinstance(news, Progress)] == [1, 2, 3, 4]
    previews = [news.partial_index for news in told if isinstance(news, Preview)]
    assert [index for index in previews if index is not None] == [0, 1]


async def test_followers_join_a_running_job_and_it_is_made_once(quiet: House) -> None:
    quiet.backend.gate.clear()
    job = await quiet.insert(num_inference_steps=2)
    first = driving(quiet, job)
    await eventually(lambda: quiet.backend.num_running)
    await asyncio.sleep(0.02)
    late = [asyncio.create_task(told_of(quiet, job)) for _ in range(3)]
    await asyncio.sleep(0)
    quiet.backend.gate.set()
    for told in await asyncio.gather(*late):
        assert {type(news) for news in told} == {Progress, Preview, Job}
        assert told[-1] == await first
    assert quiet.backend.calls == [job.id]


async def test_a_follower_that_goes_away_does_not_stop_the_job(quiet: House) -> None:
    quiet.backend.gate.clear()
    job = await quiet.insert()
    follower = quiet.dispatcher.follow(Place.of(job))
    await anext(follower)
    await follower.aclose()
    quiet.backend.gate.set()
    assert (await quiet.until(job, "succeeded")).attempts == 1


async def test_a_job_that_another_router_has_gives_a_follower_nothing(quiet: House) -> None:
    job = await quiet.insert()
    await quiet.store.claim(job.id, owner="router-2")
    assert await told_of(quiet, job) == []


async def test_a_follower_hears_that_the_job_was_put_back(quiet: House) -> None:
    quiet.backend.troubles.append(BackendLost("its process died"))
    (back,) = await told_of(quiet, await quiet.insert())
    assert isinstance(back, Job)
    assert back.status == "queued"


async def test_a_waiting_job_is_cancelled_and_never_made(quiet: House) -> None:
    job = await quiet.insert()
    cancelled = await quiet.store.cancel("alice", job.id)
    assert (cancelled.status, cancelled.finished_at is None, cancelled.owner) == ("cancelled", False, None)
    assert await quiet.drive(job) is None
    assert quiet.backend.calls == []


async def test_cancelling_twice_is_no_error_and_changes_nothing(quiet: House) -> None:
    job = await quiet.insert()
    assert await quiet.store.cancel("alice", job.id) == await quiet.store.cancel("alice", job.id)


async def test_another_tenants_job_cannot_be_cancelled(quiet: House) -> None:
    job = await quiet.insert(tenant="alice")
    with pytest.raises(NotFound):
        await quiet.store.cancel("bob", job.id)
    assert (await quiet.store.get("alice", job.id)).status == "queued"


async def test_a_job_that_has_ended_cannot_be_cancelled(quiet: House) -> None:
    job = await quiet.insert()
    ended = await quiet.drive(job)
    with pytest.raises(Conflict, match="succeeded already"):
        await quiet.store.cancel("alice", job.id)
    assert await quiet.store.get("alice", job.id) == ended


async def test_a_running_job_that_is_called_off_frees_its_backend_and_its_waiters(quiet: House) -> None:
    quiet.backend.gate.clear()
    job = await quiet.insert()
    waiters = [driving(quiet, job) for _ in range(2)]
    following = asyncio.create_task(told_of(quiet, job))
    await eventually(lambda: quiet.backend.num_running)
    await quiet.store.cancel("alice", job.id)
    quiet.dispatcher.call_off(job.id)
    assert await asyncio.wait_for(asyncio.gather(*waiters), 5) == [None, None]
    assert not any(isinstance(news, Job) for news in await asyncio.wait_for(following, 5))
    assert (quiet.backend.num_running, quiet.backend.num_cancelled) == (0, 1)
    assert (await quiet.store.get("alice", job.id)).status == "cancelled"


async def test_a_job_called_off_in_its_lane_leaves_the_place_to_the_next(quiet: House) -> None:
    quiet.backend.gate.clear()
    first, second, third = [await quiet.insert() for _ in range(3)]
    running, called_off, next_one = [driving(quiet, job) for job in (first, second, third)]
    await eventually(lambda: quiet.backend.num_running)
    await quiet.store.cancel("alice", second.id)
    quiet.dispatcher.call_off(second.id)
    assert await asyncio.wait_for(called_off, 5) is None
    quiet.backend.gate.set()
    assert [(ended := await task) and ended.status for task in (running, next_one)] == ["succeeded"] * 2
    assert quiet.backend.calls == [first.id, third.id]


async def test_calling_off_what_nobody_drives_is_no_error(quiet: House) -> None:
    quiet.dispatcher.call_off("job_none")


async def test_a_driver_that_was_not_told_finds_out_at_its_next_write(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, jobs={"progress_write_s": 0.01})
    house.backend.step_s = 0.02
    job = await house.insert(num_inference_steps=1_000)
    running = driving(house, job)
    await house.until(job, "running")
    await house.store.cancel("alice", job.id)
    assert await asyncio.wait_for(running, 10) is None
    assert house.backend.num_running == 0


async def test_a_job_cancelled_while_its_pictures_are_stored_leaves_none(
    quiet: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_storing, may_go_on = threading.Event(), threading.Event()
    put = quiet.blobs.put

    def slow_put(key: str, data: bytes, content_type: str, **more: Any) -> BlobInfo:
        is_storing.set()
        assert may_go_on.wait(10)
        return put(key, data, content_type, **more)

    monkeypatch.setattr(quiet.blobs, "put", slow_put)
    job = await quiet.insert(num_images=2)
    running = driving(quiet, job)
    await eventually(is_storing.is_set)
    await quiet.store.cancel("alice", job.id)
    quiet.dispatcher.call_off(job.id)
    may_go_on.set()
    assert await asyncio.wait_for(running, 10) is None
    assert quiet.blobs.keys == []


async def test_a_job_cancelled_just_before_its_commit_leaves_no_picture(
    quiet: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    succeed = quiet.store.succeed

    async def too_late(job: Job, *args: Any, **more: Any) -> Job:
        assert quiet.blobs.keys != []
        await quiet.store.cancel(job.tenant, job.id)
        return await succeed(job, *args, **more)

    monkeypatch.setattr(quiet.store, "succeed", too_late)
    job = await quiet.insert()
    assert await driving(quiet, job) is None
    assert ((await quiet.store.get("alice", job.id)).status, quiet.blobs.keys) == ("cancelled", [])


async def test_a_commit_whose_answer_was_lost_keeps_its_pictures(quiet: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write arrived: what then looks like a failure must not take the pictures of a succeeded job away."""
    succeed = quiet.store.succeed

    async def unanswered(*args: Any, **more: Any) -> Job:
        await succeed(*args, **more)
        raise BackendLost("whatever comes after the write")

    monkeypatch.setattr(quiet.store, "succeed", unanswered)
    job = await quiet.insert()
    assert await driving(quiet, job) is None
    ended = await quiet.store.get("alice", job.id)
    assert ended.result is not None
    assert quiet.blobs.keys == [image.key for image in ended.result.images]


async def test_a_commit_that_arrives_late_finds_its_pictures(
    houses: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver gave the write up for lost and would put the job back, when the database carries it out."""
    house = await houses(sweeps=False, jobs={"lease_s": 0.2, "heartbeat_s": 0.1, "poll_s": 0.02})
    succeed, put_back = house.store.succeed, house.store.put_back
    under_way: list[tuple[Any, Any]] = []

    async def unanswered(*args: Any, **more: Any) -> Job:
        under_way.append((args, more))
        raise Unavailable("no answer within the timeout")

    async def arrives_first(*args: Any, **more: Any) -> Job:
        first_args, first_more = under_way[0]
        await succeed(*first_args, **first_more)
        return await put_back(*args, **more)

    monkeypatch.setattr(house.store, "succeed", unanswered)
    monkeypatch.setattr(house.store, "put_back", arrives_first)
    job = await house.insert()
    assert await driving(house, job) is None
    assert len(under_way) > 1
    ended = await house.store.get("alice", job.id)
    assert ended.result is not None
    assert house.blobs.keys == [image.key for image in ended.result.images]


async def test_pictures_of_an_attempt_that_could_not_store_all_are_removed(
    quiet: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = quiet.blobs.put

    def put_or_fail(key: str, data: bytes, content_type: str, **more: Any) -> BlobInfo:
        if key.endswith("-1.png"):
            quiet.blobs.is_down = True
            try:
                return put(key, data, content_type, **more)
            finally:
                quiet.blobs.is_down = False
        return put(key, data, content_type, **more)

    monkeypatch.setattr(quiet.blobs, "put", put_or_fail)
    back = await driving(quiet, await quiet.insert(num_images=3))
    assert back is not None
    assert (back.status, quiet.blobs.keys) == ("queued", [])


async def test_of_a_cancellation_and_an_end_exactly_one_happens(quiet: House) -> None:
    for _ in range(20):
        job = await quiet.insert(num_inference_steps=1)
        outcomes = await asyncio.gather(
            driving(quiet, job), quiet.store.cancel("alice", job.id), return_exceptions=True
        )
        stored = await quiet.store.get("alice", job.id)
        is_refused = isinstance(outcomes[1], Conflict)
        assert stored.status == ("succeeded" if is_refused else "cancelled")
        assert (stored.result is None) is not is_refused
        assert bool([key for key in quiet.blobs.keys if job.id in key]) is is_refused
