"""Routers that die between two steps, come back, or are many: nothing lost, nothing made twice."""

import asyncio

from serving.jobs.job import Job
from serving.webhooks.delivery import Delivery, new_delivery
from serving.webhooks.events import events_of
from tests.serving.conftest import OpenHouse
from tests.serving.house import House, eventually
from tests.serving.webhooks.receiver import HERE, by_job, receiver
from tests.serving.webhooks.tenant import ENDED, deliveries, lines_of_alice, make, register, until_status


async def test_a_job_that_ended_while_nobody_announced_is_told_later_once(houses: OpenHouse) -> None:
    house = await houses(outbound=HERE)
    async with receiver() as there:
        await register(house.alice, there)
        job = await house.store.get("alice", await make(house.alice))
        await house.until(job, "succeeded")
        others = [await houses(outbound=HERE, announces=True) for _ in range(3)]
        await there.until(2)
        await eventually(lambda: nothing_is_owed(house))
        assert there.types == ENDED
        assert all(not other.webhook_work.is_broken for other in others)


async def nothing_is_owed(house: House) -> bool:
    return await house.upkeep.find_owed(limit=1) == []


async def test_an_announcer_that_dies_after_its_first_step_loses_and_doubles_nothing(houses: OpenHouse) -> None:
    house = await houses(outbound=HERE)
    async with receiver() as there, receiver() as other:
        for receiving in (there, other):
            await register(house.alice, receiving, events=["job.succeeded"])
        job = await house.until(await house.store.get("alice", await make(house.alice)), "succeeded")
        first = (await house.services.webhooks.endpoints.list("alice"))[0]
        await house.services.webhooks.deliveries.add(await a_delivery(house, job, first.id))
        house.webhook_work.start()
        await there.until(1)
        await other.until(1)
        await eventually(lambda: nothing_is_owed(house))
        assert len(await deliveries(house, first.id)) == 1
    assert (len(there.got), len(other.got)) == (1, 1)


async def a_delivery(house: House, job: Job, endpoint_id: str) -> Delivery:
    return new_delivery(events_of(job)[-1], await house.services.webhooks.endpoints.get("alice", endpoint_id))


async def test_a_router_that_dies_between_sending_and_recording_has_it_sent_again_under_the_same_id(
    houses: OpenHouse,
) -> None:
    dying = await houses(outbound=HERE, announces=True, webhooks={"lease_s": 0.6, "timeout_s": 0.3})
    async with receiver(delay_s=0.1) as there:
        endpoint = await register(dying.alice, there, events=["job.succeeded"])
        await make(dying.alice)
        await there.until(1)
        for _, task in list(dying.webhook_work.deliverer._serving.values()):
            task.cancel()  # as kill -9 would: the event was sent, and nothing is written down
        await dying.webhook_work.stop()
        [told] = await deliveries(dying, endpoint["id"])
        assert (told["status"], told["num_attempts"]) == ("pending", 0)
        await houses(outbound=HERE, announces=True)
        await there.until(2)
        await until_status(dying, endpoint["id"], "delivered")
    assert there.got[0].event_id == there.got[1].event_id


async def test_two_routers_share_the_work_and_send_nothing_twice(houses: OpenHouse) -> None:
    first, second = [await houses(outbound=HERE, announces=True) for _ in range(2)]
    async with receiver(delay_s=0.01) as there, receiver() as other:
        for receiving in (there, other):
            await register(first.alice, receiving)
        for _ in range(8):
            await make(first.alice)
        await there.until(16)
        await other.until(16)
        await asyncio.gather(first.webhook_work.stop(), second.webhook_work.stop())
        for receiving in (there, other):
            assert len({got.event_id for got in receiving.got}) == len(receiving.got) == 16
            assert all(told == ENDED for told in by_job(receiving.got).values())


async def test_stopping_waits_for_the_answer_and_leaves_the_queue_to_others(houses: OpenHouse) -> None:
    house = await houses(outbound=HERE, announces=True)
    async with receiver(delay_s=0.2) as there:
        endpoint = await register(house.alice, there, events=["job.succeeded"])
        await make(house.alice)
        await there.until(1)
        await house.webhook_work.stop()
        assert [one["status"] for one in await deliveries(house, endpoint["id"])] == ["delivered"]
        assert [line["is_held"] for line in await lines_of_alice(house)] == [0]
