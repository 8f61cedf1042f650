"""Deliveries in a true MongoDB: made once, found in order, changed by one at a time."""

import asyncio
from dataclasses import replace

import pytest

from serving.errors import Conflict
from serving.mongo import Mongo
from serving.webhooks.delivery import Attempt
from serving.webhooks.endpoint import Endpoint, new_endpoint
from tests.serving.webhooks.parts import SETTINGS, URL, delivery_of, ended, webhooks


@pytest.fixture
def endpoint() -> Endpoint:
    return new_endpoint("alice", URL, ("job.started", "job.succeeded"))


async def test_an_event_is_on_its_way_to_an_endpoint_once_whoever_says_it_again(
    mongo: Mongo, endpoint: Endpoint
) -> None:
    store = webhooks(mongo).deliveries
    outcomes = await asyncio.gather(*(store.add(delivery_of(ended(), endpoint)) for _ in range(8)))
    assert outcomes.count(True) == 1
    assert len(await store.waiting("alice", f"alice/{endpoint.id}", limit=10)) == 1
    assert await store.add(delivery_of(ended(), new_endpoint("alice", URL, ("job.succeeded",))))


async def test_what_is_due_comes_first_and_what_is_not_does_not_come(mongo: Mongo, endpoint: Endpoint) -> None:
    store = webhooks(mongo).deliveries
    made = [
        replace(delivery_of(ended(number), endpoint), due_at=due) for number, due in ((1, 30.0), (2, 10.0), (3, 9e9))
    ]
    for delivery in made:
        await store.add(delivery)
    line = made[0].line
    assert [found.due_at for found in await store.due("alice", line, limit=5)] == [10.0, 30.0]
    assert [found.due_at for found in await store.waiting("alice", line, limit=5)] == [10.0, 30.0, 9e9]
    assert await store.due("bob", line, limit=5) == []


async def test_a_delivery_can_be_changed_from_what_was_read_whatever_moment_it_is_due(
    mongo: Mongo, endpoint: Endpoint
) -> None:
    store = webhooks(mongo).deliveries
    for number in range(60):
        made = delivery_of(ended(number), endpoint).put_off(1_795_172_282.2119994 + number * 0.0001237)
        await store.add(made)
        read = await store.get("alice", endpoint.id, made.id)
        assert (read.due_at, read.pending_key, read.list_key) == (made.due_at, made.pending_key, made.list_key)
        assert await store.change(read, read.put_off(read.due_at + 0.0003))


async def test_of_two_who_record_the_same_attempt_one_does(mongo: Mongo, endpoint: Endpoint) -> None:
    store = webhooks(mongo).deliveries
    before = delivery_of(ended(), endpoint)
    await store.add(before)
    after = [before.after(Attempt(1.0, 1, status=status), SETTINGS) for status in (200, 500)]
    outcomes = await asyncio.gather(*(store.change(before, each) for each in after))
    assert sorted(outcomes) == [False, True]
    assert (await store.get("alice", endpoint.id, before.id)).num_attempts == 1


async def test_earlier_and_later_events_are_those_of_the_same_job_and_endpoint(
    mongo: Mongo, endpoint: Endpoint
) -> None:
    store = webhooks(mongo).deliveries
    start, end = delivery_of(ended(), endpoint, 0), delivery_of(ended(), endpoint)
    stranger = delivery_of(ended(2), endpoint, 0)
    other = delivery_of(ended(), new_endpoint("alice", URL, ("job.started",)), 0)
    for delivery in (stranger, other, end):
        await store.add(delivery)
    assert await store.earlier_of_job(end) is None
    await store.add(start)
    assert (await store.earlier_of_job(end)) == start
    assert (await store.next_of_job(start)) == end
    await store.change(start, start.dropped("x"))
    assert await store.earlier_of_job(end) is None
    assert await store.later_of_job(start) == end


async def test_what_was_sent_again_by_hand_holds_up_no_other_event(mongo: Mongo, endpoint: Endpoint) -> None:
    store = webhooks(mongo).deliveries
    start, end = delivery_of(ended(), endpoint, 0), delivery_of(ended(), endpoint)
    for delivery in (start, end):
        await store.add(delivery)
    await store.change(start, start.dropped("x"))
    await store.redeliver("alice", endpoint.id, start.id)
    assert await store.earlier_of_job(end) is None
    with pytest.raises(Conflict):
        await store.redeliver("alice", endpoint.id, start.id)


async def test_deliveries_that_ended_long_ago_are_forgotten_and_no_others(mongo: Mongo, endpoint: Endpoint) -> None:
    store = webhooks(mongo, keep_s=-1.0).deliveries
    old, pending = delivery_of(ended(1), endpoint), delivery_of(ended(2), endpoint)
    again, fresh = delivery_of(ended(3), endpoint), delivery_of(ended(4), endpoint)
    for delivery in (old, pending, again, fresh):
        await store.add(delivery)
    for delivery in (old, again):
        await store.change(delivery, delivery.dropped("x"))
    await store.redeliver("alice", endpoint.id, again.id)
    await webhooks(mongo).deliveries.change(fresh, fresh.dropped("x"))
    assert await store.delete_old(limit=10) == 1
    left = await store.page("alice", endpoint.id, job_id=None, limit=10, after=None)
    assert {delivery.id for delivery in left} == {pending.id, again.id, fresh.id}
