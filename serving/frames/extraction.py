"""One extraction, from an order to stored stills: fetch → survey → choose and look → take → keep.

Whatever reads the video does so in a process of its own. Knows no Ray and no database.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from configs.settings import Settings
from models.blobs import BlobStore
from models.errors import BlobNotFound, GenerationError, InputImageError
from pipelines.frames.candidates import BadData, Survey
from pipelines.frames.orders import SURVEY_WORK, TAKE_WORK, SurveyOrder, Taken, TakeOrder
from pipelines.request import FramesRequest, FramesResult, Progress, RejectedFrame, StoredFile
from serving.adapters.store import in_store
from serving.backends.base import Order
from serving.backends.frames import FramesError, FramesFailure, FramesMessage
from serving.errors import Unavailable
from serving.frames.errand import DAMAGED, TOO_SLOW, Errand
from serving.frames.judging import Judge, Verdict
from serving.frames.shelving import Shelf
from serving.moderation.link import ModeratorLink
from serving.telemetry import STILLS, get_logger
from serving.tenancy.policies import ModerationPolicy
from serving.workspace import Workspace

log = get_logger("frames")

# From where to where each piece of work brings the progress, in percent.
SURVEYING, TAKING = (0, 70), (75, 95)

Tell = Callable[[Progress], None]


class Extraction:
    """Takes the stills of a few videos at a time."""

    def __init__(self, blobs: BlobStore, moderator: ModeratorLink, workspace: Workspace, settings: Settings) -> None:
        self._blobs = blobs
        self._judge = Judge(moderator, timeout_s=settings.moderation.timeout_s)
        self._shelf = Shelf(blobs)
        self._workspace = workspace
        self._settings = settings.frames
        self._places = asyncio.Semaphore(settings.frames.max_at_once)

    async def messages(self, order: Order, policy: ModerationPolicy) -> AsyncGenerator[FramesMessage, None]:
        """extract(), told as it happens; last its result, or why there is none. Closing it ends the work."""
        news: asyncio.Queue[Progress | None] = asyncio.Queue()
        work = asyncio.create_task(self._outcome(order, policy, news.put_nowait))
        work.add_done_callback(lambda _: news.put_nowait(None))
        try:
            while (progress := await news.get()) is not None:
                yield progress
            yield work.result()
        finally:
            work.cancel()
            await asyncio.wait({work})  # until its process is gone, and what it had on the disk

    async def extract(self, order: Order, policy: ModerationPolicy, tell: Tell) -> FramesResult:
        """Raises FramesError where the video is at fault, Unavailable where a store or the moderator is away."""
        request, came_at = order.request, time.perf_counter()
        assert isinstance(request, FramesRequest), "routing sends nothing else here"
        async with self._places, self._workspace.room() as folder:
            began_at = time.perf_counter()
            errand = Errand(folder, self._settings, tell)
            try:
                async with asyncio.timeout(self._settings.timeout_s):
                    await self._fetch(request.video, errand.video)
                    survey = await self._survey(errand, request)
                    verdict = await self._judge.judge(survey, request, policy, folder)
                    taken = await self._take(errand, request, survey, verdict)
                    kept = await self._shelf.keep(order.output_prefix, folder, taken, verdict, request.output_format)
            except TimeoutError as error:
                raise FramesError(*TOO_SLOW) from error
            except (BadData, InputImageError) as error:
                # Our own work does not say such things; a file that has taken its process over may.
                log.error("nonsense from the sandbox", job_id=order.job_id, reason=str(error)[:500])
                raise FramesError(*DAMAGED) from error
        for outcome, number in verdict.choice.counts.items():
            STILLS.labels(outcome).inc(number)
        return FramesResult(
            frames=kept.frames,
            rejected=tuple(RejectedFrame(one.candidate.time_s, one.reason) for one in verdict.choice.rejected),
            contact_sheet=kept.contact_sheet,
            engine_s=time.perf_counter() - began_at,
            waited_s=began_at - came_at,
            device_s=errand.device_s,
        )

    async def _outcome(self, order: Order, policy: ModerationPolicy, tell: Tell) -> FramesResult | FramesFailure:
        try:
            result = await self.extract(order, policy, tell)
        except (GenerationError, Unavailable) as error:
            log.warning("no stills", job_id=order.job_id, code=error.code, reason=str(error))
            return FramesFailure(error.code, str(error), may_pass=isinstance(error, Unavailable))
        log.info("stills taken", job_id=order.job_id, kept=len(result.frames), engine_s=round(result.engine_s, 2))
        return result

    async def _fetch(self, video: StoredFile, path: Path) -> None:
        sha256 = await in_store(self._download, video.key, path)
        if sha256 != video.sha256:
            raise FramesError("upload_changed", "What is stored is not the video that was uploaded.")

    def _download(self, key: str, path: Path) -> str:
        """In a thread: the object store blocks. Its SHA-256."""
        try:
            size_bytes = self._blobs.head(key).size_bytes
            if not self._workspace.has_room_for(size_bytes):
                raise Unavailable("There is no room for the video on the disk.", code="disk_full")
            self._blobs.get_file(key, path)
        except BlobNotFound as error:
            raise FramesError("upload_gone", "The video was deleted after its stills had been asked for.") from error
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    async def _survey(self, errand: Errand, request: FramesRequest) -> Survey:
        order = SurveyOrder.of(errand.video, errand.folder, self._settings, moment_s=request.moment_s)
        return Survey.from_dict(await errand.run(SURVEY_WORK, order.to_dict(), SURVEYING))

    async def _take(self, errand: Errand, request: FramesRequest, survey: Survey, verdict: Verdict) -> Taken:
        order = TakeOrder.of(
            errand.video,
            errand.folder,
            survey,
            verdict.choice,
            self._settings,
            output_format=request.output_format,
            blurred=tuple(sorted(verdict.hidden)),
        )
        return Taken.from_dict(await errand.run(TAKE_WORK, order.to_dict(), TAKING))
