"""When a job will have ended: from its place and the measured pace; looked up once for many who ask."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from serving.jobs import eta
from serving.jobs.eta import Forecast, KnownPace, Outlook, eta_s, paces_of
from serving.jobs.job import Job
from serving.mongo import Mongo
from tests.serving.house import a_job

NOW = 1_800_000_000.0
PACE = KnownPace(jobs_per_s=2.0, mean_s=3.0)


def a_pace(owner: str = "router-1", **changes: Any) -> dict[str, Any]:
    pace = {"model": "emoji-3d", "jobs_per_s": 2.0, "mean_s": 3.0, "at": time.time()} | changes
    return {"_id": f"{owner}/{pace['model']}", **pace}


class CountingStore:
    """JobStore's positions, and how often they were looked up."""

    def __init__(self) -> None:
        self.position = 4
        self.asked: list[str] = []

    async def queue_position(self, job: Job) -> int:
        self.asked.append(job.id)
        await asyncio.sleep(0)
        return self.position


@pytest.mark.parametrize(("position", "expected_s"), [(0, 3.0), (1, 3.5), (10, 8.0)])
def test_a_waiting_job_ends_after_those_before_it_and_its_own_time(position: int, expected_s: float) -> None:
    assert eta_s(position, PACE, a_job(), now=NOW) == expected_s


def test_a_job_that_was_put_back_waits_for_its_moment() -> None:
    job = replace(a_job(), not_before=NOW + 60)
    assert eta_s(0, PACE, job, now=NOW) == 63.0
    assert eta_s(1_000, PACE, job, now=NOW) == 503.0


def test_a_running_job_goes_on_as_it_went() -> None:
    job = replace(a_job(), status="running", started_at=NOW - 6, progress=25)
    assert eta_s(None, PACE, job, now=NOW) == 18.0
    assert eta_s(None, None, job, now=NOW) == 18.0


@pytest.mark.parametrize(("spent_s", "expected_s"), [(1.0, 2.0), (10.0, 0.0)])
def test_a_running_job_without_progress_takes_the_usual_time(spent_s: float, expected_s: float) -> None:
    job = replace(a_job(), status="running", started_at=NOW - spent_s)
    assert eta_s(None, PACE, job, now=NOW) == expected_s


def test_without_a_measure_nobody_can_tell() -> None:
    assert eta_s(0, None, a_job(), now=NOW) is None
    assert eta_s(None, None, replace(a_job(), status="running", started_at=NOW), now=NOW) is None


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
def test_an_ended_job_has_no_time_left(status: Any) -> None:
    assert eta_s(0, PACE, replace(a_job(), status=status), now=NOW) is None


def test_routers_of_one_model_add_up() -> None:
    documents = [a_pace("r1"), a_pace("r2", jobs_per_s=6.0, mean_s=5.0), a_pace("r1", model="flux-schnell")]
    assert paces_of(documents) == {"emoji-3d": KnownPace(8.0, 4.5), "flux-schnell": PACE}


def test_a_router_that_had_little_to_do_is_not_taken_for_a_slow_one() -> None:
    assert paces_of([a_pace(jobs_per_s=0.001, mean_s=0.5)]) == {"emoji-3d": KnownPace(2.0, 0.5)}


async def test_the_forecast_reads_fresh_paces_only(mongo: Mongo, raw: Any) -> None:
    store: Any = CountingStore()
    await raw["paces"].insert_many(
        [a_pace(), a_pace("gone", at=time.time() - eta.FRESH_S - 1, jobs_per_s=100.0)],
    )
    assert await Forecast(mongo, store).of(a_job()) == Outlook(queue_position=4, eta_s=5.0)


async def test_without_paces_the_position_is_told_alone(mongo: Mongo) -> None:
    store: Any = CountingStore()
    assert await Forecast(mongo, store).of(a_job()) == Outlook(queue_position=4, eta_s=None)


async def test_a_job_that_does_not_wait_has_no_position_and_costs_no_look(mongo: Mongo) -> None:
    store: Any = CountingStore()
    forecast = Forecast(mongo, store)
    assert await forecast.of(replace(a_job(), status="cancelled")) == Outlook()
    assert (await forecast.of(replace(a_job(), status="running", started_at=time.time()))).queue_position is None
    assert store.asked == []


async def test_a_hundred_who_ask_at_once_cost_one_look(mongo: Mongo) -> None:
    store: Any = CountingStore()
    forecast, job = Forecast(mongo, store), a_job()
    assert {(await told).queue_position for told in [forecast.of(job) for _ in range(100)]} == {4}
    await asyncio.gather(*(forecast.of(job) for _ in range(100)))
    assert store.asked == [job.id]


async def test_what_is_remembered_grows_old(mongo: Mongo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eta, "REMEMBER_POSITION_S", 0.02)
    store: Any = CountingStore()
    forecast, job = Forecast(mongo, store), a_job()
    await forecast.of(job)
    store.position = 1
    await asyncio.sleep(0.03)
    assert (await forecast.of(job)).queue_position == 1


async def test_a_look_that_failed_is_not_remembered(mongo: Mongo, monkeypatch: pytest.MonkeyPatch) -> None:
    store: Any = CountingStore()
    forecast, job = Forecast(mongo, store), a_job()

    async def away(_job: Job) -> int:
        raise ConnectionError("away")

    with monkeypatch.context() as patched:
        patched.setattr(store, "queue_position", away)
        with pytest.raises(ConnectionError):
            await forecast.of(job)
    assert (await forecast.of(job)).queue_position == 4


async def test_one_who_goes_away_does_not_take_the_answer_from_the_others(mongo: Mongo) -> None:
    store: Any = CountingStore()
    forecast, job = Forecast(mongo, store), a_job()
    gone, stays = asyncio.create_task(forecast.of(job)), asyncio.create_task(forecast.of(job))
    await asyncio.sleep(0)
    gone.cancel()
    assert (await stays).queue_position == 4
