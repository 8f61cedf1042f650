"""All tenant-facing routes, with every command to MongoDB watched: none on tenants' data goes without the tenant."""

from typing import Any

import pytest

from models.errors import NotFinite
from serving.uploads.upkeep import UploadUpkeep
from tests.frames import FRAMES, uploaded, video
from tests.models.lora_bytes import lora_bytes
from tests.serving.api.conftest import EDITS, GOOD, NATIVE, OPENAI, picture_bytes
from tests.serving.conftest import OpenHouse
from tests.serving.gate_watch import EXCEPTIONS, Watch, watched_by
from tests.serving.house import House
from tests.serving.webhooks.receiver import HERE, receiver
from tests.uploads import UPLOADS, announced, sent

OPERATORS_ALONE = {
    ("get", "/v1/admin/drain"),
    ("post", "/v1/admin/drain"),
    ("get", "/v1/admin/tenants"),
    ("post", "/v1/admin/tenants"),
    ("patch", "/v1/admin/tenants/{tenant_id}"),
}


async def call_all_routes(house: House) -> set[tuple[str, str]]:
    """As a member and as an admin of the tenant alice; the routes that were called."""
    _, secret = await house.services.keys.create("alice", name="admin", role="admin")
    job_id = (await house.alice.post(OPENAI, json={**GOOD, "response_format": "b64_json"})).json()["job_id"]
    await house.until(
        await house.store.get("alice", (await house.alice.post(NATIVE, json=GOOD)).json()["id"]), "succeeded"
    )
    for path in (
        "/v1/jobs",
        "/v1/jobs?status=succeeded&kind=image&limit=1",
        f"/v1/jobs?after={job_id}",
        f"/v1/jobs/{job_id}",
        "/v1/models",
        "/v1/models/emoji-3d",
    ):
        assert (await house.alice.get(path)).status_code == 200
    assert (await house.bob.get(f"/v1/jobs/{job_id}")).status_code == 404
    assert (await house.alice.post(NATIVE, json=GOOD, headers={"Prefer": "wait=5"})).status_code == 200
    await call_streaming_routes(house)
    await repeat_and_retry(house)
    await call_adapter_routes(house)
    await call_webhook_routes(house)
    await call_upload_routes(house)
    await call_frames_route(house)
    await call_training_routes(house)
    async with house.client(secret) as admin:
        made = (await admin.post("/v1/admin/keys", json={"name": "laptop"})).json()
        assert (await admin.get("/v1/admin/keys")).status_code == 200
        assert (await admin.delete(f"/v1/admin/keys/{made['id']}")).status_code == 200
    return {
        ("post", OPENAI),
        ("post", NATIVE),
        ("post", EDITS),
        ("post", "/v1/jobs/{job_id}/cancel"),
        ("post", "/v1/jobs/{job_id}/retry"),
        ("get", "/v1/jobs/{job_id}/events"),
        ("get", "/v1/jobs"),
        ("get", "/v1/jobs/{job_id}"),
        ("get", "/v1/models"),
        ("get", "/v1/models/{model_id}"),
        ("post", "/v1/loras/import"),
        ("get", "/v1/loras"),
        ("get", "/v1/loras/{name}"),
        ("get", "/v1/loras/{name}/versions/{version}/download"),
        ("delete", "/v1/loras/{name}/versions/{version}"),
        ("delete", "/v1/loras/{name}"),
        ("post", "/v1/moderations"),
        ("post", "/v1/webhooks"),
        ("get", "/v1/webhooks"),
        ("get", "/v1/webhooks/default/secret"),
        ("get", "/v1/webhooks/{webhook_id}"),
        ("patch", "/v1/webhooks/{webhook_id}"),
        ("delete", "/v1/webhooks/{webhook_id}"),
        ("post", "/v1/webhooks/{webhook_id}/rotate-secret"),
        ("get", "/v1/webhooks/{webhook_id}/deliveries"),
        ("post", "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver"),
        ("post", "/v1/frames"),
        ("post", "/v1/loras/train"),
        ("post", "/v1/loras/estimate"),
        ("post", "/api/lora/train"),
        ("get", "/api/lora/list"),
        ("get", "/api/lora/status/{job_id}"),
        ("get", "/api/lora/{job_id}"),
        ("post", "/v1/uploads"),
        ("post", "/v1/uploads/direct"),
        ("get", "/v1/uploads"),
        ("get", "/v1/uploads/{upload_id}"),
        ("get", "/v1/uploads/{upload_id}/parts"),
        ("post", "/v1/uploads/{upload_id}/complete"),
        ("delete", "/v1/uploads/{upload_id}"),
        ("post", "/v1/admin/keys"),
        ("get", "/v1/admin/keys"),
        ("delete", "/v1/admin/keys/{key_id}"),
    }


async def call_streaming_routes(house: House) -> None:
    edited = await house.alice.post(EDITS, data={"prompt": "a red apple"}, files={"image": picture_bytes()})
    job_path = f"/v1/jobs/{edited.json()['job_id']}"
    assert (await house.alice.get(f"{job_path}/events")).status_code == 200
    assert (await house.alice.post(f"{job_path}/cancel")).status_code == 409
    for answer in (await house.bob.get(f"{job_path}/events"), await house.bob.post(f"{job_path}/cancel")):
        assert answer.status_code == 404
    house.backend.gate.clear()
    waiting = (await house.alice.post(NATIVE, json=GOOD)).json()["id"]
    assert (await house.alice.post(f"/v1/jobs/{waiting}/cancel")).status_code == 200
    house.backend.gate.set()
    house.router.is_lost = True
    assert (await house.alice.post(OPENAI, json={**GOOD, "stream": True})).status_code == 200
    house.router.is_lost = False


async def repeat_and_retry(house: House) -> None:
    house.backend.troubles.append(NotFinite("NaN in the picture"))
    for _ in range(2):
        answer = await house.alice.post(OPENAI, json=GOOD, headers={"Idempotency-Key": "k"})
        assert answer.status_code == 500
    (job,) = await house.store.page("alice", status="failed", kind=None, limit=2, after=None)
    assert (await house.bob.post(f"/v1/jobs/{job.id}/retry")).status_code == 404
    for owed in await house.upkeep.find_owed(limit=1_000):
        await house.upkeep.clear_owed(owed)
    assert (await house.alice.post(f"/v1/jobs/{job.id}/retry")).status_code == 202
    await house.until(job, "succeeded")


async def call_adapter_routes(house: House) -> None:
    for seed in (1, 2):
        files = {"file": lora_bytes(seed=seed)}
        assert (await house.alice.post("/v1/loras/import", files=files, data={"name": "style"})).status_code == 201
    for path in ("/v1/loras", "/v1/loras/style", "/v1/models/style"):
        assert (await house.alice.get(path)).status_code == 200
    assert (await house.alice.get("/v1/loras/style/versions/1/download?format=kohya")).status_code == 307
    assert (await house.alice.post(NATIVE, json={**GOOD, "loras": [{"name": "style"}]})).status_code == 202
    assert (await house.bob.get("/v1/loras/style")).status_code == 404
    assert (await house.alice.delete("/v1/loras/style/versions/2")).status_code == 200
    assert (await house.alice.delete("/v1/loras/style")).status_code == 200


async def call_upload_routes(house: House) -> None:
    """And what a Router does with uploads by itself."""
    data = picture_bytes(300, 300)
    upload = await sent(house.alice, house.blobs, data, "image/png", "image")
    path = f"{UPLOADS}/{upload['id']}"
    for method, where, status in (
        ("POST", f"{path}/complete", 200),
        ("GET", path, 200),
        ("GET", f"{UPLOADS}?purpose=image&after={upload['id']}", 200),
        ("GET", f"{path}/parts", 400),
    ):
        assert (await house.alice.request(method, where)).status_code == status
        if where.startswith(path):
            assert (await house.bob.request(method, where)).status_code == 404
    files = {"file": ("p.png", data, "image/png")}
    assert (await house.alice.post(f"{UPLOADS}/direct", files=files, data={"purpose": "image"})).status_code == 201
    await house.services.uploads.note_use("alice", upload["id"], kind="image", id="style@1")
    await announced(house.alice, data, "image/png", "image", multipart=True)
    await UploadUpkeep.over(house.mongo, house.blobs, house.store, house.services.settings).delete_old(limit=10)
    assert (await house.bob.delete(path)).status_code == 404
    assert (await house.alice.delete(path)).status_code == 200


async def call_frames_route(house: House) -> None:
    upload_id = await uploaded(house.alice, house.blobs, video())
    answer = await house.alice.post(FRAMES, json={"upload_id": upload_id}, headers={"Prefer": "wait=30"})
    assert answer.status_code == 200
    assert (await house.bob.post(FRAMES, json={"upload_id": upload_id})).status_code == 404


async def call_training_routes(house: House) -> None:
    """From uploads and from an earlier dataset; and the deletion of what came of them."""
    upload_id = await uploaded(house.alice, house.blobs, video())
    body = {"name": "signer", "upload_ids": [upload_id]}
    assert (await house.alice.post("/v1/loras/estimate", json=body)).status_code == 200
    trained = await house.alice.post("/v1/loras/train", json=body, headers={"Prefer": "wait=30"})
    again = {"name": "signer", "from_job": trained.json()["id"]}
    assert (await house.alice.post("/v1/loras/train", json=again, headers={"Prefer": "wait=30"})).status_code == 200
    assert (await house.bob.post("/v1/loras/train", json=again)).status_code == 404
    older = {"userId": "anna", "uploadId": upload_id, "name": "signer"}
    job_id = (await house.alice.post("/api/lora/train", json=older)).json()["jobId"]
    await house.until(await house.store.get("alice", job_id), "succeeded")
    for path in ("/api/lora/list?userId=anna", f"/api/lora/status/{job_id}", f"/api/lora/{job_id}"):
        assert (await house.alice.get(path)).status_code == 200
        assert (await house.bob.get(path)).status_code == (200 if "list" in path else 404)
    assert (await house.alice.delete("/v1/loras/signer")).status_code == 200


async def call_webhook_routes(house: House) -> None:
    """And all that a Router does between a job's end and its receiver."""
    async with receiver() as there:
        made = (await house.alice.post("/v1/webhooks", json={"url": there.url, "events": ["job.succeeded"]})).json()
        path = f"/v1/webhooks/{made['id']}"
        house.webhook_work.start()
        assert (await house.alice.post(NATIVE, json={**GOOD, "webhook_url": there.url})).status_code == 202
        await there.until(3)
        await house.webhook_work.stop()
        for answer in (
            await house.alice.get("/v1/webhooks"),
            await house.alice.get("/v1/webhooks/default/secret"),
            await house.alice.get(f"/v1/webhooks/default/deliveries?job_id={there.got[0].job_id}"),
            await house.alice.get(path),
            await house.alice.patch(path, json={"enabled": True}),
            await house.alice.post(f"{path}/rotate-secret"),
        ):
            assert answer.status_code == 200
        told = (await house.alice.get(f"{path}/deliveries?limit=100")).json()["data"]
        sent = next(delivery for delivery in told if delivery["status"] == "delivered")
        assert (await house.bob.get(path)).status_code == 404
        assert (await house.alice.post(f"{path}/deliveries/{sent['id']}/redeliver")).status_code == 202
        assert (await house.alice.delete(path)).status_code == 200


async def test_no_route_sends_a_command_on_tenants_data_without_the_tenant(houses: OpenHouse) -> None:
    watch = Watch()
    house = await houses(make_mongo=watched_by(watch), outbound=HERE)
    called = await call_all_routes(house)
    paths = (await house.alice.get("/openapi.json")).json()["paths"]
    routes = {
        (method, path)
        for path, operations in paths.items()
        for method in operations
        if path.startswith(("/v1/", "/api/"))
    }
    assert called == routes - OPERATORS_ALONE, "a new route must be called here too"
    assert watch.breaches == []
    assert watch.tenants == {"alice", "bob", "default"}
    assert watch.excused == EXCEPTIONS, "an exception that nobody needs must go"


@pytest.mark.parametrize(
    "sneak",
    [
        lambda house: house.mongo._database["jobs"].find_one({"_id": "x"}),
        lambda house: house.mongo._database["jobs"].find_one({"$or": [{"tenant": "alice"}, {"_id": "x"}]}),
        lambda house: house.mongo._database["jobs"].find_one({"tenant": {"$exists": True}}),
        lambda house: house.mongo._database["jobs"].count_documents({"status": "queued"}),
        lambda house: house.mongo._database["jobs"].update_one({"_id": "x"}, {"$set": {"a": 1}}),
        lambda house: house.mongo._database["jobs"].find_one_and_update({"_id": "x"}, {"$set": {"a": 1}}),
        lambda house: house.mongo._database["jobs"].insert_one({"_id": "x"}),
        lambda house: house.mongo._database["api_keys"].delete_one({"key_id": "x"}),
        lambda house: house.mongo.across_tenants("jobs", "operate_server").find_one({}),
        lambda house: house.mongo.across_tenants("api_keys", "drive_jobs").find_one({}),
        lambda house: house.mongo.across_tenants("jobs", "count_queue").delete_one({"_id": "x"}),
        lambda house: house.mongo.across_tenants("api_keys", "authenticate").delete_one({"_id": "x"}),
    ],
)
async def test_a_command_without_the_tenant_is_caught(houses: OpenHouse, sneak: Any) -> None:
    watch = Watch()
    house = await houses(make_mongo=watched_by(watch), sweeps=False)
    assert watch.breaches == []
    await sneak(house)
    assert len(watch.breaches) == 1
