"""Jobs as documents: what is stored of them, and how it is read back. Knows no database."""

from dataclasses import asdict
from typing import Any

from pipelines.request import (
    Face,
    FramesRequest,
    FramesResult,
    GenerationRequest,
    JobRequest,
    LoraChoice,
    RejectedFrame,
    StoredFile,
    StoredFrame,
)
from serving.jobs.job import (
    NOWHERE,
    OLD_MAX_AGE_S,
    AnyResult,
    Attempt,
    Job,
    JobError,
    JobResult,
    StoredImage,
    place_in_line,
)

Document = dict[str, Any]


def job_to_document(job: Job) -> Document:
    """The stored form: scalars, whole lists and sub-documents only."""
    document = asdict(job)
    document["_id"] = document.pop("id")
    document["line"] = place_in_line(job) if job.status == "queued" else NOWHERE
    document["waits_of"] = job.tenant if job.status == "queued" else NOWHERE
    document["tenant_at"] = f"{job.tenant}/{job.id}"
    document["history"] = [asdict(attempt) for attempt in job.history]
    document["request"] = _request_to_document(job.request)
    document["model"] = job.model_id
    document["result"] = None if job.result is None else result_to_document(job.result)
    return document


def job_from_document(document: Document) -> Job:
    """Inverse of job_to_document; raises KeyError or TypeError on a document this version does not understand."""
    parts = {"id", "request", "result", "error", "history"}
    # What an older version did not write has its default; such a job is brought into line by JobUpkeep.adopt().
    scalars = {name: document[name] for name in Job.__slots__ if name in document and name not in parts}
    scalars.setdefault("expires_at", document["created_at"] + OLD_MAX_AGE_S)
    error = document["error"]
    return Job(
        **scalars,
        id=document["_id"],
        history=tuple(Attempt(**attempt) for attempt in document.get("history", ())),
        request=_request_from_document(document["request"]),
        result=None if document["result"] is None else _result_from_document(document["result"]),
        error=None if error is None else JobError(**error),
    )


def _request_to_document(request: JobRequest) -> Document:
    document = asdict(request)
    if isinstance(request, GenerationRequest):
        # A seed reaches 2^63-1, within a BSON int64; as text it also survives stores that pass numbers through doubles.
        document["seed"] = str(request.seed)
        document["loras"] = [asdict(lora) for lora in request.loras]  # a list, not a tuple
    else:
        document["dedupe"] = int(request.dedupe)
    return document


def _request_from_document(document: Document) -> JobRequest:
    if "upload_id" in document:
        video = StoredFile(**document["video"])
        return FramesRequest(**{**document, "video": video, "dedupe": bool(document["dedupe"])})
    loras = tuple(LoraChoice(**{**lora, "file": _file(lora)}) for lora in document["loras"])
    files = {"image": _file(document, "image"), "mask": _file(document, "mask")}
    return GenerationRequest(**{**document, **files, "seed": int(document["seed"]), "loras": loras})


def _file(document: Document, name: str = "file") -> StoredFile | None:
    """None also for a document from before requests had files."""
    file = document.get(name)
    return None if file is None else StoredFile(**file)


def result_to_document(result: AnyResult) -> Document:
    """The stored form of a result."""
    if isinstance(result, FramesResult):
        rejected = [asdict(frame) for frame in result.rejected]
        return asdict(result) | {"frames": [_frame_to_document(frame) for frame in result.frames], "rejected": rejected}
    images = [{**asdict(image), "seed": str(image.seed), "is_nsfw": _number(image.is_nsfw)} for image in result.images]
    return {"images": images, "engine_s": result.engine_s, "waited_s": result.waited_s}


def _frame_to_document(frame: StoredFrame) -> Document:
    return asdict(frame) | {"faces": [asdict(face) for face in frame.faces], "is_nsfw": _number(frame.is_nsfw)}


def _number(flag: bool | None) -> int | None:
    return None if flag is None else int(flag)


def _result_from_document(document: Document) -> AnyResult:
    if "frames" in document:
        rejected = tuple(RejectedFrame(**frame) for frame in document["rejected"])
        return FramesResult(**{**document, "frames": tuple(map(_frame, document["frames"])), "rejected": rejected})
    images = tuple(map(_image, document["images"]))
    return JobResult(images=images, engine_s=document["engine_s"], waited_s=document["waited_s"])


def _image(document: Document) -> StoredImage:
    return StoredImage(**{**document, "seed": int(document["seed"]), "is_nsfw": _flag(document)})


def _frame(document: Document) -> StoredFrame:
    faces = tuple(Face(**face) for face in document["faces"])
    return StoredFrame(**{**document, "faces": faces, "is_nsfw": _flag(document)})


def _flag(document: Document) -> bool | None:
    """The database gives booleans back as numbers."""
    flag = document.get("is_nsfw")
    return None if flag is None else bool(flag)
