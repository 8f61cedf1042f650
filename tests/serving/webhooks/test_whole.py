"""Webhooks from the job's end to the receiver's door, over a true MongoDB and a true socket."""

from tests.serving.conftest import OpenHouse
from tests.serving.house import eventually
from tests.serving.webhooks.receiver import HANG, HERE, by_job, receiver
from tests.serving.webhooks.tenant import ENDED, deliveries, lines_of_alice, make, register, until_status


async def test_an_endpoint_is_told_of_a_jobs_start_and_end_in_order_with_a_true_signature(houses: OpenHouse) -> None:
    house = await houses(outbound=HERE, announces=True)
    async with receiver() as there:
        endpoint = await register(house.alice, there)
        job_id = await make(house.alice, metadata={"order": "7"})
        await there.until(2)
        assert there.types == ENDED
        assert all(got.is_signed_with(endpoint["secret"]) for got in there.got)
        started, ended = (got.event["data"] for got in there.got)
        assert (started["id"], started["status"], started["result"]) == (job_id, "running", None)
        seen = (await house.alice.get(f"/v1/jobs/{job_id}")).json()
        assert {**ended, "result": None} == {**seen, "result": None}
        assert house.blobs.open_url(ended["result"]["images"][0]["url"])
        assert there.got[1].event["timestamp"].endswith("Z")
        assert there.got[0].headers["content-type"] == "application/json"
        told = await until_status(house, endpoint["id"], "delivered", "delivered")
        assert [one["type"] for one in told] == ENDED[::-1]
        assert told[0]["webhook_id"] == there.got[1].event_id
        assert (told[0]["attempts"][0]["status"], told[0]["attempts"][0]["body"]) == (204, "")


async def test_a_jobs_own_url_is_told_and_signed_with_the_tenants_default_secret(houses: OpenHouse) -> None:
    house = await houses(outbound=HERE, announces=True)
    async with receiver() as there:
        await make(house.alice, webhook_url=there.url)
        await there.until(2)
        assert there.types == ENDED
        secret = (await house.alice.get("/v1/webhooks/default/secret")).json()["secret"]
        assert all(got.is_signed_with(secret) for got in there.got)
        told = await until_status(house, "default", "delivered", "delivered")
        assert {one["url"] for one in told} == {there.url}


async def test_failed_and_cancelled_jobs_are_told_to_those_who_asked_for_them(houses: OpenHouse) -> None:
    house = await houses(outbound=HERE, announces=True, sweeps=False)
    async with receiver() as there, receiver() as other:
        await register(house.alice, there, events=["job.failed", "job.cancelled"])
        await register(house.alice, other, events=["job.succeeded"])
        await register(house.bob, other)
        waiting = await house.insert()
        assert (await house.alice.post(f"/v1/jobs/{waiting.id}/cancel")).status_code == 200
        await there.until(1)
        assert (there.types, there.got[0].job_id) == (["job.cancelled"], waiting.id)
        assert there.got[0].event["data"]["started_at"] is None
    assert other.got == []


async def test_a_receiver_that_fails_is_tried_again_under_the_same_id(houses: OpenHouse) -> None:
    house = await houses(outbound=HERE, announces=True)
    async with receiver(answers=[500, 302, 404]) as there:
        endpoint = await register(house.alice, there, events=["job.succeeded"])
        await make(house.alice)
        [told] = await until_status(house, endpoint["id"], "delivered")
    assert [attempt["status"] for attempt in told["attempts"]] == [500, 302, 404, 204]
    assert told["attempts"][0]["body"] == "heard"
    assert len({got.event_id for got in there.got}) == 1
    assert all(got.is_signed_with(endpoint["secret"]) for got in there.got)


async def test_after_the_last_attempt_an_event_is_dead_until_it_is_sent_again_by_hand(houses: OpenHouse) -> None:
    house = await houses(outbound=HERE, announces=True, webhooks={"retry_waits_s": (0, 0.01)})
    async with receiver(status=500) as there:
        endpoint = await register(house.alice, there, events=["job.succeeded"])
        await make(house.alice)
        [told] = await until_status(house, endpoint["id"], "failed")
        assert (told["reason"], told["num_attempts"], told["next_attempt_at"]) == ("status_500", 2, None)
        path = f"/v1/webhooks/{endpoint['id']}/deliveries/{told['id']}/redeliver"
        assert (await house.bob.post(path)).status_code == 404
        there.status = 200
        assert (await house.alice.post(path)).status_code == 202
        [told] = await until_status(house, endpoint["id"], "delivered")
        assert told["num_attempts"] == 3
        assert (await house.alice.post(path)).status_code == 202
        await there.until(4)
    assert len({got.event_id for got in there.got}) == 1


async def test_a_later_event_of_a_job_waits_until_the_earlier_one_was_heard(houses: OpenHouse) -> None:
    house = await houses(outbound=HERE, announces=True)
    async with receiver(answers=[500, 500]) as there:
        await register(house.alice, there)
        await make(house.alice)
        await there.until(4)
    assert there.types == ["job.started", "job.started", "job.started", "job.succeeded"]


async def test_a_later_event_goes_out_when_the_earlier_one_is_given_up(houses: OpenHouse) -> None:
    house = await houses(outbound=HERE, announces=True, webhooks={"retry_waits_s": (0, 0.05)})
    async with receiver(answers=[500, 500]) as there:
        endpoint = await register(house.alice, there)
        await make(house.alice)
        await until_status(house, endpoint["id"], "delivered", "failed")
    assert there.types == ["job.started", "job.started", "job.succeeded"]


async def test_a_receiver_that_hangs_delays_nobody_else(houses: OpenHouse) -> None:
    house = await houses(outbound=HERE, announces=True, webhooks={"timeout_s": 1.0, "max_in_flight_per_endpoint": 2})
    async with receiver(status=HANG) as stuck, receiver() as there:
        await register(house.alice, stuck)
        await register(house.alice, there)
        for _ in range(3):
            await make(house.alice)
        await there.until(6)
        assert stuck.most_here <= 2
        assert all(told == ENDED for told in by_job(there.got).values())


async def test_an_attempt_without_an_answer_says_why(houses: OpenHouse) -> None:
    house = await houses(outbound=HERE, announces=True, webhooks={"timeout_s": 0.1, "retry_waits_s": (0, 0.01)})
    async with receiver(status=HANG) as there:
        endpoint = await register(house.alice, there, events=["job.succeeded"])
        await make(house.alice)
        [told] = await until_status(house, endpoint["id"], "failed")
    assert told["reason"] == "timeout"
    assert told["attempts"][0]["error"] == "No complete answer within 0.1 s."
    assert told["attempts"][0]["status"] is None


async def test_gone_switches_the_endpoint_off_and_drops_what_is_on_its_way(houses: OpenHouse) -> None:
    house = await houses(outbound=HERE, announces=True, webhooks={"retry_waits_s": (0, 3_600)})
    async with receiver(status=500) as there:
        endpoint = await register(house.alice, there, events=["job.succeeded"])
        await make(house.alice)
        await there.until(1)
        there.status = 410
        await make(house.alice)
        told = await until_status(house, endpoint["id"], "dropped", "dropped")
        assert [one["reason"] for one in told] == ["gone", "endpoint_off"]
        seen = (await house.alice.get(f"/v1/webhooks/{endpoint['id']}")).json()
        assert (seen["enabled"], seen["disabled_reason"]) == (False, "gone")
        path = f"/v1/webhooks/{endpoint['id']}"
        assert (await house.alice.post(f"{path}/deliveries/{told[0]['id']}/redeliver")).status_code == 409
        there.status = 200
        assert (await house.alice.patch(path, json={"enabled": True})).json()["enabled"]
        await make(house.alice)
        await until_status(house, endpoint["id"], "delivered", "dropped", "dropped")


async def test_an_overloaded_endpoint_is_left_alone_for_as_long_as_it_asks(houses: OpenHouse) -> None:
    house = await houses(outbound=HERE, announces=True)
    async with receiver(answers=[429], retry_after="3600") as there:
        endpoint = await register(house.alice, there, events=["job.succeeded"])
        await make(house.alice)
        await there.until(1)
        first = (await until_status(house, endpoint["id"], "pending"))[0]
        assert first["next_attempt_at"] - first["attempts"][0]["at"] > 3_500
        await make(house.alice)

        async def is_let_go() -> bool:
            [line] = await lines_of_alice(house)
            return not line.get("is_held") and line["due_at"] > first["attempts"][0]["at"] + 3_500

        await eventually(is_let_go)
    assert len(there.got) == 1


async def test_deleting_an_endpoint_ends_what_is_on_its_way(houses: OpenHouse) -> None:
    house = await houses(outbound=HERE, announces=True, webhooks={"retry_waits_s": (0, 3_600)})
    async with receiver(status=500) as there:
        endpoint = await register(house.alice, there, events=["job.succeeded"])
        await make(house.alice)
        [pending] = await until_status(house, endpoint["id"], "pending")
        assert (await house.alice.delete(f"/v1/webhooks/{endpoint['id']}")).json()["deleted"]

        async def is_dropped() -> bool:
            told = await house.services.webhooks.deliveries.get("alice", endpoint["id"], pending["id"])
            return (told.status, told.reason) == ("dropped", "endpoint_deleted")

        await eventually(is_dropped)

        async def is_removed() -> bool:
            return not await lines_of_alice(house)

        await eventually(is_removed)


async def test_both_secrets_sign_while_one_is_being_replaced(houses: OpenHouse) -> None:
    house = await houses(outbound=HERE, announces=True)
    async with receiver() as there:
        old = await register(house.alice, there, events=["job.succeeded"])
        new = (await house.alice.post(f"/v1/webhooks/{old['id']}/rotate-secret")).json()
        assert new["secret"] != old["secret"]
        await make(house.alice)
        await there.until(1)
        assert there.got[0].is_signed_with(old["secret"])
        assert there.got[0].is_signed_with(new["secret"])


async def test_a_secret_that_was_replaced_long_ago_signs_no_more(houses: OpenHouse) -> None:
    house = await houses(outbound=HERE, announces=True, webhooks={"rotation_s": 0})
    async with receiver() as there:
        old = await register(house.alice, there, events=["job.succeeded"])
        new = (await house.alice.post(f"/v1/webhooks/{old['id']}/rotate-secret")).json()
        await make(house.alice)
        await there.until(1)
        assert not there.got[0].is_signed_with(old["secret"])
        assert there.got[0].is_signed_with(new["secret"])


async def test_deliveries_are_paged_newest_first_and_found_by_job(houses: OpenHouse) -> None:
    house = await houses(outbound=HERE, announces=True)
    async with receiver() as there:
        endpoint = await register(house.alice, there)
        jobs = [await make(house.alice) for _ in range(3)]
        await there.until(6)
    everything = await deliveries(house, endpoint["id"])
    assert len(everything) == 6
    assert [one["created_at"] for one in everything] == sorted((one["created_at"] for one in everything), reverse=True)
    path = f"/v1/webhooks/{endpoint['id']}/deliveries"
    first = (await house.alice.get(path, params={"limit": 4})).json()
    rest = (await house.alice.get(path, params={"limit": 4, "after": first["last_id"]})).json()
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert first["data"] + rest["data"] == everything
    of_one = await deliveries(house, endpoint["id"], job_id=jobs[1])
    assert [one["type"] for one in of_one] == ENDED[::-1]
    assert {one["job_id"] for one in of_one} == {jobs[1]}
