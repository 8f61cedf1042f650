"""One video on its way through the pieces of work that read it: each in a process of its own, all within one deadline.

What such a process says is taken for no more than data.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from configs.settings import FrameSettings
from pipelines.request import Progress
from pipelines.sandbox import Bounds, WorkKilled, WorkRefused, run_apart
from serving.backends.frames import FramesError

MAX_FILE_BYTES = 268_435_456  # of one still: nine million pixels in PNG take a tenth of it

TOO_SLOW = ("takes_too_long", "Taking its stills takes longer than the server allows.")
DAMAGED = ("damaged", "The video cannot be read: what decodes it broke.")
KILLED = {
    "time": TOO_SLOW,
    "memory": ("takes_too_much", "Taking its stills takes more memory than the server allows."),
    "crash": DAMAGED,
}


class Errand:
    """A folder with the video in it, and how far the work is."""

    def __init__(self, folder: Path, settings: FrameSettings, tell: Callable[[Progress], None]) -> None:
        self.folder = folder
        self.video = folder / "video"
        self.device_s = 0.0  # of decoders, so far
        self._bounds = Bounds(settings.timeout_s, settings.memory_bytes, MAX_FILE_BYTES)
        self._tell = tell
        self._percent = 0

    async def run(self, work: str, arguments: dict[str, Any], percents: tuple[int, int]) -> dict[str, Any]:
        """What the work returns; it brings the progress from the first of `percents` to the second."""
        began_at, before_s = time.perf_counter(), self.device_s

        def hear(news: dict[str, Any]) -> None:
            self.device_s = before_s + time.perf_counter() - began_at
            match news:
                case {"done_s": int() | float() as done, "of_s": int() | float() as of} | {
                    "done": int() | float() as done,
                    "of": int() | float() as of,
                } if of > 0:
                    self._advance(percents[0] + (percents[1] - percents[0]) * min(1.0, max(0.0, done / of)))

        try:
            result = await run_apart(work, arguments, bounds=self._bounds, on_news=hear)
        except WorkRefused as error:
            raise FramesError(error.code, str(error)) from error
        except WorkKilled as error:
            raise FramesError(*KILLED[error.reason]) from error
        finally:
            self.device_s = before_s + time.perf_counter() - began_at
        self._advance(percents[1])
        return result

    def _advance(self, percent: float) -> None:
        """Each percent once, and never back."""
        if int(percent) > self._percent:
            self._percent = int(percent)
            self._tell(Progress(self._percent, 100, device_s=self.device_s))
