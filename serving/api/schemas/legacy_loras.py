"""What the owner's first clients say and hear, in their camelCase. Extra fields are ignored: they may send some."""

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from pipelines.request import TrainingResult
from serving.jobs.job import Job, Status

LegacyStatus = Literal["pending", "processing", "completed", "failed", "cancelled"]
WORDS: dict[Status, LegacyStatus] = {
    "queued": "pending",
    "running": "processing",
    "succeeded": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
}
NAME = "name"  # of the metadata in which the client's own name for a LoRA is kept
MAX_NAME_CHARS = 200


class Camel(BaseModel):
    """Python's names here, theirs on the wire."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class LegacyTrainBody(Camel):
    """One of videoUrl and uploadId says what to learn from."""

    user_id: Annotated[str, Field(min_length=1, max_length=256)]
    video_url: str | None = Field(None, description="http or https; it is fetched before the answer comes.")
    upload_id: Annotated[str, Field(max_length=100)] | None = None
    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS, description="Free text.")]
    trigger_word: str | None = None
    steps: int | None = None


class LegacyStarted(Camel):
    job_id: str
    status: LegacyStatus


class LegacyStanding(LegacyStarted):
    progress: int = Field(description="Percent.")
    error: str | None


class LegacyLora(LegacyStanding):
    """A training and, once it is completed, its LoRA."""

    user_id: str | None
    name: str
    trigger_word: str
    created_at: int = Field(description="Unix seconds.")
    adapter: str | None = Field(description="What `loras` of a picture may name; null before its end.")
    url: str | None = Field(description="Of the file, for a while; null before its end.")


class LegacyLoraList(BaseModel):
    loras: list[LegacyLora]


def started(job: Job) -> LegacyStarted:
    return LegacyStarted(job_id=job.id, status=WORDS[job.status])


def standing(job: Job) -> LegacyStanding:
    error = None if job.error is None else job.error.message
    return LegacyStanding(job_id=job.id, status=WORDS[job.status], progress=job.progress, error=error)


def legacy_lora(job: Job, sign: Callable[[str], str]) -> LegacyLora:
    """A training job in their words; `sign` makes a URL of an object's key."""
    made = job.result if isinstance(job.result, TrainingResult) else None
    return LegacyLora(
        **standing(job).model_dump(),
        user_id=job.user,
        name=job.metadata.get(NAME, job.training.name),
        trigger_word=job.training.trigger,
        created_at=int(job.created_at),
        adapter=None if made is None else made.adapter,
        url=None if made is None else sign(made.key),
    )
