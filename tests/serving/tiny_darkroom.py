"""A Darkroom whose application is a few routes: `serve STATE PORT DEPLOYER DRAIN_S` supervises, `deploy` deploys.

How many jobs run there is what the file `running` in the state folder says, nothing where there is none.
"""

import os
import sys
from pathlib import Path

import ray
from fastapi import FastAPI
from ray import serve

from configs.settings import JobSettings, RaySettings, Settings, load_settings
from serving.embedded import supervisor

api = FastAPI()


@serve.deployment(
    ray_actor_options={"num_cpus": 0.1},
    max_surge_percent=100,
    health_check_period_s=1,
    graceful_shutdown_wait_loop_s=0.2,
)
@serve.ingress(api)
class TinyApi:
    def __init__(self, state_dir: Path) -> None:
        self._running = state_dir / "running"

    @api.post("/v1/admin/drain")
    @api.get("/v1/admin/drain")
    async def drain(self) -> dict[str, int]:
        return {"running": int(self._running.read_text()) if self._running.exists() else 0}

    @api.get("/health/live")
    async def live(self) -> dict[str, int]:
        return {"pid": os.getpid()}

    @api.get("/health/ready")
    async def ready(self) -> dict[str, int]:
        return {"pid": os.getpid()}


def deploy() -> None:
    settings = load_settings()
    ray.init(address=os.environ["RAY_ADDRESS"], namespace="darkroom", log_to_driver=False)
    serve.start(http_options={"host": settings.host, "port": settings.port})
    serve.run(TinyApi.bind(settings.state_dir), name="darkroom", route_prefix="/")


def run(state_dir: Path, port: int, deployer: str, drain_s: float) -> int:
    settings = Settings(
        state_dir=state_dir,
        port=port,
        jobs=JobSettings(drain_s=drain_s),
        ray=RaySettings(dashboard_port=0, object_store_bytes=80_000_000),
    )
    return supervisor.run(settings, deployer=(sys.executable, __file__, deployer))


if __name__ == "__main__":
    if sys.argv[1] == "deploy":
        deploy()
    elif sys.argv[1] == "fail":
        sys.exit("the deployer says why")
    else:
        sys.exit(run(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4], float(sys.argv[5])))
