"""Lives of a job, told at random: whatever comes in whatever order, with snapshots however old, the books are right."""

import asyncio
import itertools
from collections.abc import Awaitable
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from configs.settings import JobSettings
from pipelines.request import Progress
from serving.errors import Conflict, LeaseLost, Unavailable
from serving.jobs.job import Job, JobError, JobResult, Line
from serving.jobs.store import JobStore
from serving.jobs.upkeep import JobUpkeep
from serving.mongo import Document, Mongo
from tests.serving.conftest import fresh_database
from tests.serving.house import a_job

T = TypeVar("T")
ERROR = JobError("out_of_memory", "too large")
OWNERS = st.sampled_from(["router-1", "router-2", "router-3"])
SETTINGS = JobSettings(max_lost_workers=3)


class Life(RuleBasedStateMachine):
    """One job. Every rule may act on any snapshot ever seen; `document` is what was stored before the rule."""

    loop: asyncio.AbstractEventLoop
    mongo: Mongo
    numbers = itertools.count()
    snapshots = Bundle("snapshots")

    def __init__(self) -> None:
        super().__init__()
        self.store, self.upkeep = JobStore(self.mongo, SETTINGS), JobUpkeep(self.mongo, SETTINGS)
        self.tenant = f"t{next(self.numbers)}"  # no other life's job stands in its line
        self.job = a_job(tenant=self.tenant)
        self.outcomes: list[str] = []  # of each life, as they were written
        self.do(self.store.insert(self.job))
        self.document = self.stored()

    def do(self, work: Awaitable[T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 20))

    def stored(self) -> Document:
        document = self.do(self.mongo.of_tenant("jobs", self.tenant).find_one({"_id": self.job.id}))
        assert document is not None
        return document

    def look(self) -> Job:
        return self.do(self.store.get(self.tenant, self.job.id))

    @property
    def is_running(self) -> bool:
        return bool(self.document["status"] == "running")

    def is_mine(self, snapshot: Job) -> bool:
        """Whether the one who has this snapshot still has the lease."""
        return self.is_running and snapshot.fence == self.document["fence"]

    def has_changed(self, snapshot: Job) -> bool:
        fields = ("status", "fence", "wake_at", "tidy_at")
        return any(getattr(snapshot, name) != self.document[name] for name in fields)

    def write(self, snapshot: Job, write: Awaitable[Any]) -> None:
        """A write of a claimer: it takes effect if and only if the lease is still its own."""
        try:
            self.do(write)
            assert self.is_mine(snapshot)
        except LeaseLost:
            assert not self.is_mine(snapshot)
            assert self.stored() == self.document

    def step(self, snapshot: Job, is_done: bool, *, may_be_done: bool = True) -> None:
        """A step of the upkeep: it takes effect if and only if the job is still as it was seen."""
        assert is_done is (may_be_done and not self.has_changed(snapshot))
        assert is_done or self.stored() == self.document

    @rule(target=snapshots)
    def see(self) -> Job:
        return self.look()

    @rule(target=snapshots, owner=OWNERS, is_next=st.booleans())
    def claim(self, owner: str, is_next: bool) -> Job:
        claiming = (
            self.store.claim_next(Line.of(self.job), owner=owner)
            if is_next
            else self.store.claim(self.job.id, owner=owner)
        )
        claimed = self.do(claiming)
        assert (claimed is not None) is bool(self.document["line"])
        if claimed is None:
            return self.look()
        assert (claimed.owner, claimed.attempts) == (owner, self.document["attempts"] + 1)
        assert claimed.fence == self.document["fence"] + 1
        assert claimed.owed_at > 0
        return claimed

    @rule(snapshot=snapshots)
    def renew(self, snapshot: Job) -> None:
        self.write(snapshot, self.store.renew(snapshot))

    @rule(snapshot=snapshots, percent=st.integers(0, 100))
    def progress(self, snapshot: Job, percent: int) -> None:
        self.write(snapshot, self.store.write_progress(snapshot, Progress(1, 2, percent / 10, share=percent / 100)))

    @rule(snapshot=snapshots)
    def succeed(self, snapshot: Job) -> None:
        result = JobResult(images=(), engine_s=float(snapshot.fence), waited_s=0.0)
        self.write(snapshot, self.store.succeed(snapshot, result, backend="engine:x", device_s=1.0))

    @rule(snapshot=snapshots)
    def fail(self, snapshot: Job) -> None:
        self.write(snapshot, self.store.fail(snapshot, ERROR, backend="engine:x"))

    @rule(snapshot=snapshots, counts=st.sampled_from(["failures", "lost_workers", None]))
    def put_back(self, snapshot: Job, counts: Any) -> None:
        self.write(snapshot, self.store.put_back(snapshot, ERROR, delay_s=5.0, backend="engine:x", counts=counts))

    @rule(snapshot=snapshots)
    def hand_back(self, snapshot: Job) -> None:
        self.write(snapshot, self.store.hand_back(snapshot))

    @rule(snapshot=snapshots.filter(lambda job: job.status == "running"))
    def release(self, snapshot: Job) -> None:
        self.step(snapshot, self.do(self.upkeep.release(snapshot)))

    @rule(snapshot=snapshots.filter(lambda job: job.status == "queued"))
    def promote(self, snapshot: Job) -> None:
        self.step(snapshot, self.do(self.upkeep.promote(snapshot)))

    @rule(snapshot=snapshots.filter(lambda job: job.status == "queued"))
    def expire(self, snapshot: Job) -> None:
        self.step(snapshot, self.do(self.upkeep.expire(snapshot)))

    @rule(snapshot=snapshots.filter(lambda job: job.is_final), days=st.integers(1, 9))
    def tidy_again(self, snapshot: Job, days: int) -> None:
        self.step(snapshot, self.do(self.upkeep.tidy_again(snapshot, 4e9 + days)))

    @rule(snapshot=snapshots, is_fresh=st.booleans())
    def clear_owed(self, snapshot: Job, is_fresh: bool) -> None:
        snapshot = self.look() if is_fresh else snapshot
        is_same = snapshot.owed_at == self.document["owed_at"]
        assert self.do(self.upkeep.clear_owed(snapshot)) is is_same
        assert is_same or self.stored() == self.document

    @rule()
    def cancel(self) -> None:
        status = self.document["status"]
        try:
            assert self.do(self.store.cancel(self.tenant, self.job.id)).status == "cancelled"
            assert status in {"queued", "running", "cancelled"}
        except Conflict:
            assert status in {"succeeded", "failed"}
        assert status in {"queued", "running"} or self.stored() == self.document

    @rule()
    def retry(self) -> None:
        status, is_owed = self.document["status"], self.document["owed_at"] > 0
        try:
            job = self.do(self.store.retry(self.tenant, self.job.id, expires_at=self.job.expires_at))
            assert (job.status, job.failures, job.lost_workers, job.error) == ("queued", 0, 0, None)
            assert (job.lives, job.fence) == (self.document["lives"] + 1, self.document["fence"] + 1)
            assert (status, is_owed) == ("failed", False)
        except Conflict:
            assert status != "failed"
        except Unavailable:
            assert (status, is_owed) == ("failed", True)
        if (status, is_owed) != ("failed", False):
            assert self.stored() == self.document

    @invariant()
    def the_books_are_right(self) -> None:
        before, now = self.document, self.stored()
        self.document = now
        job = self.look()
        assert bool(now["line"]) is (job.status == "queued" and job.not_before == 0)
        assert now["waits_of"] == (self.tenant if job.status == "queued" else "")
        assert (now["wake_at"] == 0) is job.is_final
        assert (now["tidy_at"] > 0) is job.is_final
        assert (job.owner is not None) is (job.status == "running")
        assert (job.result is not None) is (job.status == "succeeded")
        assert (job.error is not None) is (job.status == "failed")
        assert (job.finished_at is not None) is job.is_final
        assert job.fence >= before["fence"]
        assert job.attempts >= before["attempts"]
        assert job.device_s >= 0
        assert job.lost_workers <= SETTINGS.max_lost_workers or before["lost_workers"] == job.lost_workers
        self.check_the_move(before, job)

    def check_the_move(self, before: Document, job: Job) -> None:
        if before["status"] == job.status:
            return
        if job.is_final:
            assert job.owed_at > 0
            self.outcomes.append(job.status)
            assert len(self.outcomes) <= job.lives + 1
            assert self.outcomes.count("succeeded") + self.outcomes.count("cancelled") <= 1
        elif before["status"] in {"succeeded", "cancelled"}:
            raise AssertionError(f"{before['status']} is for ever, and it is {job.status}")
        elif before["status"] == "failed":
            assert job.lives == before["lives"] + 1


def test_one_job_has_one_outcome_whatever_happens_in_whatever_order(mongo_url: str) -> None:
    async def open_database() -> tuple[Any, Mongo]:
        database = fresh_database(mongo_url)
        mongo = Mongo(await database.__aenter__())
        await mongo.make_indexes()
        return database, mongo

    loop = asyncio.new_event_loop()
    database, mongo = loop.run_until_complete(open_database())
    try:
        life = type("LifeHere", (Life,), {"loop": loop, "mongo": mongo})
        run_state_machine_as_test(life, settings=settings(max_examples=50, stateful_step_count=30, deadline=None))
    finally:
        loop.run_until_complete(mongo.close())
        loop.run_until_complete(database.__aexit__(None, None, None))
        loop.close()
