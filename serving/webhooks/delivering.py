"""The loop of a Router that brings deliveries to their endpoints: due queues, each under a lease, each in order.

An event is recorded as delivered after its receiver has said so. Whoever dies between the two leaves a lease that runs
out, and the event is sent again under the same id: at least once.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

from configs.settings import WebhookSettings
from serving.errors import AppError, LeaseLost
from serving.telemetry import get_logger
from serving.webhooks.announcing import wait_for_either
from serving.webhooks.delivery import GONE, Attempt, Delivery
from serving.webhooks.endpoint import Endpoint
from serving.webhooks.endpoints import EndpointStore
from serving.webhooks.events import PROGRESS
from serving.webhooks.lines import Line, Lines
from serving.webhooks.sending import Sender
from serving.webhooks.store import DeliveryStore

log = get_logger("webhooks")

LOOK = 200  # due queues per look
DROP_BATCH = 100
SHARE = 4  # of all places a tenant may take one in so many


class Deliverer:
    """Sends what is due. Any number may run at once, one in each Router."""

    def __init__(
        self,
        endpoints: EndpointStore,
        deliveries: DeliveryStore,
        lines: Lines,
        sender: Sender,
        settings: WebhookSettings,
    ) -> None:
        self._endpoints = endpoints
        self._deliveries = deliveries
        self._lines = lines
        self._sender = sender
        self._settings = settings
        self._serving: dict[str, tuple[str, asyncio.Task[None]]] = {}  # line → its tenant, its task
        self._is_called = asyncio.Event()
        self._is_stopping = False

    def wake(self) -> None:
        """Something may be due now."""
        self._is_called.set()

    async def run_forever(self) -> None:
        """Until stop()."""
        while not self._is_stopping:
            self._is_called.clear()
            try:
                await self.serve_due()
            except AppError as error:
                log.warning("queues of webhooks not read", reason=error.message)
            await wait_for_either(self._is_called, self._settings.poll_s)

    async def stop(self) -> None:
        """Begins nothing more, and waits until what is being sent has been answered and every queue let go of."""
        self._is_stopping = True
        self.wake()
        if tasks := [task for _, task in self._serving.values()]:
            _, late = await asyncio.wait(tasks, timeout=2 * self._settings.timeout_s)
            for task in late:
                task.cancel()

    async def serve_due(self) -> None:
        """One look: takes on as many due queues as there are places. Does not wait for them."""
        num_free = self._settings.max_endpoints_at_once - len(self._serving)
        if num_free <= 0:
            return
        held = Counter(tenant for tenant, _ in self._serving.values())
        limit = max(1, self._settings.max_endpoints_at_once // SHARE)
        for line in await self._lines.due(limit=LOOK):
            if num_free == 0:
                return
            if line.id in self._serving or held[line.tenant] >= limit:
                continue
            if (mine := await self._lines.claim(line)) is not None:
                num_free -= 1
                held[line.tenant] += 1
                task = asyncio.create_task(self._serve(mine), name=line.id)
                self._serving[line.id] = (line.tenant, task)
                task.add_done_callback(self._forget)

    def _forget(self, task: "asyncio.Task[None]") -> None:
        del self._serving[task.get_name()]
        self.wake()  # a place is free
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("sending broke off", line=task.get_name(), exc_info=error)  # the lease runs out

    async def _serve(self, line: Line) -> None:
        """Sends from one queue until nothing in it is due, it is paused, or others have waited long enough."""
        turn_ends_at = time.monotonic() + self._settings.lease_s / 2
        try:
            while True:
                endpoint = await self._endpoints.find(line.tenant, line.endpoint_id)
                if endpoint is None or not endpoint.is_on:
                    is_over = await self._drop_all(line, endpoint)
                elif self._is_stopping or time.monotonic() > turn_ends_at:
                    is_over = await self._lines.release(line, due_at=time.time())
                elif line.is_paused or not (batch := await self._next(line)):
                    is_over = await self._lines.release(line, due_at=await self._due_next(line))
                else:
                    line, is_over = await self._send(line, endpoint, batch), False
                if is_over:
                    return
                line = await self._lines.renew(line)
        except LeaseLost as error:
            log.warning("queue of a webhook taken over", reason=str(error))
        except AppError as error:
            log.warning("sending put off", line=line.id, reason=error.message)  # until the lease has run out

    async def _next(self, line: Line) -> list[Delivery]:
        """What may be sent now: of each job its first event that is still on its way, if that is due."""
        width = self._settings.max_in_flight_per_endpoint
        while due := await self._deliveries.due(line.tenant, line.id, limit=width):
            # An event that must wait leaves the head of the queue, so the next look is at others.
            if ready := [delivery for delivery in due if await self._may_go(delivery)]:
                return ready
        return []

    async def _may_go(self, delivery: Delivery) -> bool:
        if not delivery.is_in_order:
            return True
        if delivery.type == PROGRESS and await self._deliveries.later_of_job(delivery):
            await self._deliveries.change(delivery, delivery.dropped("outdated"))
            return False
        earlier = await self._deliveries.earlier_of_job(delivery)
        if earlier is not None:
            await self._deliveries.change(delivery, delivery.put_off(max(earlier.due_at, delivery.due_at)))
        return earlier is None

    async def _send(self, line: Line, endpoint: Endpoint, batch: Sequence[Delivery]) -> Line:
        """One attempt of each, at once; the queue, paused if its endpoint is overloaded."""
        outcomes = await asyncio.gather(
            *(self._attempt(delivery, endpoint) for delivery in batch), return_exceptions=True
        )
        attempts = [outcome for outcome in outcomes if isinstance(outcome, Attempt)]
        if attempts:
            pauses_s = [attempt.retry_after_s or 0.0 for attempt in attempts if attempt.is_slow]
            line = line.after(is_slow=bool(pauses_s), asked_s=max(pauses_s, default=0.0), settings=self._settings)
        if any(attempt.status == GONE for attempt in attempts) and not endpoint.is_default:
            log.info("webhook endpoint switched off", endpoint=endpoint.id, reason="gone")
            await self._endpoints.switch_off(endpoint, "gone")
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return line

    async def _attempt(self, delivery: Delivery, endpoint: Endpoint) -> Attempt:
        attempt = await self._sender.send(delivery, endpoint)
        log.debug("event sent", delivery_id=delivery.id, status=attempt.status, error=attempt.error)
        after = delivery.after(attempt, self._settings)
        if not await self._deliveries.change(delivery, after):
            # Sending on from what is not the stored state could repeat one event without end.
            raise LeaseLost(f"{delivery.id} was changed by somebody else meanwhile")
        if after.status != "pending" and delivery.num_attempts:
            await self._let_next_go(after)
        return attempt

    async def _let_next_go(self, delivery: Delivery) -> None:
        """The next event of the job waited as long as this one would have; now it need not."""
        following = await self._deliveries.next_of_job(delivery)
        if following is not None and not following.tries:
            await self._deliveries.change(following, following.put_off(time.time()))

    async def _drop_all(self, line: Line, endpoint: Endpoint | None) -> bool:
        """Ends all that stands in the queue of an endpoint that is off or gone; whether the queue is let go of."""
        reason = "endpoint_deleted" if endpoint is None else "endpoint_off"
        waiting = await self._deliveries.waiting(line.tenant, line.id, limit=DROP_BATCH)
        for delivery in waiting:
            await self._deliveries.change(delivery, delivery.dropped(reason))
        if waiting:
            return False
        return await (self._lines.remove(line) if endpoint is None else self._lines.release(line, due_at=0.0))

    async def _due_next(self, line: Line) -> float:
        first = await self._deliveries.waiting(line.tenant, line.id, limit=1)
        return max(first[0].due_at, line.slow_until) if first else 0.0
