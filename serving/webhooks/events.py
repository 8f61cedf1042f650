"""What there is to tell of a job, from its state alone: the same state always tells the same events. Pure."""

import hashlib
import time
from dataclasses import dataclass, replace
from typing import Literal

from pipelines.request import Progress
from serving.jobs.job import Job

EventType = Literal["job.started", "job.progress", "job.succeeded", "job.failed", "job.cancelled"]
ENDS: tuple[EventType, ...] = ("job.succeeded", "job.failed", "job.cancelled")
USUAL: tuple[EventType, ...] = ("job.started", *ENDS)
PROGRESS: EventType = "job.progress"
# Within one life of a job: first that it started, then how far it is, then how it ended.
PHASES: dict[EventType, int] = {"job.started": 0, PROGRESS: 1, **dict.fromkeys(ENDS, 2)}
END_OF: dict[str, EventType] = {"succeeded": "job.succeeded", "failed": "job.failed", "cancelled": "job.cancelled"}


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a job, and the job as it was then."""

    id: str  # the same however often it is found out: receivers know repetitions by it
    type: EventType
    at: float  # Unix seconds
    job: Job

    @property
    def order(self) -> str:
        """Sorts the events of one job."""
        return f"{self.job.lives:06d}.{PHASES[self.type]}.{int(self.at * 1000):015d}"


def events_of(job: Job) -> list[Event]:
    """All events that the job's present life has had so far, in order; progress is not among them."""
    events = []
    if job.started_at is not None:
        events.append(_event("job.started", job.started_at, _as_it_started(job)))
    if job.is_final and job.finished_at is not None:
        events.append(_event(END_OF[job.status], job.finished_at, job))
    return events


def progress_event(job: Job, progress: Progress) -> Event:
    """How far a running job is now."""
    now = time.time()
    seen = replace(
        job,
        step=progress.step,
        steps=progress.steps,
        progress=progress.percent,
        stage=progress.stage,
        loss=progress.loss,
        told_eta_s=progress.eta_s,
    )
    return _event(PROGRESS, now, seen, of=f"{now:.3f}")


def _as_it_started(job: Job) -> Job:
    """The job as it was when it began to run, for by now it may have ended or been put back."""
    untold = replace(job, progress=0, step=0, stage=None, loss=None, told_eta_s=None)
    return replace(untold, status="running", finished_at=None, result=None, error=None)


def _event(event_type: EventType, at: float, job: Job, *, of: str = "") -> Event:
    name = f"{job.id}/{job.lives}/{event_type}/{of}"
    return Event(f"evt_{hashlib.sha256(name.encode()).hexdigest()[:32]}", event_type, at, job)
