"""The end of an attempt is written though the database is away for a while, never against somebody else's lease."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from models.errors import GenerationError, OutOfMemory
from serving.errors import Unavailable
from serving.jobs.job import Job
from tests.serving.conftest import OpenHouse
from tests.serving.house import House

Write = Callable[..., Awaitable[Job]]
ENDS: dict[str, tuple[Exception | None, str, str]] = {
    "succeed": (None, "succeeded", "succeed"),
    "fail": (GenerationError("no"), "failed", "fail"),
    "put_back": (OutOfMemory("too large"), "queued", "put_back"),
}


@pytest.fixture
async def quiet(houses: OpenHouse) -> House:
    """A house whose Router drives only what it is told to."""
    return await houses(sweeps=False, jobs={"lease_s": 2.0, "heartbeat_s": 0.5, "poll_s": 0.01})


def away_first(
    write: Write, *, times: int, arrives: bool, meanwhile: Callable[[], Awaitable[Any]] | None = None
) -> Write:
    """The same write, unanswered for the first `times`; `arrives`: the first is carried out all the same."""
    calls: list[int] = []

    async def written(*args: Any, **more: Any) -> Job:
        calls.append(1)
        if len(calls) > times:
            return await write(*args, **more)
        if len(calls) == 1 and arrives:
            await write(*args, **more)
        if len(calls) == 1 and meanwhile is not None:
            await meanwhile()
        raise Unavailable("the database is away")

    return written


@pytest.mark.parametrize("end", ENDS)
async def test_an_end_that_is_not_answered_is_written_again(
    quiet: House, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    error, status, method = ENDS[end]
    if error is not None:
        quiet.backend.troubles.append(error)
    monkeypatch.setattr(quiet.store, method, away_first(getattr(quiet.store, method), times=5, arrives=False))
    job = await quiet.insert()
    ended = await quiet.drive(job)
    assert ended is not None
    assert (ended.status, ended.attempts) == (status, 1)
    assert ended == await quiet.store.get("alice", job.id)
    assert len(quiet.backend.calls) == 1
    assert len(quiet.blobs.keys) == (end == "succeed")


@pytest.mark.parametrize("end", ENDS)
async def test_an_end_that_was_written_though_nobody_heard_of_it_is_written_once(
    quiet: House, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    error, status, method = ENDS[end]
    if error is not None:
        quiet.backend.troubles.append(error)
    monkeypatch.setattr(quiet.store, method, away_first(getattr(quiet.store, method), times=1, arrives=True))
    job = await quiet.insert()
    assert await quiet.drive(job) is None  # the second write found that it was too late, whoever made the first
    stored = await quiet.store.get("alice", job.id)
    assert (stored.status, stored.attempts, len(stored.history)) == (status, 1, 0 if end == "succeed" else 1)
    pointed_at = [] if stored.result is None else [image.key for image in stored.result.images]
    assert quiet.blobs.keys == pointed_at
    assert len(pointed_at) == (end == "succeed")


@pytest.mark.parametrize("taken", ["released", "cancelled", "claimed by another"])
@pytest.mark.parametrize("end", ENDS)
async def test_an_end_that_comes_too_late_changes_nothing_and_leaves_no_picture(
    quiet: House, monkeypatch: pytest.MonkeyPatch, end: str, taken: str
) -> None:
    error, _, method = ENDS[end]
    if error is not None:
        quiet.backend.troubles.append(error)
    job = await quiet.insert()

    async def take() -> None:
        if taken == "cancelled":
            await quiet.store.cancel("alice", job.id)
            return
        assert await quiet.upkeep.release(await quiet.store.get("alice", job.id))
        if taken == "claimed by another":
            assert await quiet.upkeep.promote(await quiet.store.get("alice", job.id))
            assert await quiet.store.claim(job.id, owner="router-2") is not None

    away = away_first(getattr(quiet.store, method), times=3, arrives=False, meanwhile=take)
    monkeypatch.setattr(quiet.store, method, away)
    assert await quiet.drive(job) is None
    stored = await quiet.store.get("alice", job.id)
    assert stored.status == {"released": "queued", "cancelled": "cancelled", "claimed by another": "running"}[taken]
    assert (stored.result, stored.error) == (None, None)
    assert quiet.blobs.keys == []


async def test_a_database_that_stays_away_is_given_up_and_the_lease_brings_the_job_back(
    houses: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = await houses(sweeps=False, jobs={"lease_s": 0.2, "heartbeat_s": 0.05, "poll_s": 0.01})

    async def away(*_args: Any, **_more: Any) -> Any:
        raise Unavailable("the database is away")

    job = await house.insert()
    with monkeypatch.context() as patch:
        for method in ("succeed", "put_back", "renew", "get"):
            patch.setattr(house.store, method, away)
        with pytest.raises(Unavailable):
            await asyncio.wait_for(house.drive(job), 20)
    assert (await house.store.get("alice", job.id)).status == "running"
    assert [found.id for found in await house.upkeep.due(limit=10)] == [job.id]
    assert await house.upkeep.release(await house.store.get("alice", job.id))
    ended = await house.try_again(job)
    assert ended is not None
    assert ended.status == "succeeded"
    assert ended.result is not None
    assert {image.key for image in ended.result.images} <= set(house.blobs.keys)
