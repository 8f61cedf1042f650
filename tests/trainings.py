"""A true stand-in for the Trainer replicas: says what they say and stores what they store, at once, without torch."""

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncGenerator
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines.request import (
    GenerationRequest,
    Progress,
    StoredFile,
    TrainedAdapter,
    TrainingQuality,
    TrainingRequest,
    TrainingSample,
)
from serving.backends.base import Order
from serving.backends.training import TrainerMessage, TrainingEstimate, TrainingFailure
from serving.errors import Unavailable
from serving.tenancy.policies import ModerationPolicy
from tests.fake_pictures import picture
from tests.memory_blobs import MemoryBlobs
from tests.models.lora_bytes import lora_bytes
from training.dataset import MANIFEST, Dataset, Picture, Rejected, write_dataset
from training.recipe import Recipe

TRAIN, ESTIMATE = "/v1/loras/train", "/v1/loras/estimate"
STAGES = ("frames", "filter", "caption", "cache", "train", "validate", "publish")
BASE_SHA256 = "b" * 64
TIMES_S = (0.5, 1.25, 2.0)


class LocalTrainingLink:
    """serving.backends.training.TrainingLink; what RayTrainingLink does, without Ray and without learning anything."""

    def __init__(self, blobs: MemoryBlobs) -> None:
        self._blobs = blobs
        self.orders: list[Order] = []
        self.is_lost = False  # True: there is nobody
        self.troubles: deque[TrainingFailure | BaseException] = deque()  # of the next attempts, before their result
        self.gate = asyncio.Event()  # cleared: the last step takes until it is set
        self.gate.set()
        self.estimate_answer: TrainingEstimate | BaseException = TrainingEstimate(480.04, 30.0, 1_900_000_000, None)
        self.estimated: list[TrainingRequest] = []

    async def train(self, order: Order, policy: ModerationPolicy) -> AsyncGenerator[TrainerMessage, None]:
        self.orders.append(order)
        if self.is_lost:
            raise Unavailable("No Trainer takes it now.", code="trainer_unavailable")
        assert isinstance(order.request, TrainingRequest)
        for stage in STAGES:
            yield _progress(stage, order.request)
            while stage == "train" and not self.gate.is_set():
                await asyncio.sleep(0.01)
                yield _progress(stage, order.request)
        if self.troubles:
            trouble = self.troubles.popleft()
            if isinstance(trouble, BaseException):
                raise trouble
            yield trouble
            return
        yield self._made(order, order.request)

    async def estimate(self, request: TrainingRequest, *, timeout_s: float) -> TrainingEstimate:
        self.estimated.append(request)
        if self.is_lost:
            raise Unavailable("No Trainer answers now.", code="trainer_unavailable")
        if isinstance(self.estimate_answer, BaseException):
            raise self.estimate_answer
        return self.estimate_answer

    async def is_ready(self, *, timeout_s: float) -> bool:
        return not self.is_lost

    def _made(self, order: Order, request: TrainingRequest) -> TrainedAdapter:
        file = lora_bytes(seed=request.seed % 1_000)
        staged = StoredFile(f"temp/{order.job_id}/adapter.safetensors", hashlib.sha256(file).hexdigest())
        self._blobs.put(staged.key, file, "application/octet-stream")
        return TrainedAdapter(
            file=staged,
            num_bytes=len(file),
            weights_sha256=BASE_SHA256,
            dataset=order.output_prefix,
            manifest=self._store_dataset(order, request),
            frames_used=len(TIMES_S) * max(1, len(request.sources)),
            frames_rejected=(("blurry", 1),),
            loss=((0, 0.5), (request.steps, 0.25)),
            validation_loss=((0, 0.4), (request.steps, 0.3)),
            quality=TrainingQuality(0.4, 0.3, 0.5, 0.3, best_step=request.steps, num_held_out=1),
            samples=tuple(_sample(request, step) for step in (0, request.steps)),
            loss_plot=_sample(request, 0).image.data,
            engine_s=2.0,
            waited_s=0.0,
            device_s=1.5,
        )

    def _store_dataset(self, order: Order, request: TrainingRequest) -> StoredFile:
        with TemporaryDirectory(prefix="darkroom-dataset-") as folder:
            dataset, sources = _dataset(order, request, Path(folder) / "stills")
            sha256 = write_dataset(Path(folder) / "dataset", dataset, sources)
            for path in sorted((Path(folder) / "dataset").rglob("*")):
                if path.is_file():
                    name = path.relative_to(Path(folder) / "dataset").as_posix()
                    self._blobs.put(order.output_prefix + name, path.read_bytes(), "application/octet-stream")
        return StoredFile(order.output_prefix + MANIFEST, sha256)


def _progress(stage: str, request: TrainingRequest) -> Progress:
    number, is_training = STAGES.index(stage), stage == "train"
    return Progress(
        request.steps if number >= STAGES.index("train") else 0,
        request.steps,
        share=number / len(STAGES),
        stage=stage,
        loss=0.25 if is_training else None,
        eta_s=12.5 if is_training else None,
    )


def _dataset(order: Order, request: TrainingRequest, stills: Path) -> tuple[Dataset, dict[str, Path]]:
    """Three pictures of each upload, the last one held out."""
    stills.mkdir()
    pictures: list[Picture] = []
    paths: dict[str, Path] = {}
    for source in request.sources:
        for time_s in TIMES_S:
            name = f"images/{len(pictures):04d}.png"
            paths[name] = stills / f"{len(pictures)}.png"
            data = _sample(request, len(pictures)).image.data
            paths[name].write_bytes(data)
            pictures.append(
                Picture(
                    file=name,
                    sha256=hashlib.sha256(data).hexdigest(),
                    width_px=64,
                    height_px=64,
                    caption=request.trigger,
                    is_held_out=time_s == TIMES_S[-1],
                    upload_id=source.upload_id,
                    upload_sha256=source.file.sha256,
                    kind=source.kind,
                    time_s=time_s if source.kind == "video" else None,
                )
            )
    recipe = Recipe.from_json(request.recipe_json)
    dataset = Dataset(
        job_id=order.job_id,
        trigger=request.trigger,
        caption_mode=request.caption,
        recipe=request.recipe_json,
        recipe_sha256=recipe.sha256,
        base_model=request.base_model,
        base_sha256=BASE_SHA256,
        pictures=tuple(pictures),
        rejected=(Rejected(request.sources[0].upload_id, 0.75, "9.png", "c" * 64, "blurry"),)
        if request.sources
        else (),
    )
    return dataset, paths


def _sample(request: TrainingRequest, step: int) -> TrainingSample:
    """A small true picture whose colour is decided by the step."""
    order = GenerationRequest(request.base_model, request.trigger, "", 64, 64, 1, step, 1, 1.0)
    return TrainingSample(picture(order, 0), request.trigger, step)
