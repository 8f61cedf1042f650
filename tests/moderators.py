"""True stand-ins for the moderator: a classifier that knows one colour, and the way to it without Ray."""

import asyncio
from collections.abc import Sequence

import numpy as np
from PIL import Image

from models.errors import InputImageError
from pipelines.moderation.classifier import Classifier
from pipelines.moderation.opening import open_to_look
from pipelines.moderation.scores import SEXUAL, Scores
from serving.moderation.link import LookFailure, nobody_looked, read_scores
from tests.fake_pictures import MARKER


class StandInClassifier:
    """The score of a picture is the share of it that is pure magenta (in JPEG: nearly so)."""

    name = "stand-in"

    def __init__(self) -> None:
        self.num_seen = 0
        self.batch_sizes: list[int] = []

    def shrink(self, picture: Image.Image) -> Image.Image:
        return picture

    def look(self, pictures: Sequence[Image.Image]) -> list[Scores]:
        self.num_seen += len(pictures)
        self.batch_sizes.append(len(pictures))
        return [{SEXUAL: _share_of_marker(picture)} for picture in pictures]


class LocalModeratorLink:
    """ModeratorLink to a classifier of this process; what RayModeratorLink does, without Ray."""

    def __init__(self, classifier: Classifier | None = None) -> None:
        self.classifier = classifier or StandInClassifier()
        self.looked_at: list[bytes] = []
        self.is_lost = False  # True: nobody answers
        self.gate = asyncio.Event()  # cleared: looking takes until it is set
        self.gate.set()

    @property
    def name(self) -> str:
        return self.classifier.name

    async def look(self, pictures: Sequence[bytes], *, timeout_s: float) -> list[Scores]:
        try:
            async with asyncio.timeout(timeout_s):
                await self.gate.wait()
                if self.is_lost:
                    raise nobody_looked()
                self.looked_at += pictures
                answers = await asyncio.to_thread(lambda: [_answer(self.classifier, data) for data in pictures])
        except TimeoutError as error:
            raise nobody_looked() from error
        return [read_scores(answer) for answer in answers]

    async def is_ready(self, *, timeout_s: float) -> bool:
        return not self.is_lost


def _answer(classifier: Classifier, data: bytes) -> Scores | LookFailure:
    try:
        return classifier.look([open_to_look(data)])[0]
    except InputImageError as error:
        return LookFailure(error.code, str(error))


def _share_of_marker(picture: Image.Image) -> float:
    distance = np.abs(np.asarray(picture.convert("RGB"), dtype=np.int16) - np.array(MARKER, dtype=np.int16))
    return float((distance.max(axis=-1) < 16).mean())
