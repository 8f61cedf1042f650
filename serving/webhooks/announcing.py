"""From what jobs owe to what is on its way: every event becomes one delivery for each endpoint that wants it.

The write that starts or ends a job also marks it as owing its news. They are made into deliveries from the job's
state alone, under ids that follow from it, and only then is the mark taken away: whoever dies in between, or does it
twice, loses nothing and doubles nothing. Endpoints are read after the job, so one made before the job's end is told.
"""

import asyncio
from collections.abc import Callable

from configs.settings import WebhookSettings
from serving.errors import AppError
from serving.jobs.job import Job
from serving.jobs.upkeep import JobUpkeep
from serving.telemetry import get_logger
from serving.webhooks.delivery import new_delivery
from serving.webhooks.endpoints import EndpointStore
from serving.webhooks.events import Event, events_of
from serving.webhooks.lines import Lines
from serving.webhooks.roster import Roster
from serving.webhooks.store import DeliveryStore

log = get_logger("webhooks")

BATCH = 200  # jobs that are announced per look at what is owed


class Announcer:
    """Makes deliveries out of news. Any number may run at once, one in each Router."""

    def __init__(
        self,
        upkeep: JobUpkeep,
        endpoints: EndpointStore,
        deliveries: DeliveryStore,
        lines: Lines,
        settings: WebhookSettings,
        *,
        on_news: Callable[[], None],
    ) -> None:
        self._upkeep = upkeep
        self._endpoints = endpoints
        self._deliveries = deliveries
        self._lines = lines
        self._settings = settings
        self._on_news = on_news  # something is on its way now
        self._is_called = asyncio.Event()

    def wake(self) -> None:
        """A job has just started or ended here: announce it now instead of at the next look."""
        self._is_called.set()

    async def run_forever(self) -> None:
        while True:
            self._is_called.clear()
            try:
                num_announced = await self.announce_owed()
            except AppError as error:
                log.warning("news not announced", reason=error.message)
                num_announced = 0
            if num_announced < BATCH:
                await wait_for_either(self._is_called, self._settings.poll_s)

    async def announce_owed(self) -> int:
        """One look at what is owed; how many jobs' news are on their way. AppError: the rest stays owed."""
        owed = await self._upkeep.find_owed(limit=BATCH)
        roster = Roster(self._endpoints)
        outcomes = [await self._announce_job(job, roster) for job in owed]
        return outcomes.count(True)

    async def announce(self, event: Event, roster: Roster) -> None:
        """To every endpoint that wants it; once, however often this is called."""
        wanting = await roster.wanting(event)
        for endpoint in wanting:
            delivery = new_delivery(event, endpoint)
            if await self._deliveries.add(delivery):
                log.debug("event on its way", event_type=event.type, job_id=event.job.id, endpoint=endpoint.id)
            # Also when it was made before: whoever made it may have died before this.
            await self._lines.wake(delivery.tenant, endpoint.id, delivery.line)
        if wanting:
            self._on_news()

    async def _announce_job(self, job: Job, roster: Roster) -> bool:
        try:
            for event in events_of(job):
                await self.announce(event, roster)
            # Not cleared: there are newer news meanwhile, and the next look finds them.
            return await self._upkeep.clear_owed(job)
        except AppError:
            raise
        except Exception:  # noqa: BLE001 - one job that cannot be told must not keep all others from being told
            log.exception("news of a job not announced", job_id=job.id)
            return False


async def wait_for_either(event: asyncio.Event, timeout_s: float) -> None:
    """Until the event is set, or time is up."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
