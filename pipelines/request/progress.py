"""How far a request is, whatever it is for."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a request is; counted over all of its images, or in the steps of a training."""

    step: int
    steps: int
    device_s: float = 0.0  # so far, as in GenerationResult
    share: float | None = None  # 0–1, of all there is to do, where steps are not all of it
    stage: str | None = None  # of a training: frames, filter, caption, cache, train, validate or publish
    loss: float | None = None
    eta_s: float | None = None  # seconds to go, where the one at work knows

    @property
    def percent(self) -> int:
        done = self.step / max(1, self.steps) if self.share is None else self.share
        return min(100, int(100 * done + 1e-9))
