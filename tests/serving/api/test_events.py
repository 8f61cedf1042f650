"""GET /v1/jobs/{id}/events: progress and previews while a job runs, its end, and what it looks like afterwards."""

import asyncio
import base64
import json
from typing import Any

from models.errors import NotFinite
from serving.jobs.job import Job, JobError
from tests.serving.api.conftest import GOOD, NATIVE, assert_error, events_of, listening
from tests.serving.conftest import OpenHouse
from tests.serving.house import House, eventually


async def events(house: House, job: Job) -> list[tuple[str, dict[str, Any]]]:
    return events_of(await house.alice.get(f"/v1/jobs/{job.id}/events"))


async def test_without_a_key_there_is_nothing_to_hear(house: House) -> None:
    job = await house.insert()
    assert_error(await house.anonymous.get(f"/v1/jobs/{job.id}/events"), 401)


async def test_another_tenants_job_and_none_at_all_are_not_found(house: House) -> None:
    job = await house.insert(tenant="alice")
    for job_id in (job.id, "job_none"):
        assert_error(await house.bob.get(f"/v1/jobs/{job_id}/events"), 404, code="job_not_found")


async def test_a_job_tells_progress_and_previews_and_then_itself(houses: OpenHouse) -> None:
    house = await houses(sweeps=False)
    house.backend.step_s = 0.002
    job = await house.insert(num_inference_steps=4)
    told = await events(house, job)
    assert told[0] == ("progress", {"progress": 0, "step": 0, "steps": 4})
    assert [data["step"] for name, data in told if name == "progress"] == [0, 1, 2, 3, 4]
    assert [data for name, data in told if name == "progress"][-1] == {"progress": 100, "step": 4, "steps": 4}
    previews = [data for name, data in told if name == "preview"]
    assert [set(data) for data in previews] == [{"b64_json", "content_type", "image_index", "step"}] * 4
    assert base64.b64decode(previews[0]["b64_json"], validate=True).startswith(b"\x89PNG")
    name, body = told[-1]
    assert name == "succeeded"
    assert {**body, "result": None} == {**(await house.alice.get(f"/v1/jobs/{job.id}")).json(), "result": None}
    assert body["result"]["images"][0]["url"]


async def test_a_job_that_has_ended_tells_its_end_alone(house: House) -> None:
    job = await house.insert()
    await house.until(job, "succeeded")
    assert [name for name, _ in await events(house, job)] == ["succeeded"]
    assert house.router.followed == []


async def test_a_failed_job_tells_why(house: House) -> None:
    house.backend.troubles.append(NotFinite("NaN in the picture"))
    name, body = (await events(house, await house.insert()))[-1]
    assert (name, body["error"]) == ("failed", {"code": "not_finite", "message": "NaN in the picture"})


async def test_several_may_listen_and_the_job_is_made_once(house: House) -> None:
    house.backend.step_s = 0.01
    job = await house.insert(num_inference_steps=5)
    for told in await asyncio.gather(*(events(house, job) for _ in range(4))):
        assert told[-1][0] == "succeeded"
    assert house.backend.calls == [job.id]


async def test_a_listener_who_comes_late_sees_the_latest_preview_at_once(house: House) -> None:
    house.backend.gate.clear()
    job = await house.insert(num_inference_steps=3)
    await eventually(lambda: house.backend.num_running)
    await asyncio.sleep(0.05)
    async with listening(house, "GET", f"/v1/jobs/{job.id}/events") as lines:
        while await anext(lines) != "event: preview":
            pass
        assert json.loads((await anext(lines)).removeprefix("data: "))["step"] == 3
        house.backend.gate.set()
        assert "event: succeeded" in [line async for line in lines]


async def test_without_its_router_a_job_is_followed_by_its_record(houses: OpenHouse) -> None:
    house = await houses(jobs={"progress_write_s": 0.01})
    house.router.is_lost = True
    house.backend.step_s = 0.3
    told = await events(house, await house.insert(num_inference_steps=6))
    assert [name for name, _ in told if name == "preview"] == []
    steps = [data["step"] for name, data in told if name == "progress"]
    assert len(steps) > 2
    assert steps == sorted(set(steps))
    assert told[-1][0] == "succeeded"


async def test_a_router_that_is_lost_on_the_way_does_not_end_the_stream(house: House) -> None:
    house.backend.gate.clear()
    job = await house.insert()
    listening = asyncio.create_task(events(house, job))
    await eventually(lambda: house.router.num_following == 1)
    house.router.is_lost = True
    house.backend.gate.set()
    assert (await listening)[-1][0] == "succeeded"


async def test_a_job_that_was_put_back_is_not_claimed_before_its_time(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, api={"sync_deadline_s": 0.6})
    job = await house.insert()
    claimed = await house.store.claim(job.id, owner="router-2")
    assert claimed is not None
    trouble = JobError("unavailable", "The object store is away.")
    await house.store.put_back(claimed, trouble, delay_s=60, backend=None, counts=None)
    assert [name for name, _ in await events(house, job)] == ["progress"]
    assert (await house.store.get("alice", job.id)).attempts == 1


async def test_a_job_that_is_cancelled_tells_so(house: House) -> None:
    house.backend.gate.clear()
    job = await house.insert()
    listening = asyncio.create_task(events(house, job))
    await eventually(lambda: house.router.num_following == 1)
    assert (await house.alice.post(f"/v1/jobs/{job.id}/cancel")).status_code == 200
    name, body = (await asyncio.wait_for(listening, 10))[-1]
    assert (name, body["status"], body["result"], body["error"]) == ("cancelled", "cancelled", None, None)


async def test_listeners_that_hang_up_leave_nothing_behind_and_the_job_goes_on(house: House) -> None:
    house.backend.gate.clear()
    job = await house.store.get("alice", (await house.alice.post(NATIVE, json=GOOD)).json()["id"])
    path = f"/v1/jobs/{job.id}/events"
    async with listening(house, "GET", path) as first, listening(house, "GET", path) as second:
        assert await anext(first) == await anext(second) == "event: progress"
        await eventually(lambda: house.router.num_following == 2)
    await eventually(lambda: house.router.num_following == 0)
    house.backend.gate.set()
    await house.until(job, "succeeded")
