"""The works of one training, each in a process of its own; one that breaks through no fault of the request goes on."""

import os
from collections.abc import Callable
from typing import Any

from configs.settings import Settings
from pipelines.sandbox import Bounds, WorkKilled, WorkRefused, run_apart
from serving.backends.training import TrainingError
from serving.telemetry import get_logger

log = get_logger("training")

MAX_OPEN_FILES = 4_096  # weights in many pieces, and libraries that keep files open
TOO_SLOW = "Training takes longer than the server allows."
GIVEN_UP = {
    "memory": ("out_of_memory", "The training ran out of memory; a smaller resolution, batch or rank may fit."),
    "crash": ("training_crashed", "The training broke again and again without a step forward."),
}

OnNews = Callable[[dict[str, Any]], None]


def num_cores() -> int:
    """That we may use."""
    return len(os.sched_getaffinity(0))


class Apart:
    """Runs works within the bounds that the settings set."""

    def __init__(self, settings: Settings) -> None:
        training = settings.training
        self.num_threads = training.num_threads or max(1, num_cores() // training.max_at_once)
        self._settings = training
        self._environment = {
            "OMP_NUM_THREADS": str(self.num_threads),
            "MKL_NUM_THREADS": str(self.num_threads),
            # Threads that wait for one another spin for a moment only: others may want the core.
            "GOMP_SPINCOUNT": "500",
            "TORCHINDUCTOR_CACHE_DIR": str(settings.state_dir / "compiled"),
            "HF_HUB_OFFLINE": "1",
        }

    async def run(
        self,
        work: str,
        arguments: dict[str, Any],
        *,
        wall_s: float,
        on_start: Callable[[], None] = lambda: None,
        on_news: OnNews = lambda news: None,
    ) -> dict[str, Any]:
        """What the work returns. Broken, it is started again, and finds its own checkpoint in its folder.

        The system's own kill for want of memory cannot be told from an operator's, so that is tried again too. Raises
        TrainingError where the work refuses, takes too long, or breaks too often without a new checkpoint.
        """
        num_breaks, best_step = 0, -1

        def hear(news: dict[str, Any]) -> None:
            nonlocal num_breaks, best_step
            if "checkpoint" in news and news["step"] > best_step:
                num_breaks, best_step = 0, news["step"]
            on_news(news)

        bounds = Bounds(
            wall_s=wall_s,
            memory_bytes=self._settings.memory_bytes,
            file_bytes=None,
            max_open_files=MAX_OPEN_FILES,
            niceness=self._settings.niceness,
            session_niceness=self._settings.niceness,
            environment=self._environment,
        )
        while True:
            on_start()
            try:
                return await run_apart(work, arguments, bounds=bounds, on_news=hear)
            except WorkRefused as error:
                raise TrainingError(error.code, str(error)) from error
            except WorkKilled as killed:
                if killed.reason == "time":
                    raise TrainingError("takes_too_long", TOO_SLOW) from killed
                num_breaks += 1
                if num_breaks >= self._settings.max_crashes:
                    raise TrainingError(*GIVEN_UP[killed.reason]) from killed
                log.warning("training broke, and goes on", work=work, reason=str(killed), step=max(0, best_step))
