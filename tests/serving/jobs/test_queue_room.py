"""QueueRoom: exact near a limit, cheap far from it."""

import asyncio

import pytest

from configs.settings import JobSettings
from serving.errors import TooManyRequests, Unavailable
from serving.jobs.queue_room import REFRESH_S, QueueRoom


class CountingStore:
    """The counts of JobStore, from a dict; remembers who was counted."""

    def __init__(self) -> None:
        self.waiting: dict[str | None, int] = {}
        self.counted: list[str | None] = []
        self.is_away = False

    async def count_queued(self, tenant: str | None = None) -> int:
        self.counted.append(tenant)
        if self.is_away:
            raise Unavailable("the database is away")
        return self.waiting.get(tenant, 0)


def room(store: CountingStore, **limits: int) -> QueueRoom:
    return QueueRoom(store, JobSettings(**limits))  # type: ignore[arg-type]


async def test_far_from_the_limits_a_count_serves_many_requests() -> None:
    store = CountingStore()
    queue = room(store, max_queued=100, max_queued_per_tenant=100)
    for _ in range(30):
        await queue.take("alice")
    assert store.counted == [None, "alice"]


async def test_near_a_limit_every_request_is_counted_and_the_one_too_many_refused() -> None:
    store = CountingStore()
    queue = room(store, max_queued=100, max_queued_per_tenant=4)
    for num_waiting in range(4):
        store.waiting["alice"] = num_waiting
        await queue.take("alice")
    store.waiting["alice"] = 4
    with pytest.raises(TooManyRequests) as caught:
        await queue.take("alice")
    assert caught.value.code == "tenant_queue_full"
    await queue.take("bob")
    store.waiting["alice"] = 3
    await queue.take("alice")


async def test_what_this_process_has_added_counts_at_once() -> None:
    """The database is not asked again before half of the limit, and then it is the judge."""
    store = CountingStore()
    queue = room(store, max_queued=10, max_queued_per_tenant=10)
    for _ in range(5):
        await queue.take("alice")
    assert store.counted == [None, "alice"]
    store.waiting = {None: 10, "alice": 10}
    with pytest.raises(TooManyRequests) as caught:
        await queue.take("alice")
    assert caught.value.code == "queue_full"


async def test_an_old_count_is_read_again_beside_the_request() -> None:
    store = CountingStore()
    queue = room(store, max_queued=100, max_queued_per_tenant=100)
    await queue.take("alice")
    await asyncio.sleep(REFRESH_S + 0.05)
    store.waiting = {None: 100}
    await queue.take("alice")
    await asyncio.sleep(0.01)
    with pytest.raises(TooManyRequests):
        await queue.take("alice")


async def test_a_database_that_is_away_refuses_the_first_and_spoils_no_known_count() -> None:
    store = CountingStore()
    queue = room(store, max_queued=100, max_queued_per_tenant=100)
    store.is_away = True
    with pytest.raises(Unavailable):
        await queue.take("alice")
    store.is_away = False
    await queue.take("alice")
    store.is_away = True
    await asyncio.sleep(REFRESH_S + 0.05)
    await queue.take("alice")
