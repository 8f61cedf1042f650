"""Uploads and stills on the whole server: true S3, true replicas, and one of them killed at work."""

import io
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image

from tests.cluster.conftest import Darkroom
from tests.cluster.test_server import wait_for_job
from tests.frames import SIZE, video

DEADLINE_S = 120.0


def uploaded(darkroom: Darkroom, data: bytes) -> str:
    with darkroom.client() as client:
        offer = {"filename": "clip.mp4", "content_type": "video/mp4", "bytes": len(data), "purpose": "video"}
        upload = client.post("/v1/uploads", json=offer).json()
        assert httpx.put(upload["url"], content=data, headers=upload["headers"], timeout=60).status_code == 200
        done = client.post(f"/v1/uploads/{upload['id']}/complete")
        assert (done.status_code, done.json().get("status")) == (200, "ready"), done.text
    return str(upload["id"])


def left_at_work(darkroom: Darkroom) -> list[Path]:
    return [path for folder in (darkroom.state_dir / "work").iterdir() for path in folder.iterdir()]


def sandboxed(darkroom: Darkroom) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(darkroom.process.pid).children(recursive=True):
        try:
            found += [process] if "pipelines.sandboxed" in process.cmdline() else []
        except psutil.NoSuchProcess:
            continue
    return found


def until(condition: Any, *, deadline_s: float = DEADLINE_S) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "it did not become true in time"
        time.sleep(0.05)


def test_a_video_becomes_stills_that_anybody_with_their_url_can_fetch(darkroom: Darkroom):
    upload_id = uploaded(darkroom, video())
    with darkroom.client() as client:
        answer = client.post("/v1/frames", json={"upload_id": upload_id}, headers={"Prefer": "wait=60"})
        assert answer.status_code == 200, answer.text
        result = answer.json()["result"]
        assert client.get("/v1/jobs", params={"kind": "frames"}).json()["data"][0]["id"] == answer.json()["id"]
    assert len({frame["scene"] for frame in result["frames"]}) == 3
    for frame in result["frames"]:
        assert 0 <= frame["nsfw"] < 0.5, "the true classifier finds nothing in coloured stripes"
        with Image.open(io.BytesIO(httpx.get(frame["url"]).content)) as picture:
            assert picture.size == SIZE
    assert httpx.get(result["contact_sheet_url"]).headers["Content-Type"] == "image/jpeg"
    assert left_at_work(darkroom) == []


def test_the_command_saves_stills_and_counts_them_by_reason(darkroom: Darkroom, tmp_path: Path):
    (tmp_path / "clip.mp4").write_bytes(video())
    command = [str(Path(sys.executable).parent / "darkroom"), "frames", "clip.mp4", "--out", "stills"]
    done = subprocess.run(command, env=darkroom.env, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr
    counts = dict(line.split("\t") for line in done.stdout.splitlines())
    saved = [path.name for path in (tmp_path / "stills").iterdir()]
    assert len(saved) == int(counts["kept"]) + 1
    assert "clip-contact-sheet.jpg" in saved


def test_text_that_calls_itself_a_video_is_refused(darkroom: Darkroom):
    with pytest.raises(AssertionError, match="A video is needed"):
        uploaded(darkroom, b"these are my notes" * 100)
    assert left_at_work(darkroom) == []


def test_a_job_whose_replica_is_killed_is_done_by_the_next(darkroom: Darkroom):
    upload_id = uploaded(darkroom, video(20.0))
    with darkroom.client() as client:
        job_id = client.post("/v1/frames", json={"upload_id": upload_id}).json()["id"]
        until(lambda: sandboxed(darkroom))
        orphans = sandboxed(darkroom)
        darkroom.replica("Frames").kill()
        until(lambda: not any(orphan.is_running() for orphan in orphans))
        job = wait_for_job(client, job_id, deadline_s=DEADLINE_S)
    assert job["status"] == "succeeded", job["error"]
    assert job["attempts"] >= 2
    assert job["result"]["counts"]["kept"] == len(job["result"]["frames"]) > 0
    assert left_at_work(darkroom) == []


def test_frames_and_moderator_processes_hold_no_torch_and_no_decoder(darkroom: Darkroom):
    for name, foreign in (("Frames", ("libtorch", "libavcodec", "cv2", "onnxruntime")), ("Moderator", ("libtorch",))):
        paths = [mapped.path for mapped in darkroom.replica(name).memory_maps()]
        assert [path for path in paths for word in foreign if word in path] == []
