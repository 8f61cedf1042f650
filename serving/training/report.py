"""What a training tells on the way: the news of its parts as one progress that only ever grows."""

import time
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

from pipelines.request import Preview, Progress
from serving.training.artefacts import content_type_of
from training.orders import PREVIEWS, Stage

# Where the stages begin and end, in shares of the whole. They hold for the model that ships with the project, where
# nothing takes long; the larger the model, the more of the time is training.
SPANS: dict[str, tuple[float, float]] = {
    "frames": (0.0, 0.08),
    "filter": (0.08, 0.10),
    "caption": (0.10, 0.12),
    "cache": (0.12, 0.18),
    "train": (0.18, 0.85),
    "validate": (0.85, 0.95),
    "publish": (0.95, 0.99),  # the rest is for those who publish it
}
MAX_PREVIEW_BYTES = 2_000_000

Tell = Callable[[Progress | Preview], None]


class Report:
    """How far one training is."""

    def __init__(self, steps: int, folder: Path, tell: Tell) -> None:
        self.heard_at: dict[str, tuple[float, float]] = {}  # of the work that is on: stage → first and last word
        self._steps = steps
        self._folder = folder
        self._tell = tell
        self._step = 0
        self._share = 0.0
        self._before_s = 0.0  # spent before the work that is on
        self._began_at: float | None = None  # that work
        self._ends_at: float | None = None
        self._after_s = 0.0

    @property
    def spent_s(self) -> float:
        """Seconds of decoders and of processes of ours, so far."""
        return self._before_s + self.since_began_s

    @property
    def since_began_s(self) -> float:
        """Of the process that is at work."""
        return 0.0 if self._began_at is None else time.perf_counter() - self._began_at

    def expect(self, time_s: float, *, after_s: float) -> None:
        """It will take so long from now on, and so long from its last step on."""
        self._ends_at, self._after_s = time.perf_counter() + time_s, after_s

    def spend(self, device_s: float) -> None:
        """Somebody else has worked for us."""
        self._before_s += device_s

    def begin_work(self) -> None:
        """A process is started now, in the place of the one before."""
        self._before_s = self.spent_s
        self._began_at = time.perf_counter()
        self.heard_at = {}

    def at(self, stage: Stage, share: float = 0.0, *, loss: float | None = None, eta_s: float | None = None) -> None:
        """Tells how much of a stage is done."""
        now_s = self.since_began_s
        self.heard_at[stage] = (self.heard_at.get(stage, (now_s, now_s))[0], now_s)
        begins, ends = SPANS[stage]
        self._share = max(self._share, begins + (ends - begins) * min(1.0, max(0.0, share)))
        if eta_s is None and self._ends_at is not None:
            eta_s = max(0.0, self._ends_at - time.perf_counter())
        self._tell(Progress(self._step, self._steps, self.spent_s, self._share, stage, loss, eta_s))

    def hear(self, news: dict[str, Any]) -> None:
        """What a work says (training.orders)."""
        match news:
            case {"stage": "train", "step": int(step), "steps": int(steps)}:
                self._step = step
                eta_s = news.get("eta_s")
                all_s = None if eta_s is None else eta_s + self._after_s
                self.at("train", step / max(1, steps), loss=news.get("loss"), eta_s=all_s)
            case {"stage": stage, "done": int() | float() as done, "of": int() | float() as of} if stage in SPANS:
                self.at(stage, done / max(of, 1e-9))
            case {"preview": str(name), "step": int(step)}:
                self._show(name, step)

    def _show(self, name: str, step: int) -> None:
        path = self._folder / PREVIEWS / PurePath(name).name
        if path.stat().st_size <= MAX_PREVIEW_BYTES:
            self._tell(Preview(0, step, path.read_bytes(), content_type_of(path.name)))
