"""A job's attempts at a local fal.ai: what they keep and tell stays from one to the next."""

import ssl
from pathlib import Path
from typing import Any

from configs.settings.training import FalSettings
from pipelines.request import Progress, TrainingRequest
from serving.training.fal import FalOutcome, FalTrainer
from tests.fake_fal import KEY, FakeFal

FAST = "fal-ai/flux-lora-fast-training"
PAUSES_S = (0.0, 0.0)
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # reading the certificates that we trust takes longer than a test
GONE = "http://127.0.0.1:1"  # where nobody listens


def training_request(**changes: Any) -> TrainingRequest:
    fields = {
        "name": "signer",
        "base_model": "flux-dev",
        "trigger": "sks person",
        "caption": "template",
        "recipe": "subject",
        "recipe_json": "{}",
        "steps": 100,
        "rank": 16,
        "resolution_px": 512,
        "seed": 1,
    }
    return TrainingRequest(**(fields | changes))


class Attempts:
    """A job's attempts at fal.ai: what they keep and tell stays from one to the next."""

    def __init__(self, fal: FakeFal, folder: Path) -> None:
        self._fal = fal
        self._folder = folder
        self.kept: dict[str, Any] = {}
        self.kept_as: list[dict[str, Any]] = []
        self.told: list[Progress] = []
        self.presigned: list[Path] = []
        self.target = folder / "adapter.safetensors"
        self.max_file_bytes = 1_000_000

    def trainer(self, endpoint: str = FAST, **changes: Any) -> FalTrainer:
        fields = {"key": KEY, "queue_url": self._fal.url, "models": {"flux-dev": endpoint}, "poll_s": 0.01}
        return FalTrainer(
            FalSettings(**(fields | changes)), max_file_bytes=self.max_file_bytes, pauses_s=PAUSES_S, tls=NO_TLS
        )

    async def train(self, request: TrainingRequest | None = None, endpoint: str = FAST, **changes: Any) -> FalOutcome:
        async def keep(mark: dict[str, Any]) -> None:
            self.kept = mark
            self.kept_as.append(mark)

        async def presign(path: Path) -> str:
            self.presigned.append(path)
            return "https://store.test/archive?signature=1"

        return await self.trainer(endpoint, **changes).train(
            request or training_request(),
            self._folder / "dataset",
            self.target,
            mark=dict(self.kept),
            keep=keep,
            presign=presign,
            tell=self.told.append,
        )
