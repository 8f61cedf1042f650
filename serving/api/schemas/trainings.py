"""Trainings as clients see them: what POST /v1/loras/train takes, what is estimated of it, and what came of it."""

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipelines.request import CaptionMode, StoredSample, TrainingQuality, TrainingRequest, TrainingResult
from serving.api.schemas.terms import Terms
from serving.backends.training import TrainingEstimate
from serving.jobs.lora_wish import TrainingWish

UploadId = Annotated[str, Field(max_length=100)]


class TrainingBody(Terms):
    """Unknown fields are refused. What is left out is for the recipe or the model to say."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: str = Field(description="Of the adapter: 1 to 64 of a–z, 0–9, - and _. A new version where there is one.")
    upload_ids: list[UploadId] = Field(default_factory=list, description="Videos and pictures that are ready.")
    base_model: str | None = Field(None, description="The default image model when left out.")
    trigger: str | None = Field(None, description="The words that will call for it in a prompt; else its name.")
    caption: CaptionMode | None = Field(None, description="What is said of each picture in training.")
    recipe: str | None = Field(
        None, max_length=100, description="A file of configs/training, such as subject or style."
    )
    steps: int | None = Field(None, description="At most so many; it stops when it gets no better.")
    rank: int | None = None
    resolution: int | None = Field(None, description="Side of a square, in pixels.")
    seed: int | None = None
    from_job: str | None = Field(
        None, max_length=100, description="Train on the dataset of this job instead of on uploads."
    )
    captions: dict[str, str] | None = Field(
        None, description="With from_job: file of its dataset → what to say of it.", examples=[{"0003.png": "…"}]
    )
    user: str | None = Field(None, description="Whose it is: part of its path in the object store.")

    def wish(self) -> TrainingWish:
        """The same in the words of the rooms below, silent fields filled in."""
        return TrainingWish(
            name=self.name,
            upload_ids=tuple(self.upload_ids),
            base_model=self.base_model,
            trigger=self.trigger,
            caption=self.caption,
            recipe=self.recipe,
            steps=self.steps,
            rank=self.rank,
            resolution=self.resolution,
            seed=self.seed,
            from_job=self.from_job,
            captions=self.captions or {},
            priority=self.priority or "normal",
            metadata=self.metadata or {},
            user=self.user,
            expires_in_s=self.expires_in_s,
            webhook_url=self.webhook_url,
        )


class EstimateBody(BaseModel):
    """What a training takes at most, measured on the machine that would do it. It may stop earlier by itself."""

    object: Literal["lora.estimate"] = "lora.estimate"
    time_s: float = Field(description="From its first still to its file; waiting in line excluded.")
    frames_s: float = Field(description="Of that, for taking stills out of videos.")
    memory_bytes: int = Field(description="At its peak: of the GPU where it trains on one, else of the machine.")
    free_bytes: int | None = Field(description="Of the same memory, now; null: not known.")
    steps: int


class LoraSample(BaseModel):
    """A picture made on the way; step 0: by the base model alone."""

    url: str
    prompt: str
    seed: int
    step: int
    width: int
    height: int
    content_type: str
    bytes: int
    sha256: str
    is_nsfw: bool | None = Field(description="null: not looked at.")


class LoraQuality(BaseModel):
    """Measured on frames that it was not trained on: of the base model before, of the published weights after."""

    validation_loss_before: float
    validation_loss_after: float
    distance_before: float | None = Field(description="Mean colour-structure distance of pictures to these frames.")
    distance_after: float | None
    best_step: int = Field(description="Whose weights were published.")
    held_out: int = Field(description="How many frames that are.")


class LoraJobResult(BaseModel):
    adapter: str = Field(description="What `loras` in a request may name.", examples=["signer@1"])
    url: str = Field(description="Of its file, safetensors with diffusers' keys.")
    sha256: str
    bytes: int
    trigger: str
    frames_used: int
    frames_rejected: dict[str, int] = Field(description="By reason.")
    loss: list[tuple[int, float]] = Field(description="[step, loss] …")
    validation_loss: list[tuple[int, float]] = Field(description="[step, loss on held-out frames] …")
    loss_plot_url: str | None = Field(description="A PNG of both.")
    quality: LoraQuality | None = Field(description="null where a provider has trained it.")
    samples: list[str] = Field(description="URLs of pictures from before and after.")
    sample_details: list[LoraSample] = Field(description="The same ones, with what they are.")
    dataset_url: str = Field(description="Of manifest.json: every picture, where it is from, and its caption.")
    inference_time_s: float = Field(description="At work, waiting excluded.")
    queue_time_s: float


def lora_result(result: TrainingResult, sign: Callable[[str], str]) -> LoraJobResult:
    """What a training has published; `sign` makes a URL of an object's key."""
    samples = [_sample(sample, sign(sample.key)) for sample in result.samples]
    return LoraJobResult(
        adapter=result.adapter,
        url=sign(result.key),
        sha256=result.sha256,
        bytes=result.num_bytes,
        trigger=result.trigger,
        frames_used=result.frames_used,
        frames_rejected=dict(result.frames_rejected),
        loss=list(result.loss),
        validation_loss=list(result.validation_loss),
        loss_plot_url=None if result.loss_plot is None else sign(result.loss_plot),
        quality=None if result.quality is None else _quality(result.quality),
        samples=[sample.url for sample in samples],
        sample_details=samples,
        dataset_url=sign(result.dataset),
        inference_time_s=result.engine_s,
        queue_time_s=result.waited_s,
    )


def training_request(request: TrainingRequest) -> dict[str, Any]:
    """The request in the public words, with every choice filled in."""
    return {
        "name": request.name,
        "base_model": request.base_model,
        "trigger": request.trigger,
        "caption": request.caption,
        "recipe": request.recipe,
        "recipe_values": json.loads(request.recipe_json),
        "steps": request.steps,
        "rank": request.rank,
        "resolution": request.resolution_px,
        "seed": request.seed,
        "upload_ids": [source.upload_id for source in request.sources],
        "from_job": _job_of(request.dataset),
        "captions": dict(request.captions),
    }


def estimate_body(estimate: TrainingEstimate, request: TrainingRequest) -> EstimateBody:
    return EstimateBody(
        time_s=round(estimate.time_s, 1),
        frames_s=round(estimate.frames_s, 1),
        memory_bytes=estimate.memory_bytes,
        free_bytes=estimate.free_bytes,
        steps=request.steps,
    )


def _sample(sample: StoredSample, url: str) -> LoraSample:
    return LoraSample(
        url=url,
        prompt=sample.prompt,
        seed=sample.seed,
        step=sample.step,
        width=sample.width_px,
        height=sample.height_px,
        content_type=sample.content_type,
        bytes=sample.num_bytes,
        sha256=sample.sha256,
        is_nsfw=sample.is_nsfw,
    )


def _quality(quality: TrainingQuality) -> LoraQuality:
    return LoraQuality(
        validation_loss_before=quality.validation_loss_before,
        validation_loss_after=quality.validation_loss_after,
        distance_before=quality.distance_before,
        distance_after=quality.distance_after,
        best_step=quality.best_step,
        held_out=quality.num_held_out,
    )


def _job_of(dataset: str | None) -> str | None:
    """The job whose dataset lies below this prefix: its last folder."""
    return None if dataset is None else dataset.rstrip("/").rpartition("/")[2]
