"""insist(): asks again and again while a store or a replica is away, for as long as what waits for it is worth it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from serving.errors import Unavailable
from serving.telemetry import get_logger

log = get_logger("insisting")

T = TypeVar("T")


async def insist(ask: Callable[[], Awaitable[T]], *, for_s: float, pause_s: float, what: str) -> T:
    """What `ask` gives. Unavailable is told as "`what` not done yet", and raised only once `for_s` have passed."""
    gives_up_at = time.monotonic() + for_s
    while True:
        try:
            return await ask()
        except Unavailable as error:
            if time.monotonic() > gives_up_at:
                raise
            log.warning(f"{what} not done yet", reason=error.message)
            await asyncio.sleep(pause_s)
