"""/v1/webhooks over HTTP: who may see what, what bodies may say, and what is shown of secrets."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.serving.api.conftest import GOOD, NATIVE, assert_error
from tests.serving.conftest import OpenHouse
from tests.serving.house import House

PATH = "/v1/webhooks"
GOOD_HOOK: dict[str, Any] = {"url": "https://hooks.test/in?x=1", "events": ["job.failed", "job.succeeded"]}


async def make(client: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    answer = await client.post(PATH, json={**GOOD_HOOK, **changes})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def test_without_a_key_nothing_is_told(house: House) -> None:
    for path in (PATH, f"{PATH}/default/secret", f"{PATH}/we_1", f"{PATH}/we_1/deliveries"):
        assert_error(await house.anonymous.get(path), 401)
    assert_error(await house.anonymous.post(PATH, json=GOOD_HOOK), 401)
    assert_error(await house.anonymous.patch(f"{PATH}/we_1", json={}), 401)
    assert_error(await house.anonymous.delete(f"{PATH}/we_1"), 401)
    assert_error(await house.anonymous.post(f"{PATH}/we_1/rotate-secret"), 401)
    assert_error(await house.anonymous.post(f"{PATH}/we_1/deliveries/wd_1/redeliver"), 401)


async def test_another_tenants_endpoint_is_unknown_everywhere(house: House) -> None:
    path = f"{PATH}/{(await make(house.alice))['id']}"
    assert (await house.bob.get(PATH)).json()["data"] == []
    for answer in (
        await house.bob.get(path),
        await house.bob.patch(path, json={"enabled": False}),
        await house.bob.delete(path),
        await house.bob.post(f"{path}/rotate-secret"),
        await house.bob.get(f"{path}/deliveries"),
        await house.bob.post(f"{path}/deliveries/wd_1/redeliver"),
    ):
        assert_error(answer, 404, code="webhook_not_found")
    assert (await house.alice.get(path)).status_code == 200


async def test_the_secret_is_shown_when_an_endpoint_is_made_and_never_after(house: House) -> None:
    made = await make(house.alice)
    secret = made.pop("secret")
    assert secret.startswith("whsec_")
    assert made.pop("created_at") > 1_700_000_000
    shown = {
        "id": made["id"],
        "object": "webhook_endpoint",
        "url": GOOD_HOOK["url"],
        "events": GOOD_HOOK["events"],
        "enabled": True,
        "disabled_reason": None,
    }
    assert made == shown
    for answer in (await house.alice.get(PATH), await house.alice.get(f"{PATH}/{made['id']}")):
        assert secret not in answer.text
    rotated = (await house.alice.post(f"{PATH}/{made['id']}/rotate-secret")).json()
    assert rotated["secret"] not in {secret, ""}


async def test_the_same_call_under_one_key_makes_one_endpoint_and_shows_its_secret_again(house: House) -> None:
    key = {"Idempotency-Key": "hook-1"}
    first, second = await asyncio.gather(*(house.alice.post(PATH, json=GOOD_HOOK, headers=key) for _ in range(2)))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert len((await house.alice.get(PATH)).json()["data"]) == 1
    assert (await house.bob.post(PATH, json=GOOD_HOOK, headers=key)).json()["id"] != first.json()["id"]
    other = {**GOOD_HOOK, "url": "https://hooks.test/other"}
    assert_error(await house.alice.post(PATH, json=other, headers=key), 409, code="idempotency_key_reused")


async def test_a_refused_endpoint_leaves_its_key_free(house: House) -> None:
    key = {"Idempotency-Key": "hook-2"}
    assert_error(await house.alice.post(PATH, json={**GOOD_HOOK, "url": "http://127.0.0.1/"}, headers=key), 400)
    assert (await house.alice.post(PATH, json=GOOD_HOOK, headers=key)).status_code == 201


async def test_endpoints_are_listed_oldest_first_and_deleted(house: House) -> None:
    ids = [(await make(house.alice))["id"] for _ in range(3)]
    assert [one["id"] for one in (await house.alice.get(PATH)).json()["data"]] == ids
    assert (await house.alice.delete(f"{PATH}/{ids[1]}")).json() == {"id": ids[1], "deleted": True}
    assert [one["id"] for one in (await house.alice.get(PATH)).json()["data"]] == [ids[0], ids[2]]
    assert_error(await house.alice.delete(f"{PATH}/{ids[1]}"), 404, code="webhook_not_found")


async def test_all_events_but_progress_are_told_unless_chosen_otherwise(house: House) -> None:
    made = (await house.alice.post(PATH, json={"url": GOOD_HOOK["url"]})).json()
    assert made["events"] == ["job.started", "job.succeeded", "job.failed", "job.cancelled"]


async def test_an_endpoint_can_be_changed_and_switched(house: House) -> None:
    made = await make(house.alice)
    path = f"{PATH}/{made['id']}"
    changed = (await house.alice.patch(path, json={"url": "https://b.test/", "events": ["job.progress"]})).json()
    assert (changed["url"], changed["events"], changed["enabled"]) == ("https://b.test/", ["job.progress"], True)
    off = (await house.alice.patch(path, json={"enabled": False})).json()
    assert (off["enabled"], off["disabled_reason"], off["url"]) == (False, "by_owner", "https://b.test/")
    on = (await house.alice.patch(path, json={"enabled": True})).json()
    assert (on["enabled"], on["disabled_reason"]) == (True, None)
    assert (await house.alice.patch(path, json={})).json() == on


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"url": "http://127.0.0.1:8000/"}, 400, "url"),
        ({"url": "http://localhost./"}, 400, "url"),
        ({"url": "http://[::ffff:127.0.0.1]/"}, 400, "url"),
        ({"url": "http://2130706433/"}, 400, "url"),
        ({"url": "http://169.254.169.254/latest"}, 400, "url"),
        ({"url": "https://user:word@hooks.test/"}, 400, "url"),
        ({"url": "javascript:alert(1)"}, 400, "url"),
        ({"url": "https://h\u00f6oks.test/"}, 400, "url"),
        ({"url": "https://hooks.test/\ud800"}, 422, "url"),
        ({"url": "https://hooks.test/" + "x" * 2_048}, 422, "url"),
        ({"url": None}, 422, "url"),
        ({"url": "https://hooks.test/", "events": []}, 422, "events"),
        ({"url": "https://hooks.test/", "events": ["job.lost"]}, 422, "events.0"),
        ({"url": "https://hooks.test/", "secret": "whsec_mine"}, 422, "secret"),
        ({}, 422, "url"),
    ],
)
async def test_a_bad_field_is_named(house: House, body: dict[str, Any], status: int, param: str) -> None:
    answer = await house.alice.post(PATH, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert_error(answer, status, param=param)
    assert (await house.alice.get(PATH)).json()["data"] == []


async def test_a_change_is_checked_like_a_new_endpoint(house: House) -> None:
    made = await make(house.alice)
    path = f"{PATH}/{made['id']}"
    assert_error(await house.alice.patch(path, json={"url": "http://10.0.0.1/"}), 400, param="url")
    assert_error(await house.alice.patch(path, json={"enabled": 1}), 422, param="enabled")
    assert_error(await house.alice.patch(path, json={"secret": "x"}), 422, param="secret")
    assert (await house.alice.get(path)).json()["url"] == GOOD_HOOK["url"]


async def test_a_tenant_has_only_so_many_endpoints(houses: OpenHouse) -> None:
    house = await houses(webhooks={"max_endpoints": 1})
    await make(house.alice)
    assert_error(await house.alice.post(PATH, json=GOOD_HOOK), 409, code="too_many_endpoints")
    await make(house.bob)


async def test_the_default_secret_is_made_at_first_use_and_is_one(house: House) -> None:
    answers = await asyncio.gather(*(house.alice.get(f"{PATH}/default/secret") for _ in range(5)))
    [secret] = {answer.json()["secret"] for answer in answers}
    assert secret.startswith("whsec_")
    assert (await house.alice.post(f"{PATH}/default/rotate-secret")).json()["secret"] != secret
    assert (await house.alice.get(PATH)).json()["data"] == []


async def test_the_default_endpoint_chooses_events_and_has_neither_url_nor_end(house: House) -> None:
    changed = (await house.alice.patch(f"{PATH}/default", json={"events": ["job.failed"]})).json()
    assert (changed["id"], changed["url"], changed["events"]) == ("default", None, ["job.failed"])
    assert_error(await house.alice.patch(f"{PATH}/default", json={"url": "https://b.test/"}), 400, param="url")
    assert_error(await house.alice.delete(f"{PATH}/default"), 400, param="id")
    assert (await house.alice.get(f"{PATH}/default/deliveries")).json()["data"] == []


async def test_a_jobs_webhook_url_is_checked_and_shown(house: House) -> None:
    assert_error(
        await house.alice.post(NATIVE, json={**GOOD, "webhook_url": "http://127.0.0.1/"}), 400, param="webhook_url"
    )
    job = (await house.alice.post(NATIVE, json={**GOOD, "webhook_url": "https://hooks.test/x"})).json()
    assert job["webhook_url"] == "https://hooks.test/x"


async def test_what_does_not_exist_is_404(house: House) -> None:
    path = f"{PATH}/{(await make(house.alice))['id']}/deliveries"
    assert_error(await house.alice.post(f"{path}/wd_1/redeliver"), 404, code="delivery_not_found")
    assert_error(await house.alice.get(path, params={"after": "wd_1"}), 404, code="delivery_not_found")
    assert_error(await house.alice.get(path, params={"limit": 0}), 422, param="limit")
    assert (await house.alice.get(path, params={"job_id": "job_1"})).json()["data"] == []
