"""The census against a model of it in plain Python, with lines whose names are prefixes of one another."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from operator import attrgetter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.settings import JobSettings
from serving.errors import Unavailable
from serving.jobs.census import Census
from serving.jobs.job import PRIORITY_RANK, Job, Line
from serving.jobs.store import JobStore
from serving.mongo import Mongo
from tests.serving.conftest import fresh_database
from tests.serving.house import a_job

MODELS = ("sd", "sd15", "sd.5", "sd-5", "sd0")
TENANTS = ("t", "t-1", "t1", "t0", "t-")
MANY = 1_000
waiting = st.tuples(st.sampled_from(MODELS), st.sampled_from(sorted(PRIORITY_RANK)), st.sampled_from(TENANTS))
# Mostly of one model, so that lines grow longer than one.
queues = st.lists(waiting | waiting.map(lambda one: ("sd", *one[1:])), max_size=30)


@asynccontextmanager
async def queue_of(url: str, wanted: Iterable[tuple[Any, ...]]) -> AsyncIterator[tuple[Mongo, list[Job]]]:
    """Waiting jobs, oldest first, in a database of their own."""
    async with fresh_database(url) as where:
        mongo = Mongo(where)
        await mongo.make_indexes()
        yield mongo, [await put_in(mongo, *one) for one in wanted]
        await mongo.close()


async def put_in(mongo: Mongo, model_id: str, priority: str, tenant: str) -> Job:
    job = a_job(model_id=model_id, priority=priority, tenant=tenant)
    await JobStore(mongo, JobSettings()).insert(job)
    return job


def in_turn(jobs: list[Job], mine: Job) -> list[Job]:
    """The order in which jobs of one model go: by priority, and within one the lines by turns, the older line first."""
    order: list[Job] = []
    left = sorted((job for job in jobs if job.model_id == mine.model_id), key=attrgetter("id"))
    for rank in sorted(PRIORITY_RANK.values()):
        lines: dict[Line, list[Job]] = {}
        for job in left:
            if PRIORITY_RANK[job.priority] == rank:
                lines.setdefault(Line.of(job), []).append(job)
        taking_turns = sorted(lines.values(), key=lambda line: line[0].id)
        while any(taking_turns):
            order += [line.pop(0) for line in taking_turns if line]
    return order


@settings(max_examples=25, deadline=None)
@given(queues)
def test_positions_and_heads_are_those_of_the_model(mongo_url: str, wanted: list[tuple[str, str, str]]) -> None:
    async def compare() -> None:
        async with queue_of(mongo_url, wanted) as (mongo, jobs):
            census = Census(mongo)
            for job in jobs:
                assert await census.position(job) == in_turn(jobs, job).index(job)
            oldest: dict[Line, str] = {}
            for job in sorted(jobs, key=attrgetter("id")):
                oldest.setdefault(Line.of(job), job.id)
            for models in (MODELS, MODELS[:1], MODELS[1:3], ()):
                expected = {line: head for line, head in oldest.items() if line.model_id in models}
                found = await census.heads(models, limit=MANY)
                assert found == expected
                assert [line.priority_rank for line in found if line.model_id == "sd"] == sorted(
                    line.priority_rank for line in expected if line.model_id == "sd"
                )

    asyncio.run(compare())


async def test_only_those_who_stand_in_line_are_seen(mongo: Mongo) -> None:
    store, census = JobStore(mongo, JobSettings()), Census(mongo)
    running, cancelled, in_line = [await put_in(mongo, "sd", "normal", "t") for _ in range(3)]
    await store.claim(running.id, owner="router-1")
    await store.cancel("t", cancelled.id)
    assert await census.heads(["sd"], limit=MANY) == {Line("sd", 1, "t"): in_line.id}
    assert await census.position(in_line) == 0


async def test_no_more_lines_are_looked_at_than_asked_for_and_the_best_come_first(mongo: Mongo) -> None:
    for priority in ("low", "high", "normal"):
        for tenant in TENANTS:
            await put_in(mongo, "sd", priority, tenant)
    found = await Census(mongo).heads(["sd"], limit=7)
    assert [line.priority_rank for line in found] == [0] * 5 + [1] * 2


async def test_many_who_ask_at_once_are_answered_from_one_look(mongo: Mongo, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [await put_in(mongo, "sd", "normal", tenant) for tenant in TENANTS for _ in range(4)]
    census, looks = Census(mongo), list[int]()
    heads = census.heads

    async def counted(model_ids: Any, **more: Any) -> dict[Line, str]:
        looks.append(1)
        return await heads(model_ids, **more)

    monkeypatch.setattr(census, "heads", counted)
    await census.position(jobs[0])
    positions = await asyncio.gather(*(census.position(job) for job in jobs))
    assert len(looks) == 1
    assert positions == [in_turn(jobs, job).index(job) for job in jobs]


async def test_the_first_who_ask_at_once_are_all_answered_truly(mongo: Mongo) -> None:
    jobs = [await put_in(mongo, "sd", "normal", tenant) for tenant in TENANTS for _ in range(2)]
    census = Census(mongo)
    positions = await asyncio.gather(*(census.position(job) for job in jobs))
    assert positions == [in_turn(jobs, job).index(job) for job in jobs]


async def test_a_look_that_failed_is_not_taken_for_an_empty_queue(mongo: Mongo) -> None:
    jobs = [await put_in(mongo, "sd", "normal", tenant) for tenant in ("t", "t1")]
    census = Census(mongo)

    async def away(*_args: Any, **_more: Any) -> Any:
        raise Unavailable("the database is away")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(census, "heads", away)
        with pytest.raises(Unavailable):
            await census.position(jobs[0])
    assert [await census.position(job) for job in jobs] == [0, 1]
