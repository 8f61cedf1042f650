"""One process at a time has a chore; who dies with it does not keep it."""

import asyncio

from serving.jobs.chores import Chores
from serving.mongo import Mongo


async def test_of_many_processes_one_has_it(mongo: Mongo) -> None:
    many = [Chores(mongo, owner=f"router-{number}") for number in range(8)]
    for _ in range(2):  # made, and found
        taken = await asyncio.gather(*(chores.take("tidy", for_s=60) for chores in many))
        assert sum(taken) == 1
        await many[taken.index(True)].leave("tidy")


async def test_chores_are_apart(mongo: Mongo) -> None:
    chores = Chores(mongo, owner="router-1")
    assert await chores.take("tidy", for_s=60)
    assert await chores.take("sweep", for_s=60)
    assert not await chores.take("tidy", for_s=60), "not even its owner begins it twice"


async def test_who_never_comes_back_loses_it_and_cannot_leave_what_is_another_s(mongo: Mongo) -> None:
    lost, other = Chores(mongo, owner="router-1"), Chores(mongo, owner="router-2")
    assert await lost.take("tidy", for_s=0)
    assert await other.take("tidy", for_s=60)
    await lost.leave("tidy")
    assert not await lost.take("tidy", for_s=60)


async def test_what_was_done_is_not_done_again_for_a_while(mongo: Mongo) -> None:
    chores = Chores(mongo, owner="router-1")
    assert await chores.take("sweep", for_s=60)
    await chores.leave("sweep", for_s=3_600)
    assert not await chores.take("sweep", for_s=60)
