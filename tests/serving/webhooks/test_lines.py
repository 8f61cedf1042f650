"""The queue of an endpoint: held by one at a time, taken over from the dead, never left with something in it."""

import asyncio

import pytest

from serving.errors import LeaseLost
from serving.mongo import Mongo
from serving.webhooks.lines import Line
from serving.webhooks.work import Webhooks
from tests.serving.house import eventually
from tests.serving.webhooks.parts import webhooks


async def woken(hooks: Webhooks, tenant: str = "alice", name: str = "we_1") -> Line:
    await hooks.lines.wake(tenant, name, f"{tenant}/{name}")
    return next(line for line in await hooks.lines.due(limit=10) if line.id == f"{tenant}/{name}")


async def test_a_queue_is_held_by_one_at_a_time(mongo: Mongo) -> None:
    hooks = webhooks(mongo)
    line = await woken(hooks)
    claims = await asyncio.gather(*(hooks.lines.claim(line) for _ in range(8)))
    assert len([claim for claim in claims if claim is not None]) == 1
    assert await hooks.lines.due(limit=10) == []


async def test_waking_a_queue_that_is_held_keeps_its_lease_and_its_holder_from_letting_go(mongo: Mongo) -> None:
    hooks = webhooks(mongo)
    mine = await hooks.lines.claim(await woken(hooks))
    assert mine is not None
    await hooks.lines.wake("alice", "we_1", mine.id)
    assert await hooks.lines.due(limit=10) == []
    assert not await hooks.lines.release(mine, due_at=0.0)
    assert not await hooks.lines.remove(mine)
    mine = await hooks.lines.renew(mine)
    assert await hooks.lines.release(mine, due_at=0.0)
    assert await hooks.lines.due(limit=10) == []
    assert (await woken(hooks)).fence == mine.fence


async def test_a_queue_whose_holder_does_not_come_back_is_taken_over_and_the_late_one_can_do_nothing(
    mongo: Mongo,
) -> None:
    hooks = webhooks(mongo, lease_s=0.05)
    frozen = await hooks.lines.claim(await woken(hooks))
    assert frozen is not None

    async def is_due() -> bool:
        return bool(await hooks.lines.due(limit=10))

    await eventually(is_due)
    taken = await hooks.lines.claim((await hooks.lines.due(limit=10))[0])
    assert taken is not None
    with pytest.raises(LeaseLost):
        await hooks.lines.renew(frozen)
    assert not await hooks.lines.release(frozen, due_at=0.0)
    assert not await hooks.lines.remove(frozen)
    await hooks.lines.renew(taken)


async def test_all_who_wake_a_new_queue_at_once_find_one(mongo: Mongo) -> None:
    hooks = webhooks(mongo)
    await asyncio.gather(*(hooks.lines.wake("alice", "we_1", "alice/we_1") for _ in range(8)))
    [line] = await hooks.lines.due(limit=10)
    assert line.wakes == 8
