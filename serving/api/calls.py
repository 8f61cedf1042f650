"""A call of a route that makes jobs: who asks, with which key, how the answer is wanted, and who still listens."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request

from serving.api.cancelling import call_off
from serving.api.deps import CurrentCaller, RequestId, Services, ServicesDep
from serving.api.hang_ups import HungUp, unless_hung_up
from serving.api.preferences import IdempotencyKey, Preference, Preferred
from serving.jobs.admission import AnyWish
from serving.jobs.job import Job
from serving.jobs.submission import Accepted, RequestKey
from serving.tenancy.auth import Caller

T = TypeVar("T")

SYNCHRONOUS_PREFIX = "/v1/images/"


@dataclass(frozen=True, slots=True)
class Call:
    """What the routes that make jobs share."""

    request: Request
    services: Services
    caller: Caller
    request_id: str
    key: RequestKey | None
    preference: Preference
    is_synchronous: bool  # the route's answer is the result, not the job

    @property
    def keeps_its_job(self) -> bool:
        """Whether the client meant to come back for it, so that hanging up does not call the job off."""
        return self.key is not None or self.preference.is_async or not self.is_synchronous

    @property
    def longest_wait_s(self) -> int:
        return self.preference.longest_wait_s(self.services.settings.api.max_wait_s)

    async def submit(self, wish: AnyWish) -> Job:
        """The stored job, or an earlier one where the key was used before.

        Once begun it is ended though the client hangs up meanwhile, so that there is no job that nobody knows of.
        """
        work = self.services.submission.submit(self.caller, wish, request_id=self.request_id, key=self.key)
        return self.taken(await self.services.hang_ups.finish(work, if_left=lambda left: self.hang_up(left.job)))

    def taken(self, accepted: Accepted) -> Job:
        """Notes for the gatekeeper, which writes the header, that this answers an earlier request."""
        self.request.state.is_replay = accepted.is_replay
        return accepted.job

    async def waiting(self, job: Job, work: Coroutine[Any, Any, T]) -> T:
        """What `work` gives, as long as the client listens; the job of one that hangs up is called off."""
        try:
            return await unless_hung_up(self.request.receive, work)
        except (HungUp, asyncio.CancelledError):
            self.hang_up(job)
            raise

    def hang_up(self, job: Job) -> None:
        """The client went away. Returns at once; the cancellation outlives the request."""
        if not self.keeps_its_job:
            self.services.hang_ups.call_off(job.id, lambda: call_off(self.services, job.tenant, job.id))


def call_of(
    request: Request,
    services: ServicesDep,
    caller: CurrentCaller,
    request_id: RequestId,
    key: IdempotencyKey,
    preference: Preferred,
) -> Call:
    """The call as a dependency of a route."""
    route: str = request.scope["route"].path
    return Call(
        request=request,
        services=services,
        caller=caller,
        request_id=request_id,
        key=None if key is None else RequestKey(key, route),
        preference=preference,
        is_synchronous=route.startswith(SYNCHRONOUS_PREFIX),
    )


CurrentCall = Annotated[Call, Depends(call_of)]
