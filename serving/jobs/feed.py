"""What a running job says, to everybody who follows it. Lives in the Router that drives the job; stores nothing."""

import asyncio
from collections.abc import AsyncGenerator, Hashable
from contextlib import aclosing
from typing import TypeVar

from pipelines.request import Preview, Progress

News = Progress | Preview
T = TypeVar("T")


class Feed:
    """One teller, any number of followers, none of whom can hold it up.

    A slow follower finds the newest only, except for partial images: these were asked for, and all of them wait.
    Whoever comes late is told at once what there is.
    """

    def __init__(self) -> None:
        self._latest: dict[Hashable, News] = {}
        self._followers: set[_Follower] = set()
        self._has_ended = False

    def tell(self, news: News) -> None:
        """Never blocks. What it keeps is bounded by the pictures and partial images of one job."""
        _put(self._latest, news)
        for follower in self._followers:
            _put(follower.unread, news)
            follower.woken.set()

    def end(self) -> None:
        """Nothing more comes; followers end once they have read what is there."""
        self._has_ended = True
        for follower in self._followers:
            follower.woken.set()

    async def follow(self) -> AsyncGenerator[News, None]:
        follower = _Follower(self._latest)
        self._followers.add(follower)
        try:
            while True:
                while follower.unread:
                    yield follower.unread.pop(next(iter(follower.unread)))
                if self._has_ended:
                    return
                follower.woken.clear()
                await follower.woken.wait()
        finally:
            self._followers.discard(follower)


class _Follower:
    def __init__(self, latest: dict[Hashable, News]) -> None:
        self.unread = dict(latest)
        self.woken = asyncio.Event()


def _put(kept: dict[Hashable, News], news: News) -> None:
    """Newest last, in place of what it makes old."""
    slot = (news.image_index, news.partial_index) if isinstance(news, Preview) else None
    kept.pop(slot, None)
    kept[slot] = news


async def for_at_most(timeout_s: float, stream: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The stream until its own end or for `timeout_s`, whichever is first; closed either way."""
    ends_at = asyncio.get_running_loop().time() + timeout_s
    async with aclosing(stream):
        while True:
            try:
                # Around each item, not around the loop: a timeout must not strike while the consumer is at work.
                async with asyncio.timeout_at(ends_at):
                    item = await anext(stream)
            except (TimeoutError, StopAsyncIteration):
                return
            yield item
