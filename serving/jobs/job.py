"""Job: one accepted request, its life and the transitions that are allowed. Knows no storage and no HTTP."""

import hashlib
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import Literal

from pipelines.request import FramesResult, GenerationRequest, JobRequest, TrainingRequest, TrainingResult

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Kind = Literal["image", "video", "text", "lora", "frames"]
Priority = Literal["low", "normal", "high"]
Strictness = Literal["auto", "low"]  # of moderation, in OpenAI's words

# What the server may do by itself. running → queued: what stopped the attempt may pass. Only a person moves an ended
# job: failed → queued, a new life (JobStore.retry).
TRANSITIONS: dict[Status, frozenset[Status]] = {
    "queued": frozenset({"running", "cancelled", "failed"}),
    "running": frozenset({"succeeded", "failed", "cancelled", "queued"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}
FINAL: frozenset[Status] = frozenset(status for status, after in TRANSITIONS.items() if not after)
MAX_HISTORY = 50  # attempts that a job remembers, the latest
SAFE_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\-]{0,63}")
PRIORITY_RANK: dict[Priority, int] = {"high": 0, "normal": 1, "low": 2}  # sorts ascending
OLD_MAX_AGE_S = 86_400.0  # the deadline of jobs from before each had its own
OUTPUT_FOLDERS: dict[Kind, str] = {"image": "generated-images", "frames": "frames", "lora": "datasets"}
NOWHERE = ""  # the place of a job that does not wait in line


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One picture of a finished job, by reference."""

    key: str
    content_type: str
    num_bytes: int
    sha256: str
    width_px: int
    height_px: int
    seed: int
    is_nsfw: bool | None = None  # None: nobody looked


@dataclass(frozen=True, slots=True)
class JobResult:
    """What a succeeded picture job points at. Pre-signed URLs are made when asked for, never stored."""

    images: tuple[StoredImage, ...]
    engine_s: float
    waited_s: float  # for a free engine, after the Router had taken the job

    @property
    def keys(self) -> tuple[str, ...]:
        """Everything it stored."""
        return tuple(image.key for image in self.images)


AnyResult = JobResult | FramesResult | TrainingResult


@dataclass(frozen=True, slots=True)
class JobError:
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt that did not succeed, and why."""

    number: int
    started_at: float
    ended_at: float
    code: str
    message: str
    backend: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A snapshot; JobStore and JobUpkeep are the only ones that change what is stored."""

    id: str
    tenant: str
    kind: Kind
    request: JobRequest
    priority: Priority
    created_at: float
    expires_at: float  # Unix seconds; not ended by then, it fails with code "expired"
    status: Status = "queued"
    progress: int = 0  # percent
    step: int = 0
    steps: int = 0
    stage: str | None = None  # of a training, as the attempt under way told it last; its loss and time to go likewise
    loss: float | None = None
    told_eta_s: float | None = None
    reached: int = 0  # the furthest step of a training that an attempt of this life was lost at
    started_at: float | None = None
    finished_at: float | None = None
    attempts: int = 0  # claims, whatever became of them
    lives: int = 0  # times a person had it tried again after it had failed
    failures: int = 0  # attempts of this life that ended with an error which may pass
    lost_workers: int = 0  # attempts of this life that ended with the death of whoever was at work
    history: tuple[Attempt, ...] = ()
    not_before: float = 0.0  # Unix seconds; put back until then
    fence: int = 0  # grows with every claim and every loss of one; a write with an older fence is refused
    owner: str | None = None
    backend: str | None = None
    result: AnyResult | None = None
    error: JobError | None = None
    device_s: float = 0.0  # seconds of the device, all attempts together
    metadata: dict[str, str] = field(default_factory=dict)
    webhook_url: str | None = None
    user: str | None = None
    moderation: Strictness = "auto"
    request_id: str = ""  # of the HTTP call that made it, for the logs
    # Each of these is 0 when there is nothing to do, so an index finds what there is without looking at the rest.
    owed_at: float = 0.0  # since when its state has news that are not yet on their way to webhooks
    wake_at: float = 0.0  # a job that has not ended: when the server looks at it by itself (serving/jobs/upkeep.py)
    tidy_at: float = 0.0  # an ended one: when there is something to clear away

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def model_id(self) -> str:
        return self.request.model_id

    def with_attempt(self, code: str, message: str, *, backend: str | None = None) -> tuple[Attempt, ...]:
        """Its history, once the attempt under way has ended like this."""
        attempt = Attempt(self.attempts, self.started_at or self.created_at, time.time(), code, message, backend)
        return (*self.history, attempt)[-MAX_HISTORY:]

    @property
    def output_prefix(self) -> str:
        """Where what it makes lies in S3: the owner's bucket layout."""
        return f"tenants/{self.tenant}/{OUTPUT_FOLDERS[self.kind]}/{folder_of(self.user)}/{self.id}/"

    @property
    def attempt_prefix(self) -> str:
        """What the keys of this very attempt begin with: one that lost its lease overwrites nothing.

        A training goes on where another attempt was: all of them write the same bytes to the same places.
        """
        return self.output_prefix if self.is_training else f"{self.output_prefix}{self.fence}-"

    @property
    def is_training(self) -> bool:
        return self.kind == "lora"

    @property
    def training(self) -> TrainingRequest:
        """The request of a training."""
        assert isinstance(self.request, TrainingRequest), f"a job of kind {self.kind} trains nothing"
        return self.request

    @property
    def pictures(self) -> GenerationRequest:
        """The request of a picture job."""
        assert isinstance(self.request, GenerationRequest), f"a job of kind {self.kind} makes no pictures"
        return self.request


def new_job_id() -> str:
    """Ids sort by time of creation."""
    return f"job_{int(time.time() * 1000):012x}{secrets.token_hex(8)}"


def new_job(
    request: JobRequest,
    *,
    job_id: str | None = None,
    tenant: str,
    kind: Kind,
    priority: Priority,
    metadata: dict[str, str],
    user: str | None,
    request_id: str,
    expires_in_s: float,
    webhook_url: str | None = None,
    moderation: Strictness = "auto",
) -> Job:
    """A queued job, with a fresh id unless it got one before."""
    now = time.time()
    return Job(
        id=job_id or new_job_id(),
        tenant=tenant,
        kind=kind,
        request=request,
        priority=priority,
        created_at=now,
        expires_at=now + expires_in_s,
        wake_at=now + expires_in_s,
        webhook_url=webhook_url,
        moderation=moderation,
        steps=request.total_steps,
        metadata=metadata,
        user=user,
        request_id=request_id,
    )


def input_prefix(job_id: str) -> str:
    """Where what a job starts from, or goes on from, lies in S3: the owner's bucket layout keeps it for a day."""
    return f"temp/{job_id}/"


@dataclass(frozen=True, slots=True, order=True)
class Line:
    """The waiting jobs of one model, priority and tenant, oldest first."""

    model_id: str
    priority_rank: int
    tenant: str

    @classmethod
    def of(cls, job: Job) -> "Line":
        return cls(job.model_id, PRIORITY_RANK[job.priority], job.tenant)

    @classmethod
    def of_place(cls, place: str) -> "Line":
        """The line that a stored place belongs to."""
        model_id, rank, tenant, _ = place.split("/")
        return cls(model_id, int(rank), tenant)

    @property
    def prefix(self) -> str:
        """What the places of this line begin with, and no others."""
        return f"{self.model_id}/{self.priority_rank}/{self.tenant}/"


def place_in_line(job: Job) -> str:
    """One string that says where a waiting job stands; ids sort by time. Empty is nowhere.

    A composite, since the embedded database uses an index for ranges only: the head of a line, the next line and the
    length of a line are ranges of this one field, and take as long among a hundred thousand jobs as among ten.
    """
    return Line.of(job).prefix + job.id


def folder_of(user: str | None) -> str:
    """A user's folder in S3: the name itself where that is a safe key, else a hash of it."""
    if user is None:
        return "-"
    if SAFE_FOLDER.fullmatch(user):
        return user
    return "u-" + hashlib.sha256(user.encode()).hexdigest()[:16]
