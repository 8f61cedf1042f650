"""job.progress: told while a job runs, now and then, to those who want it. May be lost; holds nothing up."""

import asyncio
import time

from configs.settings import WebhookSettings
from pipelines.request import Progress
from serving.errors import AppError
from serving.jobs.job import Job
from serving.telemetry import get_logger
from serving.webhooks.announcing import Announcer
from serving.webhooks.endpoints import EndpointStore
from serving.webhooks.events import progress_event
from serving.webhooks.roster import Roster

log = get_logger("webhooks")

ROSTER_S = 2.0  # endpoints this old are good enough for news that may be lost
MAX_REMEMBERED = 10_000  # jobs


class ProgressTeller:
    """What a Router hands the progress of its jobs to."""

    def __init__(self, announcer: Announcer, endpoints: EndpointStore, settings: WebhookSettings) -> None:
        self._announcer = announcer
        self._endpoints = endpoints
        self._every_s = settings.progress_every_s
        self._roster = Roster(endpoints)
        self._roster_until = 0.0
        self._quiet_until: dict[str, float] = {}  # by job
        self._tasks: set[asyncio.Task[None]] = set()

    def tell(self, job: Job, progress: Progress) -> None:
        """Returns at once; of what comes too soon after the last, nothing is told."""
        now = time.monotonic()
        if self._quiet_until.get(job.id, 0.0) > now:
            return
        if len(self._quiet_until) >= MAX_REMEMBERED:
            self._quiet_until = {job_id: until for job_id, until in self._quiet_until.items() if until > now}
        self._quiet_until[job.id] = now + self._every_s
        if now >= self._roster_until:
            self._roster, self._roster_until = Roster(self._endpoints), now + ROSTER_S
        task = asyncio.create_task(self._tell(job, progress, self._roster))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self, job: Job, progress: Progress, roster: Roster) -> None:
        try:
            await self._announcer.announce(progress_event(job, progress), roster)
        except AppError as error:
            log.debug("progress not told", job_id=job.id, reason=error.message)
