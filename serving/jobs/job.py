"""Job: one accepted request, its life and the transitions that are allowed. Knows no storage and no HTTP."""

import hashlib
import re
import secrets
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pipelines.request import GenerationRequest, LoraChoice, StoredFile

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Kind = Literal["image", "video", "text", "lora", "frames"]
Priority = Literal["low", "normal", "high"]

# running → queued: its backend or its Router was lost, and it may be tried again.
TRANSITIONS: dict[Status, frozenset[Status]] = {
    "queued": frozenset({"running", "cancelled", "failed"}),
    "running": frozenset({"succeeded", "failed", "cancelled", "queued"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}
FINAL: frozenset[Status] = frozenset(status for status, after in TRANSITIONS.items() if not after)
SAFE_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\-]{0,63}")
PRIORITY_RANK: dict[Priority, int] = {"high": 0, "normal": 1, "low": 2}  # sorts ascending


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


@dataclass(frozen=True, slots=True)
class JobResult:
    """What a succeeded job points at. Pre-signed URLs are made when asked for, never stored."""

    images: tuple[StoredImage, ...]
    engine_s: float
    waited_s: float  # for a free engine, after the Router had taken the job


@dataclass(frozen=True, slots=True)
class JobError:
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Job:
    """A snapshot; JobStore is the only one that changes what is stored."""

    id: str
    tenant: str
    kind: Kind
    request: GenerationRequest
    priority: Priority
    created_at: float
    status: Status = "queued"
    progress: int = 0  # percent
    step: int = 0
    steps: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    attempts: int = 0  # claims, whatever became of them
    lost_workers: int = 0  # attempts that ended with the death of whoever was at work
    not_before: float = 0.0  # Unix seconds; put back until then
    fence: int = 0  # grows with every claim; a write with an older fence is refused
    owner: str | None = None
    lease_until: float = 0.0
    backend: str | None = None
    result: JobResult | None = None
    error: JobError | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    user: str | None = None
    request_id: str = ""  # of the HTTP call that made it, for the logs

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def model_id(self) -> str:
        return self.request.model_id

    @property
    def output_prefix(self) -> str:
        """Where its pictures lie in S3: the owner's bucket layout."""
        return f"tenants/{self.tenant}/generated-images/{_folder_of(self.user)}/{self.id}/"


def new_job_id() -> str:
    """Ids sort by time of creation."""
    return f"job_{int(time.time() * 1000):012x}{secrets.token_hex(8)}"


def new_job(
    request: GenerationRequest,
    *,
    job_id: str | None = None,
    tenant: str,
    kind: Kind,
    priority: Priority,
    metadata: dict[str, str],
    user: str | None,
    request_id: str,
) -> Job:
    """A queued job, with a fresh id unless it got one before."""
    return Job(
        id=job_id or new_job_id(),
        tenant=tenant,
        kind=kind,
        request=request,
        priority=priority,
        created_at=time.time(),
        steps=num_run_steps(request.num_inference_steps, request.strength) * request.num_images,
        metadata=metadata,
        user=user,
        request_id=request_id,
    )


def num_run_steps(steps: int, strength: float) -> int:
    """Steps that are run for one image: a picture to start from saves those that its strength leaves out."""
    return min(steps, int(steps * strength))


def input_prefix(job_id: str) -> str:
    """Where the files that a job starts from lie in S3: the owner's bucket layout keeps them for a day."""
    return f"temp/{job_id}/"


def job_to_document(job: Job) -> dict[str, Any]:
    """The stored form: scalars, whole lists and sub-documents only."""
    document = asdict(job)
    document["_id"] = document.pop("id")
    document["priority_rank"] = PRIORITY_RANK[job.priority]
    # A seed reaches 2^63-1, within a BSON int64; as text it also survives stores that pass numbers through doubles.
    document["request"]["seed"] = str(job.request.seed)
    document["request"]["loras"] = [asdict(lora) for lora in job.request.loras]  # a list, not a tuple
    document["model"] = job.model_id
    document["result"] = None if job.result is None else result_to_document(job.result)
    return document


def job_from_document(document: dict[str, Any]) -> Job:
    """Inverse of job_to_document; raises KeyError or TypeError on a document this version does not understand."""
    names = {name for name in Job.__slots__ if name not in {"id", "request", "result", "error"}}
    scalars = {name: document[name] for name in names}
    request = dict(document["request"])
    request["seed"] = int(request["seed"])
    request["loras"] = tuple(LoraChoice(**{**lora, "file": _file(lora)}) for lora in request["loras"])
    request |= {"image": _file(request, "image"), "mask": _file(request, "mask")}
    error = document["error"]
    return Job(
        **scalars,
        id=document["_id"],
        request=GenerationRequest(**request),
        result=None if document["result"] is None else _result_from_document(document["result"]),
        error=None if error is None else JobError(**error),
    )


def _file(document: dict[str, Any], name: str = "file") -> StoredFile | None:
    """None also for a document from before requests had files."""
    file = document.get(name)
    return None if file is None else StoredFile(**file)


def result_to_document(result: JobResult) -> dict[str, Any]:
    images = [{**asdict(image), "seed": str(image.seed)} for image in result.images]
    return {"images": images, "engine_s": result.engine_s, "waited_s": result.waited_s}


def _result_from_document(document: dict[str, Any]) -> JobResult:
    images = tuple(StoredImage(**{**image, "seed": int(image["seed"])}) for image in document["images"])
    return JobResult(images=images, engine_s=document["engine_s"], waited_s=document["waited_s"])


def _folder_of(user: str | None) -> str:
    """A user's folder in S3: the name itself where that is a safe key, else a hash of it."""
    if user is None:
        return "-"
    if SAFE_FOLDER.fullmatch(user):
        return user
    return "u-" + hashlib.sha256(user.encode()).hexdigest()[:16]
