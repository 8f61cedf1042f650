"""/v1/admin: a tenant's admins manage its keys, the operator's all tenants; members nothing."""

import json
from typing import Any

import httpx
import pytest

from serving.tenancy.tenants import TenantChanges
from tests.serving.api.conftest import assert_error
from tests.serving.house import House

JSON = {"Content-Type": "application/json"}
ROUTES: list[tuple[str, str, dict[str, Any] | None]] = [
    ("GET", "/v1/admin/keys", None),
    ("POST", "/v1/admin/keys", {"name": "laptop"}),
    ("DELETE", "/v1/admin/keys/key_none", None),
    ("GET", "/v1/admin/tenants", None),
    ("POST", "/v1/admin/tenants", {"id": "carol"}),
    ("PATCH", "/v1/admin/tenants/alice", {"max_queued": 1}),
]


async def admin_of_alice(house: House) -> httpx.AsyncClient:
    return house.client((await house.services.keys.create("alice", name="admin", role="admin"))[1])


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
async def test_without_a_key_401_and_as_a_member_403(
    house: House, method: str, path: str, body: dict[str, Any] | None
) -> None:
    assert_error(await house.anonymous.request(method, path, json=body), 401)
    assert_error(await house.alice.request(method, path, json=body), 403, code="forbidden")
    assert len(await house.services.tenants.list()) == 3
    assert len(await house.services.keys.list("alice")) == 1


async def test_a_key_is_shown_once_and_works(house: House) -> None:
    async with await admin_of_alice(house) as admin:
        answer = await admin.post("/v1/admin/keys", json={"name": "laptop"})
        made = answer.json()
        assert answer.status_code == 201
        assert (made["object"], made["name"], made["role"], made["tenant"]) == ("api_key", "laptop", "member", "alice")
        assert made["key"].startswith("dk-")
        assert made["last_four"] == made["key"][-4:]
        listed = (await admin.get("/v1/admin/keys")).json()["data"]
    assert {key["name"] for key in listed} == {"alice's key", "admin", "laptop"}
    assert {key["key"] for key in listed} == {None}
    assert {key["tenant"] for key in listed} == {"alice"}
    async with house.client(made["key"]) as laptop:
        assert (await laptop.get("/v1/jobs")).status_code == 200
        assert_error(await laptop.get("/v1/admin/keys"), 403)


async def test_a_revoked_key_stops(house: House) -> None:
    made = (await house.operator.post("/v1/admin/keys", json={"name": "laptop", "tenant": "alice"})).json()
    async with house.client(made["key"]) as laptop:
        assert (await laptop.get("/v1/jobs")).status_code == 200
        answer = await house.operator.delete(f"/v1/admin/keys/{made['id']}", params={"tenant": "alice"})
        assert (answer.status_code, answer.json()) == (200, {"id": made["id"], "deleted": True})
        assert_error(await laptop.get("/v1/jobs"), 401, code="invalid_api_key")
    again = await house.operator.delete(f"/v1/admin/keys/{made['id']}", params={"tenant": "alice"})
    assert_error(again, 404, code="key_not_found")


async def test_another_tenants_key_is_not_found_and_another_tenant_is_forbidden(house: House) -> None:
    (bobs,) = await house.services.keys.list("bob")
    async with await admin_of_alice(house) as admin:
        assert_error(await admin.delete(f"/v1/admin/keys/{bobs.id}"), 404, code="key_not_found")
        assert_error(await admin.delete(f"/v1/admin/keys/{bobs.id}", params={"tenant": "bob"}), 403)
        assert_error(await admin.get("/v1/admin/keys", params={"tenant": "bob"}), 403)
        assert_error(await admin.post("/v1/admin/keys", json={"name": "x", "tenant": "bob"}), 403)
    assert [key.id for key in await house.services.keys.list("bob")] == [bobs.id]


async def test_tenants_are_the_operators_alone(house: House) -> None:
    async with await admin_of_alice(house) as admin:
        assert_error(await admin.get("/v1/admin/tenants"), 403)
        assert_error(await admin.post("/v1/admin/tenants", json={"id": "carol"}), 403)
    answer = await house.operator.post("/v1/admin/tenants", json={"id": "carol", "name": "Carol Ltd"})
    assert answer.status_code == 201
    assert {k: v for k, v in answer.json().items() if k != "created_at"} == {
        "id": "carol",
        "object": "tenant",
        "name": "Carol Ltd",
        **dict.fromkeys(TenantChanges.__annotations__),
    }
    listed = (await house.operator.get("/v1/admin/tenants")).json()["data"]
    assert [tenant["id"] for tenant in listed] == ["default", "alice", "bob", "carol"]


async def test_settings_of_a_tenant_are_changed_one_by_one_and_taken_back(house: House) -> None:
    path = "/v1/admin/tenants/alice"
    async with await admin_of_alice(house) as admin:
        assert_error(await admin.patch(path, json={"max_queued": 7}), 403)

    async def change(body: dict[str, Any]) -> tuple[Any, Any, Any]:
        tenant = (await house.operator.patch(path, json=body)).json()
        return tenant["keep_jobs_s"], tenant["may_use_high_priority"], tenant["max_queued"]

    assert await change({}) == (None, None, None)
    assert await change({"keep_jobs_s": 3600, "max_queued": 7}) == (3600, None, 7)
    assert await change({"may_use_high_priority": True}) == (3600, True, 7)
    assert await change({"keep_jobs_s": None, "may_use_high_priority": False}) == (None, False, 7)
    assert (await house.services.tenants.find("bob")).max_queued is None
    answer = await house.operator.patch("/v1/admin/tenants/nobody", json={"max_queued": 7})
    assert_error(answer, 404, code="tenant_not_found", param="id")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"keep_jobs_s": 59}, "keep_jobs_s"),
        ({"keep_jobs_s": "a day"}, "keep_jobs_s"),
        ({"max_queued": 0}, "max_queued"),
        ({"max_queued": 1.5}, "max_queued"),
        ({"may_use_high_priority": 1}, "may_use_high_priority"),
        ({"name": "Eve"}, "name"),
    ],
)
async def test_settings_that_do_not_fit_are_refused(shared: House, body: dict[str, Any], param: str) -> None:
    assert_error(await shared.operator.patch("/v1/admin/tenants/alice", json=body), 422, param=param)


async def test_a_tenant_id_that_is_taken_is_a_conflict(house: House) -> None:
    assert_error(await house.operator.post("/v1/admin/tenants", json={"id": "alice"}), 409, code="conflict")


async def test_a_key_for_a_tenant_that_does_not_exist_is_refused(house: House) -> None:
    answer = await house.operator.post("/v1/admin/keys", json={"name": "x", "tenant": "nobody"})
    assert_error(answer, 404, code="tenant_not_found", param="tenant")


@pytest.mark.parametrize("tenant", ["", "Alice", "a/b", "../x", "a b", "-a", "x" * 64, "ü", "a\n", None, 1])
async def test_a_tenant_id_that_could_not_be_a_folder_is_refused(shared: House, tenant: Any) -> None:
    assert_error(await shared.operator.post("/v1/admin/tenants", json={"id": tenant}), 422, param="id")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "x", "role": "root"}, "role"),
        ({"name": "x", "key": "dk-chosen"}, "key"),
        ({"name": 1}, "name"),
        ({"name": "x", "tenant": "\ud800"}, "tenant"),
    ],
)
async def test_a_key_body_that_does_not_fit_is_refused(shared: House, body: dict[str, Any], param: str) -> None:
    assert_error(await shared.operator.post("/v1/admin/keys", content=json.dumps(body), headers=JSON), 422, param=param)


@pytest.mark.parametrize(("name", "status"), [("\ud800", 422), ("a\x00b", 400), ("a\nb\x1b[31m", 400)])
async def test_names_that_cannot_be_stored_or_shown_are_refused(shared: House, name: str, status: int) -> None:
    body = json.dumps({"name": name})
    assert_error(await shared.operator.post("/v1/admin/keys", content=body, headers=JSON), status, param="name")
    body = json.dumps({"id": "dora", "name": name})
    assert_error(await shared.operator.post("/v1/admin/tenants", content=body, headers=JSON), status, param="name")
