"""Engine: requests for one loaded model in, pictures out. Knows no jobs, no Ray and no storage.

    submit ─▶ Preparer ─▶ StepLoop ─▶ Finisher ─▶ events
              encode,      admit,       decode,
              start        choose,      write
              beside       step,        beside
              the loop     finish       the loop

pipelines/loop.py is the place to begin reading; what a model family does at each of these is in pipelines/families.
"""

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn
from weakref import WeakSet

import torch

from configs.settings import EngineSettings
from models.errors import GenerationCancelled, GenerationError
from models.loader import LoadedModel
from models.lora import LoraBank
from pipelines.batcher import Budget
from pipelines.device import used_bytes
from pipelines.encoding import PromptEncoder
from pipelines.families import FAMILIES
from pipelines.finishing import Finisher
from pipelines.loop import StepLoop
from pipelines.meter import EngineLoad, EngineMeter
from pipelines.preparing import WAIT_S, Preparer, Sources
from pipelines.previews import LatentColours
from pipelines.request import AdapterReport, EngineInfo, GenerationRequest, GenerationResult, Progress, StoredFile
from pipelines.speed import compiler_for, prefer_channels_last
from pipelines.step_times import StepTimes
from pipelines.ticket import EngineEvent, Listener, Ticket
from pipelines.warm_up import table_fingerprint, warm_up

STOPPING = "The engine is stopping."


class Engine:
    """One model and everything in the making on it. Ready to work once it is made; close() ends its threads."""

    def __init__(
        self,
        loaded: LoadedModel,
        settings: EngineSettings | None = None,
        *,
        sources: Sources | None = None,
        meter: EngineMeter | None = None,
        table_path: Path | None = None,
    ) -> None:
        """`sources` reads adapters and pictures; `table_path` keeps measured step times for the next start."""
        settings, meter = settings or EngineSettings(), meter or EngineMeter()
        self._loaded = loaded
        self._table_path = table_path
        self._sources = sources or Sources(read=_nowhere, fetch=_nowhere)
        self._bank = LoraBank(
            loaded.pipeline,
            loaded.spec.family,
            loaded.device,
            loaded.dtype,
            max_device_bytes=settings.adapter_device_bytes,
            max_host_bytes=settings.adapter_host_bytes,
        )
        if settings.channels_last:
            prefer_channels_last(loaded.pipeline)
        family = FAMILIES[loaded.spec.family](loaded, self._bank, compiler_for(settings, loaded.device))
        fingerprint = table_fingerprint(loaded, settings)
        self._times = StepTimes(fingerprint) if table_path is None else StepTimes.load(table_path, fingerprint)
        with torch.inference_mode():
            too_large_px = warm_up(family, self._times, settings)
            colours = LatentColours.fit(family)
        self._save_times()
        self._preparer = Preparer(
            family,
            self._bank,
            PromptEncoder(family, max_bytes=settings.embedding_cache_bytes, max_batch=settings.max_encode_batch),
            self._sources,
            max_active=settings.max_active,
            deliver=lambda sample, ready: self._loop.deliver(sample, ready),
            expect=lambda is_coming: self._loop.expect(is_coming),
            meter=meter,
        )
        self._finisher = Finisher(
            family,
            colours,
            settings,
            weights_sha256=loaded.weights_sha256,
            let_go=self._preparer.let_go,
            meter=meter,
        )
        self._loop = StepLoop(
            family,
            self._times,
            Budget(max_rows=settings.max_batch_rows, max_px=settings.max_batch_px),
            show=self._finisher.show,
            finish=self._finisher.finish,
            let_go=self._preparer.let_go,
            meter=meter,
        )
        for num_px in too_large_px:
            self._loop.shrink_budget(num_px)
        self._lock = threading.RLock()  # guards the next two; a listener may submit
        self._is_closed = False
        self._tickets: WeakSet[Ticket] = WeakSet()
        for part in (self._loop, self._finisher, self._preparer):
            part.open()
        meter.watch(self.load)

    def submit(self, request: GenerationRequest, listen: Listener) -> Ticket:
        """Takes a request and returns at once. `listen` hears of it from other threads and must not block.

        Whatever becomes of the request, exactly one GenerationResult or GenerationError ends what is told.
        """
        ticket = Ticket(request, listen)
        with self._lock:
            if self._is_closed:
                ticket.fail(GenerationError(STOPPING))
            elif request.model_id != self._loaded.spec.id:
                ticket.fail(GenerationError(f"This engine serves {self._loaded.spec.id!r}, not {request.model_id!r}."))
            else:
                self._tickets.add(ticket)
                self._preparer.put(ticket)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Ends a request now; its samples leave the loop at the next step, and their memory with them."""
        ticket.cancel()

    def generate(
        self,
        request: GenerationRequest,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> GenerationResult:
        """All pictures of `request`, waited for in this thread. GenerationError says why not; its `code` is stable."""
        events: queue.SimpleQueue[EngineEvent] = queue.SimpleQueue()
        ticket = self.submit(request, events.put)
        try:
            while True:
                if is_cancelled is not None and is_cancelled():
                    raise GenerationCancelled("The request was cancelled.")
                try:
                    event = events.get(timeout=WAIT_S)
                except queue.Empty:
                    if not self.is_alive:
                        raise GenerationError("The engine has stopped.") from None
                    continue
                if isinstance(event, GenerationResult):
                    return event
                if isinstance(event, GenerationError):
                    raise event
                if isinstance(event, Progress) and on_progress is not None:
                    on_progress(event)
        finally:
            self.cancel(ticket)  # without effect on one that has ended

    def check_adapter(self, file: StoredFile) -> AdapterReport:
        """Loads an adapter as a request would; AdapterError says why it cannot be used with this model."""
        adapter = self._bank.acquire(file.sha256, lambda: self._sources.fetch(file))
        try:
            layers = [layer for component in adapter.components.values() for layer in component.values()]
            max_rank = max(layer.rank for layer in layers)
            return AdapterReport(len(layers), max_rank, tuple(adapter.components), adapter.num_bytes)
        finally:
            self._bank.release(adapter)

    def describe(self) -> EngineInfo:
        loaded = self._loaded
        return EngineInfo(
            model_id=loaded.spec.id,
            device=str(loaded.device),
            dtype=str(loaded.dtype).removeprefix("torch."),
            weights_sha256=loaded.weights_sha256,
            num_parameters=loaded.num_parameters,
        )

    def load(self) -> EngineLoad:
        """What it has in hand right now."""
        adapters = self._bank.stats
        return EngineLoad(
            waiting=self._preparer.num_waiting,
            active=self._loop.num_active,
            decoding=self._finisher.num_waiting,
            device_bytes=used_bytes(self._loaded.device),
            adapter_bytes=adapters.device_bytes,
            num_adapter_loads=adapters.num_loads,
            num_adapter_hits=adapters.num_hits,
        )

    @property
    def is_alive(self) -> bool:
        """False once one of its threads has ended, whatever ended it."""
        return all(part.is_alive for part in (self._loop, self._finisher, self._preparer))

    def close(self) -> None:
        """Ends the threads; whatever was not finished fails."""
        with self._lock:
            self._is_closed = True
            unfinished = list(self._tickets)
        for ticket in unfinished:
            ticket.fail(GenerationError(STOPPING))  # without effect on those that have ended
        for part in (self._preparer, self._loop, self._finisher):
            part.close()
        self._save_times()

    def _save_times(self) -> None:
        if self._table_path is not None:
            self._times.save(self._table_path)


def _nowhere(file: StoredFile) -> NoReturn:
    raise GenerationError(f"This engine has no store to read {file.sha256[:12]} from.")
