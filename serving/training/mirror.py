"""Checkpoints on their way into the store, beside the training that writes them."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from serving.adapters.store import in_store
from serving.errors import Unavailable
from serving.telemetry import get_logger
from serving.training.artefacts import Artefacts, content_type_of

log = get_logger("training")


@asynccontextmanager
async def mirrored(artefacts: Artefacts, path: Path) -> AsyncGenerator[Callable[[], None], None]:
    """Gives what is to be called whenever a new checkpoint lies at `path`.

    One is stored at a time; of those that come meanwhile, the newest. A store that is away costs no training: without
    it an attempt that takes over only has more to do again.
    """
    has_news = asyncio.Event()

    async def store_forever() -> None:
        while True:
            await has_news.wait()
            has_news.clear()
            try:
                await in_store(artefacts.blobs.put_file, artefacts.checkpoint_key, path, content_type_of(path.name))
            except Unavailable as error:
                log.warning("checkpoint not stored", key=artefacts.checkpoint_key, reason=error.message)

    storing = asyncio.create_task(store_forever())
    try:
        yield has_news.set
    finally:
        storing.cancel()
        await asyncio.wait({storing})
    if not storing.cancelled():
        storing.result()  # raises: it only ever ends by itself where we are wrong
