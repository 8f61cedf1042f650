"""The pictures that a training may learn from, brought into one folder: stills of its videos, and uploaded pictures.

What was taken of a video is noted beside its stills, so that an attempt that takes over need not take them again.
"""

import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from pydantic import TypeAdapter, ValidationError

from pipelines.intake.jpeg import read_jpeg
from pipelines.intake.kinds import HEAD_BYTES, kind_of
from pipelines.intake.png import read_png
from pipelines.intake.webp import read_webp
from pipelines.request import FramesRequest, FramesResult, Progress, StoredFile, StoredFrame, TrainingSource
from pipelines.work import WorkRefused
from serving.backends.base import Order
from serving.backends.frames import ExtractionLink, FramesFailure
from serving.backends.training import TrainingError
from serving.errors import BackendLost, Unavailable
from serving.telemetry import get_logger
from serving.tenancy.policies import ModerationPolicy
from serving.training.artefacts import Artefacts
from serving.workspace import Workspace
from training.recipe import FramesPart
from training.stills import Still

log = get_logger("training")

MAX_LOST = 3  # a video that takes so many Frames replicas with it is given no other
READERS = {"jpeg": (read_jpeg, ".jpg"), "png": (read_png, ".png"), "webp": (read_webp, ".webp")}

OnShare = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken of one video, as it is noted in the store."""

    result: FramesResult
    took_s: float


@dataclass(frozen=True, slots=True)
class Gathered:
    """All there is to learn from."""

    stills: tuple[Still, ...]  # their files lie in one folder
    sheets: tuple[tuple[str, str], ...] = ()  # of each video, (upload id, key of its contact sheet)
    device_s: float = 0.0  # of decoders
    duration_s: float = 0.0  # so much video gave its stills
    took_s: float = 0.0  # in so long


class Gatherer:
    """Asks the Frames replicas for stills, and fetches them, for one order."""

    def __init__(
        self,
        frames: ExtractionLink,
        artefacts: Artefacts,
        workspace: Workspace,
        order: Order,
        policy: ModerationPolicy,
    ) -> None:
        self._frames = frames
        self._artefacts = artefacts
        self._workspace = workspace
        self._order = order
        self._policy = policy
        self._notes = TypeAdapter(Taken)

    async def gather(
        self, sources: tuple[TrainingSource, ...], wish: FramesPart, folder: Path, on_share: OnShare
    ) -> Gathered:
        """In the order of the sources. Raises TrainingError where one is at fault, Unavailable where we are."""
        gathered = Gathered(())
        for place, source in enumerate(sources):

            def on_part(share: float, place: int = place) -> None:
                on_share((place + share) / len(sources))

            if source.kind == "image":
                found = Gathered((await self._picture(source, folder),))
            else:
                found = await self._stills(source, wish, folder, on_part)
            gathered = Gathered(
                stills=gathered.stills + found.stills,
                sheets=gathered.sheets + found.sheets,
                device_s=gathered.device_s + found.device_s,
                duration_s=gathered.duration_s + found.duration_s,
                took_s=gathered.took_s + found.took_s,
            )
            on_part(1.0)
        return gathered

    async def _picture(self, source: TrainingSource, folder: Path) -> Still:
        path = folder / source.upload_id
        if await self._artefacts.fetch([(source.file, path)]):
            raise TrainingError("upload_gone", f"The picture {source.upload_id} was deleted, or is another by now.")
        data = path.read_bytes()
        read, ending = READERS[kind_of(data[:HEAD_BYTES]).format]  # uploads are kept in no other format
        try:
            parts = read(data)
        except WorkRefused as error:
            raise TrainingError(error.code, str(error)) from error
        return Still(
            file=path.rename(path.with_name(f"{path.name}{ending}")).name,
            sha256=source.file.sha256,
            width_px=parts.width_px,
            height_px=parts.height_px,
            upload_id=source.upload_id,
            upload_sha256=source.file.sha256,
            kind="image",
        )

    async def _stills(self, source: TrainingSource, wish: FramesPart, folder: Path, on_share: OnShare) -> Gathered:
        key = f"{self._artefacts.stills_prefix}{source.upload_id}.json"
        taken, duration_s = await self._noted(key), 0.0
        if taken is None:
            taken, duration_s = await self._take(source, wish, on_share), source.duration_s
            await self._artefacts.put(key, self._notes.dump_json(taken))
        frames = taken.result.frames
        if not self._workspace.has_room_for(2 * sum(frame.num_bytes for frame in frames)):
            raise Unavailable("There is no room for the stills on the disk.", code="disk_full")
        files = [(StoredFile(frame.key, frame.sha256), folder / _name_of(frame)) for frame in frames]
        if await self._artefacts.fetch(files):
            await self._artefacts.forget_stills()  # with the note, so that they are taken anew
            raise Unavailable("Stills that were taken before are gone.", code="stills_gone")
        return Gathered(
            stills=tuple(_still(source, frame) for frame in frames),
            sheets=((source.upload_id, taken.result.contact_sheet),),
            device_s=taken.result.device_s,
            duration_s=duration_s,
            took_s=taken.took_s if duration_s else 0.0,
        )

    async def _noted(self, key: str) -> Taken | None:
        note = await self._artefacts.get(key)
        try:
            return None if note is None else self._notes.validate_json(note)
        except ValidationError as error:
            log.warning("note of another version", key=key, reason=str(error.errors()[0]["msg"]))
            return None

    async def _take(self, source: TrainingSource, wish: FramesPart, on_share: OnShare) -> Taken:
        """Near duplicates are let in only where there would be too few stills without them."""
        began_at = time.perf_counter()
        request = FramesRequest(
            upload_id=source.upload_id,
            video=source.file,
            duration_s=source.duration_s,
            max_frames=wish.max_per_video,
            faces=wish.faces,
            output_format="png",
        )
        result = await self._extract(request, on_share)
        if len(result.frames) < min(wish.enough, wish.max_per_video):
            again = await self._extract(replace(request, dedupe=False, moment_s=wish.close_s), on_share)
            result = replace(again, device_s=result.device_s + again.device_s)
        return Taken(result, time.perf_counter() - began_at)

    async def _extract(self, request: FramesRequest, on_share: OnShare) -> FramesResult:
        prefix = f"{self._artefacts.stills_prefix}{request.upload_id}-"
        order = replace(self._order, request=request, output_prefix=prefix)
        for _ in range(MAX_LOST):
            try:
                return await self._hear_out(order, on_share)
            except BackendLost as error:
                log.warning("stills lost", upload_id=request.upload_id, reason=str(error))
        raise TrainingError("workers_lost", f"Given up: {request.upload_id} lost its worker {MAX_LOST} times.")

    async def _hear_out(self, order: Order, on_share: OnShare) -> FramesResult:
        async with aclosing(self._frames.extract(order, self._policy)) as messages:
            async for message in messages:
                match message:
                    case FramesResult():
                        return message
                    case FramesFailure(may_pass=True):
                        raise Unavailable(message.message, code=message.code)
                    case FramesFailure():
                        raise TrainingError(message.code, message.message)
                    case Progress():
                        on_share(message.percent / 100)
        raise BackendLost("the stills ended without a result")


def _name_of(frame: StoredFrame) -> str:
    return PurePosixPath(frame.key).name


def _still(source: TrainingSource, frame: StoredFrame) -> Still:
    return Still(
        file=_name_of(frame),
        sha256=frame.sha256,
        width_px=frame.width_px,
        height_px=frame.height_px,
        upload_id=source.upload_id,
        upload_sha256=source.file.sha256,
        kind="video",
        time_s=frame.time_s,
        sharpness=frame.sharpness,
        brightness=frame.brightness,
        faces=frame.faces,
        is_nsfw=bool(frame.is_nsfw),
    )
