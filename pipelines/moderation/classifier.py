"""What looks at pictures, whatever model is behind it, and the list of those there are."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

from PIL import Image

from configs.settings import ModerationSettings
from models.errors import ModelError
from pipelines.moderation.scores import Scores


class ClassifierError(ModelError):
    """A classifier cannot be used: its weights are missing or damaged, or its labels say nothing to us."""


class Classifier(Protocol):
    """One loaded model. Each picture's scores are its own: they do not depend on what else is in the batch."""

    name: str

    def shrink(self, picture: Image.Image) -> Image.Image:
        """An RGB picture in as few pixels as look() needs: it gives the same scores for what comes back."""
        ...

    def look(self, pictures: Sequence[Image.Image]) -> list[Scores]:
        """Blocks; `pictures` are RGB, of any size. One answer each, in the same order."""
        ...


# Named, not imported: whoever runs one of them does not pay for the libraries of the others.
LOADERS: Mapping[str, tuple[str, str]] = {
    "open-nsfw": ("pipelines.moderation.open_nsfw", "load_open_nsfw"),
    "transformers": ("pipelines.moderation.hub", "load_hub_classifier"),
}


def load_classifier(settings: ModerationSettings) -> Classifier:
    """The one that the settings name. Raises ClassifierError."""
    module, function = LOADERS[settings.classifier]
    load: Callable[[ModerationSettings], Classifier] = getattr(import_module(module), function)
    return load(settings)


def classifier_name(settings: ModerationSettings) -> str:
    """What the classifier of these settings calls itself, without loading it."""
    if settings.model is None:
        return settings.classifier
    return Path(settings.model).name if Path(settings.model).is_absolute() else settings.model
