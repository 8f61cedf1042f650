"""The lane: who gets the next place, places that are handed over, and none of them ever lost."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable
from typing import TypeVar

import pytest

from serving.jobs.job import Line
from serving.jobs.lane import Lane, Place
from tests.serving.house import a_job

T = TypeVar("T")
HIGH, NORMAL, LOW = 0, 1, 2
DEADLINE_S = 5.0


def place(job_id: str, *, tenant: str = "alice", rank: int = NORMAL) -> Place:
    return Place(Line("emoji-3d", rank, tenant), job_id)


def nothing_used(_tenant: str) -> float:
    return 0.0


async def soon(work: Awaitable[T]) -> T:
    return await asyncio.wait_for(work, DEADLINE_S)


async def a_moment() -> None:
    """Long enough for every task that can go on to do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def order_of(lane: Lane, *places: Place) -> list[str]:
    """The order in which they pass through a lane of one place, all of them waiting before the first turn."""
    await soon(lane.enter(place("holder")))
    entered: list[str] = []

    async def pass_through(one: Place) -> None:
        await lane.enter(one)
        entered.append(one.job_id)
        lane.leave()

    tasks = [asyncio.create_task(pass_through(one)) for one in places]
    await a_moment()
    assert entered == []
    lane.leave()
    await soon(asyncio.gather(*tasks))
    return entered


async def num_free(lane: Lane) -> int:
    """How many get in at once; afterwards the lane is as it was."""
    tasks = [asyncio.create_task(lane.enter(place(f"z{index}"))) for index in range(20)]
    await a_moment()
    inside = [task for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for _ in inside:
        lane.leave()
    return len(inside)


WAITERS = [
    place("4", rank=HIGH, tenant="carol"),
    place("1", tenant="bob"),
    place("2", tenant="alice"),
    place("3", tenant="alice"),
    place("0", rank=LOW, tenant="carol"),
]


@pytest.mark.parametrize("arrival", list(itertools.permutations(WAITERS)))
async def test_turns_go_by_priority_then_least_use_then_age_and_never_by_arrival(arrival: tuple[Place, ...]) -> None:
    used = {"alice": 1.0, "bob": 2.0, "carol": 99.0}
    assert await order_of(Lane(1, used.__getitem__), *arrival) == ["4", "2", "3", "1", "0"]


async def test_equal_use_leaves_the_turn_to_the_older_job_whosever_it_is() -> None:
    waiters = [place("2", tenant="alice"), place("1", tenant="bob"), place("3", tenant="bob")]
    assert await order_of(Lane(1, nothing_used), *waiters) == ["1", "2", "3"]


async def test_what_was_used_is_asked_for_at_every_turn() -> None:
    used, turns = Counter[str](), list[str]()
    lane = Lane(1, lambda tenant: float(used[tenant]))
    await lane.enter(place("holder"))

    async def pass_through(tenant: str, job_id: str) -> None:
        await lane.enter(place(job_id, tenant=tenant))
        turns.append(tenant)
        used[tenant] += 1
        lane.leave()

    tasks = [asyncio.create_task(pass_through(tenant, f"{tenant}{i}")) for tenant in "ab" for i in range(3)]
    await a_moment()
    lane.leave()
    await soon(asyncio.gather(*tasks))
    assert turns == ["a", "b"] * 3


async def test_no_more_than_its_width_are_inside() -> None:
    lane = Lane(3, nothing_used)
    tasks = [asyncio.create_task(lane.enter(place(f"{i}"))) for i in range(5)]
    await a_moment()
    assert [task.done() for task in tasks] == [True, True, True, False, False]
    lane.leave()
    await a_moment()
    assert [task.done() for task in tasks] == [True, True, True, True, False]
    tasks[4].cancel()


async def test_a_waiter_that_goes_away_leaves_its_turn_to_the_next() -> None:
    lane = Lane(1, nothing_used)
    await lane.enter(place("holder"))
    leaver, waiter = (asyncio.create_task(lane.enter(place(job_id))) for job_id in ("a", "b"))
    await a_moment()
    leaver.cancel()
    lane.leave()
    assert await soon(waiter) is None
    lane.leave()
    assert await num_free(lane) == 1


async def test_a_turn_that_comes_together_with_the_cancellation_is_handed_on() -> None:
    lane = Lane(1, nothing_used)
    await lane.enter(place("holder"))
    leaver, waiter = (asyncio.create_task(lane.enter(place(job_id))) for job_id in ("a", "b"))
    await a_moment()
    lane.leave()  # the leaver has its turn now, but has not woken up yet
    leaver.cancel()
    assert await soon(waiter) is None
    assert leaver.cancelled()
    lane.leave()
    assert await num_free(lane) == 1


async def test_waiters_that_all_gave_up_do_not_hold_up_the_next() -> None:
    lane = Lane(1, nothing_used)
    await lane.enter(place("holder"))
    gone = [asyncio.create_task(lane.enter(place(f"{i}", rank=HIGH, tenant=f"t{i}"))) for i in range(3)]
    await a_moment()
    for task in gone:
        task.cancel()
    await a_moment()
    lane.leave()
    assert await soon(lane.enter(place("next", rank=LOW))) is None


async def test_a_place_and_a_job_are_handed_over_to_the_one_who_waits_for_that_job() -> None:
    lane, job = Lane(1, nothing_used), a_job()
    await lane.enter(Place.of(job), for_any=True)
    waiting, other = (asyncio.create_task(lane.enter(one)) for one in (Place.of(job), place("other")))
    await a_moment()
    assert lane.hand_over(job) is True
    assert await soon(waiting) is job
    assert not other.done()
    assert lane.hand_over(job) is False
    lane.leave()  # the one place, which is the new holder's
    assert await soon(other) is None
    lane.leave()
    assert await num_free(lane) == 1


async def test_nobody_who_waits_for_another_job_or_for_any_is_handed_one() -> None:
    lane, job = Lane(1, nothing_used), a_job()
    await lane.enter(place("holder"))
    tasks = [
        asyncio.create_task(lane.enter(place("another"))),
        asyncio.create_task(lane.enter(Place.of(job), for_any=True)),
    ]
    await a_moment()
    assert lane.hand_over(job) is False
    for task in tasks:
        task.cancel()


async def test_a_place_handed_over_to_one_who_was_just_cancelled_is_free_again() -> None:
    lane, job = Lane(1, nothing_used), a_job()
    await lane.enter(place("holder"))
    waiting = asyncio.create_task(lane.enter(Place.of(job)))
    await a_moment()
    assert lane.hand_over(job) is True
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert await num_free(lane) == 1


async def test_a_job_of_ten_pictures_overdraws_and_others_wait_until_it_is_paid_back() -> None:
    lane = Lane(4, nothing_used)
    await lane.enter(place("ten"))
    lane.widen(-9)
    waiter = asyncio.create_task(lane.enter(place("one")))
    await a_moment()
    lane.widen(5)
    await a_moment()
    assert not waiter.done()  # 10 of 4 places were taken; 5 still are
    lane.widen(4)
    assert await soon(waiter) is None
    assert await num_free(lane) == 2
    for _ in range(2):
        lane.leave()
    assert await num_free(lane) == 4


async def test_a_place_waits_for_whoever_comes_back_at_once_for_the_next_of_a_line_whose_turn_it_is() -> None:
    """While it claims the one job nobody stands there for the next, and a burst of free places would go to others."""
    used = {"alice": 9.0, "bob": 1.0}
    lane = Lane(3, used.__getitem__)
    lane.widen(-1)
    await soon(lane.enter(place("b", tenant="bob"), for_any=True))
    waiter = asyncio.create_task(lane.enter(place("a", tenant="alice")))
    await a_moment()
    assert not waiter.done()
    back = asyncio.create_task(lane.enter(place("b", tenant="bob"), for_any=True))
    await a_moment()
    assert (back.done(), waiter.done()) == (True, False)
    lane.leave()
    await a_moment()
    assert not waiter.done()
    lane.that_was_all(Line("emoji-3d", NORMAL, "bob"))
    assert await soon(waiter) is None


async def test_nobody_waits_for_one_who_comes_back_when_it_is_not_its_turn() -> None:
    used = {"alice": 9.0, "bob": 1.0}
    lane = Lane(3, used.__getitem__)
    await soon(lane.enter(place("a", tenant="alice"), for_any=True))
    assert await soon(lane.enter(place("b", tenant="bob"))) is None
    assert await soon(lane.enter(place("c", tenant="alice", rank=HIGH))) is None
