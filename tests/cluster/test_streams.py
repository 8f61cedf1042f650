"""Streams, edits, events and cancellation against the whole server, with the official `openai` client."""

import base64
import io
import json
import threading
import time
from typing import Any

import httpx
import openai
import pytest
from PIL import Image, ImageChops, ImageStat

from tests.cluster.conftest import Darkroom

SIZE = "128x128"
CANCEL_DEADLINE_S = 30.0


@pytest.fixture
def client(darkroom: Darkroom) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{darkroom.url}/v1", api_key=darkroom.admin_key, max_retries=0, timeout=120)


def opened(b64_json: str | None) -> Image.Image:
    assert b64_json is not None
    with Image.open(io.BytesIO(base64.b64decode(b64_json))) as image:
        return image.convert("RGB")


def as_png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def distance(a: Image.Image, b: Image.Image) -> float:
    """Mean difference of pixels, 0–255."""
    return sum(ImageStat.Stat(ImageChops.difference(a, b)).mean) / 3


def generated(client: openai.OpenAI, **more: Any) -> Image.Image:
    reply = client.images.generate(prompt="a red apple", size=SIZE, response_format="b64_json", extra_body=more)
    assert reply.data is not None
    return opened(reply.data[0].b64_json)


def submitted(darkroom: Darkroom, **body: Any) -> str:
    with darkroom.client() as http:
        answer = http.post("/v1/generate/image", json={"prompt": "a red apple", "size": SIZE, **body})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])


def test_partial_images_come_nearer_to_the_picture(client: openai.OpenAI):
    stream = client.images.generate(
        prompt="a red apple",
        size=SIZE,
        stream=True,
        partial_images=3,
        extra_body={"seed": 7, "num_inference_steps": 20},
    )
    events = list(stream)
    assert [event.type for event in events] == ["image_generation.partial_image"] * 3 + ["image_generation.completed"]
    *partial, final = [opened(event.b64_json) for event in events]
    assert {image.size for image in (*partial, final)} == {(128, 128)}
    distances = [distance(image, final) for image in partial]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > distances[-1]


def test_a_stream_ends_with_the_pixels_of_the_call_without_one(client: openai.OpenAI):
    (completed,) = client.images.generate(
        prompt="a red apple", size=SIZE, stream=True, extra_body={"seed": 7, "num_inference_steps": 6}
    )
    assert distance(opened(completed.b64_json), generated(client, seed=7, num_inference_steps=6)) == 0


def test_a_masked_edit_changes_the_picture_where_the_mask_is_transparent(client: openai.OpenAI):
    picture = generated(client, seed=7, num_inference_steps=12)
    mask = Image.new("RGBA", picture.size, "black")
    mask.paste((0, 0, 0, 0), (64, 0, 128, 128))
    reply = client.images.edit(
        image=("apple.png", as_png(picture)),
        mask=("mask.png", as_png(mask)),
        prompt="a green tree",
        response_format="b64_json",
        extra_body={"seed": 9, "num_inference_steps": 12},
    )
    assert reply.data is not None
    edited = opened(reply.data[0].b64_json)
    kept, painted = (0, 0, 48, 128), (64, 0, 128, 128)
    assert edited.size == picture.size
    assert distance(edited.crop(painted), picture.crop(painted)) > 3 * distance(edited.crop(kept), picture.crop(kept))


def test_a_weak_edit_stays_nearer_to_the_picture_than_a_strong_one(client: openai.OpenAI):
    picture = generated(client, seed=7, num_inference_steps=12)
    distances = []
    for strength in (0.2, 0.9):
        *_, completed = client.images.edit(
            image=as_png(picture),
            prompt="a green tree",
            stream=True,
            partial_images=1,
            extra_body={"seed": 9, "num_inference_steps": 20, "strength": strength},
        )
        assert completed.type == "image_edit.completed"
        distances.append(distance(opened(completed.b64_json), picture))
    assert distances[0] < distances[1]


def test_events_tell_progress_previews_and_the_end(darkroom: Darkroom):
    job_id = submitted(darkroom, num_inference_steps=100, n=2)
    told: list[tuple[str, dict[str, Any]]] = []
    with darkroom.client() as http, http.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
        name = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                told.append((name, json.loads(line.removeprefix("data: "))))
    steps = [data["step"] for name, data in told if name == "progress"]
    assert steps == sorted(steps)
    previews = [data for name, data in told if name == "preview"]
    assert {data["image_index"] for data in previews} == {0, 1}
    assert all(opened(data["b64_json"]).width > 0 for data in previews)
    assert told[-1][0] == "succeeded"
    assert told[-1][1]["id"] == job_id


def test_a_running_job_is_cancelled_and_the_waiting_caller_told(darkroom: Darkroom, client: openai.OpenAI):
    def cancel_when_running() -> None:
        deadline = time.monotonic() + CANCEL_DEADLINE_S
        with darkroom.client() as http:
            while time.monotonic() < deadline:
                for job in http.get("/v1/jobs", params={"status": "running"}).json()["data"]:
                    if job["metadata"] == {"to": "cancel"}:
                        outcomes.append(http.post(f"/v1/jobs/{job['id']}/cancel"))
                        return
                time.sleep(0.01)

    outcomes: list[httpx.Response] = []
    cancelling = threading.Thread(target=cancel_when_running)
    cancelling.start()
    with pytest.raises(openai.ConflictError) as caught:
        client.images.generate(
            prompt="a red apple",
            size="256x256",  # type: ignore[arg-type]
            n=10,
            extra_body={"num_inference_steps": 100, "metadata": {"to": "cancel"}},
        )
    cancelling.join()
    assert caught.value.code == "job_cancelled"
    (answer,) = outcomes
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    with darkroom.client() as http:
        job = http.get(f"/v1/jobs/{answer.json()['id']}").json()
        assert (job["status"], job["result"]) == ("cancelled", None)
    assert generated(client, num_inference_steps=2).size == (128, 128)


def test_a_stream_that_is_left_does_not_hold_the_engine(darkroom: Darkroom, client: openai.OpenAI):
    job_id = submitted(darkroom, num_inference_steps=50)
    with darkroom.client() as http, http.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
        next(answer.iter_lines())
    assert generated(client, num_inference_steps=2).size == (128, 128)
    with darkroom.client() as http:
        deadline = time.monotonic() + CANCEL_DEADLINE_S
        while (job := http.get(f"/v1/jobs/{job_id}").json())["status"] != "succeeded":
            assert time.monotonic() < deadline, job
            time.sleep(0.1)
