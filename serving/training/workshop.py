"""What all trainings of one replica share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from configs.settings import Settings
from models.blobs import BlobStore
from models.spec import ModelSpec
from serving.backends.frames import ExtractionLink
from serving.training.apart import Apart
from serving.training.bases import Bases
from serving.training.estimating import Estimates
from serving.training.fal import FalTrainer
from serving.training.speeds import Speeds
from serving.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Workshop:
    """Whom they ask, and what they know of this machine."""

    blobs: BlobStore
    frames: ExtractionLink
    workspace: Workspace
    bases: Bases
    apart: Apart
    speeds: Speeds
    estimates: Estimates
    fal: FalTrainer | None  # None: there is no key
    settings: Settings

    @classmethod
    def over(
        cls,
        blobs: BlobStore,
        frames: ExtractionLink,
        workspace: Workspace,
        models: Mapping[str, ModelSpec],
        settings: Settings,
    ) -> Self:
        """For LoRAs of `models`, and of those that fal.ai trains for us."""
        training = settings.training
        apart, speeds = Apart(settings), Speeds(settings.state_dir)
        fal = None
        if training.fal.key is not None:
            fal = FalTrainer(training.fal, max_file_bytes=settings.api.max_adapter_bytes)
        return cls(
            blobs=blobs,
            frames=frames,
            workspace=workspace,
            bases=Bases(models, settings),
            apart=apart,
            speeds=speeds,
            estimates=Estimates(speeds, apart, workspace, training),
            fal=fal,
            settings=settings,
        )
