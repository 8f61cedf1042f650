"""POST /v1/frames: from an upload to stills, as a job like any other; and what may go wrong on the way."""

import io
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from configs.settings import MongoSettings
from serving.backends.frames import FramesFailure
from serving.errors import BackendLost
from tests.frames import FRAMES, SIZE, share_marked, uploaded, video
from tests.serving.api.conftest import assert_error, events_of, picture_bytes
from tests.serving.conftest import OpenHouse
from tests.serving.house import House, eventually, open_house
from tests.uploads import UPLOADS, announced, completed

WAIT = {"Prefer": "wait=60"}


@pytest_asyncio.fixture(scope="module")
async def shared(module_mongo_settings: MongoSettings) -> AsyncIterator[House]:
    """The stand-in classifier finds half of the second scene."""
    house = await open_house(module_mongo_settings, moderation={"sexual_threshold": 0.3})
    yield house
    await house.close()


@pytest_asyncio.fixture(scope="module")
async def upload_id(shared: House) -> str:
    return await uploaded(shared.alice, shared.blobs, video())


async def take(house: House, upload_id: str, **body: Any) -> Any:
    """A job that has ended."""
    answer = await house.alice.post(FRAMES, json={"upload_id": upload_id, **body}, headers=WAIT)
    assert answer.status_code == 200, answer.text
    return answer.json()


def frame_keys(house: House) -> list[str]:
    return [key for key in house.blobs.keys if "/frames/" in key]


async def test_a_video_becomes_stills_with_a_reason_for_each_that_was_dropped(shared: House, upload_id: str) -> None:
    job = await take(shared, upload_id, max_frames=4, user="anna", metadata={"order": "17"})
    assert (job["kind"], job["status"], job["progress"]) == ("frames", "succeeded", 100)
    assert (job["model"], job["backend"], job["metadata"]) == ("frames", "frames", {"order": "17"})
    assert job["request"] == {
        "upload_id": upload_id,
        "max_frames": 4,
        "min_sharpness": None,
        "faces": "any",
        "dedupe": True,
        "output_format": "jpeg",
    }
    result = job["result"]
    assert 0 < len(result["frames"]) <= 4
    for frame in result["frames"]:
        data = shared.blobs.open_url(frame["url"])
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.size == (frame["width"], frame["height"]) == SIZE
        assert (frame["bytes"], frame["content_type"]) == (len(data), "image/jpeg")
        assert (frame["is_nsfw"], frame["coverage"], frame["faces"]) == (False, None, [])
        assert "/frames/anna/" in frame["url"]
    assert result["counts"]["kept"] == len(result["frames"])
    assert sum(result["counts"].values()) == len(result["frames"]) + len(result["rejected"])
    assert {one["reason"] for one in result["rejected"]} == set(result["counts"]) - {"kept"}
    assert shared.blobs.open_url(result["contact_sheet_url"]).startswith(b"\xff\xd8")
    assert shared.frames.left_behind == []


async def test_the_answer_is_a_job_that_can_be_asked_followed_and_listed(shared: House, upload_id: str) -> None:
    answer = await shared.alice.post(FRAMES, json={"upload_id": upload_id})
    assert answer.status_code == 202
    job_id = answer.json()["id"]
    assert answer.headers["Location"] == f"/v1/jobs/{job_id}"
    events = events_of(await shared.alice.get(f"/v1/jobs/{job_id}/events"))
    assert [name for name, _ in events][-1] == "succeeded"
    steps = [told["step"] for name, told in events if name == "progress"]
    assert steps == sorted(steps)
    listed = (await shared.alice.get("/v1/jobs?kind=frames&limit=100")).json()["data"]
    assert job_id in {job["id"] for job in listed}
    assert {job["kind"] for job in listed} == {"frames"}


async def test_what_no_limit_allows_is_refused_by_name(shared: House, upload_id: str) -> None:
    for wish, status, param in (
        ({"max_frames": 0}, 400, "max_frames"),
        ({"max_frames": 501}, 400, "max_frames"),
        ({"min_sharpness": -1}, 400, "min_sharpness"),
        ({"expires_in_s": 0.1}, 400, "expires_in_s"),
        ({"faces": "some"}, 422, "faces"),
        ({"max_frames": "3"}, 422, "max_frames"),
        ({"frames": 3}, 422, "frames"),
    ):
        answer = await shared.alice.post(FRAMES, json={"upload_id": upload_id, **wish})
        assert_error(answer, status, param=param)
    assert_error(await shared.alice.post(FRAMES, json={}), 422, param="upload_id")
    answer = await shared.alice.post(FRAMES, json={"upload_id": upload_id, "priority": "high"})
    assert_error(answer, 403, param="priority")


async def test_an_upload_of_nobody_or_of_others_is_not_found(shared: House, upload_id: str) -> None:
    assert_error(await shared.anonymous.post(FRAMES, json={"upload_id": upload_id}), 401)
    assert_error(await shared.bob.post(FRAMES, json={"upload_id": upload_id}), 404, param="upload_id")
    assert_error(await shared.alice.post(FRAMES, json={"upload_id": "upl_none"}), 404, param="upload_id")


async def test_an_upload_that_is_not_ready_or_no_video_is_refused(shared: House) -> None:
    pending = await announced(shared.alice, video(), "video/mp4", "video")
    answer = await shared.alice.post(FRAMES, json={"upload_id": pending["id"]})
    assert_error(answer, 409, code="upload_not_ready", param="upload_id")
    image = await completed(shared.alice, shared.blobs, picture_bytes(300, 300), "image/png", "image")
    answer = await shared.alice.post(FRAMES, json={"upload_id": image.json()["id"]})
    assert_error(answer, 422, code="wrong_purpose", param="upload_id")


async def test_the_same_idempotency_key_gives_the_same_job(shared: House, upload_id: str) -> None:
    headers = {"Idempotency-Key": "stills of today"}
    first = await shared.alice.post(FRAMES, json={"upload_id": upload_id}, headers=headers)
    again = await shared.alice.post(FRAMES, json={"upload_id": upload_id, "faces": "any"}, headers=headers | WAIT)
    assert again.json()["id"] == first.json()["id"]
    other = await shared.alice.post(FRAMES, json={"upload_id": upload_id, "max_frames": 1}, headers=headers)
    assert_error(other, 409, code="idempotency_key_reused")


async def test_stills_are_no_model(shared: House) -> None:
    models = (await shared.alice.get("/v1/models")).json()["data"]
    assert "frames" not in {model["id"] for model in models}
    answer = await shared.alice.post("/v1/generate/image", json={"prompt": "an apple", "model": "frames"})
    assert_error(answer, 404, code="model_not_found")


async def test_an_upload_tells_what_was_made_from_it(shared: House) -> None:
    upload_id = await uploaded(shared.alice, shared.blobs, video())
    job = await take(shared, upload_id)
    answer = await shared.alice.delete(f"{UPLOADS}/{upload_id}")
    assert answer.json()["derived"] == [{"kind": "frames", "id": job["id"]}]
    assert shared.blobs.open_url(job["result"]["frames"][0]["url"])


@pytest.mark.parametrize(("action", "num_scenes"), [("block", 2), ("blur", 3), ("flag", 3), ("off", 3)])
async def test_the_tenants_own_policy_decides_over_stills(houses: OpenHouse, action: str, num_scenes: int) -> None:
    house = await houses()
    await house.services.tenants.change("alice", moderation_action=action, sexual_threshold=0.3)
    result = (await take(house, await uploaded(house.alice, house.blobs, video())))["result"]
    assert len({frame["scene"] for frame in result["frames"]}) == num_scenes
    assert ("nsfw" in result["counts"]) == (action == "block")
    flags = {frame["is_nsfw"] for frame in result["frames"]}
    assert flags == {"block": {False}, "blur": {False, True}, "flag": {False, True}, "off": {None}}[action]
    for key in frame_keys(house) if action in {"block", "blur"} else ():
        with Image.open(io.BytesIO(house.blobs.get(key))) as picture:
            assert share_marked(np.asarray(picture.convert("RGB"))) < 0.001


async def test_a_running_job_is_cancelled_and_leaves_nothing(houses: OpenHouse) -> None:
    house = await houses()
    upload_id = await uploaded(house.alice, house.blobs, video())
    house.moderator.gate.clear()
    job_id = (await house.alice.post(FRAMES, json={"upload_id": upload_id})).json()["id"]
    job = await house.store.get("alice", job_id)
    await eventually(lambda: house.frames.left_behind)
    await house.until(job, "running")
    assert (await house.alice.post(f"/v1/jobs/{job_id}/cancel")).json()["status"] == "cancelled"
    await eventually(lambda: not house.frames.left_behind)
    house.moderator.gate.set()
    assert frame_keys(house) == []


async def test_the_death_of_a_replica_costs_one_attempt(houses: OpenHouse) -> None:
    house = await houses()
    upload_id = await uploaded(house.alice, house.blobs, video())
    house.extractions.troubles.append(BackendLost("frames: it died"))
    job = await take(house, upload_id)
    assert (job["status"], job["attempts"]) == ("succeeded", 2)
    assert [attempt["code"] for attempt in job["history"]] == ["backend_lost"]
    assert len(frame_keys(house)) == len(job["result"]["frames"]) + 1


async def test_without_anybody_or_a_moderator_a_job_waits(houses: OpenHouse) -> None:
    house = await houses()
    upload_id = await uploaded(house.alice, house.blobs, video())
    house.extractions.is_lost = house.moderator.is_lost = True
    job_id = (await house.alice.post(FRAMES, json={"upload_id": upload_id})).json()["id"]

    async def codes() -> set[str]:
        return {attempt.code for attempt in (await house.store.get("alice", job_id)).history}

    async def is_frames_missed() -> bool:
        return "frames_unavailable" in await codes()

    async def is_moderator_missed() -> bool:
        return "moderator_unavailable" in await codes()

    await eventually(is_frames_missed)
    house.extractions.is_lost = False
    await eventually(is_moderator_missed)
    house.moderator.is_lost = False
    job = await house.until(await house.store.get("alice", job_id), "succeeded")
    assert job.failures == job.lost_workers == 0


async def test_a_fault_of_the_video_fails_at_once_and_may_be_tried_again_by_hand(houses: OpenHouse) -> None:
    house = await houses()
    upload_id = await uploaded(house.alice, house.blobs, video())
    house.extractions.troubles.append(FramesFailure("damaged", "The video cannot be read.", may_pass=False))
    job = await take(house, upload_id)
    assert (job["status"], job["attempts"]) == ("failed", 1)
    assert job["error"] == {"code": "damaged", "message": "The video cannot be read."}
    for owed in await house.upkeep.find_owed(limit=100):
        await house.upkeep.clear_owed(owed)
    assert (await house.alice.post(f"/v1/jobs/{job['id']}/retry")).status_code == 202
    await house.until(await house.store.get("alice", job["id"]), "succeeded")


async def test_no_more_videos_are_driven_than_the_replicas_take(houses: OpenHouse) -> None:
    house = await houses(frame_settings={"max_at_once": 1}, lane_width=4)
    upload_id = await uploaded(house.alice, house.blobs, video())
    house.moderator.gate.clear()
    answers = [await house.alice.post(FRAMES, json={"upload_id": upload_id}) for _ in range(3)]
    await eventually(lambda: house.extractions.orders)
    await eventually(lambda: house.frames.left_behind)
    assert len(house.extractions.orders) == 1
    assert_is_waiting(await house.alice.get(f"/v1/jobs/{answers[2].json()['id']}"))
    house.moderator.gate.set()
    for answer in answers:
        await house.until(await house.store.get("alice", answer.json()["id"]), "succeeded")


def assert_is_waiting(answer: httpx.Response) -> None:
    assert (answer.json()["status"], answer.json()["queue_position"]) == ("queued", 1)
