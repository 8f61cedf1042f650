"""Clients that hang up: how that is noticed, and how the job that nobody waits for any more is called off."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from serving.errors import AppError, Conflict, NotFound, Unavailable
from serving.telemetry import get_logger

log = get_logger("api")

T = TypeVar("T")

# Longer than the stores are usually away; a job that could not be called off by then is simply made.
CALL_OFF_DEADLINE_S = 30.0
CALL_OFF_PAUSE_S = 1.0


class HungUp(AppError):
    """Nobody is there to read this. 499 is what web servers write into their logs for it."""

    status, type, code = 499, "invalid_request_error", "client_closed_request"


async def unless_hung_up(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives, or HungUp once the client has gone. The body must have been read before.

    Ray Serve cancels us when a client goes; a plain server only says so, to those who listen.
    """
    working, listening = asyncio.create_task(work), asyncio.create_task(_listen(receive))
    try:
        await asyncio.wait({working, listening}, return_when=asyncio.FIRST_COMPLETED)
        # A receive() that breaks says nothing of the client: Serve's does when its proxy was lost.
        if not working.done() and listening.exception() is None:
            raise HungUp("The client has hung up.")
        return await working
    finally:
        working.cancel()
        listening.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)


async def _listen(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class HangUps:
    """Holds the tasks that clear up after a request: they outlive it, for it is being cancelled itself."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def call_off(self, job_id: str, cancel: Callable[[], Awaitable[object]]) -> None:
        """Runs `cancel` until the store has taken it; returns at once."""
        self._hold(asyncio.create_task(_call_off(job_id, cancel)))

    async def finish(self, work: Coroutine[Any, Any, T], *, if_left: Callable[[T], None]) -> T:
        """What `work` gives. It is ended though we are cancelled meanwhile, and `if_left` gets what it gave."""
        working = asyncio.create_task(work)
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            self._hold(asyncio.create_task(_hand_over(working, if_left)))
            raise

    def _hold(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _call_off(job_id: str, cancel: Callable[[], Awaitable[object]]) -> None:
    try:
        async with asyncio.timeout(CALL_OFF_DEADLINE_S):
            while True:
                try:
                    await cancel()
                except Unavailable as error:
                    log.warning("job not called off yet", job_id=job_id, reason=error.message)
                    await asyncio.sleep(CALL_OFF_PAUSE_S)
                else:
                    return
    except (Conflict, NotFound) as error:
        log.debug("nothing to call off", job_id=job_id, reason=error.message)  # it ended first
    except TimeoutError:
        log.warning("job not called off: it goes on", job_id=job_id)


async def _hand_over(working: asyncio.Task[T], if_left: Callable[[T], None]) -> None:
    try:
        if_left(await working)
    except AppError as error:
        log.debug("refused after the client hung up", reason=error.message)
