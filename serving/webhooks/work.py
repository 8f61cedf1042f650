"""Webhooks put together: what the routes use, and what a Router runs."""

import asyncio
from dataclasses import dataclass

from configs.settings import WebhookSettings
from pipelines.request import Progress
from serving.jobs.job import Job
from serving.jobs.upkeep import JobUpkeep
from serving.mongo import Mongo
from serving.outbound import Outbound
from serving.webhooks.announcing import Announcer
from serving.webhooks.delivering import Deliverer
from serving.webhooks.endpoints import EndpointStore
from serving.webhooks.lines import Lines
from serving.webhooks.progress import ProgressTeller
from serving.webhooks.sending import JobView, Sender
from serving.webhooks.store import DeliveryStore


@dataclass(frozen=True, slots=True)
class Webhooks:
    """The three collections."""

    endpoints: EndpointStore
    deliveries: DeliveryStore
    lines: Lines

    @classmethod
    def over(cls, mongo: Mongo, outbound: Outbound, settings: WebhookSettings) -> "Webhooks":
        return cls(EndpointStore(mongo, outbound, settings), DeliveryStore(mongo, settings), Lines(mongo, settings))


class WebhookWork:
    """A Router's part: news become deliveries, deliveries reach their endpoints. On the loop that calls start()."""

    def __init__(
        self, webhooks: Webhooks, upkeep: JobUpkeep, outbound: Outbound, view: JobView, settings: WebhookSettings
    ) -> None:
        endpoints, deliveries, lines = webhooks.endpoints, webhooks.deliveries, webhooks.lines
        sender = Sender(outbound, view, settings)
        self.deliverer = Deliverer(endpoints, deliveries, lines, sender, settings)
        self.announcer = Announcer(upkeep, endpoints, deliveries, lines, settings, on_news=self.deliverer.wake)
        self._teller = ProgressTeller(self.announcer, endpoints, settings)
        self._loops: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._loops = [
            asyncio.create_task(self.announcer.run_forever()),
            asyncio.create_task(self.deliverer.run_forever()),
        ]

    @property
    def is_broken(self) -> bool:
        """A loop has ended that should not have."""
        return any(loop.done() for loop in self._loops)

    def wake(self) -> None:
        """A job of this Router has just started or ended: its news go out now instead of at the next look."""
        self.announcer.wake()

    def tell_progress(self, job: Job, progress: Progress) -> None:
        """A job of this Router has come so far. Returns at once."""
        self._teller.tell(job, progress)

    async def stop(self) -> None:
        """Waits for the answers to what is being sent. What is still owed or due is another Router's, or later's."""
        loops, self._loops = self._loops, []
        if loops:
            loops[0].cancel()
            await self.deliverer.stop()
            await asyncio.wait(loops)
