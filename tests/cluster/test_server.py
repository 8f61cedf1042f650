"""The whole server: tenants apart, bad input survived, no torch where none belongs, jobs that outlive processes."""

import io
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image

from tests.cluster.conftest import Darkroom

QUICK = {"prompt": "a red apple", "size": "64x64", "num_inference_steps": 2}


def wait_for_job(client: httpx.Client, job_id: str, *, deadline_s: float = 120) -> dict:
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        job = client.get(f"/v1/jobs/{job_id}").json()
        if job["status"] in {"succeeded", "failed", "cancelled"}:
            return job
        time.sleep(0.2)
    raise AssertionError(f"{job_id} has not ended: {job}")


def test_a_native_call_is_accepted_and_its_job_ends_in_pictures(darkroom: Darkroom):
    with darkroom.client() as client:
        reply = client.post("/v1/generate/image", json={**QUICK, "n": 2, "metadata": {"order": "17"}})
        assert reply.status_code == 202
        job = wait_for_job(client, reply.json()["id"])
    assert (job["status"], job["progress"], job["metadata"]) == ("succeeded", 100, {"order": "17"})
    for image in job["result"]["images"]:
        data = httpx.get(image["url"]).content
        assert len(data) == image["bytes"]
        assert Image.open(io.BytesIO(data)).size == (64, 64)


def test_prefer_wait_answers_when_the_job_has_ended(darkroom: Darkroom):
    with darkroom.client() as client:
        reply = client.post("/v1/generate/image", json=QUICK, headers={"Prefer": "wait=60"})
    assert (reply.status_code, reply.json()["status"]) == (200, "succeeded")


def test_another_tenant_sees_nothing(darkroom: Darkroom):
    with darkroom.client() as operator:
        operator.post("/v1/admin/tenants", json={"id": "acme"})
        made = operator.post("/v1/admin/keys", json={"name": "acme's", "tenant": "acme"})
        assert made.status_code == 201
        job_id = operator.post("/v1/generate/image", json=QUICK).json()["id"]
        wait_for_job(operator, job_id)
    with darkroom.client(made.json()["key"]) as acme:
        assert acme.get(f"/v1/jobs/{job_id}").status_code == 404
        assert acme.get("/v1/jobs").json()["data"] == []
        assert acme.get("/v1/admin/keys").status_code == 403
        assert acme.post("/v1/images/generations", json=QUICK).status_code == 200
        assert len(acme.get("/v1/jobs").json()["data"]) == 1


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"x" * 50_000_000, {"Content-Type": "application/json"}, 413),
        (b"{broken", {"Content-Type": "application/json"}, 400),
        (b"[1, 2]", {"Content-Type": "application/json"}, 400),
        (b'{"prompt":' + b"[" * 10_000 + b"]" * 10_000 + b"}", {"Content-Type": "application/json"}, 400),
        (b'{"prompt": "a", "guidance_scale": NaN}', {"Content-Type": "application/json"}, 400),
        (b"prompt=a", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ],
    ids=["50 MB", "broken JSON", "array", "deep nesting", "NaN", "form"],
)
def test_bad_bodies_get_an_answer_and_leave_the_server_well(
    darkroom: Darkroom, content: bytes, headers: dict[str, str], status: int
):
    with darkroom.client() as client:
        reply = client.post("/v1/images/generations", content=content, headers=headers)
        assert reply.status_code == status
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
        assert reply.headers["X-Request-Id"]
        assert client.post("/v1/images/generations", json=QUICK).status_code == 200


def test_api_and_router_processes_hold_no_torch(darkroom: Darkroom):
    for name in ("Api", "Router"):
        assert not any("libtorch" in m.path for m in darkroom.replica(name).memory_maps())
    assert any("libtorch" in m.path for m in darkroom.replica("Engine:emoji-3d").memory_maps())


def test_metrics_tell_what_was_made(darkroom: Darkroom):
    with darkroom.client() as client:
        client.post("/v1/images/generations", json=QUICK)
        text = client.get("/metrics").text
    made = [line for line in text.splitlines() if line.startswith('darkroom_images_total{model="emoji-3d"}')]
    assert len(made) == 1 and float(made[0].split()[-1]) >= 1
    assert "darkroom_http_requests_total" in text


@pytest.mark.parametrize("victim", ["Router", "Engine:emoji-3d"])
def test_the_caller_still_gets_the_picture_when_a_process_dies(darkroom: Darkroom, victim: str):
    slow = {"prompt": "a house", "size": "256x256", "num_inference_steps": 40, "seed": 9}
    with darkroom.client() as client, ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.post, "/v1/images/generations", json=slow)
        job_id = _wait_until_running(client)
        darkroom.replica(victim).kill()
        reply = call.result(timeout=120)
        assert reply.status_code == 200, reply.text
        assert reply.json()["job_id"] == job_id
        assert client.get(f"/v1/jobs/{job_id}").json()["attempts"] >= 2
    darkroom.wait_ready(deadline_s=120)


def _wait_until_running(client: httpx.Client) -> str:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        running = client.get("/v1/jobs", params={"status": "running"}).json()["data"]
        if running:
            job_id: str = running[0]["id"]
            return job_id
        time.sleep(0.05)
    raise AssertionError("no job began to run")
