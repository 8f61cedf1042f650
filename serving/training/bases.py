"""Models that trainings need, here on the disk: what is trained upon, and what writes captions.

They are brought here first, since the processes that train have no network.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from configs.settings import Settings
from models.errors import WeightsError
from models.hub import fetch_repository
from models.spec import ModelSpec
from models.weights import HeldWeights, hold, verified_hash
from serving.backends.training import TrainingError
from training.orders import BaseModel
from training.recipe import TRAINABLE

CAPTIONERS = "captioners"  # below the state folder


class Bases:
    """Those of one machine."""

    def __init__(self, models: Mapping[str, ModelSpec], settings: Settings) -> None:
        self._models = models
        self._settings = settings

    def can_train(self, model_id: str) -> bool:
        """Whether LoRAs for it are trained here."""
        return model_id in self._models and self._models[model_id].family in TRAINABLE

    @asynccontextmanager
    async def held(self, model_id: str) -> AsyncGenerator[BaseModel, None]:
        """Downloaded if need be; nobody evicts it meanwhile. Raises TrainingError where it cannot be had."""
        if not self.can_train(model_id):
            raise TrainingError("not_trainable", f"LoRAs for {model_id} are not trained here.")
        try:
            held, sha256 = await asyncio.to_thread(self._hold, self._models[model_id])
        except WeightsError as error:
            raise TrainingError("weights_unavailable", f"The base model cannot be used: {error}") from error
        with held:
            yield BaseModel(
                spec=self._models[model_id].model_dump(mode="json"),
                folder=str(held.folder),
                sha256=sha256,
                device=self._settings.models.device,
            )

    async def captioner(self) -> str | None:
        """The folder of the captioner that the settings name, downloaded if need be."""
        name = self._settings.training.captioner
        if name is None:
            return None
        try:
            return str(await asyncio.to_thread(self._captioner, name))
        except WeightsError as error:
            raise TrainingError("no_captioner", f"The captioner cannot be used: {error}") from error

    def _hold(self, spec: ModelSpec) -> tuple[HeldWeights, str]:
        held = hold(spec, self._settings.models, self._settings.state_dir)
        try:
            return held, verified_hash(spec, held, self._settings.state_dir)
        except BaseException:
            held.close()
            raise

    def _captioner(self, name: str) -> Path:
        if (folder := Path(name).expanduser()).is_dir():
            return folder.resolve()
        revision = self._settings.training.captioner_revision or "main"
        folder = self._settings.state_dir / CAPTIONERS / f"{name.replace('/', '--')}@{revision.replace('/', '--')}"
        fetch_repository(name, revision=revision, folder=folder)
        return folder
