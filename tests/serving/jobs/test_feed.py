"""A running job's feed: many followers, late ones and slow ones, and a teller whom nobody can hold up."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from pipelines.request import Preview, Progress
from serving.jobs.feed import Feed, News, for_at_most


def small(step: int, image_index: int = 0) -> Preview:
    return Preview(image_index, step, b"small", "image/jpeg")


def partial(partial_index: int, image_index: int = 0) -> Preview:
    return Preview(image_index, partial_index, b"whole", "image/png", partial_index)


async def all_of(feed: Feed) -> list[News]:
    return [news async for news in feed.follow()]


async def test_a_follower_hears_everything_in_order_while_it_keeps_up() -> None:
    feed, heard = Feed(), []
    told: list[News] = [Progress(1, 3), small(1), Progress(2, 3), partial(0), Progress(3, 3)]

    async def listen() -> None:
        async for news in feed.follow():
            heard.append(news)

    listening = asyncio.create_task(listen())
    for news in told:
        await asyncio.sleep(0)
        feed.tell(news)
        await asyncio.sleep(0)
    feed.end()
    await asyncio.wait_for(listening, 5)
    assert heard == told


async def test_a_slow_follower_finds_the_newest_of_each_picture_and_every_partial_image() -> None:
    feed = Feed()
    follower = feed.follow()
    feed.tell(Progress(0, 9))
    assert await anext(follower) == Progress(0, 9)
    for step in range(1, 10):
        feed.tell(Progress(step, 9))
        feed.tell(small(step, image_index=step % 2))
        if step % 3 == 0:
            feed.tell(partial(step // 3))
    feed.end()
    assert [news async for news in follower] == [
        partial(1),
        partial(2),
        small(8, image_index=0),
        Progress(9, 9),
        small(9, image_index=1),
        partial(3),
    ]


async def test_a_follower_that_never_reads_keeps_no_more_than_one_job_can_say() -> None:
    feed = Feed()
    idle = feed.follow()
    feed.tell(Progress(0, 1))
    await anext(idle)
    for step in range(10_000):
        feed.tell(Progress(step, 10_000))
        feed.tell(small(step))
    feed.end()
    assert len([news async for news in idle]) == 2


async def test_whoever_comes_late_is_told_at_once_what_there_is() -> None:
    feed = Feed()
    for step in (1, 2, 3):
        feed.tell(Progress(step, 9))
        feed.tell(small(step))
    feed.tell(partial(0))
    late = feed.follow()
    assert [await asyncio.wait_for(anext(late), 5) for _ in range(3)] == [Progress(3, 9), small(3), partial(0)]
    await late.aclose()


async def test_all_followers_hear_the_same_and_end_together() -> None:
    feed = Feed()
    following = [asyncio.create_task(all_of(feed)) for _ in range(5)]
    await asyncio.sleep(0)
    feed.tell(Progress(1, 1))
    feed.end()
    assert await asyncio.wait_for(asyncio.gather(*following), 5) == [[Progress(1, 1)]] * 5


async def test_who_follows_after_the_end_still_hears_the_last_and_does_not_wait() -> None:
    feed = Feed()
    feed.tell(Progress(4, 4))
    feed.end()
    assert await asyncio.wait_for(all_of(feed), 5) == [Progress(4, 4)]


async def test_one_that_goes_away_leaves_the_others_alone() -> None:
    feed = Feed()
    leaver, stayer = feed.follow(), feed.follow()
    feed.tell(Progress(1, 2))
    assert await anext(leaver) == await anext(stayer) == Progress(1, 2)
    await leaver.aclose()
    feed.tell(Progress(2, 2))
    assert await anext(stayer) == Progress(2, 2)
    await stayer.aclose()


@pytest.mark.parametrize("items", [0, 3])
async def test_a_stream_ends_with_its_time_and_is_closed(items: int) -> None:
    is_closed = False

    async def stream() -> AsyncGenerator[int, None]:
        nonlocal is_closed
        try:
            for number in range(items):
                yield number
            await asyncio.Event().wait()
        finally:
            is_closed = True

    assert [number async for number in for_at_most(0.05, stream())] == list(range(items))
    assert is_closed


async def test_the_time_of_a_stream_does_not_strike_its_consumer() -> None:
    async def stream() -> AsyncGenerator[int, None]:
        yield 1
        yield 2

    async for _ in for_at_most(0.01, stream()):
        await asyncio.sleep(0.03)
