"""A Darkroom whose application is two routes: `serve STATE PORT DEPLOYER` supervises, `deploy` deploys."""

import os
import sys
from pathlib import Path

import ray
from fastapi import FastAPI
from ray import serve

from configs.settings import RaySettings, Settings, load_settings
from serving.embedded import supervisor

api = FastAPI()


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
@serve.ingress(api)
class TinyApi:
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
    serve.run(TinyApi.bind(), name="darkroom", route_prefix="/")


def run(state_dir: Path, port: int, deployer: str) -> int:
    settings = Settings(
        state_dir=state_dir, port=port, ray=RaySettings(dashboard_port=0, object_store_bytes=80_000_000)
    )
    return supervisor.run(settings, deployer=(sys.executable, __file__, deployer))


if __name__ == "__main__":
    if sys.argv[1] == "deploy":
        deploy()
    elif sys.argv[1] == "fail":
        sys.exit("the deployer says why")
    else:
        sys.exit(run(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
