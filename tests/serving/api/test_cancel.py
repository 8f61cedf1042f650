"""POST /v1/jobs/{id}/cancel: in every state, with a caller who waits, with a Router that does not hear of it."""

import asyncio

from tests.serving.api.conftest import GOOD, NATIVE, OPENAI, assert_error, events_of
from tests.serving.conftest import OpenHouse
from tests.serving.house import House, eventually


async def test_without_a_key_nothing_is_cancelled(houses: OpenHouse) -> None:
    house = await houses(sweeps=False)
    job = await house.insert()
    assert_error(await house.anonymous.post(f"/v1/jobs/{job.id}/cancel"), 401)
    assert (await house.store.get("alice", job.id)).status == "queued"


async def test_another_tenants_job_and_none_at_all_are_not_found(houses: OpenHouse) -> None:
    house = await houses(sweeps=False)
    job = await house.insert(tenant="alice")
    for client, job_id in ((house.bob, job.id), (house.operator, job.id), (house.alice, "job_none")):
        assert_error(await client.post(f"/v1/jobs/{job_id}/cancel"), 404, code="job_not_found")
    assert (await house.store.get("alice", job.id)).status == "queued"


async def test_a_waiting_job_is_cancelled_and_never_made(houses: OpenHouse) -> None:
    house = await houses(sweeps=False)
    job = await house.insert()
    answer = await house.alice.post(f"/v1/jobs/{job.id}/cancel")
    body = answer.json()
    assert (answer.status_code, body["id"], body["status"]) == (200, job.id, "cancelled")
    assert body["finished_at"] is not None
    assert (await house.alice.get("/v1/jobs?status=cancelled")).json()["data"] == [body]
    assert await house.drive(job) is None


async def test_a_running_job_stops_at_once_and_leaves_nothing_in_the_bucket(house: House) -> None:
    house.backend.gate.clear()
    job_id = (await house.alice.post(NATIVE, json=GOOD)).json()["id"]
    await eventually(lambda: house.backend.num_running)
    assert (await house.alice.post(f"/v1/jobs/{job_id}/cancel")).json()["status"] == "cancelled"
    await eventually(lambda: house.backend.num_cancelled == 1)
    house.backend.gate.set()
    assert house.blobs.keys == []
    assert (await house.alice.get(f"/v1/jobs/{job_id}")).json()["status"] == "cancelled"


async def test_a_job_cancelled_before_is_told_again(houses: OpenHouse) -> None:
    house = await houses(sweeps=False)
    job = await house.insert()
    first, second = [await house.alice.post(f"/v1/jobs/{job.id}/cancel") for _ in range(2)]
    assert (second.status_code, second.json()) == (200, first.json())
    assert house.router.cancelled == [job.id]


async def test_a_job_that_has_ended_answers_409_and_keeps_its_pictures(house: House) -> None:
    job = await house.insert()
    await house.until(job, "succeeded")
    message = assert_error(await house.alice.post(f"/v1/jobs/{job.id}/cancel"), 409, code="job_ended")
    assert "succeeded" in message
    assert len(house.blobs.keys) == 1


async def test_who_waits_for_a_cancelled_job_is_told_and_not_asked_to_try_again(house: House) -> None:
    house.backend.gate.clear()
    waiting = asyncio.create_task(house.alice.post(OPENAI, json=GOOD))
    native = asyncio.create_task(house.alice.post(NATIVE, json=GOOD, headers={"Prefer": "wait=20"}))
    await eventually(lambda: len(house.backend.calls) == 2)
    for job_id in house.backend.calls:
        assert (await house.alice.post(f"/v1/jobs/{job_id}/cancel")).status_code == 200
    answer = await asyncio.wait_for(waiting, 5)
    assert_error(answer, 409, code="job_cancelled")
    assert answer.headers["X-Should-Retry"] == "false"
    answer = await asyncio.wait_for(native, 5)
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")


async def test_a_stream_of_a_cancelled_job_ends_with_the_error(house: House) -> None:
    house.backend.gate.clear()
    streaming = asyncio.create_task(house.alice.post(OPENAI, json={**GOOD, "stream": True}))
    await eventually(lambda: house.backend.calls)
    await house.alice.post(f"/v1/jobs/{house.backend.calls[0]}/cancel")
    ((name, data),) = events_of(await asyncio.wait_for(streaming, 5))
    assert (name, data["error"]["code"]) == ("error", "job_cancelled")


async def test_a_router_that_did_not_hear_of_it_stops_at_its_next_write(houses: OpenHouse) -> None:
    house = await houses(jobs={"progress_write_s": 0.01})
    house.backend.step_s = 0.02
    job = await house.insert(num_inference_steps=1_000)
    await eventually(lambda: house.backend.num_running)
    house.router.is_lost = True
    assert (await house.alice.post(f"/v1/jobs/{job.id}/cancel")).status_code == 200
    await eventually(lambda: house.backend.num_running == 0)
    assert (await house.store.get("alice", job.id)).status == "cancelled"


async def test_others_go_on_when_one_is_cancelled(house: House) -> None:
    house.backend.gate.clear()
    ids = [(await house.alice.post(NATIVE, json={**GOOD, "seed": seed})).json()["id"] for seed in range(4)]
    await eventually(lambda: house.backend.num_running == 4)
    await house.alice.post(f"/v1/jobs/{ids[1]}/cancel")
    house.backend.gate.set()
    for job_id in ids:
        job = await house.store.get("alice", job_id)
        await house.until(job, "cancelled" if job_id == ids[1] else "succeeded")
