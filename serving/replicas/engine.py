"""The Engine deployment: one loaded model on one device. The only kind of process here that loads torch."""

import asyncio
import os
import time
from collections.abc import AsyncIterator

import psutil

from configs.settings import Settings
from models.adapter_shelf import AdapterShelf
from models.blobs import BlobStore
from models.errors import GenerationError
from models.loader import load_model
from models.spec import ModelSpec
from pipelines.engine import Engine as PipelineEngine
from pipelines.preparing import Sources
from pipelines.request import AdapterReport, GenerationRequest, GenerationResult, Preview, StoredFile
from pipelines.ticket import EngineEvent
from serving.backends.gpu import EngineFailure, EngineMessage
from serving.replicas.meter import PrometheusMeter
from serving.telemetry import ENGINE_LOAD_SECONDS, configure_logging, get_logger

log = get_logger("engine")

NEWS_PERIOD_S = 0.1  # every message between processes costs about a millisecond


class Engine:
    """Streams what the engine's threads tell; this process's own loop always answers."""

    def __init__(self, settings: Settings, spec: ModelSpec) -> None:
        configure_logging(settings.log, component=f"engine-{spec.id}", log_dir=settings.state_dir / "logs")
        # Code compiled for this model outlives the process: the next start finds it.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(settings.state_dir / "compiled"))
        started = time.perf_counter()
        self._model_id = spec.id
        blobs = BlobStore.from_settings(settings.s3)
        shelf = AdapterShelf(blobs, settings.state_dir / "adapters", max_bytes=settings.engine.adapter_disk_bytes)
        self._meter = PrometheusMeter(spec.id)
        self._engine = PipelineEngine(
            load_model(spec, settings.models, settings.state_dir),
            settings.engine,
            sources=Sources(
                read=lambda file: blobs.get(file.key), fetch=lambda file: shelf.fetch(file.key, file.sha256)
            ),
            meter=self._meter,
            table_path=settings.state_dir / "step-times" / f"{spec.id}.json",
        )
        load_s = time.perf_counter() - started
        ENGINE_LOAD_SECONDS.labels(spec.id).set(load_s)
        # Of its whole start the loading is a part; the rest is Python, Ray and the libraries.
        start_s = time.time() - psutil.Process().create_time()
        log.info("model ready", model=spec.id, load_s=round(load_s, 2), start_s=round(start_s, 2))

    def ping(self) -> bool:
        """Answers once the model is loaded: Ray lets no call in before."""
        return True

    def check_health(self) -> None:
        """Ray replaces a replica whose check raises; without its loop an engine would never answer."""
        if not self._engine.is_alive:
            raise RuntimeError("the engine's loop has ended")

    async def generate(self, job_id: str, request: GenerationRequest) -> AsyncIterator[EngineMessage]:
        """Progress and previews now and then, and last a result or a failure. Closing it cancels the request."""
        loop = asyncio.get_running_loop()
        messages: asyncio.Queue[EngineMessage] = asyncio.Queue()
        news = NewsGate()

        def listen(event: EngineEvent) -> None:
            if (message := news.worth_telling(event)) is not None:
                loop.call_soon_threadsafe(messages.put_nowait, message)

        ticket = self._engine.submit(request, listen)
        try:
            while True:
                message = await messages.get()
                yield message
                if isinstance(message, GenerationResult | EngineFailure):
                    self._log_end(job_id, message)
                    return
        finally:
            self._engine.cancel(ticket)
            self._meter.refresh()

    async def check_adapter(self, file: StoredFile) -> AdapterReport | EngineFailure:
        """Whether this model can use an adapter, tried by loading it."""
        try:
            return await asyncio.to_thread(self._engine.check_adapter, file)
        except GenerationError as error:
            return EngineFailure(error.code, str(error))

    def __del__(self) -> None:
        """Ray calls it when the replica is stopped."""
        if hasattr(self, "_engine"):  # not where loading failed
            self._engine.close()

    def _log_end(self, job_id: str, message: GenerationResult | EngineFailure) -> None:
        if isinstance(message, GenerationResult):
            log.info("request done", job_id=job_id, model=self._model_id, engine_s=round(message.engine_s, 3))
        else:
            log.warning("request failed", job_id=job_id, code=message.code, reason=message.message)


class NewsGate:
    """Which events of one request are worth a message: progress and each picture's small previews only now and then."""

    def __init__(self) -> None:
        # A request shorter than one period ends without news on the way.
        self._began_at = time.perf_counter()
        self._told_at: dict[int | None, float] = {}  # by picture; None: progress

    def worth_telling(self, event: EngineEvent) -> EngineMessage | None:
        if isinstance(event, GenerationError):
            return EngineFailure(event.code, str(event))
        if isinstance(event, GenerationResult) or (isinstance(event, Preview) and event.partial_index is not None):
            return event
        slot = event.image_index if isinstance(event, Preview) else None
        now = time.perf_counter()
        if now < self._told_at.get(slot, self._began_at) + NEWS_PERIOD_S:
            return None
        self._told_at[slot] = now
        return event
