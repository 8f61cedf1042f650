"""Every state of a job, and everything that can be asked of it there: what happens, and that all else is refused."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from configs.settings import JobSettings
from pipelines.request import Progress
from serving.errors import Conflict, LeaseLost
from serving.jobs.job import TRANSITIONS, Job, JobError, JobResult, Line
from serving.jobs.store import JobStore
from serving.jobs.upkeep import JobUpkeep
from serving.mongo import Mongo
from tests.serving.house import a_job

RESULT = JobResult(images=(), engine_s=0.5, waited_s=0.1)
ERROR = JobError("code", "message")
GONE = "gone"


@dataclass(frozen=True)
class Parts:
    store: JobStore
    upkeep: JobUpkeep

    async def now(self, job: Job) -> Job:
        return await self.store.get(job.tenant, job.id)

    async def in_line(self) -> Job:
        job = a_job()
        await self.store.insert(job)
        return job

    async def running(self) -> Job:
        job = await self.store.claim((await self.in_line()).id, owner="router-1")
        assert job is not None
        return job

    async def put_back(self) -> Job:
        running = await self.running()
        return await self.store.put_back(running, ERROR, delay_s=9.0, backend=None, counts="failures")

    async def succeeded(self) -> Job:
        return await self.store.succeed(await self.running(), RESULT, backend="engine:x", device_s=1.0)

    async def failed(self) -> Job:
        job = await self.store.fail(await self.running(), ERROR)
        assert await self.upkeep.clear_owed(job)
        return await self.now(job)

    async def cancelled(self) -> Job:
        return await self.store.cancel("alice", (await self.running()).id)


STATES: dict[str, str] = {
    "in_line": "queued",
    "put_back": "queued",
    "running": "running",
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
}
Ask = Callable[[Parts, Job], Awaitable[Any]]
OPERATIONS: dict[str, Ask] = {
    "claim": lambda parts, job: parts.store.claim(job.id, owner="router-2"),
    "claim_next": lambda parts, job: parts.store.claim_next(Line.of(job), owner="router-2"),
    "renew": lambda parts, job: parts.store.renew(job),
    "write_progress": lambda parts, job: parts.store.write_progress(job, Progress(1, 2, 0.1)),
    "succeed": lambda parts, job: parts.store.succeed(job, RESULT, backend="engine:x", device_s=1.0),
    "fail": lambda parts, job: parts.store.fail(job, ERROR),
    "give_up_attempt": lambda parts, job: parts.store.put_back(job, ERROR, delay_s=9, backend=None, counts=None),
    "hand_back": lambda parts, job: parts.store.hand_back(job),
    "cancel": lambda parts, job: parts.store.cancel(job.tenant, job.id),
    "retry": lambda parts, job: parts.store.retry(job.tenant, job.id, expires_at=job.expires_at + 60),
    "release": lambda parts, job: parts.upkeep.release(job),
    "promote": lambda parts, job: parts.upkeep.promote(job),
    "expire": lambda parts, job: parts.upkeep.expire(job),
    "tidy_again": lambda parts, job: parts.upkeep.tidy_again(job, 2e9),
    "delete": lambda parts, job: parts.upkeep.delete(job),
}
# What may happen to a job in a state, and where it is afterwards. Everything that is not here is refused.
ALLOWED: dict[str, dict[str, str]] = {
    "in_line": {
        "claim": "running",
        "claim_next": "running",
        "cancel": "cancelled",
        "expire": "failed",
        "promote": "queued",
    },
    "put_back": {"cancel": "cancelled", "expire": "failed", "promote": "queued"},
    "running": {
        "renew": "running",
        "write_progress": "running",
        "succeed": "succeeded",
        "fail": "failed",
        "give_up_attempt": "queued",
        "hand_back": "queued",
        "cancel": "cancelled",
        "release": "queued",
    },
    "succeeded": {"tidy_again": "succeeded", "delete": GONE},
    "failed": {"retry": "queued", "tidy_again": "failed", "delete": GONE},
    "cancelled": {"cancel": "cancelled", "tidy_again": "cancelled", "delete": GONE},
}
BY_HAND = {("failed", "queued")}


@pytest.fixture
def parts(mongo: Mongo) -> Parts:
    settings = JobSettings()
    return Parts(JobStore(mongo, settings), JobUpkeep(mongo, settings))


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("state", STATES)
async def test_in_each_state_happens_what_is_allowed_and_nothing_else(
    parts: Parts, raw: Any, state: str, operation: str
) -> None:
    job: Job = await getattr(parts, state)()
    assert job.status == STATES[state]
    before = await raw["jobs"].find_one({"_id": job.id})
    allowed = ALLOWED[state].get(operation)
    try:
        answer = await OPERATIONS[operation](parts, job)
    except (Conflict, LeaseLost, AssertionError):
        answer = False
    after = await raw["jobs"].find_one({"_id": job.id})
    if allowed is None:
        assert after == before
        assert not answer
    elif allowed == GONE:
        assert after is None
    else:
        assert after["status"] == allowed
        assert (after == before) is (operation == "cancel" and state == "cancelled")


def test_the_table_of_this_test_knows_no_move_that_the_jobs_table_forbids_and_uses_all_of_them() -> None:
    moves = {(STATES[state], after) for state, moves in ALLOWED.items() for after in moves.values() if after != GONE}
    stays = {(status, status) for status in STATES.values()}
    assert moves - stays - BY_HAND == {(status, after) for status, some in TRANSITIONS.items() for after in some}


@pytest.mark.parametrize("state", ["in_line", "put_back", "running", "succeeded", "failed", "cancelled"])
async def test_what_is_indexed_says_of_each_state_what_there_is_to_do(parts: Parts, raw: Any, state: str) -> None:
    job: Job = await getattr(parts, state)()
    document = await raw["jobs"].find_one({"_id": job.id})
    assert bool(document["line"]) is (state == "in_line")
    assert document["waits_of"] == ("alice" if job.status == "queued" else "")
    assert bool(document["wake_at"]) is not job.is_final
    assert bool(document["tidy_at"]) is job.is_final
    assert bool(document["owed_at"]) is (state in {"running", "put_back", "succeeded", "cancelled"})
    assert (document["owner"] is not None) is (state == "running")
