"""News that may be lost, news that nobody wants, and a crowd of news: what they cost everybody else."""

from dataclasses import replace
from typing import Any

from pipelines.request import Progress
from serving.api.schemas.jobs import event_view
from serving.webhooks.announcing import Announcer
from serving.webhooks.delivery import delivery_to_document
from serving.webhooks.events import progress_event
from serving.webhooks.roster import Roster
from tests.serving.conftest import OpenHouse
from tests.serving.webhooks.parts import delivery_of, ended
from tests.serving.webhooks.receiver import HANG, HERE, receiver


async def test_ten_thousand_waiting_events_hide_nobody_elses(houses: OpenHouse, raw: Any) -> None:
    house = await houses(outbound=HERE, webhooks={"timeout_s": 1.0})
    async with receiver(status=HANG) as stuck, receiver() as there:
        endpoints = house.services.webhooks.endpoints
        full = await endpoints.create("alice", stuck.url, ["job.succeeded"])
        empty = await endpoints.create("bob", there.url, ["job.succeeded"])
        crowd = [delivery_of(ended(number), full) for number in range(10_000)]
        for first in range(0, len(crowd), 1_000):
            some = [{**delivery_to_document(each), "delete_at": 0.0} for each in crowd[first : first + 1_000]]
            await raw["webhook_deliveries"].insert_many(some)
        await house.services.webhooks.lines.wake("alice", full.id, crowd[0].line)
        await house.services.webhooks.deliveries.add(delivery_of(ended(tenant="bob"), empty))
        await house.services.webhooks.lines.wake("bob", empty.id, f"bob/{empty.id}")
        house.webhook_work.start()
        await there.until(1)
        await stuck.until(4)
        assert stuck.most_here <= 4


async def test_progress_that_something_newer_made_outdated_is_not_sent(houses: OpenHouse) -> None:
    house = await houses(outbound=HERE)
    async with receiver() as there:
        endpoint = await house.services.webhooks.endpoints.create("alice", there.url, ["job.progress", "job.succeeded"])
        running = ended(status="running", finished_at=None)
        announcer: Announcer = house.webhook_work.announcer
        for step in (1, 2):
            told = replace(progress_event(running, Progress(step, 4)), at=10.0 + step, id=f"evt_{step}")
            await announcer.announce(told, Roster(house.services.webhooks.endpoints))
        house.webhook_work.start()
        await there.until(1)
        assert [got.event["data"]["step"] for got in there.got] == [2]
        page = await house.services.webhooks.deliveries.page("alice", endpoint.id, job_id=None, limit=5, after=None)
        assert {(d.status, d.reason) for d in page} >= {("dropped", "outdated")}


async def test_progress_is_told_now_and_then_to_those_who_want_it(houses: OpenHouse) -> None:
    house = await houses(outbound=HERE, announces=True, webhooks={"progress_every_s": 3_600})
    async with receiver() as there, receiver() as other:
        await house.services.webhooks.endpoints.create("alice", there.url, ["job.progress"])
        await house.services.webhooks.endpoints.create("alice", other.url, ["job.succeeded"])
        jobs = [ended(number, status="running", finished_at=None) for number in (1, 2)]
        for step in range(1, 4):
            for job in jobs:
                house.webhook_work.tell_progress(job, Progress(step, 4))
        await there.until(2)
        await house.webhook_work.stop()
        told = [(got.type, got.job_id, got.event["data"]["progress"]) for got in there.got]
        assert sorted(told) == [("job.progress", job.id, 25) for job in jobs]
    assert other.got == []


async def test_a_tenant_without_endpoints_costs_one_look_for_all_its_news(houses: OpenHouse) -> None:
    house = await houses(outbound=HERE, sweeps=False)
    for _ in range(5):
        job = await house.insert()
        await house.store.cancel("alice", job.id)
    assert await house.webhook_work.announcer.announce_owed() == 5
    assert await house.upkeep.find_owed(limit=10) == []
    assert await house.mongo.of_tenant("webhook_lines", "alice").count({}) == 0
    assert await house.mongo.of_tenant("webhook_deliveries", "alice").count({}) == 0


def test_progress_of_a_training_tells_its_stage_loss_and_time_to_go() -> None:
    news = Progress(120, 800, share=0.3, stage="train", loss=0.25, eta_s=90.0)
    job = ended(status="running", finished_at=None)
    told = event_view(lambda key: key, progress_event(job, news).job)
    assert [told[name] for name in ("progress", "stage", "step", "steps", "loss", "eta_s")] == [
        30,
        "train",
        120,
        800,
        0.25,
        90.0,
    ]
    assert (told["status"], told["result"]) == ("running", None)
