"""A training on the whole server: a video becomes a LoRA, its Trainer is killed on the way, a picture uses it."""

import base64
import io
import json
from typing import Any

import httpx
from PIL import Image

from tests.cluster.conftest import Darkroom
from tests.cluster.test_frames import left_at_work, sandboxed, until, uploaded
from tests.cluster.test_server import wait_for_job
from tests.frames import video

STEPS = 24
DEADLINE_S = 240.0
SEED = 7


def goes_on(darkroom: Darkroom, job_id: str) -> bool:
    """Whether an attempt at the job has found the checkpoint of another."""
    lines = (darkroom.state_dir / "logs" / "trainer.log").read_text().splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{")]
    return any(one["event"] == "training goes on" and one["job_id"] == job_id for one in events)


def picture(client: httpx.Client, **wish: Any) -> bytes:
    body = {"prompt": "sks person", "seed": SEED, "num_inference_steps": 4, "response_format": "b64_json", **wish}
    answer = client.post("/v1/images/generations", json=body)
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["data"][0]["b64_json"])


def test_a_video_becomes_a_lora_that_a_picture_uses_though_its_trainer_was_killed(darkroom: Darkroom) -> None:
    upload_id = uploaded(darkroom, video())
    with darkroom.client() as client:
        wish = {"name": "scenes", "upload_ids": [upload_id], "trigger": "sks person", "steps": STEPS, "seed": SEED}
        answer = client.post("/v1/loras/train", json=wish)
        assert answer.status_code == 202, answer.text
        job_id = answer.json()["id"]
        until(lambda: client.get(f"/v1/jobs/{job_id}").json()["step"] >= STEPS // 2, deadline_s=DEADLINE_S)
        orphans = sandboxed(darkroom)
        darkroom.replica("Trainer").kill()
        until(lambda: not any(orphan.is_running() for orphan in orphans))
        job = wait_for_job(client, job_id, deadline_s=DEADLINE_S)
        assert job["status"] == "succeeded", job["error"]
        assert job["attempts"] >= 2 and goes_on(darkroom, job_id)
        result = job["result"]
        assert (result["adapter"], result["trigger"]) == ("scenes@1", "sks person")
        assert result["frames_used"] >= 3
        assert result["quality"]["validation_loss_before"] > 0
        assert {sample["step"] == 0 for sample in result["sample_details"]} == {True, False}, "before and after"
        for url in (*result["samples"], result["loss_plot_url"]):
            Image.open(io.BytesIO(httpx.get(url).content)).verify()
        plain, learned = picture(client), picture(client, loras=[{"name": "scenes"}])
    with Image.open(io.BytesIO(plain)) as one, Image.open(io.BytesIO(learned)) as other:
        assert one.size == other.size and one.tobytes() != other.tobytes()
    assert left_at_work(darkroom) == []


def test_the_trainers_own_process_holds_no_torch_and_no_decoder(darkroom: Darkroom) -> None:
    paths = [mapped.path for mapped in darkroom.replica("Trainer").memory_maps()]
    assert [path for path in paths for word in ("libtorch", "libavcodec", "cv2", "onnxruntime") if word in path] == []
