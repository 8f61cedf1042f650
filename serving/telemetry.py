"""Structured logs and Prometheus metrics. Every log line carries the request, job and tenant bound to its context."""

import logging
import logging.handlers
import os
import sys
from pathlib import Path

import psutil
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from structlog.typing import EventDict, Processor, WrappedLogger

from configs.settings import LogSettings

LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
STEP_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
METRICS_DIR_ENV = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own name; shared by all processes of a node

HTTP_REQUESTS = Counter("darkroom_http_requests_total", "HTTP requests answered.", ["method", "route", "status"])
HTTP_SECONDS = Histogram("darkroom_http_request_seconds", "Time to answer.", ["route"], buckets=LATENCY_BUCKETS_S)
JOBS_ACCEPTED = Counter("darkroom_jobs_accepted_total", "Jobs stored.", ["kind", "model"])
JOBS_ENDED = Counter("darkroom_jobs_ended_total", "Jobs that reached a final status.", ["kind", "model", "status"])
JOBS_TAKEN_OVER = Counter(
    "darkroom_jobs_taken_over_total", "Jobs claimed again, after a lapsed lease or a lost backend."
)
JOBS_DRIVEN = Gauge("darkroom_jobs_driven", "Jobs that Routers hold right now.", multiprocess_mode="livesum")
JOB_SECONDS = Histogram(
    "darkroom_job_seconds", "From accepted to final status.", ["kind", "model"], buckets=LATENCY_BUCKETS_S
)
ENGINE_SECONDS = Histogram(
    "darkroom_engine_seconds", "Engine time of a request, waiting excluded.", ["model"], buckets=LATENCY_BUCKETS_S
)
ENGINE_WAIT_SECONDS = Histogram(
    "darkroom_engine_wait_seconds", "Waiting for the engine.", ["model"], buckets=LATENCY_BUCKETS_S
)
ENGINE_LOAD_SECONDS = Gauge(
    "darkroom_engine_load_seconds", "Time to load the model.", ["model"], multiprocess_mode="livemax"
)
ENGINE_STEP_ROWS = Histogram(
    "darkroom_engine_step_rows",
    "Rows of one forward pass; guidance takes two for a picture.",
    ["model"],
    buckets=(1, 2, 4, 8, 12, 16, 24, 32, 48, 64),
)
ENGINE_STEP_SECONDS = Histogram(
    "darkroom_engine_step_seconds", "One forward pass of the denoiser.", ["model"], buckets=STEP_BUCKETS_S
)
ENGINE_OVERHEAD_SECONDS = Counter(
    "darkroom_engine_overhead_seconds_total", "What the loop spends beside the denoiser.", ["model"]
)
ENGINE_PICTURES = Gauge(
    "darkroom_engine_pictures",
    "Pictures in an engine: waiting, active (between their first and last step), decoding.",
    ["model", "state"],
    multiprocess_mode="livesum",
)
ENGINE_DEVICE_BYTES = Gauge(
    "darkroom_engine_device_bytes", "Memory of the device in use; 0 on a CPU.", ["model"], multiprocess_mode="livesum"
)
ENGINE_ENCODE_SECONDS = Histogram(
    "darkroom_engine_encode_seconds", "Embedding the texts of some requests.", ["model"], buckets=STEP_BUCKETS_S
)
ENGINE_TEXTS = Counter("darkroom_engine_texts_total", "Texts embedded or found in the cache.", ["model", "source"])
ENGINE_DECODE_SECONDS = Histogram(
    "darkroom_engine_decode_seconds", "From latents to pixels, a few at once.", ["model"], buckets=STEP_BUCKETS_S
)
ENGINE_ADAPTERS = Counter(
    "darkroom_engine_adapters_total", "Adapters brought to the device or found there.", ["model", "source"]
)
ENGINE_ADAPTER_BYTES = Gauge(
    "darkroom_engine_adapter_bytes", "Adapters on the device.", ["model"], multiprocess_mode="livesum"
)
ENGINE_SPLITS = Counter("darkroom_engine_batch_splits_total", "Batches tried again in halves.", ["model", "reason"])
IMAGES_MADE = Counter("darkroom_images_total", "Pictures made.", ["model"])
KEEP_SECONDS = Histogram("darkroom_keep_seconds", "Storing the results of a job in S3.", buckets=LATENCY_BUCKETS_S)
STILLS = Counter("darkroom_stills_total", "Stills of videos, by what became of them.", ["outcome"])
MODERATED = Counter("darkroom_moderated_total", "Pictures and prompts judged, by what was done.", ["what", "outcome"])
MODERATOR_PICTURES = Counter("darkroom_moderator_pictures_total", "Pictures that came to be looked at.", ["outcome"])
MODERATOR_BATCH_PICTURES = Histogram(
    "darkroom_moderator_batch_pictures", "Pictures looked at together.", buckets=(1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
)
MODERATOR_SECONDS = Histogram("darkroom_moderator_seconds", "Looking at one batch.", buckets=STEP_BUCKETS_S)
WEBHOOK_ATTEMPTS = Counter("darkroom_webhook_attempts_total", "Events sent, by what came of it.", ["outcome"])
WEBHOOK_SECONDS = Histogram("darkroom_webhook_seconds", "Sending an event once.", buckets=LATENCY_BUCKETS_S)
WEBHOOK_DELIVERIES = Counter("darkroom_webhook_deliveries_total", "Deliveries that came to an end.", ["status"])
AUTH_FAILURES = Counter("darkroom_auth_failures_total", "Requests refused for want of a valid key.")


def configure_logging(settings: LogSettings, *, component: str, log_dir: Path | None) -> None:
    """Sets up structlog and stdlib logging for this process: to {log_dir}/{component}.log, or to standard output.

    Call once a process, before the first log line.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if settings.format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty())
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _add_component(component), renderer],
    )
    handler: logging.Handler = logging.StreamHandler(sys.stdout)
    if log_dir is not None:
        log_dir.mkdir(parents=True, exist_ok=True)
        # Watched: the supervisor renames large files at start, and several replicas append to one.
        handler = logging.handlers.WatchedFileHandler(log_dir / f"{component}.log", encoding="utf-8")
    handler.setFormatter(formatter)
    logger = logging.getLogger("darkroom")
    logger.handlers = [handler]
    logger.setLevel(settings.level.upper())
    logger.propagate = False


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger below `darkroom`; `name` is the room, such as "api" or "driver"."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(f"darkroom.{name}")
    return logger


def render_metrics() -> bytes:
    """All darkroom_* metrics of this node as Prometheus text, summed over its processes."""
    metrics_dir = os.environ.get(METRICS_DIR_ENV)
    if metrics_dir is None:
        return generate_latest()
    for pid in _dead_pids(Path(metrics_dir)):
        mark_process_dead(pid, metrics_dir)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, metrics_dir)
    return generate_latest(registry)


def _dead_pids(metrics_dir: Path) -> set[int]:
    pids = {int(path.stem.rsplit("_", 1)[1]) for path in metrics_dir.glob("gauge_live*_*.db")}
    return {pid for pid in pids if not psutil.pid_exists(pid)}


def _add_component(component: str) -> Processor:
    def add(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
        event["component"] = component
        return event

    return add
