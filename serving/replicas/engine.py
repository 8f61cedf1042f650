"""The Engine deployment: one loaded model on one device. The only kind of process here that loads torch."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import structlog

from configs.settings import Settings
from models.errors import GenerationError
from models.loader import load_model
from models.spec import ModelSpec
from pipelines.engine import Engine as PipelineEngine
from pipelines.request import GenerationRequest, GenerationResult, Progress
from serving.backends.gpu import EngineFailure, EngineMessage
from serving.telemetry import ENGINE_LOAD_SECONDS, configure_logging, get_logger

log = get_logger("engine")

PROGRESS_PERIOD_S = 0.1  # every message between processes costs about a millisecond


class Engine:
    """Runs requests one after another in a thread of its own, so that this process always answers."""

    def __init__(self, settings: Settings, spec: ModelSpec) -> None:
        configure_logging(settings.log, component=f"engine-{spec.id}", log_dir=settings.state_dir / "logs")
        started = time.perf_counter()
        self._model_id = spec.id
        self._engine = PipelineEngine(load_model(spec, settings.models, settings.state_dir))
        self._engine.warm_up()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"engine-{spec.id}")
        load_s = time.perf_counter() - started
        ENGINE_LOAD_SECONDS.labels(spec.id).set(load_s)
        log.info("model ready", model=spec.id, load_s=round(load_s, 2))

    def ping(self) -> bool:
        """Answers once the model is loaded: Ray lets no call in before."""
        return True

    async def generate(self, job_id: str, request: GenerationRequest) -> AsyncIterator[EngineMessage]:
        """Progress now and then, and last a GenerationResult or an EngineFailure. Closing it cancels the request."""
        loop = asyncio.get_running_loop()
        messages: asyncio.Queue[EngineMessage] = asyncio.Queue()
        is_cancelled = threading.Event()

        def send(message: EngineMessage) -> None:
            loop.call_soon_threadsafe(messages.put_nowait, message)

        came_at = time.perf_counter()
        running = loop.run_in_executor(self._worker, self._run, job_id, request, came_at, send, is_cancelled)
        try:
            while True:
                message = await messages.get()
                yield message
                if not isinstance(message, Progress):
                    return
        finally:
            is_cancelled.set()
            running.cancel()  # has an effect only while it waits for its turn

    def _run(
        self,
        job_id: str,
        request: GenerationRequest,
        came_at: float,
        send: Callable[[EngineMessage], None],
        is_cancelled: threading.Event,
    ) -> None:
        """In the worker thread. Whatever happens, exactly one final message is sent."""
        waited_s = time.perf_counter() - came_at
        next_progress_at = time.perf_counter() + PROGRESS_PERIOD_S

        def on_progress(progress: Progress) -> None:
            nonlocal next_progress_at
            if (now := time.perf_counter()) >= next_progress_at:
                next_progress_at = now + PROGRESS_PERIOD_S
                send(progress)

        with structlog.contextvars.bound_contextvars(job_id=job_id):
            try:
                result: GenerationResult = self._engine.generate(
                    request, on_progress=on_progress, is_cancelled=is_cancelled.is_set
                )
                log.info("request done", model=self._model_id, engine_s=round(result.engine_s, 3))
                send(replace(result, waited_s=waited_s))
            except GenerationError as error:
                log.warning("request failed", code=error.code, reason=str(error))
                send(EngineFailure(error.code, str(error)))
            except Exception:  # noqa: BLE001 - the outermost loop of this thread: one request's bug is its own
                log.exception("request broke the engine's code")
                send(EngineFailure("engine_error", "The engine could not run this request."))
