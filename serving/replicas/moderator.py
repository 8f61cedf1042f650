"""The Moderator deployment: one classifier, and pictures from all sides that it looks at together."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from PIL import Image
from ray import serve

from configs.settings import Settings
from models.errors import InputImageError
from pipelines.moderation.classifier import load_classifier
from pipelines.moderation.opening import open_to_look
from pipelines.moderation.scores import Scores
from serving.moderation.link import LookFailure
from serving.telemetry import (
    MODERATOR_BATCH_PICTURES,
    MODERATOR_PICTURES,
    MODERATOR_SECONDS,
    configure_logging,
    get_logger,
)

log = get_logger("moderator")

# A large picture takes a few hundred megabytes while it is read: no more than this many at a time.
NUM_READERS = 4
# After so many batches in a row without a score the classifier is taken to be broken for good.
MAX_FAILURES = 3
# Callers have given up by then, and others after them: such a batch will never end.
HUNG_AFTER_TIMEOUTS = 2


class Moderator:
    """Reads pictures in some threads and looks at them in another; this process's own loop always answers."""

    def __init__(self, settings: Settings) -> None:
        configure_logging(settings.log, component="moderator", log_dir=settings.state_dir / "logs")
        started = time.perf_counter()
        self._classifier = load_classifier(settings.moderation)
        self.name = self._classifier.name
        self._readers = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="read")
        self._looker = ThreadPoolExecutor(1, thread_name_prefix="look")
        self._num_failures = 0
        self._looks_since: float | None = None
        self._longest_look_s = HUNG_AFTER_TIMEOUTS * settings.moderation.timeout_s
        self._look_together.set_max_batch_size(settings.moderation.max_batch_size)
        self._look_together.set_batch_wait_timeout_s(settings.moderation.batch_wait_s)
        log.info("classifier ready", classifier=self.name, load_s=round(time.perf_counter() - started, 2))

    def ping(self) -> str:
        """The classifier's name, once it is loaded: Ray lets no call in before."""
        return self.name

    def check_health(self) -> None:
        """Ray replaces a replica whose check raises; a GPU that has failed once fails for this process's life."""
        if self._num_failures >= MAX_FAILURES:
            raise RuntimeError(f"the classifier failed {self._num_failures} times in a row")
        if self._looks_since is not None and time.perf_counter() - self._looks_since > self._longest_look_s:
            raise RuntimeError(f"the classifier has looked at one batch for more than {self._longest_look_s:g} s")

    async def look(self, picture: bytes) -> Scores | LookFailure:
        """The scores of one picture file. What is wrong with it is its own failure, and nobody else's."""
        loop = asyncio.get_running_loop()
        try:
            small = await loop.run_in_executor(self._readers, self._read, picture)
        except InputImageError as error:
            MODERATOR_PICTURES.labels("refused").inc()
            return LookFailure(error.code, str(error))
        scores: Scores = await self._look_together(small)
        MODERATOR_PICTURES.labels("scored").inc()
        return scores

    @serve.batch
    async def _look_together(self, pictures: list[Image.Image]) -> list[Scores]:
        started, has_looked = time.perf_counter(), False
        self._looks_since = started
        try:
            loop = asyncio.get_running_loop()
            scores = await loop.run_in_executor(self._looker, self._classifier.look, pictures)
            has_looked = True
            return scores
        finally:
            self._looks_since = None
            self._num_failures = 0 if has_looked else self._num_failures + 1
            if not has_looked:
                log.error("no scores", pictures=len(pictures), in_a_row=self._num_failures)
            MODERATOR_BATCH_PICTURES.observe(len(pictures))
            MODERATOR_SECONDS.observe(time.perf_counter() - started)

    def _read(self, picture: bytes) -> Image.Image:
        return self._classifier.shrink(open_to_look(picture))
