"""What an engine tells about its work, as Prometheus metrics."""

import threading
from collections.abc import Callable

from pipelines.meter import EngineLoad, EngineMeter
from serving.telemetry import (
    ENGINE_ADAPTER_BYTES,
    ENGINE_ADAPTERS,
    ENGINE_DECODE_SECONDS,
    ENGINE_DEVICE_BYTES,
    ENGINE_ENCODE_SECONDS,
    ENGINE_OVERHEAD_SECONDS,
    ENGINE_PICTURES,
    ENGINE_SPLITS,
    ENGINE_STEP_ROWS,
    ENGINE_STEP_SECONDS,
    ENGINE_TEXTS,
)


class PrometheusMeter(EngineMeter):
    """The metrics of one model; labels are bound once, for this is called at every step."""

    def __init__(self, model_id: str) -> None:
        self._model_id = model_id
        self._step_rows = ENGINE_STEP_ROWS.labels(model_id)
        self._step_seconds = ENGINE_STEP_SECONDS.labels(model_id)
        self._overhead = ENGINE_OVERHEAD_SECONDS.labels(model_id)
        self._encode_seconds = ENGINE_ENCODE_SECONDS.labels(model_id)
        self._decode_seconds = ENGINE_DECODE_SECONDS.labels(model_id)
        self._made, self._cached = (ENGINE_TEXTS.labels(model_id, source) for source in ("encoder", "cache"))
        self._loads, self._hits = (ENGINE_ADAPTERS.labels(model_id, source) for source in ("store", "device"))
        states = ("waiting", "active", "decoding")
        self._waiting, self._active, self._decoding = (ENGINE_PICTURES.labels(model_id, state) for state in states)
        self._device_bytes = ENGINE_DEVICE_BYTES.labels(model_id)
        self._adapter_bytes = ENGINE_ADAPTER_BYTES.labels(model_id)
        self._read_load: Callable[[], EngineLoad] | None = None
        self._last: EngineLoad | None = None
        self._refreshing = threading.Lock()

    def watch(self, read_load: Callable[[], EngineLoad]) -> None:
        self._read_load = read_load

    def refresh(self) -> None:
        """The gauges as things stand now."""
        if self._read_load is None:
            return
        # From the engine's loop and from the replica's: counters only ever grow, so one look at a time.
        with self._refreshing:
            load, last = self._read_load(), self._last
            self._last = load
            self._waiting.set(load.waiting)
            self._active.set(load.active)
            self._decoding.set(load.decoding)
            self._device_bytes.set(load.device_bytes)
            self._adapter_bytes.set(load.adapter_bytes)
            self._loads.inc(load.num_adapter_loads - (last.num_adapter_loads if last else 0))
            self._hits.inc(load.num_adapter_hits - (last.num_adapter_hits if last else 0))

    def stepped(self, num_rows: int, num_samples: int, seconds: float, overhead_s: float) -> None:
        self._step_rows.observe(num_rows)
        self._step_seconds.observe(seconds)
        self._overhead.inc(overhead_s)
        self.refresh()

    def encoded(self, num_texts: int, num_cached: int, seconds: float) -> None:
        self._encode_seconds.observe(seconds)
        self._made.inc(num_texts)
        self._cached.inc(num_cached)

    def decoded(self, num_images: int, seconds: float) -> None:
        self._decode_seconds.observe(seconds)

    def batch_split(self, reason: str) -> None:
        ENGINE_SPLITS.labels(self._model_id, reason).inc()
