"""The composition root: settings → objects → the Ray Serve application. Run as `python -m serving.main` to deploy.

Needs a running Ray (RAY_ADDRESS) and set MongoDB and S3 addresses; `darkroom serve` provides all three.
"""

import asyncio
import math
import os
import sys
from collections.abc import Mapping
from typing import Any, Literal

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from configs.settings import Settings, load_settings
from models.blobs import BlobStore
from models.catalog import get_model, load_catalog
from models.spec import ModelSpec
from serving.api.deps import OPERATOR_TENANT
from serving.draining import Board, new_generation
from serving.embedded.probes import APP_NAME
from serving.jobs.upkeep import JobUpkeep
from serving.mongo import Mongo
from serving.replicas.api import Api
from serving.replicas.engine import Engine
from serving.replicas.frames import Frames
from serving.replicas.moderator import Moderator
from serving.replicas.router import Router
from serving.replicas.trainer import Trainer
from serving.telemetry import METRICS_DIR_ENV, configure_logging, get_logger
from serving.tenancy.auth import KeyRing
from serving.tenancy.tenants import Tenants
from training.recipe import TRAINABLE

log = get_logger("main")

# Bookkeeping shares of a node, small for processes that mostly wait.
LIGHT_CPUS = 0.1
ENGINE_MAX_ONGOING = 1_024  # the engine packs what comes and bounds itself
ROUTER_MAX_ONGOING = 10_000
MODERATOR_MAX_ONGOING = 128  # whole picture files; it looks at as many at a time as its settings say
MODERATOR_MAX_QUEUED = 1_024  # of one caller; more than that is told to come again
MODERATOR_GPUS = 0.1
FRAMES_MAX_ONGOING = 1_024  # videos and uploads; it works on as many at a time as its settings say
TRAINER_MAX_ONGOING = 1_024  # trainings and estimates; it works on as many at a time as its settings say
# A replica that was killed is noticed at its next check: at most so late, instead of 10 s.
HEALTH_PERIOD_S = 1.0
GRACE_S = 5.0
# How often a replica that is told to stop looks whether its last call has ended; every stop takes at least this long.
STOP_LOOK_S = 0.2


def served_models(settings: Settings) -> dict[str, ModelSpec]:
    """The enabled part of the catalogue, the default model first. Raises UnknownModel."""
    catalog = load_catalog()
    ids = [settings.default_image_model, *(i for i in settings.models.enabled if i != settings.default_image_model)]
    return {model_id: get_model(catalog, model_id) for model_id in ids}


def build(settings: Settings, models: Mapping[str, ModelSpec], *, num_gpus: float) -> serve.Application:
    """Api over Router over one Engine per model, and beside them Trainer over Frames over Moderator.

    `num_gpus`: of the cluster.

    Every call makes a new version: where one runs already, Serve replaces its replicas one after the other.
    """
    watched: dict[str, Any] = {
        "health_check_period_s": HEALTH_PERIOD_S,
        "graceful_shutdown_wait_loop_s": STOP_LOOK_S,
    }
    engines = {
        spec.id: serve.deployment(
            Engine,
            name=f"Engine:{spec.id}",
            max_ongoing_requests=ENGINE_MAX_ONGOING,
            max_queued_requests=ENGINE_MAX_ONGOING,
            # Its device has no room for two: the new engine starts when the old one has gone, and jobs wait meanwhile.
            max_surge_percent=0,
            graceful_shutdown_timeout_s=settings.jobs.drain_s,
            **watched,
            ray_actor_options=_actor_options(num_cpus=1, num_gpus=_engine_share(settings, spec, num_gpus)),
        ).bind(settings, spec)
        for spec in models.values()
    }
    moderator = serve.deployment(
        Moderator,
        name="Moderator",
        num_replicas=settings.moderation.num_replicas,
        max_ongoing_requests=MODERATOR_MAX_ONGOING,
        max_queued_requests=MODERATOR_MAX_QUEUED,
        max_surge_percent=100,
        graceful_shutdown_timeout_s=settings.jobs.drain_s,
        **watched,
        ray_actor_options=_actor_options(num_gpus=_moderator_share(settings, num_gpus)),
    ).bind(settings)
    frames = serve.deployment(
        Frames,
        name="Frames",
        num_replicas=settings.frames.num_replicas,
        max_ongoing_requests=FRAMES_MAX_ONGOING,
        max_queued_requests=FRAMES_MAX_ONGOING,
        max_surge_percent=100,
        graceful_shutdown_timeout_s=settings.jobs.drain_s,
        **watched,
        ray_actor_options=_actor_options(),
    ).bind(settings, moderator)
    trainer = serve.deployment(
        Trainer,
        name="Trainer",
        num_replicas=settings.training.num_replicas,
        max_ongoing_requests=TRAINER_MAX_ONGOING,
        max_queued_requests=TRAINER_MAX_ONGOING,
        # Trainings go on in the new one where they were in the old one; both at once would share one device.
        max_surge_percent=0,
        graceful_shutdown_timeout_s=settings.jobs.drain_s,
        **watched,
        ray_actor_options=_actor_options(num_gpus=_trainer_share(settings, models, num_gpus)),
    ).bind(settings, dict(models), frames)
    router = serve.deployment(
        Router,
        name="Router",
        num_replicas=settings.router.num_replicas,
        max_ongoing_requests=ROUTER_MAX_ONGOING,
        max_queued_requests=ROUTER_MAX_ONGOING,
        max_surge_percent=100,
        graceful_shutdown_timeout_s=settings.jobs.drain_s + GRACE_S,
        **watched,
        ray_actor_options=_actor_options(),
    ).bind(settings, engines, moderator, frames, trainer, new_generation())
    return serve.deployment(
        Api,
        name="Api",
        num_replicas=settings.api.num_replicas,
        max_ongoing_requests=settings.api.max_ongoing_requests,
        # The new replica takes new calls; the old one stays for those who wait at it.
        max_surge_percent=100,
        graceful_shutdown_timeout_s=settings.api.sync_deadline_s + GRACE_S,
        **watched,
        ray_actor_options=_actor_options(),
    ).bind(settings, dict(models), router, moderator, frames, trainer)


def _actor_options(*, num_cpus: float = LIGHT_CPUS, num_gpus: float = 0.0) -> dict[str, Any]:
    env = {METRICS_DIR_ENV: os.environ[METRICS_DIR_ENV]} if METRICS_DIR_ENV in os.environ else {}
    return {"num_cpus": num_cpus, "num_gpus": num_gpus, "runtime_env": {"env_vars": env}}


def _engine_share(settings: Settings, spec: ModelSpec, num_gpus: float) -> float:
    return spec.memory.num_gpus if _is_on_gpu(settings.models.device, num_gpus) else 0.0


def _moderator_share(settings: Settings, num_gpus: float) -> float:
    """The classifier that ships with us runs on a CPU; the others are small beside any model that makes pictures."""
    wants_gpu = settings.moderation.classifier == "transformers" and _is_on_gpu(settings.moderation.device, num_gpus)
    return MODERATOR_GPUS if wants_gpu else 0.0


def _trainer_share(settings: Settings, models: Mapping[str, ModelSpec], num_gpus: float) -> float:
    """As the model that it trains takes in an engine, or what the others leave. With none it is not left without:
    Ray hides no GPU from whom it has given none."""
    wanted = max(
        (_engine_share(settings, spec, num_gpus) for spec in models.values() if spec.family in TRAINABLE), default=0.0
    )
    engines = sum(_engine_share(settings, spec, num_gpus) for spec in models.values())
    # Of moderators there are twice as many while they are replaced.
    left = num_gpus - engines - 2 * settings.moderation.num_replicas * _moderator_share(settings, num_gpus)
    # However the others are spread, one GPU has at least the mean of what is left.
    each = left / max(1.0, num_gpus) / settings.training.num_replicas
    return max(0.0, min(wanted, math.floor(100 * each) / 100))


def _is_on_gpu(device: Literal["auto", "cpu", "cuda"], num_gpus: float) -> bool:
    return device == "cuda" or (device == "auto" and num_gpus > 0)


async def prepare_storage(settings: Settings) -> None:
    """Indexes, jobs of older versions, bucket, the operator's tenant and its first admin key. Idempotent."""
    mongo = Mongo(settings.mongo)
    try:
        await mongo.make_indexes()
        if num_adopted := await JobUpkeep(mongo, settings.jobs).adopt():
            log.info("jobs of an older version brought into line", jobs=num_adopted)
        await Board(mongo, settings.jobs).end_drain()
        await asyncio.to_thread(BlobStore.from_settings(settings.s3).ensure_bucket)
        await Tenants(mongo).ensure(OPERATOR_TENANT)
        if settings.admin_key is not None:
            await KeyRing(mongo).ensure_bootstrap(OPERATOR_TENANT, settings.admin_key.get_secret_value())
    finally:
        await mongo.close()


def deploy(settings: Settings) -> DeploymentHandle:
    """Starts or updates the application on the Ray that RAY_ADDRESS names; returns when it runs."""
    models = served_models(settings)
    asyncio.run(prepare_storage(settings))
    ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), namespace=APP_NAME, log_to_driver=False)
    serve.start(
        proxy_location="EveryNode",
        http_options=HTTPOptions(host=settings.host, port=settings.port),
        logging_config=LoggingConfig(enable_access_log=False),
    )
    num_gpus = float(ray.cluster_resources().get("GPU", 0.0))
    log.info("deploying", models=list(models), gpus=num_gpus)
    return serve.run(
        build(settings, models, num_gpus=num_gpus),
        name=APP_NAME,
        route_prefix="/",
        logging_config=LoggingConfig(enable_access_log=False),
    )


def main() -> int:
    settings = load_settings()
    configure_logging(settings.log, component="deploy", log_dir=None)
    deploy(settings)
    log.info("deployed", url=settings.public_url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
