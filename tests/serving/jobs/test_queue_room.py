"""QueueRoom: exact near a limit, cheap far from it."""

import asyncio

import pytest

from configs.settings import JobSettings
from serving.errors import TooManyRequests, Unavailable
from serving.jobs.queue_room import HALF_LIFE_S, REFRESH_S, Outflow, QueueRoom


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


async def test_a_tenant_with_a_limit_of_its_own_has_that_one() -> None:
    store = CountingStore()
    queue = room(store, max_queued=100, max_queued_per_tenant=2)
    store.waiting["alice"] = 4
    await queue.take("alice", max_of_tenant=5)
    with pytest.raises(TooManyRequests) as caught:
        await queue.take("alice", max_of_tenant=4)
    assert "4 is the most" in caught.value.message
    with pytest.raises(TooManyRequests):
        await queue.take("alice")


def outflow(*notes: tuple[int, float]) -> Outflow:
    flow = Outflow()
    for num_left, within_s in notes:
        flow.note(num_left, within_s=within_s)
    return flow


@pytest.mark.parametrize(
    ("notes", "num_jobs", "expected_s"),
    [
        ([], 1, 10),  # nothing known
        ([(5, 0.5)], 1, 10),  # too little to call it a measure
        ([(5, 10.0)], 1, 2),
        ([(5, 10.0)], 7, 14),
        ([(500, 10.0)], 1, 1),
        ([(0, 60.0)], 1, 300),  # nothing moves
        ([(1, 60.0)], 100, 300),
        ([(-1, 5.0), (6, 5.0)], 1, 2),  # counted before it was stored
    ],
)
def test_retry_after_is_the_time_in_which_so_many_leave(
    notes: list[tuple[int, float]], num_jobs: int, expected_s: int
) -> None:
    assert outflow(*notes).seconds_for(num_jobs) == expected_s


def test_an_old_rate_is_forgotten() -> None:
    assert outflow((100, 10.0), *[(1, 10.0)] * 30).seconds_for(1) > 9
    halves = outflow((100, 10.0), (0, HALF_LIFE_S))
    assert halves.seconds_for(1) < 10


async def test_a_full_queue_tells_when_a_place_will_be_free_at_the_rate_it_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two jobs leave in each second: of 12 waiting ones 3 must have left."""
    store, now_s = CountingStore(), 1_000.0
    monkeypatch.setattr("serving.jobs.queue_room.time.monotonic", lambda: now_s)
    queue = room(store, max_queued=1_000, max_queued_per_tenant=10)
    refusal: TooManyRequests | None = None
    for num_waiting in (20, 18, 16, 14, 12):
        store.waiting["alice"] = num_waiting
        with pytest.raises(TooManyRequests) as caught:
            await queue.take("alice")
        refusal = caught.value
        now_s += 1.0
    assert refusal is not None
    assert refusal.headers == {"Retry-After": "2"}


async def test_what_this_process_adds_meanwhile_has_left_too_when_the_count_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, now_s = CountingStore(), 1_000.0
    monkeypatch.setattr("serving.jobs.queue_room.time.monotonic", lambda: now_s)
    queue = room(store, max_queued=1_000, max_queued_per_tenant=10)
    for _ in range(6):
        store.waiting["alice"] = 9
        await queue.take("alice")
        now_s += 4.0
    store.waiting["alice"] = 10
    with pytest.raises(TooManyRequests) as caught:
        await queue.take("alice")
    assert 4 <= int(caught.value.headers["Retry-After"]) <= 6
