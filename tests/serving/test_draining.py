"""The board that every process reads: when to let go, and who works."""

import time
from typing import Any

import pytest

from configs.settings import JobSettings, MongoSettings
from serving.draining import Board, Standing, new_generation
from serving.errors import Unavailable
from serving.jobs.store import JobStore
from serving.mongo import Mongo
from tests.serving.house import a_job


def test_a_server_that_nobody_told_anything_goes_on() -> None:
    assert Standing().must_go_by(100, drain_s=20.0) is None


def test_a_drain_says_by_when() -> None:
    assert Standing(drains_until=500.0).must_go_by(100, drain_s=20.0) == 500.0


@pytest.mark.parametrize(("newest", "must_go"), [(99, False), (100, False), (101, True)])
def test_only_a_newer_deployment_relieves_an_older_one(newest: int, must_go: bool) -> None:
    go_by = Standing(generation=newest).must_go_by(100, drain_s=20.0)
    assert (go_by is not None) == must_go
    if go_by is not None:
        assert time.time() < go_by <= time.time() + 20.0


async def test_all_processes_read_what_one_was_told_until_the_next_start(mongo: Mongo) -> None:
    told, other = Board(mongo, JobSettings()), Board(mongo, JobSettings())
    assert await other.read() == Standing()
    assert (await told.begin_drain(within_s=20.0)).is_draining
    assert (await other.read()).drains_until == pytest.approx(time.time() + 20.0, abs=10.0)
    await told.end_drain()
    assert await other.read() == Standing()


async def test_an_older_deployment_that_comes_late_does_not_relieve_the_newer(mongo: Mongo) -> None:
    board = Board(mongo, JobSettings())
    await board.announce(200)
    await board.announce(100)
    assert (await board.read()).generation == 200


@pytest.mark.parametrize("offset", range(8))
async def test_a_router_is_not_relieved_by_its_own_announcement(mongo: Mongo, offset: int) -> None:
    board, generation = Board(mongo, JobSettings()), new_generation() + offset
    await board.announce(generation)
    assert (await board.read()).must_go_by(generation, drain_s=20.0) is None


async def test_a_drain_and_an_announcement_leave_each_other_alone(mongo: Mongo) -> None:
    board = Board(mongo, JobSettings())
    until = (await board.begin_drain(within_s=20.0)).drains_until
    await board.announce(200)
    assert await board.read() == Standing(drains_until=until, generation=200)


async def test_a_glance_while_the_database_is_away_shows_what_was_there_before(
    mongo: Mongo, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(mongo, JobSettings())
    before = await board.begin_drain(within_s=20.0)

    async def away(*_: Any) -> None:
        raise Unavailable("no answer")

    monkeypatch.setattr(board._server, "find_one", away)
    monkeypatch.setattr(board, "_fresh_until_s", 0.0)
    assert await board.glance() == before


async def test_running_are_those_with_a_worker_that_lives(mongo: Mongo, mongo_settings: MongoSettings) -> None:
    settings = JobSettings(lease_s=20.0)
    store, board = JobStore(mongo, settings), Board(mongo, settings)
    jobs = [a_job() for _ in range(4)]
    for job in jobs:
        await store.insert(job)
    assert await board.num_running() == 0
    lapsed = JobStore(mongo, JobSettings(lease_s=0.001, heartbeat_s=0.0001))
    await lapsed.claim(jobs[0].id, owner="died")
    taken = [await store.claim(job.id, owner="lives") for job in jobs[1:3]]
    assert await board.num_running() == 2
    assert taken[0] is not None
    await store.hand_back(taken[0])
    assert await board.num_running() == 1
