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
    StoredSample,
    TrainingQuality,
    TrainingRequest,
    TrainingResult,
    TrainingSource,
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
    document: Document = _plain(asdict(request))
    if not isinstance(request, FramesRequest):
        # A seed reaches 2^63-1, within a BSON int64; as text it also survives stores that pass numbers through doubles.
        document["seed"] = str(request.seed)
    return document


def _request_from_document(document: Document) -> JobRequest:
    """Each kind of request is known by a field that no other has."""
    if "recipe_json" in document:
        return _training_request(document)
    if "upload_id" in document:
        video = StoredFile(**document["video"])
        return FramesRequest(**{**document, "video": video, "dedupe": bool(document["dedupe"])})
    loras = tuple(LoraChoice(**{**lora, "file": _file(lora)}) for lora in document["loras"])
    files = {"image": _file(document, "image"), "mask": _file(document, "mask")}
    return GenerationRequest(**{**document, **files, "seed": int(document["seed"]), "loras": loras})


def _training_request(document: Document) -> TrainingRequest:
    sources = tuple(TrainingSource(**{**source, "file": _file(source)}) for source in document["sources"])
    captions = tuple((file, text) for file, text in document["captions"])
    return TrainingRequest(**{**document, "seed": int(document["seed"]), "sources": sources, "captions": captions})


def _file(document: Document, name: str = "file") -> StoredFile | None:
    """None also for a document from before requests had files."""
    file = document.get(name)
    return None if file is None else StoredFile(**file)


def result_to_document(result: AnyResult) -> Document:
    """The stored form of a result."""
    document: Document = _plain(asdict(result))
    for picture in document.get("images", []) + document.get("samples", []):
        picture["seed"] = str(picture["seed"])
    return document


def _plain(value: Any) -> Any:  # noqa: ANN401  # whatever a dataclass may hold
    """Lists for tuples, and numbers for booleans, which is what the database makes of them."""
    match value:
        case dict():
            return {name: _plain(part) for name, part in value.items()}
        case list() | tuple():
            return [_plain(part) for part in value]
        case bool():
            return int(value)
        case _:
            return value


def _result_from_document(document: Document) -> AnyResult:
    """Each kind of result is known by a field that no other has."""
    if "adapter" in document:
        return _training_result(document)
    if "frames" in document:
        rejected = tuple(RejectedFrame(**frame) for frame in document["rejected"])
        return FramesResult(**{**document, "frames": tuple(map(_frame, document["frames"])), "rejected": rejected})
    images = tuple(StoredImage(**_picture(image)) for image in document["images"])
    return JobResult(images=images, engine_s=document["engine_s"], waited_s=document["waited_s"])


def _training_result(document: Document) -> TrainingResult:
    curves = {name: tuple((step, float(loss)) for step, loss in document[name]) for name in ("loss", "validation_loss")}
    quality = document["quality"]
    parts = {
        "frames_rejected": tuple((reason, count) for reason, count in document["frames_rejected"]),
        "quality": None if quality is None else TrainingQuality(**quality),
        "samples": tuple(StoredSample(**_picture(sample)) for sample in document["samples"]),
    }
    return TrainingResult(**{**document, **curves, **parts})


def _picture(document: Document) -> Document:
    return {**document, "seed": int(document["seed"]), "is_nsfw": _flag(document)}


def _frame(document: Document) -> StoredFrame:
    faces = tuple(Face(**face) for face in document["faces"])
    return StoredFrame(**{**document, "faces": faces, "is_nsfw": _flag(document)})


def _flag(document: Document) -> bool | None:
    """The database gives booleans back as numbers."""
    flag = document.get("is_nsfw")
    return None if flag is None else bool(flag)
