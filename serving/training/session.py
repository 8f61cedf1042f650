"""Trainings, a few at a time: from an order to a file that waits for its place. Knows no Ray and no database."""

import asyncio
import time
from collections.abc import AsyncGenerator

from models.errors import GenerationError
from pipelines.request import Preview, Progress, TrainedAdapter, TrainingRequest
from serving.backends.base import Order
from serving.backends.training import TrainerMessage, TrainingError, TrainingEstimate, TrainingFailure
from serving.errors import Unavailable
from serving.telemetry import get_logger
from serving.tenancy.policies import ModerationPolicy
from serving.training.course import Course
from serving.training.estimating import Plan
from serving.training.report import Report, Tell
from serving.training.workshop import Workshop
from training.recipe import Recipe, RecipeError

log = get_logger("training")


class TrainingSessions:
    """The trainings of one replica."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._places = asyncio.Semaphore(workshop.settings.training.max_at_once)
        self._at_work: dict[str, asyncio.Task[TrainedAdapter | TrainingFailure]] = {}

    async def messages(self, order: Order, policy: ModerationPolicy) -> AsyncGenerator[TrainerMessage, None]:
        """train(), told as it happens; last what it made, or why nothing. Closing it ends the work."""
        await self._end_older(order.job_id)
        news: asyncio.Queue[Progress | Preview | None] = asyncio.Queue()
        work = asyncio.create_task(self._outcome(order, policy, news.put_nowait))
        work.add_done_callback(lambda _: news.put_nowait(None))
        self._at_work[order.job_id] = work
        try:
            while (told := await news.get()) is not None:
                yield told
            yield work.result()
        finally:
            work.cancel()
            await asyncio.wait({work})  # until its process is gone, and what it had on the disk
            if self._at_work.get(order.job_id) is work:
                del self._at_work[order.job_id]

    async def train(self, order: Order, policy: ModerationPolicy, tell: Tell) -> TrainedAdapter:
        """Raises TrainingError where the request is at fault, Unavailable where a store or the Frames replicas are."""
        request, came_at = order.request, time.perf_counter()
        assert isinstance(request, TrainingRequest), "routing sends nothing else here"
        recipe = _recipe_of(request)
        async with self._places, self._workshop.workspace.room() as folder:
            report = Report(request.steps, folder, tell)
            waited_s = time.perf_counter() - came_at
            course = Course(
                self._workshop, order, policy, recipe=recipe, folder=folder, report=report, waited_s=waited_s
            )
            return await course.run()

    async def estimate(self, request: TrainingRequest) -> TrainingEstimate:
        """What it would take here. Raises TrainingError where it cannot be trained here at all."""
        recipe, workshop = _recipe_of(request), self._workshop
        async with workshop.bases.held(request.base_model) as base:
            measured = await workshop.estimates.figures(recipe, base)
            return workshop.estimates.of(Plan.of(request, recipe, base), measured)

    async def _end_older(self, job_id: str) -> None:
        """An attempt whose Router has died is of no use to anybody, and may not know it yet."""
        while (older := self._at_work.pop(job_id, None)) is not None:
            log.warning("an older attempt is ended", job_id=job_id)
            older.cancel()
            await asyncio.wait({older})

    async def _outcome(self, order: Order, policy: ModerationPolicy, tell: Tell) -> TrainedAdapter | TrainingFailure:
        try:
            made = await self.train(order, policy, tell)
        except (GenerationError, Unavailable) as error:
            log.warning("no adapter", job_id=order.job_id, code=error.code, reason=str(error))
            return TrainingFailure(error.code, str(error), may_pass=isinstance(error, Unavailable))
        log.info("trained", job_id=order.job_id, sha256=made.file.sha256, engine_s=round(made.engine_s, 1))
        return made


def _recipe_of(request: TrainingRequest) -> Recipe:
    try:
        return Recipe.from_json(request.recipe_json)
    except RecipeError as error:
        raise TrainingError("bad_recipe", str(error)) from error
