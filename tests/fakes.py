"""True stand-ins for what tests cannot have: an engine that makes pictures at once, S3 in memory, a Router here."""

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from PIL import Image

from models.blobs import BlobInfo, check_key, check_prefix
from models.errors import AdapterError, BlobError, BlobNotFound
from pipelines.media import Provenance, encode_image
from pipelines.request import (
    CONTENT_TYPES,
    AdapterReport,
    GeneratedImage,
    GenerationRequest,
    GenerationResult,
    Preview,
    Progress,
    StoredFile,
)
from serving.backends.base import OnProgress
from serving.backends.gpu import EngineFailure, EngineMessage
from serving.errors import AppError, Unavailable
from serving.jobs.dispatcher import Dispatcher
from serving.jobs.feed import News, for_at_most
from serving.jobs.job import Job
from serving.jobs.lane import Place

FAKE_WEIGHTS_SHA256 = hashlib.sha256(b"fake weights").hexdigest()


class FakeBackend:
    """Makes small true pictures whose colour is decided by the seed. `gate` holds it, `troubles` are raised in turn."""

    def __init__(self, model_id: str, *, is_local: bool = True) -> None:
        self.id = f"engine:{model_id}"
        self.model_ids = frozenset({model_id})
        self.is_local = is_local
        self.calls: list[str] = []  # job ids, in the order they came
        self.num_running = 0
        self.most_running = 0
        self.num_cancelled = 0
        self.troubles: deque[BaseException] = deque()
        self.gate = asyncio.Event()
        self.gate.set()
        self.ready = True
        self.step_s = 0.0
        self.step_device_s = 0.0  # what it says that a step has used of the device
        self.adapter_refusal: str | None = None  # set: every adapter is refused with this message
        self.checked: list[StoredFile] = []

    async def make(self, job_id: str, request: GenerationRequest, *, on_progress: OnProgress) -> GenerationResult:
        self.calls.append(job_id)
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        started = time.perf_counter()
        try:
            if self.troubles:
                raise self.troubles.popleft()
            steps = request.num_inference_steps * request.num_images
            for step in range(1, steps + 1):
                await asyncio.sleep(self.step_s)
                await on_progress(Progress(step, steps, device_s=step * self.step_device_s))
                for preview in previews(request, step):
                    await on_progress(preview)
            await self.gate.wait()
            images = tuple(picture(request, index) for index in range(request.num_images))
            engine_s, device_s = time.perf_counter() - started, steps * self.step_device_s
            return GenerationResult(images, engine_s=engine_s, waited_s=0.0, device_s=device_s)
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        finally:
            self.num_running -= 1

    async def is_ready(self) -> bool:
        return self.ready

    async def check_adapter(self, file: StoredFile) -> AdapterReport:
        self.checked.append(file)
        if self.adapter_refusal is not None:
            raise AdapterError(self.adapter_refusal)
        return AdapterReport(num_layers=32, max_rank=8, components=("unet",), num_bytes=1_000_000)


def previews(request: GenerationRequest, step: int) -> list[Preview]:
    """One small preview for every step, and every second one a partial image, as long as any are wanted."""
    index, step = divmod(step - 1, request.num_inference_steps)
    step += 1
    data, content_type = picture(request, index).data, CONTENT_TYPES[request.output_format]
    told = [Preview(index, step, data, content_type)]
    if step % 2 == 1 and step // 2 < request.num_partial_images:
        told.append(Preview(index, step, data, content_type, partial_index=step // 2))
    return told


def picture(request: GenerationRequest, index: int) -> GeneratedImage:
    """A picture file of one colour, the same for the same seed."""
    seed = request.image_seed(index)
    colour = hashlib.sha256(str(seed).encode()).digest()
    image = Image.new("RGB", (request.width_px, request.height_px), (colour[0], colour[1], colour[2]))
    data = encode_image(image, Provenance(request, seed, "Fake", FAKE_WEIGHTS_SHA256, created=1_800_000_000))
    return GeneratedImage(
        data=data,
        content_type=CONTENT_TYPES[request.output_format],
        width_px=image.width,
        height_px=image.height,
        seed=seed,
        sha256=hashlib.sha256(data).hexdigest(),
    )


class FakeEngineLink:
    """An engine process as a backend reaches it: says `messages`, then raises `error` if there is one."""

    def __init__(self, messages: Sequence[EngineMessage], *, error: Exception | None = None) -> None:
        self._messages = messages
        self.report: AdapterReport | EngineFailure = AdapterReport(32, 8, ("unet",), 1_000_000)
        self._error = error
        self.is_closed = False
        self.ready = True

    async def generate(self, job_id: str, request: GenerationRequest) -> AsyncIterator[EngineMessage]:
        try:
            for message in self._messages:
                yield message
                await asyncio.sleep(0)
            if self._error is not None:
                raise self._error
        finally:
            self.is_closed = True

    async def check_adapter(self, file: StoredFile, *, timeout_s: float) -> AdapterReport | EngineFailure:
        return self.report

    async def is_ready(self, *, timeout_s: float) -> bool:
        return self.ready


@dataclass(frozen=True, slots=True)
class _Object:
    data: bytes
    info: BlobInfo


class MemoryBlobs:
    """BlobStore's interface over a dict, with the same checks of keys and the same errors."""

    endpoint = "https://s3.test"

    def __init__(self, bucket: str = "pictures") -> None:
        self.bucket = bucket
        self.is_down = False
        self._objects: dict[str, _Object] = {}

    @property
    def keys(self) -> list[str]:
        return sorted(self._objects)

    def put(self, key: str, data: bytes, content_type: str, metadata: Mapping[str, str] | None = None) -> BlobInfo:
        self._reach(check_key(key))
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        info = BlobInfo(key, len(data), etag, time.time(), content_type, dict(metadata or {}))
        self._objects[key] = _Object(bytes(data), info)
        return info

    def put_file(self, key: str, path: Path, content_type: str) -> None:
        self.put(key, path.read_bytes(), content_type)

    def copy(self, source: str, key: str) -> None:
        found = self._find(source)
        self.put(key, found.data, found.info.content_type)

    def get(self, key: str) -> bytes:
        return self._find(key).data

    def get_file(self, key: str, path: Path) -> None:
        path.write_bytes(self.get(key))

    def head(self, key: str) -> BlobInfo:
        return self._find(key).info

    def exists(self, key: str) -> bool:
        self._reach(check_key(key))
        return key in self._objects

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        self._reach(check_prefix(prefix))
        yield from (self._objects[key].info for key in self.keys if key.startswith(prefix))

    def delete(self, key: str) -> None:
        self._reach(check_key(key))
        self._objects.pop(key, None)

    def delete_prefix(self, prefix: str) -> int:
        return self.delete_many([info.key for info in self.list(prefix)])

    def delete_many(self, keys: Iterable[str]) -> int:
        doomed = list(keys)
        for key in doomed:
            self.delete(key)
        return len(doomed)

    def presign_get(self, key: str, expiry_s: int, filename: str | None = None) -> str:
        ends_at = int(time.time()) + expiry_s
        return f"{self.endpoint}/{self.bucket}/{quote(check_key(key))}?expires={ends_at}"

    def presign_put(self, key: str, expiry_s: int, content_type: str) -> str:
        return self.presign_get(key, expiry_s) + f"&content-type={quote(content_type)}"

    def ensure_bucket(self) -> None:
        self._reach(self.bucket)

    def check(self) -> None:
        self._reach(self.bucket)

    def open_url(self, url: str) -> bytes:
        """What a client that follows a pre-signed URL reads."""
        return self.get(unquote(urlsplit(url).path).removeprefix(f"/{self.bucket}/"))

    def _find(self, key: str) -> _Object:
        self._reach(check_key(key))
        if key not in self._objects:
            raise BlobNotFound(f"get {key}: there is nothing in bucket {self.bucket!r} at this key")
        return self._objects[key]

    def _reach(self, what: str) -> None:
        if self.is_down:
            raise BlobError(f"{what}: no answer from {self.endpoint}")


class LocalRouterLink:
    """serving.api.deps.RouterLink to a Dispatcher of this process; what RayRouterLink does, without Ray."""

    def __init__(self, dispatcher: Dispatcher, backends: Sequence[FakeBackend]) -> None:
        self._dispatcher = dispatcher
        self._backends = backends
        self._pushes: set[asyncio.Task[Any]] = set()
        self.is_lost = False  # True: every message to the Router is lost
        self.driven: list[str] = []
        self.followed: list[str] = []
        self.cancelled: list[str] = []
        self.num_following = 0
        self.pushed: list[str] = []

    async def drive(self, job: Job, *, timeout_s: float) -> Job | None:
        self.driven.append(job.id)
        if self.is_lost:
            return None
        try:
            return await asyncio.wait_for(self._dispatcher.drive(Place.of(job)), timeout_s)
        except (TimeoutError, AppError):
            return None

    async def follow(self, job: Job, *, timeout_s: float) -> AsyncGenerator[News | Job, None]:
        self.followed.append(job.id)
        if self.is_lost:
            return
        told = for_at_most(timeout_s, self._dispatcher.follow(Place.of(job)))
        self.num_following += 1
        try:
            async with aclosing(told):
                async for news in told:
                    if self.is_lost:  # in the middle of it
                        return
                    yield news
        except AppError:
            return
        finally:
            self.num_following -= 1

    async def cancel(self, job_id: str, *, timeout_s: float) -> None:
        self.cancelled.append(job_id)
        if not self.is_lost:
            self._dispatcher.call_off(job_id)

    def push(self, job: Job) -> None:
        self.pushed.append(job.id)
        task = asyncio.create_task(self.drive(job, timeout_s=60.0))
        self._pushes.add(task)
        task.add_done_callback(self._pushes.discard)

    async def check_adapter(self, model_id: str, file: StoredFile, *, timeout_s: float) -> AdapterReport:
        backend = next((b for b in self._backends if model_id in b.model_ids), None)
        if self.is_lost or backend is None:
            raise Unavailable(f"No engine of {model_id} could look at the adapter.", code="engine_unavailable")
        return await backend.check_adapter(file)

    async def ready_models(self, *, timeout_s: float) -> Mapping[str, bool]:
        if self.is_lost:
            return {}
        return {model: await backend.is_ready() for backend in self._backends for model in backend.model_ids}
