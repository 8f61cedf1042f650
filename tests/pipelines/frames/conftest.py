"""What the tests with videos share: clips are made and surveyed once."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from configs.settings.intake import FrameSettings
from pipelines.frames.candidates import Choice, Survey
from pipelines.frames.choosing import choose
from pipelines.frames.orders import SurveyOrder, Taken, TakeOrder
from pipelines.frames.survey import survey
from pipelines.frames.taking import take
from tests.clips import ODDITIES, Clip
from tests.pipelines.frames.made import wish

SETTINGS = FrameSettings(num_threads=1, hardware="off")


@dataclass(frozen=True)
class Surveyed:
    """A clip, and what was found in it."""

    clip: Clip
    folder: Path
    survey: Survey

    def choose(self, **changes: Any) -> Choice:
        return choose(self.survey, wish(**changes), {}, nsfw_limit=None)

    def take(self, choice: Choice, **changes: Any) -> Taken:
        facts: dict[str, Any] = {"output_format": "png"} | changes
        order = TakeOrder.of(self.clip.path, self.folder, self.survey, choice, SETTINGS, **facts)
        return Taken.from_dict(take(order.to_dict(), lambda _: None))


def surveyed(clip: Clip, folder: Path, settings: FrameSettings = SETTINGS) -> Surveyed:
    """Looks at a clip; thumbnails go into `folder`."""
    order = SurveyOrder.of(clip.path, folder, settings)
    return Surveyed(clip, folder, Survey.from_dict(survey(order.to_dict(), lambda _: None)))


@pytest.fixture(scope="session")
def oddity(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Surveyed]:
    """One of the odd clips by name, surveyed at the first call."""
    known: dict[str, Surveyed] = {}

    def get(name: str) -> Surveyed:
        if name not in known:
            clip = ODDITIES[name](tmp_path_factory.mktemp("clip"))
            known[name] = surveyed(clip, tmp_path_factory.mktemp("work"))
        return known[name]

    return get
